"""A question to the text that a policy continues.

Between stages 1 and 2 of a step: template, worked examples and chat markup
around a task's prompt. `encode(..., start=True)` then makes tokens of it.
"""

from collections.abc import Sequence

from grpo_jax.rewards.text import THINK

# The template of DeepSeek-R1-Zero (arXiv 2501.12948, table 1).
_R1 = (
  'A conversation between User and Assistant. The user asks a question, and '
  'the Assistant solves it. The assistant first thinks about the reasoning '
  'process in the mind and then provides the user with the answer. The '
  'reasoning process and answer are enclosed within <think>...</think> and '
  '<answer>...</answer> tags, respectively, i.e., <think> reasoning process '
  'here </think> <answer> answer here </answer>. User: {prompt}. Assistant:'
)

TEMPLATES = {
  'plain': '{prompt}',
  'r1': _R1,
  'answer_tags': (
    '{prompt}\nGive the final answer, and nothing else, within <answer> and '
    '</answer> tags.'
  ),
}


def render(
  prompt: str,
  *,
  tokenizer=None,
  template: str = '{prompt}',
  chat: bool = False,
  system: str = '',
  shots: Sequence[tuple[str, str]] = (),
) -> str:
  """The text that the completion follows.

  Args:
    prompt: a task's question; braces in it mean nothing.
    tokenizer: its `chat` renders the turns; unused without `chat`.
    template: a name of `TEMPLATES`, or a text with '{prompt}' in it. It is
      put around the prompts of the shots as well.
    chat: as a conversation, by the tokenizer's chat template.
    system: a system turn, or the first paragraph of a plain text.
    shots: worked examples, (prompt, completion) pairs, literally: earlier
      turns of the conversation, or paragraphs before the prompt.

  Raises:
    ValueError: an unknown template, or no chat template.
  """
  template = TEMPLATES.get(template, template)
  if '{prompt}' not in template:
    raise ValueError(
      f"template={template!r} has no '{{prompt}}' and is none of "
      f'{sorted(TEMPLATES)}'
    )
  asked = [template.replace('{prompt}', p) for p, _ in shots]
  answered = [completion for _, completion in shots]
  question = template.replace('{prompt}', prompt)
  if not chat:
    worked = [q + a for q, a in zip(asked, answered, strict=True)]
    return '\n\n'.join([*([system] if system else []), *worked, question])
  turns = [{'role': 'system', 'content': system}] if system else []
  for q, a in zip(asked, answered, strict=True):
    turns.append({'role': 'user', 'content': q})
    turns.append({'role': 'assistant', 'content': a})
  turns.append({'role': 'user', 'content': question})
  return tokenizer.chat(turns, add_generation_prompt=True)


def opening(prompt: str) -> str:
  """What of the completion stands in a rendered prompt already.

  '<think>', and the whitespace after it, of chat templates whose last words are
  that; '' of others.
  """
  _, opened, after = prompt.rpartition(THINK)
  return opened + after if opened and not after.strip() else ''


def after_opening(begun: str, completion: str) -> str:
  """A completion without what its prompt has of it, which is `opening`."""
  rest = completion.removeprefix(THINK)
  if not begun or rest == completion:
    return completion
  return rest if begun == THINK else rest.lstrip()
