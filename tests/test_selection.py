"""What is kept of completions and what is counted, all by hand."""

import dataclasses
import http.server
import json
import math
import sys
import threading

import numpy as np
import pytest

from grpo_jax import chat_client, rewards, tasks
from grpo_jax.rewards import Completion, fault_counts
from grpo_jax.tasks import Example, Task
from grpo_jax.verified import (
  filters,
  mixing,
  progress,
  rewriting,
  selection,
  verify,
)

NAN = math.nan
EXAMPLE = Example('2 +3=', '5')
WORDS = 'first we add the two numbers and then we look at what comes out of it'


def fits(name, text, *, tokens=5, stopped=True, **arguments):
  completion = Completion(text, tokens=tokens, finished=stopped)
  return getattr(filters, name)(**arguments)(completion, EXAMPLE)


@pytest.mark.parametrize(
  'name, text, arguments, wanted',
  [
    ('finished', 'x', {}, True),
    ('finished', 'x', {'stopped': False}, False),
    ('tokens', 'x', {'most': 5}, True),
    ('tokens', 'x', {'most': 4}, False),
    ('tokens', 'x', {'least': 6, 'most': 9}, False),
    ('well_formed', '<think>a</think><answer>5</answer>', {}, True),
    ('well_formed', '<answer>5</answer>', {}, False),
    ('well_formed', '<answer>5</answer>', {'thought': False}, True),
    ('well_formed', '<think>a</think>So 5.<answer>5</answer>', {}, False),
    ('well_formed', '<think>a</think>So 5.<answer>5</answer>',
     {'summary': True}, True),
    ('well_formed', '<think>a</think>So 5.', {'summary': True}, False),
    ('readable', 'a sum, über 2 €\n\t汉字', {}, True),
    # One odd character of 50 is 2 %, of 49 more.
    ('readable', '\ufffd' + 'a ' * 24 + 'b', {}, True),
    ('readable', '\ufffd' + 'a ' * 24, {}, False),
    ('readable', 'a\x00', {}, False),
    ('readable', 'x' * 60, {}, True),
    ('readable', 'x' * 61, {}, False),
    ('readable', '汉' * 200, {}, True),
    ('one_language', f'<think>{WORDS}</think>', {}, True),
    ('one_language', f'<think>{WORDS}</think>', {'target': 'de'}, False),
    # 16 words and five characters each a half: 2.5 of 18.5 words.
    ('one_language', f'<think>{WORDS} 我们先加起</think>', {}, False),
    ('one_language', f'<think>{WORDS} 我们先加起</think>',
     {'least': 0.85}, True),
    # Nothing to judge: sums have no words.
    ('one_language', '<think>08;06;15</think>', {}, True),
    # a b a b: ab, ba, ab: a third has been there.
    ('no_repetition', 'a b a b', {'size': 2, 'most': 0.34}, True),
    ('no_repetition', 'a b a b', {'size': 2, 'most': 0.33}, False),
    ('no_repetition', '1+1+1+1+1+1', {}, False),
    ('no_long_paragraphs', '<think>a b c\n\nd e f</think>', {'words': 3}, True),
    ('no_long_paragraphs', '<think>a b c\nd e f</think>', {'words': 3}, False),
    ('no_long_paragraphs', '<think>a</think>b c d e', {'words': 3}, True),
    ('no_code_blocks', '<think>a\n```\nx\n```\n</think>', {}, False),
    ('no_code_blocks', '<think>a `x`</think>\n```\nx\n```', {}, True),
    ('thought_words', '<think>08;06;15</think>', {'least': 3}, True),
    ('thought_words', '<think>08;06;15</think>', {'least': 4}, False),
    ('thought_words', '<think>a b c</think>', {'most': 2}, False),
    ('thought_words', '<answer>5</answer>', {'least': 1}, False),
  ],
)  # fmt: skip
def test_a_filter_tells_what_it_is_for(name, text, arguments, wanted):
  assert fits(name, text, **arguments) is wanted


@pytest.mark.parametrize(
  'name, arguments',
  [
    ('tokens', {'least': 3, 'most': 2}),
    ('readable', {'odd_share': 2}),
    ('one_language', {'target': 'xx'}),
    ('one_language', {'least': 0.0}),
    ('no_repetition', {'most': -0.1}),
    ('no_repetition', {'size': 0}),
    ('no_long_paragraphs', {'words': 0}),
    ('thought_words', {'least': 3, 'most': 2}),
  ],
)
def test_an_argument_that_makes_no_sense_is_refused(name, arguments):
  with pytest.raises(ValueError, match=next(iter(arguments))):
    getattr(filters, name)(**arguments)


def test_a_filter_that_lacks_its_package_is_told_at_the_start(monkeypatch):
  monkeypatch.setitem(sys.modules, 'py3langid', None)
  with pytest.raises(ValueError, match='filter one_language needs the package'):
    filters.one_language()


def test_overlap_is_the_jaccard_index_of_ngrams():
  # ab bc cd against ab bc ce: two of four.
  assert filters.overlap('a b c d', 'a b c e', size=2) == 0.5
  assert filters.overlap('a b', 'a  b', size=4) == 1.0
  assert filters.overlap('', '', size=2) == 1.0
  assert filters.overlap('a', 'b', size=2) == 0.0


TASK = Task(1, lambda i: EXAMPLE, lambda answer, example: answer == '5')


@pytest.mark.parametrize(
  'trace, wanted',
  [
    ('<think> 2\n\n\n and 3 </think><answer>5</answer>',
     '<think>2\n\n and 3</think>The answer is 5.\n<answer>5</answer>'),
    # Its own summary stays, unless it has a number out of nowhere.
    ('<think>2 and 3</think>It is 5.<answer>5</answer>',
     '<think>2 and 3</think>It is 5.<answer>5</answer>'),
    ('<think>2 and 3</think>Also 7-2=5.<answer>5</answer>',
     '<think>2 and 3</think>The answer is 5.\n<answer>5</answer>'),
    ('<answer>5</answer>', ''),
    ('<think>2 and 3</think>', ''),
    ('<think><think>2</think><answer>5</answer>', ''),
    ('<think>2</think>so <think>3</think><answer>5</answer>', ''),
  ],
)  # fmt: skip
def test_a_trace_becomes_thought_and_summary(trace, wanted):
  rewrite = rewriting.thought_summary(task=TASK)
  assert rewrite(trace, EXAMPLE) == wanted


def test_a_summary_may_be_given_and_must_name_the_answer():
  rewrite = rewriting.thought_summary(task=TASK, summary='{prompt}{answer}!')
  found = rewrite('<think>{answer}</think><answer>5</answer>', EXAMPLE)
  assert found == '<think>{answer}</think>2 +3=5!<answer>5</answer>'
  asked = dataclasses.replace(EXAMPLE, prompt='{answer}')
  found = rewrite('<think>a</think><answer>5</answer>', asked)
  assert found == '<think>a</think>{answer}5!<answer>5</answer>'
  with pytest.raises(ValueError, match='has no'):
    rewriting.thought_summary(task=TASK, summary='Done.')


def test_the_summary_of_a_mixture_is_that_of_its_part():
  sums = dict(name='arithmetic', seed=0, min_ops=1, max_ops=1, size=4, share=1)
  task = tasks.mixture(parts=dict(a=sums, b=sums))
  example = task.example(0)
  found = rewriting.thought_summary(task=task)(
    '<think>so</think><answer>5</answer>', example
  )
  assert found == f'<think>so</think>{example.prompt}5<answer>5</answer>'


def fail(*_):
  raise KeyError('gone')


def test_what_a_function_of_ones_own_raises_ends_nothing():
  path = f'{__name__}:fail'
  assert rewriting.function(task=TASK, path=path)('5', EXAMPLE) == ''
  assert verify.function(path=path)('5', EXAMPLE) is None
  assert {'rewrite/failed', 'judge/failed'} <= rewards.faults().keys()


def test_what_is_rewritten_has_the_format_that_a_reward_pays_for():
  found = rewriting.thought_summary(task=TASK)(
    '<think>2 and 3</think><answer>5</answer>', EXAMPLE
  )
  for summary, paid in ((True, 1.0), (False, 0.0)):
    reward = rewards.format(task=TASK, summary=summary)
    assert reward(found, EXAMPLE) == paid
  assert rewards.correct(task=TASK)(found, EXAMPLE) == 1.0


def rules(**changed):
  given = dict(
    min_reward=-math.inf, filters=(), rewrite=None,
    still_right=lambda text, example: True, count=len, near_size=2, near=0.5,
    per_prompt=0,
  )  # fmt: skip
  return selection.Rules(**given | changed)


def test_a_reward_may_be_the_least_but_for_rounding():
  # 1 + 0.3 + 0.3 as rewards are summed.
  whole = np.float32(1) + np.float32(0.3) + np.float32(0.3)
  assert whole < 1.6
  rewards = np.array([whole, whole - np.float32(0.01)])
  told = [Completion(t, tokens=3, finished=True) for t in ('a b', 'c d')]
  row = selection.sift(
    0, EXAMPLE, told, rewards, np.ones(2), rules(min_reward=1.6)
  )
  assert [kept['completion'] for kept in row['kept']] == ['a b']
  assert row['dropped'] == {'min_reward': 1}


def test_a_completion_counts_under_the_first_reason():
  texts = [
    'a b c d',  # kept
    'a b  c d',  # the same but for whitespace
    'a b c e',  # half its bigrams are those of the first
    'w',  # wrong
    ' \n',  # nothing to learn
    'low',  # right, and too little reward
    'no verdict',
    'x y',  # a filter's
    'k l',  # kept
    'm n',  # over the two of a prompt
  ]
  right = [1, 1, 1, 0, 1, 1, NAN, 1, 1, 1]
  reward = [1.5, 1, 1, 0, 1, 0.4, NAN, 1, 1, 1]
  row = selection.sift(
    3, EXAMPLE,
    [Completion(t, tokens=10 + i, finished=True) for i, t in enumerate(texts)],
    np.array(reward), np.array(right, float),
    rules(min_reward=0.5, per_prompt=2, filters=[
      ('fine', lambda text, example: True),
      ('no_x', lambda text, example: 'x' not in text),
    ]),
  )  # fmt: skip
  assert row == {
    'index': 3, 'prompt': '2 +3=', 'answer': '5', 'judged': 9, 'right': 8,
    'dropped': {
      'duplicate': 1, 'near_duplicate': 1, 'wrong': 1, 'min_reward': 1,
      'unjudged': 1, 'no_x': 1, 'per_prompt': 1, 'empty': 1,
    },
    'kept': [
      {'sample': 0, 'completion': 'a b c d', 'tokens': 10, 'reward': 1.5},
      {'sample': 8, 'completion': 'k l', 'tokens': 18, 'reward': 1.0},
    ],
  }  # fmt: skip
  assert json.loads(json.dumps(row)) == row


def test_a_right_answer_without_a_reward_is_kept_where_none_is_asked_for():
  text = [Completion('a', tokens=1, finished=True)]
  for least, kept in ((-math.inf, 1), (0.0, 0)):
    row = selection.sift(
      0, EXAMPLE, text, np.array([NAN]), np.ones(1), rules(min_reward=least)
    )
    assert len(row['kept']) == kept


def test_what_is_rewritten_is_measured_and_judged_again():
  texts = ['good', 'spoilt', 'gone']
  row = selection.sift(
    0, EXAMPLE, [Completion(t, tokens=9, finished=True) for t in texts],
    np.ones(3), np.ones(3),
    rules(
      rewrite=lambda text, example: '' if text == 'gone' else f'{text}!',
      still_right=lambda text, example: text == 'good!',
    ),
  )  # fmt: skip
  assert row['dropped'] == {'rewrite': 2}
  assert [(k['completion'], k['tokens']) for k in row['kept']] == [('good!', 5)]


def row(index, right, judged, *kept, prompt='p', **dropped):
  return {
    'index': index, 'prompt': prompt, 'answer': '5', 'judged': judged,
    'right': right, 'dropped': dropped,
    'kept': [
      {'sample': g, 'completion': c, 'tokens': 1, 'reward': 1.0}
      for g, c in enumerate(kept)
    ],
  }  # fmt: skip


ROWS = [
  row(0, 1, 4, 'a', wrong=3),
  row(1, 4, 4, 'b', 'a ', duplicate=2),  # the same prompt: 'a' is there
  row(2, 0, 4, prompt='q', wrong=4),
  row(3, 0, 0, prompt='r', unjudged=4),
  row(4, 3, 4, 'a', 'c', 'd', prompt='s', wrong=1),
  row(5, 4, 4, 'e', prompt='t', duplicate=3),
]


def test_a_set_has_no_duplicates_and_counts_every_completion():
  chooser = selection.Chooser(source='own')
  found = [r for one in ROWS for r in chooser.add(one)]
  assert [(r['index'], r['completion']) for r in found] == [
    (0, 'a'), (1, 'b'), (4, 'a'), (4, 'c'), (4, 'd'), (5, 'e'),
  ]  # fmt: skip
  assert {r['source'] for r in found} == {'own'}
  assert [r['pass_rate'] for r in found] == [0.25, 1, 0.75, 0.75, 0.75, 1]
  assert chooser.dropped == {'wrong': 8, 'duplicate': 6, 'unjudged': 4}
  assert (chooser.prompts, chooser.samples, chooser.kept) == (6, 24, 6)
  assert chooser.pass_rates == {
    '0': 1, '(0, .25]': 1, '(.25, .5]': 0, '(.5, .75]': 1, '(.75, 1)': 0,
    '1': 2, 'unjudged': 1,
  }  # fmt: skip


def test_a_limit_ends_the_set_within_a_prompt_and_counts_no_later_one():
  chooser = selection.Chooser(source='own', limit=3)
  found = [r for one in ROWS for r in chooser.add(one)]
  assert [r['index'] for r in found] == [0, 1, 4]
  assert chooser.full and chooser.prompts == 5
  assert chooser.dropped['limit'] == 2
  assert sum(chooser.dropped.values()) + chooser.kept == chooser.samples == 20


def examples(*completions):
  return [(i, Example('p', '', c)) for i, c in enumerate(completions)]


def test_other_sources_give_what_is_not_there_yet():
  seen = {selection.key_of('p', 'a')}

  def draw(wanted):
    given = dict(wanted=wanted, source='chat', seen=set(seen), count=len)
    return list(
      selection.draw(examples('a', 'b', 'b ', '', 'cc', 'd'), **given)
    )

  assert [r['completion'] for r in draw(2)] == ['b', 'cc']
  assert [r['tokens'] for r in draw(None)] == [1, 2, 1]
  assert math.isnan(draw(1)[0]['pass_rate'])
  with pytest.raises(ValueError, match='chat has 3 records .* 4 are asked'):
    draw(4)


def test_shares_are_of_the_whole_set():
  def source(size, **given):
    spec = dict(source='s', task=dict(
      name='arithmetic', split='train', size=size, min_ops=1, max_ops=2,
    ))  # fmt: skip
    return mixing.Mixed(spec | given, seed=0)

  # 60 own and 20 counted are 80 % of 100.
  counted, shared = source(50, count=20), source(50, share=0.2)
  assert mixing.amounts([counted, shared], own=60) == [20, 20]
  with pytest.raises(ValueError, match='has 9 records'):
    source(9, count=10)
  # R1's: 200 of 800 thousand.
  assert selection.shares_to_counts(600, [0.25]) == [200]
  assert mixing.amounts([source(7), source(9, share=0.5)], own=3) == [None, 10]


@pytest.mark.parametrize(
  'reply, wanted',
  [
    ('{"analysis": "same", "verdict": "correct"}', 1.0),
    ('```json\n{"verdict": "Incorrect"}\n```', 0.0),
    ('{"verdict": "maybe"}', None),
    ('correct', None),
    ('[1]', None),
    ('{"verdict": ', None),
    (r'{"analysis": "so \(x=2\)", "verdict": "correct"}', 1.0),
    ('{"analysis": "a\n\tb", "verdict": "incorrect"}', 0.0),
    ('<think>{1,2}</think>{"verdict": "correct"}', 1.0),
    ('{"verdict" : "INCORRECT"}, as {1,2} is not {2}', 0.0),
    ('<think>"verdict": "incorrect"}</think>{x} {"verdict": "correct"}', 1.0),
    ('<think>{"verdict": "incorrect"}', None),
    ('I use {"a": "", "verdict": "correct" or "incorrect"}', None),
    ('{"verdict": "correct"', 1.0),
  ],
)
def test_a_verdict_is_read_from_json_and_what_is_nearly_so(reply, wanted):
  assert verify.verdict(reply) == wanted


@pytest.fixture
def server():
  """Answers with `replies` in turn: a text, or a status."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      size = int(self.headers['Content-Length'])
      asked.append((self.path, json.loads(self.rfile.read(size))))
      reply = replies.pop(0)
      self.send_response(reply if isinstance(reply, int) else 200)
      self.end_headers()
      if isinstance(reply, str):
        choices = [{'message': {'content': reply}}]
        self.wfile.write(json.dumps({'choices': choices}).encode())

    def log_message(self, *_):
      pass

  asked, replies = [], []
  found = http.server.HTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=found.serve_forever, daemon=True).start()
  yield f'http://127.0.0.1:{found.server_port}/v1', asked, replies
  found.shutdown()
  found.server_close()


def test_an_endpoint_judges_the_answer_by_the_reference(server):
  url, asked, replies = server
  judge = verify.endpoint(
    url=url, model='m', key_from='', first_wait=0.0, tries=3
  )
  example = Example('Who? {reference}', 'Ada')
  replies[:] = [503, 'no JSON', '{"verdict": "correct"}']
  assert judge('<think>hm</think>Ada L.', example) == 1.0
  path, body = asked[-1]
  assert path == '/v1/chat/completions' and body['model'] == 'm'
  [message] = body['messages']
  for part in ('Who? {reference}', '\nAda\n', '\nAda L.\n'):
    assert part in message['content']
  assert 'hm' not in message['content']
  replies[:] = [429] * 3
  assert judge('Ada', example) is None
  assert len(asked) == 6
  # Nothing is asked of an open thought.
  assert judge('<think>Ada', example) == 0.0
  # Of this answer alone.
  replies[:] = [400, 413, 422]
  assert [judge('Ada', example) for _ in range(3)] == [None] * 3
  assert not replies and len(fault_counts.told('judge/refused')) == 1
  replies[:] = [401]
  with pytest.raises(ValueError, match='refused: 401'):
    judge('Ada', example)


def test_an_endpoint_that_is_gone_ends_the_judging(server):
  url, asked, replies = server
  judge = verify.endpoint(url=url, model='m', key_from='', tries=1)
  example = Example('Who?', 'Ada')
  replies[:] = [503] * 31 + [400] + [503] * 32
  told = [judge('Ada', example) for _ in range(63)]
  assert told == [None] * 63
  with pytest.raises(chat_client.Unanswered, match='503.*32 requests in a row'):
    judge('Ada', example)


def test_progress_goes_on_after_the_last_block_that_is_whole(tmp_path):
  rows = [{'index': i} for i in range(9)]
  done = progress.Progress(tmp_path / 'p', {'seed': 0})
  assert done.done == 0
  # Two processes, whose prompts alternate.
  done.write(0, 4, [rows[1], rows[3]], 1)
  done.write(0, 4, [rows[0], rows[2]], 0)
  done.write(4, 8, [rows[4], rows[6]], 0)
  again = progress.Progress(tmp_path / 'p', {'seed': 0})
  assert again.done == 4 and list(again.rows(99)) == rows[:4]
  again.write(4, 9, rows[4:], 0)
  assert list(again.rows(99)) == rows and again.block(4, 9) == rows[4:]
  assert list(again.rows(6)) == rows[:6]
  with pytest.raises(ValueError, match='seed=0 there and seed=1 here'):
    progress.Progress(tmp_path / 'p', {'seed': 1})
