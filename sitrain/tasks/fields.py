"""Readers of the fields of a data set: text, numbers, lists.

Every reader takes the value of a field and returns it as the task needs it. It
raises ValueError that names the wrong value and the fix; `read` adds the row
and the name of the field. A missing value (null) reads as empty text or an
empty list: `tables.read` decides whether a field may be empty.
"""

import ast
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

Reader = Callable[[Any], Any]


def read(value: Any, reader: Reader, where: str) -> Any:
  """reader(value); its ValueError begins with `where` the value is."""
  try:
    return reader(value)
  except ValueError as error:
    raise ValueError(f"{where} {error}") from error


def text(value: Any) -> str:
  """Text; numbers, lists, truth values, NaN, bytes and messages are refused."""
  if value is None:
    return ""
  if not isinstance(value, str):
    raise ValueError(
      f"is {_what(value)}, where text was expected: {_fix(value)}"
    )
  try:
    value.encode()
  except UnicodeEncodeError as error:
    half = value[error.start]
    raise ValueError(
      f"holds half of a character ({half!a} at place {error.start}), which no "
      "tokenizer can read: write the complete character, or remove it"
    ) from error
  return value


def text_or_number(value: Any) -> str:
  """Text, or a number in its shortest decimal form: 0 is "0", 4.50 is "4.5"."""
  if not _is_number(value):
    return text(value)
  if not _is_finite(value):
    raise ValueError(
      f"is {value}, which is no number: write the number, or leave the row out"
    )
  shown = f"{Decimal(str(value)):f}"
  shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
  return "0" if shown == "-0" else shown


def integer(value: Any) -> int:
  """An integer, also one that is written as text."""
  shown = text_or_number(value).strip()
  if not shown.removeprefix("-").isdecimal():
    what = f"is {shown!r}" if shown else "is empty"
    raise ValueError(f"{what}, where an integer was expected: write one")
  return int(shown)


def texts(value: Any) -> list[str]:
  """A list of texts; a single text is refused, not read letter by letter."""
  if value is None:
    return []
  if not isinstance(value, (list, tuple)):
    raise ValueError(
      f"is {_what(value)}, where a list of texts was expected: write a list, "
      "also around a single text"
    )
  for place, item in enumerate(value, 1):
    try:
      text("" if item is None else item)
    except ValueError as error:
      raise ValueError(f"has an element {place} that {error}") from error
    if item is None:
      raise ValueError(f"has an element {place} that is null: write its text")
  return list(value)


def python(value: Any) -> str:
  """Source code of Python that this Python can parse."""
  _parsed(text(value))
  return text(value)


def tests(value: Any) -> list[str]:
  """A list of tests in Python with at least one statement."""
  found = texts(value)
  if found and not _parsed("\n".join(found)).body:
    raise ValueError(
      "holds no test, so that every program would pass: write some, or leave "
      "the row out"
    )
  return found


def _parsed(source: str) -> ast.Module:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of escapes in its strings
    try:
      return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise ValueError(
        f"is no Python that could run ({error}): mend it, or leave the row out"
      ) from error


def _is_number(value: Any) -> bool:
  is_number = isinstance(value, (int, float, Decimal))
  return is_number and not isinstance(value, bool)


def _is_finite(value: int | float | Decimal) -> bool:
  # math.isfinite cannot read an integer of 400 digits.
  return isinstance(value, int) or math.isfinite(value)


def _what(value: Any) -> str:
  """A description of a wrong value."""
  if value is None:
    return "null"
  if _is_number(value):
    return f"the number {value}" if _is_finite(value) else str(value)
  kinds = {
    bool: f"the truth value {value}", str: "text", bytes: "bytes",
    dict: "an object", list: "a list", tuple: "a list",
  }
  if _is_message(value):
    return "a chat message"
  if isinstance(value, list) and value and all(map(_is_message, value)):
    return "a list of chat messages"
  return kinds.get(type(value), f"a {type(value).__name__}")


def _is_message(value: Any) -> bool:
  return isinstance(value, dict) and {"role", "content"} <= value.keys()


def _fix(value: Any) -> str:
  """The fix for a value that should be text."""
  what = _what(value)
  if "message" in what:
    return (
      "write the content of the one message as text, or name another field"
    )
  if what == "bytes":
    return "save it as UTF-8 text"
  if what.startswith("the number"):
    return "put it in quotes, if it is meant"
  return "write text, or leave the row out"
