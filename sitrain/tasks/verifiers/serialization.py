"""Serialization of values between a program's process and its tests'.

Runs inside the sandbox, on both sides, so it imports built-in modules only. A
message is a tuple of plain values, written as tagged bytes. Nothing in it is
executed or looked up by a name that the sender chooses. The reader builds new
values of exactly the built-in types below (and a few of the library's), so the
methods of the sender's classes are not transferred.

Functions and iterators stay in their process and are sent as a number, their
place in `kept`. The other side calls them, or requests the next item, by
messages (see messages.py). `peer` is the other side.
"""

import builtins
import marshal
import sys

# A program may replace what is in `builtins`. Functions of this file keep the
# originals, because a function takes its builtins from its module.
__builtins__ = vars(builtins).copy()

MAX_BYTES = 2**23  # bytes of a message that a program sends
MAX_DEPTH = 100  # values inside each other in it
CONSTANTS = {b"N": None, b"T": True, b"F": False}
TYPES = {kind.__name__: kind for kind in (
  bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set,
  frozenset, range, type(None), object, type,
)}
# The arguments that build an equal value of the library's type.
LIBRARY = {
  ("collections", "Counter"): lambda x: (dict(x),),
  ("collections", "OrderedDict"): lambda x: (dict(x),),
  ("collections", "deque"): lambda x: (list(x), x.maxlen),
  ("fractions", "Fraction"): lambda x: (x.numerator, x.denominator),
  ("decimal", "Decimal"): lambda x: (str(x),),
  ("datetime", "date"): lambda x: (x.year, x.month, x.day),
  ("datetime", "timedelta"): lambda x: (x.days, x.seconds, x.microseconds),
  ("datetime", "datetime"): lambda x: (
    x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond, x.tzinfo
  ),
  ("datetime", "time"): lambda x: (
    x.hour, x.minute, x.second, x.microsecond, x.tzinfo
  ),
}
# The types that these arguments must have when they are read: with others a
# small message could make a huge value.
_DATE, _INT = ((int,),) * 3, (int,)
ARGUMENTS = {
  "Counter": ((dict,),), "OrderedDict": ((dict,),),
  "deque": ((list,), (int, type(None))), "Fraction": (_INT, _INT),
  "Decimal": ((str,),), "date": _DATE, "timedelta": _DATE,
  "datetime": (*_DATE, *_DATE, _INT, (type(None),)),
  "time": (*_DATE, _INT, (type(None),)),
}
# Classes that are sent as the value in their field `data`.
WRAPPERS = {("collections", name) for name in (
  "UserDict", "UserList", "UserString"
)}
# What `marshal` gives back as it was. A bytearray would come back as bytes.
SCALARS = {type(None), bool, int, float, complex, str, bytes}
MARSHALLED = b"m"
VIEWS = {
  type({}.keys()): b"1", type({}.items()): b"2", type({}.values()): b"3"
}
Namespace = type(sys.implementation)


class Refused(ValueError):
  """A value that cannot be sent, and why."""


def encode(value, peer=None):
  """A plain value as bytes; Refused for what has no plain value.

  To the process of a program the most usual values go by `marshal`, which
  takes a tenth of the time. Nobody may read what a program sends that way.
  """
  max_bytes, max_depth = peer.send_limits if peer else (MAX_BYTES, MAX_DEPTH)
  if peer and peer.reads_marshal and _is_usual(value, 5):
    try:
      data = bytearray(MARSHALLED + marshal.dumps(value))
      if len(data) <= max_bytes:
        return data
    except MemoryError:  # too large, or a set of NaNs, which it cannot sort
      pass
  writer = Namespace(
    out=bytearray(), peer=peer, max_bytes=max_bytes, max_depth=max_depth
  )
  _put(writer, value, 0)
  return writer.out


def _is_usual(value, depth):
  """Whether it holds nothing but SCALARS in lists, tuples, sets and dicts."""
  kind = type(value)
  if kind is dict:
    return depth > 0 and _is_usual([*value, *value.values()], depth)
  if kind in (list, tuple, set, frozenset):
    if len(value) > MAX_BYTES // 8:
      return False
    if set(map(type, value)) <= SCALARS:
      return True
    return depth > 0 and all(_is_usual(item, depth - 1) for item in value)
  return kind in SCALARS


def _put(writer, value, depth):
  """Writes a value. A subclass of a built-in type counts as that type, by the
  methods of the built-in type: none of its own is called."""
  if depth > writer.max_depth:
    raise Refused(f"a value that is nested deeper than {writer.max_depth}")
  _check_size(writer, 0)
  kind = type(value)
  if value is None or kind is bool:
    writer.out += b"N" if value is None else b"T" if value else b"F"
  elif issubclass(kind, int):
    size = int.bit_length(value) // 8 + 1
    _put_part(writer, b"i", int.to_bytes(value, size, "big", signed=True))
  elif issubclass(kind, float):
    _put_part(writer, b"f", float.hex(value).encode())
  elif issubclass(kind, str):
    _put_part(writer, b"s", str.encode(value, "utf-8", "surrogatepass"))
  elif issubclass(kind, (bytes, bytearray)):
    tag = b"b" if issubclass(kind, bytes) else b"B"
    _put_part(writer, tag, memoryview(value).tobytes())
  else:
    _put_items(writer, value, depth)


def _put_items(writer, value, depth):
  """Writes a container, or the number of an object that stays here."""
  kind = type(value)
  name = (kind.__module__, kind.__qualname__)
  if name in LIBRARY:
    tag, items = b"L", (*name, *LIBRARY[name](value))
  elif kind in VIEWS:
    tag, items = VIEWS[kind], value
  elif issubclass(kind, (list, tuple, set, frozenset)):
    base, tag = next(
      (b, t) for b, t in ((list, b"l"), (tuple, b"t"), (set, b"S"),
                          (frozenset, b"Z")) if issubclass(kind, b)
    )
    items = base.__iter__(value)
  elif issubclass(kind, dict):
    tag = b"d"
    items = (part for pair in dict.items(value) for part in pair)
  elif kind is complex:
    tag, items = b"c", (value.real, value.imag)
  elif kind is range:
    tag, items = b"r", (value.start, value.stop, value.step)
  elif kind is type and TYPES.get(value.__name__) is value:
    return _put_part(writer, b"k", value.__name__.encode())
  elif any((b.__module__, b.__qualname__) in WRAPPERS for b in kind.__mro__):
    return _put(writer, value.data, depth + 1)
  elif writer.peer and (hasattr(kind, "__next__") or callable(value)):
    tag = b"g" if hasattr(kind, "__next__") else b"h"
    writer.peer.kept.append(value)
    return _put_part(writer, tag, str(len(writer.peer.kept) - 1).encode())
  else:
    raise Refused(f"an instance of {kind.__name__}, which is no plain value")
  if hasattr(items, "__length_hint__"):
    _check_size(writer, items.__length_hint__())
  out = writer.out
  out += tag
  place = len(out)
  out += bytes(4)
  count = 0
  for item in items:
    _put(writer, item, depth + 1)
    count += 1
  out[place:place + 4] = count.to_bytes(4, "big")


def _check_size(writer, more):
  if len(writer.out) + more > writer.max_bytes:
    raise Refused(f"a value of more than {writer.max_bytes} bytes")


def _put_part(writer, tag, data):
  _check_size(writer, len(data))
  writer.out += tag + len(data).to_bytes(4, "big") + data


def decode(data, peer=None):
  """The value, of exact built-in types; ValueError for any other bytes.

  peer: the process that calls of received functions go to.
  """
  if peer and peer.writes_marshal and data[:1] == MARSHALLED:
    return marshal.loads(memoryview(data)[1:])
  _, max_depth = peer.receive_limits if peer else (MAX_BYTES, MAX_DEPTH)
  reader = Namespace(data=data, at=0, peer=peer, max_depth=max_depth)
  try:
    value = _take(reader, 0)
  except (KeyError, TypeError, OverflowError, ArithmeticError, RecursionError,
          AttributeError) as error:
    raise ValueError(f"{type(error).__name__} in a message") from None
  if reader.at != len(data):
    raise ValueError("more bytes than a message has")
  return value


def _bytes(reader, size):
  found = reader.data[reader.at:reader.at + size]
  if len(found) < size:
    raise ValueError("a message that ends too early")
  reader.at += size
  return bytes(found)


def _take(reader, depth):
  """Reads one value."""
  if depth > reader.max_depth:
    raise ValueError("a message that is nested too deep")
  tag = _bytes(reader, 1)
  if tag in CONSTANTS:
    return CONSTANTS[tag]
  count = int.from_bytes(_bytes(reader, 4), "big")
  if tag in b"ifsbBkgh":
    return _part(tag, _bytes(reader, count), reader.peer)
  items = [_take(reader, depth + 1) for _ in range(count)]
  if tag in b"ltSZ":
    return {b"l": list, b"t": tuple, b"S": set, b"Z": frozenset}[tag](items)
  if tag == b"d":
    return dict(zip(items[::2], items[1::2], strict=True))
  if tag == b"c" and [type(x) for x in items] == [float, float]:
    return complex(*items)
  if tag == b"r" and [type(x) for x in items] == [int] * 3:
    return range(*items)
  if tag == b"1":
    return dict.fromkeys(items).keys()
  if tag == b"2":
    return dict(items).items()
  if tag == b"3":
    return dict(enumerate(items)).values()
  if tag == b"L" and LIBRARY[tuple(items[:2])]:
    kinds = ARGUMENTS[items[1]]
    if len(items) - 2 != len(kinds) or not all(
      type(x) in kind for x, kind in zip(items[2:], kinds)
    ):
      raise ValueError(f"a {items[1]} of other arguments than it has")
    return getattr(__import__(items[0]), items[1])(*items[2:])
  raise ValueError(f"a message with the tag {tag!r}")


def _part(tag, data, peer):
  """A value without parts."""
  if tag == b"i":
    return int.from_bytes(data, "big", signed=True)
  if tag == b"f":
    return float.fromhex(data.decode("ascii"))
  if tag == b"s":
    return data.decode("utf-8", "surrogatepass")
  if tag == b"k":
    return TYPES[data.decode("ascii")]
  if tag in b"bB":
    return data if tag == b"b" else bytearray(data)
  number = int(data.decode("ascii"))
  return (peer.items if tag == b"g" else peer.function)(number)
