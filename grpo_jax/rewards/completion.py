"""A completion as rewards see it: its text, and what the text does not show.

Made in stage 5 of a step, by `rollout.read_texts`. Rewards of the content read
it as the str that it is; rewards of the length read its tokens.
"""


class Completion(str):
  """The text of a completion, without its stop token.

  Slices and other results of str methods are plain str.

  Attributes:
    tokens: length in tokens, EOS included.
    finished: whether it stopped by itself, and was not cut at the limit.
  """

  tokens: int
  finished: bool

  def __new__(cls, text: str, *, tokens: int, finished: bool):
    self = super().__new__(cls, text)
    self.tokens, self.finished = int(tokens), bool(finished)
    return self

  def __getnewargs_ex__(self):
    """What copy and pickle make another one of."""
    return (str(self),), {'tokens': self.tokens, 'finished': self.finished}


class PlainTextError(TypeError):
  """A reward needs tokens, and the completion is mere text."""


def with_tokens(completion: str, reward: str) -> Completion:
  """The completion itself, which must know its length in tokens.

  Args:
    completion: as rewards get it.
    reward: its name, for the error.

  Raises:
    PlainTextError: a plain str. Characters are no substitute: limits are in
      tokens. `grade` lets it pass, as every other completion would fail too.
  """
  if not isinstance(completion, Completion):
    raise PlainTextError(
      f'reward {reward} counts tokens, and got a plain {type(completion)}; '
      'pass rewards.Completion(text, tokens=..., finished=...), as '
      'rollout.read_texts makes them'
    )
  return completion
