"""Plain data to bytes and back: what may pass between program and test.

The reader trusts nothing: it builds None, bool, int, float, complex, str,
bytes, list, tuple, set, frozenset and dict, of exactly these types, and
refuses anything else, so no object of the program with a method of its own
(`__eq__`, say) ever reaches a test. Not pickle or marshal, which run or crash
on bytes made for it; not JSON, which has no tuples and takes longer to import
than all of this to run.
"""

import os
import struct

_DEEPEST = 100  # levels of containers
_LENGTH = struct.Struct('<I')
_FLOAT = struct.Struct('<d')
_COMPLEX = struct.Struct('<dd')
_SEQUENCES = {b'l': list, b't': tuple, b'S': set, b'Z': frozenset}


def encode(value) -> bytes:
  """The bytes of a value; instances of subclasses count as their base.

  Raises:
    TypeError: the value, or something in it, is no plain data.
    ValueError: it is too deep.
  """
  parts: list = []
  _write(value, parts.append, 0)
  return b''.join(parts)


def decode(content: bytes):
  """The value; ValueError or TypeError for anything `encode` did not write."""
  value, end = _parse(content, 0, 0)
  if end != len(content):
    raise ValueError('bytes after the value')
  return value


def send(fd: int, *parts: bytes):
  """Writes one message."""
  write(fd, message(*parts))


def message(*parts: bytes) -> bytes:
  """A length and the parts."""
  content = b''.join(parts)
  return struct.pack('<Q', len(content)) + content


def write(fd: int, content: bytes):
  """All of it, however long it takes."""
  data = memoryview(content)
  while data:
    data = data[os.write(fd, data) :]


def receive(fd: int, *, longest: int) -> bytes | None:
  """One message; None at the end of the file; ValueError beyond `longest`."""
  head = _exactly(fd, 8)
  if head is None:
    return None
  (length,) = struct.unpack('<Q', head)
  if length > longest:
    raise ValueError(f'a message of {length} bytes, more than {longest}')
  return _exactly(fd, length)


def _exactly(fd: int, length: int) -> bytes | None:
  parts = []
  while length:
    part = os.read(fd, min(length, 1 << 20))
    if not part:
      return None
    parts.append(part)
    length -= len(part)
  return b''.join(parts)


def _write(value, put, depth: int):
  if depth > _DEEPEST:
    raise ValueError(f'deeper than {_DEEPEST} levels')
  if value is None:
    put(b'N')
  elif value is True or value is False:
    put(b'T' if value else b'F')
  elif isinstance(value, int):
    _write_bytes(b'i', b'%x' % value, put)
  elif isinstance(value, float):
    put(b'f' + _FLOAT.pack(value))
  elif isinstance(value, complex):
    put(b'c' + _COMPLEX.pack(value.real, value.imag))
  elif isinstance(value, str):
    _write_bytes(b's', str.encode(value, 'utf-8', 'surrogatepass'), put)
  elif isinstance(value, bytes | bytearray):
    _write_bytes(b'b', bytes(value), put)
  elif isinstance(value, dict):
    items = list(dict.items(value))
    put(b'd' + _LENGTH.pack(len(items)))
    for key, item in items:
      _write(key, put, depth + 1)
      _write(item, put, depth + 1)
  else:
    for tag, kind in _SEQUENCES.items():
      if isinstance(value, kind):
        items = list(kind.__iter__(value))
        put(tag + _LENGTH.pack(len(items)))
        for item in items:
          _write(item, put, depth + 1)
        return
    raise TypeError(f'a {type(value).__name__} is no plain data')


def _write_bytes(tag: bytes, content: bytes, put):
  put(tag + _LENGTH.pack(len(content)))
  put(content)


def _parse(content: bytes, at: int, depth: int):
  if depth > _DEEPEST:
    raise ValueError(f'deeper than {_DEEPEST} levels')
  tag, at = content[at : at + 1], at + 1
  if tag in (b'N', b'T', b'F'):
    return {b'N': None, b'T': True, b'F': False}[tag], at
  if tag in (b'f', b'c'):
    layout = _FLOAT if tag == b'f' else _COMPLEX
    if at + layout.size > len(content):
      raise ValueError('cut off')
    numbers = layout.unpack_from(content, at)
    value = numbers[0] if tag == b'f' else complex(*numbers)
    return value, at + layout.size
  if tag not in (b'i', b's', b'b', b'd', *_SEQUENCES):
    raise ValueError(f'no value begins with {tag!r}')
  if at + _LENGTH.size > len(content):
    raise ValueError('cut off')
  (length,) = _LENGTH.unpack_from(content, at)
  at += _LENGTH.size
  # An item takes a byte at least, so no length can ask for more than came.
  if length > len(content) - at:
    raise ValueError('cut off')
  if tag in (b'i', b's', b'b'):
    part = content[at : at + length]
    return _scalar(tag, part), at + length
  if tag == b'd':
    pairs = {}
    for _ in range(length):
      key, at = _parse(content, at, depth + 1)
      pairs[key], at = _parse(content, at, depth + 1)
    return pairs, at
  items = []
  for _ in range(length):
    item, at = _parse(content, at, depth + 1)
    items.append(item)
  return _SEQUENCES[tag](items), at


def _scalar(tag: bytes, part: bytes):
  if tag == b'i':
    return int(part, 16)  # linear, unlike decimal digits
  return str(part, 'utf-8', 'surrogatepass') if tag == b's' else part
