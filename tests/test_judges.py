"""Judges: scores, functions, and an endpoint on this machine."""

import hashlib
import json
import math

import judge_server
import numpy as np
import pytest

from grpo_jax import chat_client
from grpo_jax.alpaca import endpoint, judge_prompt, judges
from grpo_jax.alpaca.judges import Pair
from grpo_jax.rewards import fault_counts

PAIRS = [Pair('a', 'short', 'much longer'), Pair('b', 'long enough', 'no')]


def score(prompts, responses):
  """Words, and twice as many for the prompt 'twice'."""
  return [
    len(r.split()) * (2 if p == 'twice' else 1)
    for p, r in zip(prompts, responses, strict=True)
  ]


def tells(instruction, reference, output):
  told = {'win': True, 'lose': 0, 'unsure': 0.25, 'odd': None, 'bad': 7}
  return (told | {'text': 'yes'})[output]


def test_a_reward_model_judges_by_the_difference_of_its_scores():
  pairs = [
    Pair('once', 'a', 'a b'),
    Pair('twice', 'a', 'a b'),
    Pair('once', 'a b', 'c d'),
    Pair('once', 'a b c', ''),
  ]
  np.testing.assert_allclose(
    judges.decide(judges.by_score(score), pairs),
    [
      1 / (1 + math.exp(-1)),
      1 / (1 + math.exp(-2)),
      0.5,
      1 / (1 + math.exp(3)),
    ],
  )


def test_a_function_judges_and_may_not_know():
  judge = judges.by_function('test_judges:tells')
  outputs = ('win', 'lose', 'unsure', 'odd', 'same')
  found = judges.decide(judge, [Pair('', 'same', o) for o in outputs])
  # Equal answers are a tie, and the function is not asked.
  np.testing.assert_array_equal(found, [1.0, 0.0, 0.25, np.nan, 0.5])


@pytest.mark.parametrize(
  'path, told',
  [
    ('no_such_module:f', 'No module named'),
    ('test_judges:nothing', "no attribute 'nothing'"),
    ('test_judges:PAIRS', 'is no function'),
    ('test_judges:', 'module:function'),
  ],
)
def test_a_function_that_is_not_there_is_named(path, told):
  with pytest.raises(ValueError, match=told):
    judges.by_function(path)


@pytest.mark.parametrize(
  'output, told', [('raise', 'KeyError'), ('text', 'could not convert string')]
)
def test_a_function_that_fails_is_named_with_its_instruction(output, told):
  judge = judges.by_function('test_judges:tells')
  with pytest.raises(ValueError, match=f"test_judges:tells .*'asked'.*{told}"):
    judges.decide(judge, [Pair('asked', 'same', output)])


def test_annotations_are_the_judge_that_made_them():
  rows = [
    {'instruction': 'a', 'output_1': 'x', 'output_2': str(i), 'preference': p}
    for i, p in enumerate((1, 2, 1.25, 0, None))
  ]
  judge = judges.by_annotations(rows)
  pairs = [Pair('a', 'x', str(i)) for i in range(5)]
  np.testing.assert_array_equal(judge(pairs), [0, 1, 0.25, 0.5, np.nan])
  with pytest.raises(ValueError, match="no annotation of 1 of 1 .*'b'"):
    judge([Pair('b', 'x', '0')])
  with pytest.raises(ValueError, match="annotation 0 has no field 'output_1'"):
    judges.by_annotations([{'instruction': 'a', 'preference': 1}])


def test_a_judge_that_gives_other_numbers_is_refused():
  judge = judges.by_function('test_judges:tells')
  with pytest.raises(ValueError, match=r'gave 7.0; .* in \[0, 1\]'):
    judges.decide(judge, [Pair('', '', 'bad')])
  with pytest.raises(ValueError, match=r'shape \(2,\) for 1 pairs'):
    judges.decide(lambda pairs: np.zeros(2), [Pair('', '', 'x')])


@pytest.fixture
def server():
  with judge_server.running() as found:
    yield found


@pytest.fixture
def ask(server, tmp_path):
  """Makes an endpoint judge with other settings."""

  def make(**settings):
    wanted = dict(
      model='judge', key_from='', orders='both', logprobs=True, parallel=2,
      timeout=5.0, tries=3, first_wait=0.01, cache=tmp_path / 'cache.jsonl',
    )  # fmt: skip
    return endpoint.Endpoint(server.url, **wanted | settings)

  return make


def test_both_orders_are_asked_and_averaged(ask, server):
  judge = ask(parallel=1)
  np.testing.assert_allclose(judge(PAIRS), [0.8, 0.2])
  assert len(server.asked) == 4
  texts = [row['messages'][1]['content'] for row in server.asked[:2]]
  at = [
    [text.index(word) for word in ('short', 'much longer')] for text in texts
  ]
  assert at[0][0] < at[0][1] and at[1][0] > at[1][1]


def test_a_judge_that_always_likes_the_first_gives_a_tie(ask, server):
  always = judge_server.completion(0.9, logprobs=True)
  server.answers = [(200, {}, always)] * 2
  np.testing.assert_allclose(ask()(PAIRS[:1]), [0.5])


def test_one_order_costs_half_and_depends_on_the_instruction_alone(ask, server):
  pairs = [Pair(f'instruction {i}', 'x', 'longer') for i in range(20)]
  np.testing.assert_allclose(ask(orders='random')(pairs), 0.8)
  assert len(server.asked) == 20
  first = [
    text['messages'][1]['content'].index('"x"')
    < text['messages'][1]['content'].index('longer')
    for text in server.asked
    if '"""x"""' in text['messages'][1]['content']
  ]
  assert 0 < sum(first) < 20


def test_the_request_is_that_of_the_weighted_annotator(
  ask, server, monkeypatch
):
  monkeypatch.setenv('TEST_JUDGE_KEY', 'secret')
  ask(orders='random', key_from='TEST_JUDGE_KEY')(PAIRS[:1])
  [row] = server.asked
  assert row['path'] == '/v1/chat/completions'
  assert row['headers']['Authorization'] == 'Bearer secret'
  assert (row['model'], row['max_tokens'], row['temperature']) == (
    'judge',
    1,
    1,
  )
  assert (row['logprobs'], row['top_logprobs']) == (True, 5)
  assert [m['role'] for m in row['messages']] == ['system', 'user']


def test_answers_that_look_like_fields_stay_where_they_are():
  _, user = judge_prompt.messages('{output_2}', '{instruction}', '"""')
  assert user['content'].count('{output_2}') == 1
  assert user['content'].count('{instruction}') == 1


def test_without_logprobs_what_is_written_counts(ask, server):
  server.logprobs = False
  judge = ask(logprobs=False, orders='random')
  np.testing.assert_array_equal(judge(PAIRS), [1.0, 0.0])
  assert all('logprobs' not in body for body in server.asked)
  assert all(body['temperature'] == 0 for body in server.asked)


def test_an_endpoint_without_logprobs_is_asked_for_its_likelier_answer(
  ask, server
):
  server.logprobs = False
  judge = ask(parallel=1)
  np.testing.assert_array_equal(judge(PAIRS), [1.0, 0.0])
  # Once at temperature 1, where the answer is drawn: it is paid, not kept.
  temperatures = [body['temperature'] for body in server.asked]
  assert temperatures == [1, 0, 0, 0, 0]
  assert judge.cost.requests == 5
  # Nor is that paid again.
  again = ask()
  np.testing.assert_array_equal(again(PAIRS), [1.0, 0.0])
  assert (again.cost.requests, again.cost.cached) == (0, 4)


def test_one_answer_without_logprobs_loses_none_that_were_weighed(ask, server):
  first = ask()
  wanted = first(PAIRS)
  # Another question has one: it is asked again, and so are those after it.
  server.logprobs = False
  more = [Pair('new', 'short', 'a longer one')]
  ask(parallel=1)(more)
  # In the next run too, weighed answers are what counts.
  again = ask()
  np.testing.assert_array_equal(again([*PAIRS, *more])[:2], wanted)
  assert again.cost.requests == 0


def test_answers_asked_without_logprobs_are_another_measure(ask, server):
  ask(logprobs=False)(PAIRS)
  judge = ask()
  judge(PAIRS)
  assert judge.cost.requests == 4


@pytest.mark.parametrize('logprobs', [True, False])
def test_an_answer_that_cannot_be_read_leaves_the_pair_unknown(
  logprobs, ask, server
):
  neither = judge_server.completion(None, logprobs=logprobs)
  server.answers = [(200, {}, neither)]
  found = ask(parallel=1, logprobs=logprobs)(PAIRS)
  assert np.isnan(found[0])  # one order is no judgement
  assert found[1] == pytest.approx(0.2)


def test_a_judge_that_names_neither_ends_with_what_it_said(ask, server):
  neither = judge_server.completion(None, logprobs=False)
  server.answers = [(200, {}, neither)] * 4
  with pytest.raises(chat_client.EndpointError) as caught:
    ask(logprobs=False)(PAIRS)
  told = "judge answered neither m nor M, the last: 'neither'; 4 requests, 400"
  assert told in str(caught.value)


def test_passing_troubles_are_waited_out(ask, server):
  server.answers = [
    (429, {'Retry-After': '0.02'}, {'error': {'message': 'slow down'}}),
    (500, {}, b'oops'),
  ]
  judge = ask(orders='random', parallel=1)
  np.testing.assert_allclose(judge(PAIRS[:1]), [0.8])
  assert len(server.asked) == 3
  assert judge.cost.requests == 1  # what failed is not paid for


def test_a_lasting_trouble_ends_with_what_was_said_last(ask, server):
  server.answers = [(503, {}, {'error': 'overloaded'})] * 3
  with pytest.raises(
    chat_client.EndpointError, match='3 tries.*503.*overloaded'
  ):
    ask(orders='random', parallel=1)(PAIRS[:1])


def test_a_refusal_is_not_tried_again(ask, server):
  server.answers = [(401, {}, {'error': {'message': 'no\nsuch key'}})]
  with pytest.raises(
    chat_client.EndpointError, match='refused: 401 .*no such key'
  ):
    ask(orders='random', parallel=1)(PAIRS[:1])
  assert len(server.asked) == 1


@pytest.mark.parametrize(
  'body', [{'error': {'message': None}}, {'error': [1]}, [2], None]
)
def test_a_refusal_without_a_reason_is_a_refusal(body, ask, server):
  server.answers = [(403, {}, json.dumps(body).encode())]
  with pytest.raises(chat_client.EndpointError, match='refused: 403 Forbidden'):
    ask(orders='random', parallel=1)(PAIRS[:1])


@pytest.mark.parametrize('status', [400, 413, 422])
def test_a_request_that_is_refused_leaves_its_pair_unknown(
  status, ask, server, tmp_path
):
  server.answers = [(200, {}, None), judge_server.filtered(status)]
  judge = ask(parallel=1)
  found = judge(PAIRS)
  assert np.isnan(found[0]) and found[1] == pytest.approx(0.2)
  assert (judge.cost.requests, judge.cost.refused) == (3, 1)
  assert len(server.asked) == 4  # not tried again
  assert any('content filter' in m for m in fault_counts.told('win_rate/'))
  # Nothing was paid for: it is asked again with the next command.
  np.testing.assert_allclose(ask()(PAIRS), [0.8, 0.2])
  assert len(server.asked) == 5


@pytest.mark.parametrize('count', [2, 1000])
def test_an_endpoint_that_refuses_all_ends_with_its_reason(count, ask, server):
  server.reply = lambda body: judge_server.filtered()
  pairs = [Pair(str(i), 'x', 'longer') for i in range(count)]
  with pytest.raises(
    chat_client.EndpointError, match='none of .* refused: 400 .*content filter'
  ):
    ask()(pairs)
  assert len(server.asked) <= 40


BROKEN = [
  {'error': {'message': 'overloaded', 'code': 502}},
  {'choices': []},
  {'choices': [None]},
  [1],
  None,
  {'choices': [{'message': 3}]},
]


@pytest.mark.parametrize('answer', BROKEN)
def test_an_answer_without_a_choice_is_asked_for_again(
  answer, ask, server, tmp_path
):
  content = json.dumps(answer).encode()
  server.answers = [(200, {}, content)] * 2
  judge = ask(orders='random', parallel=1)
  np.testing.assert_allclose(judge(PAIRS[:1]), [0.8])
  assert (judge.cost.requests, len(server.asked)) == (1, 3)
  server.answers = [(200, {}, content)] * 3
  found = judge(PAIRS[::-1])
  assert np.isnan(found[0]) and found[1] == pytest.approx(0.8)
  assert len((tmp_path / 'cache.jsonl').read_text().splitlines()) == 1


def test_errors_that_an_older_cache_holds_as_answers_are_asked_again(
  ask, server, tmp_path
):
  ask(orders='random')(PAIRS[:1])
  cache = tmp_path / 'cache.jsonl'
  row = json.loads(cache.read_text())
  cache.write_text(
    json.dumps(row | dict(first=None, tokens_in=0, tokens_out=0))
  )
  np.testing.assert_allclose(ask(orders='random')(PAIRS[:1]), [0.8])


def test_what_is_no_annotation_in_a_cache_is_passed_over(ask, server, tmp_path):
  ask(orders='random')(PAIRS[:1])
  cache = tmp_path / 'cache.jsonl'
  rows = [b'12', b'null', b'[1]', b'{"key": "a"}', b'\xff', cache.read_bytes()]
  cache.write_bytes(b'\n'.join(rows))
  judge = ask(orders='random')
  np.testing.assert_allclose(judge(PAIRS[:1]), [0.8])
  assert (judge.cost.requests, judge.cost.cached) == (0, 1)


LISTED = [{'token': 'm', 'logprob': -0.1}]


@pytest.mark.parametrize(
  'choice, usage, first',
  [
    ({'logprobs': {'content': [{'top_logprobs': []}]}}, {}, 1.0),
    ({'logprobs': {'content': [{'top_logprobs': None}]}}, {}, 1.0),
    ({'logprobs': {'content': [{'token': 'm'}]}}, {}, 1.0),
    ({'logprobs': {'content': [{'top_logprobs': LISTED}]}}, None, 1.0),
    ({'message': {'content': [{'type': 'text', 'text': 'M'}]}}, {}, 0.0),
    ({'message': {'content': None}}, {}, None),
    ({'message': None}, {'prompt_tokens': None}, None),
  ],
)
def test_answers_of_many_servers_are_read(choice, usage, first):
  choice = {'message': {'content': 'm'}} | choice
  found = endpoint.read_answer({'choices': [choice], 'usage': usage})
  listed = choice.get('logprobs', {'content': [{}]})['content'][0]
  assert found.pop('weighed') == (listed.get('top_logprobs') == LISTED)
  assert isinstance(found.pop('said'), str)
  assert found == {'first': first, 'tokens_in': 0, 'tokens_out': 0}


def test_a_judge_that_moved_is_not_paid_again(ask, server, tmp_path):
  ask()(PAIRS)
  with judge_server.running() as other:
    moved = ask()
    moved.client.url = other.url
    np.testing.assert_allclose(moved(PAIRS), [0.8, 0.2])
    assert other.asked == []


def test_a_cache_with_addresses_in_its_keys_is_read(ask, server, tmp_path):
  ask(orders='random')(PAIRS[:1])
  body = {
    k: v for k, v in server.asked[0].items() if k not in ('path', 'headers')
  }
  asked = f'{server.url}/chat/completions {json.dumps(body, sort_keys=True)}'
  cache = tmp_path / 'cache.jsonl'
  row = json.loads(cache.read_text())
  row['key'] = hashlib.sha256(asked.encode()).hexdigest()
  cache.write_text(json.dumps(row) + '\n')
  ask(orders='random')(PAIRS[:1])
  assert len(server.asked) == 1


@pytest.mark.parametrize(
  'asked, waits',
  [
    (('0', None, None), [0.0, 2.0, 4.0]),
    (('nan', '-5', None), [1.0, 2.0, 4.0]),
    (('inf', '7', 'Tue, 01 Jan 2030 00:00:00 GMT'), [60.0, 7.0, 4.0]),
  ],
)
def test_a_wait_that_is_asked_for_changes_no_later_one(
  asked, waits, server, monkeypatch
):
  slept = []
  monkeypatch.setattr(chat_client.time, 'sleep', slept.append)
  server.answers = [
    (429, {} if told is None else {'Retry-After': told}, {}) for told in asked
  ]
  server.reply = lambda body: (200, {}, {'choices': []})
  client = chat_client.Client(server.url, '', timeout=5.0, tries=4)
  assert client.post({}) == {'choices': []}
  assert slept == waits


def test_an_endpoint_that_is_not_there_is_named(tmp_path, ask):
  judge = ask(orders='random', tries=2)
  judge.client.url = 'http://127.0.0.1:9/v1'
  with pytest.raises(chat_client.EndpointError, match='127.0.0.1:9.*2 tries'):
    judge(PAIRS[:1])


def test_a_redirect_is_named_and_not_followed(ask, server, monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', 'secret')
  elsewhere = f'http://localhost:{server.server_port}/elsewhere'
  server.answers = [(302, {'Location': elsewhere}, {})]
  with pytest.raises(
    chat_client.EndpointError, match=f'refused: 302 redirects to {elsewhere}'
  ):
    ask(key_from='JUDGE_KEY', orders='random')(PAIRS[:1])
  assert len(server.asked) == 1


def test_a_missing_key_is_said_at_once(ask, monkeypatch):
  monkeypatch.delenv('TEST_JUDGE_KEY', raising=False)
  with pytest.raises(ValueError, match='TEST_JUDGE_KEY'):
    ask(key_from='TEST_JUDGE_KEY')


def test_a_key_is_cleaned_and_never_shown(ask, server, monkeypatch):
  monkeypatch.setenv('TEST_JUDGE_KEY', ' sk-secret\n')
  ask(key_from='TEST_JUDGE_KEY')(PAIRS[:1])
  assert server.asked[0]['headers']['Authorization'] == 'Bearer sk-secret'
  for key in ('sk-\nsecret', 'sk-secret\x7f', 'sk-sécret'):
    monkeypatch.setenv('TEST_JUDGE_KEY', key)
    with pytest.raises(ValueError, match='TEST_JUDGE_KEY') as caught:
      ask(key_from='TEST_JUDGE_KEY')
    assert 'cret' not in str(caught.value)
  monkeypatch.setenv('TEST_JUDGE_KEY', '\n')
  with pytest.raises(ValueError, match='is not there'):
    ask(key_from='TEST_JUDGE_KEY')


def test_nothing_is_paid_for_twice(ask, server):
  first = ask()
  told = first(PAIRS)
  assert (first.cost.requests, first.cost.cached) == (4, 0)
  again, other = ask(), ask(model='another')
  np.testing.assert_array_equal(again(PAIRS), told)
  assert (again.cost.requests, again.cost.cached) == (0, 4)
  assert again.cost.dollars(price_in=10, price_out=30) == 0
  assert len(server.asked) == 4
  # Another judge, or another answer, is another question.
  other(PAIRS)
  again([Pair('a', 'short', 'something else')])
  assert len(server.asked) == 10


def test_the_cost_is_of_tokens_and_prices(ask):
  judge = ask()
  judge(PAIRS)
  assert (judge.cost.tokens_in, judge.cost.tokens_out) == (400, 4)
  # 400 x $10 and 4 x $30 a million.
  dollars = judge.cost.dollars(price_in=10.0, price_out=30.0)
  assert dollars == pytest.approx(0.00412)


def test_what_was_answered_before_a_failure_is_kept(ask, server, tmp_path):
  server.answers = [(200, {}, None)] * 3 + [(401, {}, {'error': 'broke'})]
  with pytest.raises(chat_client.EndpointError, match='broke'):
    ask(parallel=1)(PAIRS)
  cache = tmp_path / 'cache.jsonl'
  assert len(cache.read_text().splitlines()) == 3
  # The process was killed while it wrote the last line.
  cache.write_text(cache.read_text()[:-20])
  judge = ask(parallel=1)
  np.testing.assert_allclose(judge(PAIRS), [0.8, 0.2])
  assert (judge.cost.requests, judge.cost.cached) == (2, 2)
  whole = [
    json.loads(x) for x in cache.read_text().splitlines() if x[-1] == '}'
  ]
  assert len(whole) == 4
