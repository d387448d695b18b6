"""A calculator between turns: `<calc>12*7</calc>` is answered by 84.

A turn without `<calc>` is taken for the answer and ends the dialogue. What is
asked for is never run: a tree of numbers and + - * / // % ** is walked, and
every number in it is bounded.
"""

import ast
import math
import operator
import re

from sitrain.tasks.dialogue import Dialogue, Replies

LONGEST = 200  # characters of an expression
BITS = 1024  # of the largest integer
CALL = re.compile(r"<calc>(.*?)(?:</calc>|$)", re.S)
SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # of thousands
KNOWN = re.compile(r"[\d\s.+\-*/%()eE]*")
SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}
BINARY = {
  ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
  ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
  ast.Mod: operator.mod, ast.Pow: operator.pow,
}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}


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
  """The value of an arithmetic expression.

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
  if not KNOWN.fullmatch(text):
    raise ValueError("only numbers, brackets and + - * / // % ** are known")
  try:
    # No other character can stand in it, so it nests 200 deep at the most.
    tree = ast.parse(re.sub(r"\s+", " ", text), mode="eval")
    return _value(tree.body)
  except ZeroDivisionError:
    raise ValueError("division by zero") from None
  except (SyntaxError, RecursionError, MemoryError, TypeError):
    raise ValueError("this is no expression") from None
  except OverflowError:
    raise ValueError("the number is too large") from None


def _value(node: ast.AST) -> int | float:
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return _bounded(node.value)
  if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
    return UNARY[type(node.op)](_value(node.operand))
  if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
    left, right = _value(node.left), _value(node.right)
    if isinstance(node.op, ast.Pow):
      _check_power(left, right)
    return _bounded(BINARY[type(node.op)](left, right))
  raise ValueError("this is no expression")


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
