"""Rewriters: a verified trace into the form that is to be learned.

R1's cold start (2501.12948v2, B.3.2): a thought, then a summary that adds no
new reasoning. There DeepSeek-V3 rewrites both, and humans the first examples;
its prompts and the exact form are not disclosed in full. A template does here,
or a function of yours (`function`), which may ask a model.

Every function is a factory `name(*, task, ...)` that returns
`rewrite(completion, example) -> str`; '' drops the completion. What comes out
is judged again.
"""

from collections.abc import Callable
import re

from grpo_jax.hooks import load
from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import guarded
from grpo_jax.tasks import shares

_NUMBER = re.compile(r'[0-9]+(?:\.[0-9]+)?')
_FIELD = re.compile(r'\{(?:prompt|answer)\}')
_GAPS = re.compile(r'\n(?:[^\S\n]*\n)+')


def none(*, task) -> Callable | None:
  """As the policy wrote it."""
  del task


def thought_summary(
  *, task, summary: str = '', extract: str = 'tags'
) -> Callable:
  """<think>thought</think>summary<answer>answer</answer>.

  The thought is the trace's own, without the whitespace around it and without
  several blank lines in a row. The summary is the completion's own text between
  thought and answer, unless it has a number that neither question, thought nor
  answer has (new reasoning, as far as that shows); then, or without one, a
  template: our choice, see above. A trace without thought or answer is dropped,
  and one with other tags than these.

  Args:
    task: its `summary` is the template where none is given here; of a mixture,
      that of the example's part.
    summary: with '{prompt}' and '{answer}' in it.
    extract: as of the reward `correct`.
  """
  find = text.extractor(extract)
  for template in [summary] if summary else [t.summary for t in task.kinds]:
    if '{answer}' not in template:
      raise ValueError(
        f"rewrite thought_summary: summary={template!r} has no '{{answer}}'"
      )

  def rewrite(completion, example):
    thought = _GAPS.sub('\n\n', text.thought(completion).strip())
    answer = find(completion)
    if not thought or text.is_empty(answer):
      return ''
    told = _told(completion)
    known = set(_NUMBER.findall(f'{example.prompt} {thought} {answer}'))
    if not told or not known.issuperset(_NUMBER.findall(told)):
      given = {'{prompt}': example.prompt, '{answer}': answer}
      template = summary or shares.part_of(task, example).summary
      # At once: what is put in may hold such names too.
      told = _FIELD.sub(lambda match: given[match.group()], template)
    whole = f'<think>{thought}</think>{told}<answer>{answer}</answer>'
    # Tags of the trace may be doubled, or within its thought.
    return whole if text.well_formed(whole, thought=True, summary=True) else ''

  return rewrite


def function(*, task, path: str) -> Callable:
  """A function of yours, 'module:function': (completion, example) -> str.

  Where it raises, the completion is dropped, counted and logged once.
  """
  del task
  own = load(path, field='keep.rewrite.path')
  return guarded(own, name='rewrite/failed', instead='', so='dropped')


def _told(completion: str) -> str:
  """What stands between thought and answer."""
  _, closed, after = completion.partition(text.END_THINK)
  return after.partition(text.ANSWER)[0].strip() if closed else ''
