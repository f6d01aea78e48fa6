"""An error as the one line that every command of this repository ends with."""

import sys


def line(error: BaseException) -> str:
  """What went wrong, of a file its name first; never empty, never two lines."""
  text = str(error)
  if isinstance(error, OSError) and error.strerror:
    where = '' if error.filename is None else f'{error.filename}: '
    text = f'{where}{error.strerror}'
  return ' '.join(text.split()) or type(error).__name__


def tell(error: BaseException) -> None:
  """Prints that line to stderr."""
  print(f'error: {line(error)}', file=sys.stderr, flush=True)
