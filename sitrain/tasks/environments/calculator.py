"""A calculator between turns: `<calc>12*7</calc>` is answered by 84.

A turn without `<calc>` is taken for the answer and ends the dialogue. What is
asked for is never run as code: numbers and + - * / // % ** are read one after
the other, and every number is bounded.
"""

import itertools
import math
import operator
import re
from collections import deque

from sitrain.tasks.dialogue import Dialogue, Replies

LONGEST = 200  # characters of an expression
DEEPEST = 20  # brackets in brackets
BITS = 1024  # of the largest integer
CALL = re.compile(r"<calc>(.*?)(?:</calc>|$)", re.S)
SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # of thousands
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
TOKEN = re.compile(rf"{NUMBER}|\*\*|//|[-+*/%()]", re.A)
SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}
BINARY = {
  "+": operator.add, "-": operator.sub, "*": operator.mul,
  "/": operator.truediv, "//": operator.floordiv, "%": operator.mod,
}
NONE = "this is no expression"


def make(
  *, digits: int = 12, error: str = "error: ", cost: float = 0.0
) -> Replies:
  """A calculator.

  Args:
    digits: significant digits of a result that is no integer.
    error: what a reply begins with that says why there is no result; the
      reason follows where it ends in a space, so that a tokenizer without
      letters may have a word of its own.
    cost: of a turn that calls it, which is taken off its reward.

  Raises ValueError for no digits and an empty `error`.
  """
  if digits < 1 or not error:
    raise ValueError(
      f"digits={digits}, error={error!r}: set 1 or more, and a text"
    )

  def calculator(dialogue: Dialogue) -> str | None:
    found = CALL.findall(dialogue.turns[-1])
    if not found:
      return None
    try:
      return shown(value_of(found[-1]), digits)
    except ValueError as problem:
      return f"{error}{problem}" if error.endswith(" ") else error

  def price(dialogue: Dialogue) -> float:
    return -cost if CALL.search(dialogue.turns[-1]) else 0.0

  return Replies(calculator, price if cost else None)


def value_of(text: str) -> int | float:
  """The value of an arithmetic expression, by the precedence of Python.

  Raises ValueError, with the reason in a few words, for what is none, for a
  division by zero and for numbers that are too large.
  """
  for sign, known in SIGNS.items():
    text = text.replace(sign, known)
  text = SEPARATOR.sub("", text.strip())
  if not text:
    raise ValueError("nothing to calculate")
  if len(text) > LONGEST:
    raise ValueError(f"longer than {LONGEST} characters")
  # Not by `ast`: in threads CPython 3.11 may raise SystemError (gh-106905).
  tokens = deque(TOKEN.findall(text))
  if "".join(tokens) != re.sub(r"\s+", "", text):
    raise ValueError("only numbers, brackets and + - * / // % ** are known")
  brackets = (1 if one == "(" else -1 for one in tokens if one in ("(", ")"))
  depth = itertools.accumulate(brackets)
  if max(depth, default=0) > DEEPEST:
    raise ValueError(f"more than {DEEPEST} brackets in brackets")
  try:
    value = _sum(tokens)
  except ZeroDivisionError:
    raise ValueError("division by zero") from None
  except OverflowError:
    raise ValueError("the number is too large") from None
  if tokens:
    raise ValueError(NONE)
  return value


def _sum(tokens: deque[str]) -> int | float:
  """The value of the terms at the beginning of `tokens`, which it takes."""
  return _chain(tokens, ("+", "-"), _product)


def _product(tokens):
  return _chain(tokens, ("*", "/", "//", "%"), _signed)


def _chain(tokens, signs, part):
  value = part(tokens)
  while tokens and tokens[0] in signs:
    value = _bounded(BINARY[tokens.popleft()](value, part(tokens)))
  return value


def _signed(tokens):
  signs = 0
  while tokens and tokens[0] in ("+", "-"):
    signs += tokens.popleft() == "-"
  value = _atom(tokens)
  if tokens and tokens[0] == "**":
    tokens.popleft()
    power = _signed(tokens)
    _check_power(value, power)
    value = _bounded(value**power)
  return -value if signs % 2 else value


def _atom(tokens):
  token = tokens.popleft() if tokens else ""
  if token == "(":
    value = _sum(tokens)
    if not tokens or tokens.popleft() != ")":
      raise ValueError(NONE)
    return value
  if not token or token[0] not in "0123456789.":
    raise ValueError(NONE)
  return _bounded(int(token) if token.isdecimal() else float(token))


def _check_power(base, exponent):
  """Bounds an integer power before it is computed."""
  if isinstance(base, int) and isinstance(exponent, int):
    if base.bit_length() * abs(exponent) > BITS:
      raise OverflowError


def _bounded(value):
  """The value; OverflowError for large ones, ValueError for complex ones."""
  if isinstance(value, complex):
    raise ValueError("the root of a negative number")
  if isinstance(value, int):
    if value.bit_length() > BITS:
      raise OverflowError
  elif not math.isfinite(value):
    raise OverflowError
  return value


def shown(value: int | float, digits: int) -> str:
  """A number as text; one that is whole has no point."""
  if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
    value = int(value)
  return str(value) if isinstance(value, int) else f"{value:.{digits}g}"
