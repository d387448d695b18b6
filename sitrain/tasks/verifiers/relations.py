r"""Parses equations and inequalities by their structure.

x = 5, f(x) = 5 and 5 = x assign 5, as the other side is a variable or a name;
2x = 5 and x^2 = 5 are equations, 2 + 3 = 5 is a chain of values.
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from sitrain.tasks.verifiers import expressions
from sitrain.tasks.verifiers.latex import Unreadable
from sitrain.tasks.verifiers.records import (
  INFINITE,
  Assigned,
  Chain,
  Equation,
  Inequality,
  Items,
  Number,
  Unequal,
)

_LETTER = r"(?:[a-zA-Z]|\\(?!pi\b|infty\b)[a-zA-Z]+)"
_SCRIPT = r"(?:_(?:\{[^{}]*\}|[a-zA-Z0-9]))?'*"
_WORD = r"\\text\{[^{}]*[a-zA-Z][^{}]*\}"
_MARKED = (
  r"\\(?:overline|vec|hat|bar|angle|triangle|widehat|overrightarrow)"
  r" ?(?:\{[A-Za-z_0-9' ]+\}|[A-Za-z]{1,3})"
)
_SIMPLE = re.compile(
  rf"(?:m ?)?{_MARKED}|\|?[A-Z]{{2,4}}\|?|\[[A-Z]{{3,6}}\]"
  rf"|{_WORD}{_SCRIPT}(?: ?(?:{_WORD}|{_MARKED}|[A-Z]{{1,4}}|\([^()]*\)))*"
  rf"|\{{?[a-zA-Z]\}}?{_SCRIPT}|\\[a-zA-Z]+{_SCRIPT}"
  rf"|(?:[a-zA-Z]|\\[a-zA-Z]+){_SCRIPT}(?:\^\{{-1\}})? ?\([^()]*\)"
  r"|[A-Z]\[[A-Z]\]"
)
_NO_NAMES = re.compile(
  r"\\(?:pi|infty|frac|sqrt|sin|cos|tan|cot|sec|csc|ln|log|lg|exp|binom|emptyset"
  r"|ldots|mixed|arcsin|arccos|arctan|sinh|cosh|tanh)(?![a-zA-Z])|^e$"
)
ABSOLUTE = re.compile(r"\| ?[a-vxyA-Z] ?\|")  # but not |z|, a complex number
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def is_name(text: str) -> bool:
  """Whether a side is one variable or a name: x, x_1, f(2), AB, Area."""
  text = text.strip()
  if _NO_NAMES.search(text) or len(text) > 60:
    return False
  if _SIMPLE.fullmatch(text):
    return True
  several = re.fullmatch(r"\(([^()]*)\)", text)  # (x, y) = (2, 3)
  return bool(several and "," in several[1]) and all(
    _SIMPLE.fullmatch(part.strip()) for part in several[1].split(",")
  )


def read(
  sides: Sequence[str], signs: Sequence[str], value: Callable[[str], Any],
  text: str,
) -> Any:
  """The record of sides with signs between them; `value` reads one side."""
  sides = [side.strip() for side in sides]
  if not sides[0] and signs[0] in ("=", "~"):  # "= 5" is 5
    sides, signs = sides[1:], signs[1:]
    if not signs:
      return value(sides[0])
  if not all(sides):
    raise Unreadable("a side is empty")
  if set(signs) <= {"=", "~"}:
    return _equation(sides, signs, value)
  if signs == ["in"] or tuple(signs) == ("in",):
    return Assigned(_spelled(sides[0]), value(sides[1]), None)
  if list(signs) == ["!"]:
    tree = ("subtract", *(expressions.parse(side) for side in sides))
    point = None
    if is_name(sides[0]):
      point = expressions.parse(sides[1])
      point = point if expressions.closed(point) else None
    return Unequal(tree, point)
  if set(signs) <= set(FLIPPED):
    return _inequality(sides, signs)
  raise Unreadable(f"signs {' '.join(signs)}")


def _spelled(name: str) -> str:
  return re.sub(r"[\s{}]|\\text", "", name)


def _equation(sides, signs, value):
  name, start = "", 0
  while start < len(sides) - 1 and is_name(sides[start]):
    name, start = name or _spelled(sides[start]), start + 1
  rest, marks = sides[start:], signs[start:]
  if not name and len(rest) == 2 and is_name(rest[1]):  # 5 = x
    name, rest, marks = _spelled(rest[1]), rest[:1], ()
  if name and len(rest) == 1:
    assigned = value(rest[0])
    if name.startswith("(") and isinstance(assigned, Items):
      return _in_order(name, assigned)
    return Assigned(name, assigned, _difference(sides[0], sides[-1]))
  values = [value(side) for side in rest]
  trees = [found.tree for found in values if isinstance(found, Number)]
  if len(values) == 2 and len(trees) == 2 and not name and not all(
    expressions.closed(tree) for tree in trees
  ):
    return Equation(("subtract", *trees))
  chain = Chain(tuple(marks), tuple(values))
  return Assigned(name, chain, None) if name else chain


def _in_order(name: str, assigned: Items) -> Assigned:
  """(y, x) = (4, 3) says what (x, y) = (3, 4) does.

  Of letters that follow each other in the alphabet; (m, k) stands as it is.
  """
  names = name.strip("()").split(",")
  pairs = sorted(zip(names, assigned.items), key=lambda pair: pair[0])
  if len(names) == len(assigned.items) and "".join(
    letter for letter, _ in pairs
  ) in string.ascii_letters:
    name = f"({','.join(letter for letter, _ in pairs)})"
    assigned = assigned._replace(items=tuple(item for _, item in pairs))
  return Assigned(name, assigned, None)


def _difference(left: str, right: str) -> expressions.Tree | None:
  try:
    return ("subtract", expressions.parse(left), expressions.parse(right))
  except Unreadable:
    return None


def _inequality(sides, signs):
  trees = [_bound(side) for side in sides]
  if len({sign[0] for sign in signs}) > 1 or len(sides) > 3:
    raise Unreadable("signs in both directions")
  if signs[0][0] == ">":  # turn all signs to <
    sides, trees = sides[::-1], trees[::-1]
    signs = [FLIPPED[sign] for sign in signs[::-1]]
  steps = tuple(
    (sign, ("subtract", low, high))
    for sign, low, high in zip(signs, trees, trees[1:])
  )
  return Inequality(steps, _bounds(sides, signs, trees))


def _bound(side):
  if re.fullmatch(r"[+-]? ?\\infty", side):
    return ("negate", INFINITE) if side.startswith("-") else INFINITE
  return expressions.parse(side.replace(r"\$", ""))


def _bounds(sides, signs, trees):
  """(opens, closes, low, high) of a name between closed expressions."""
  if len(sides) == 2 and ABSOLUTE.fullmatch(sides[0]) and expressions.closed(
    trees[1]
  ):
    both = "[]" if signs[0] == "<=" else "()"
    return *both, ("negate", trees[1]), trees[1]
  where = [i for i, side in enumerate(sides) if is_name(side)]
  others = [tree for i, tree in enumerate(trees) if i not in where]
  if len(where) != 1 or not all(map(expressions.closed, others)):
    return None
  i = where[0]
  if len(sides) == 3 and i != 1:
    return None
  low = trees[i - 1] if i else ("negate", INFINITE)
  high = trees[i + 1] if i + 1 < len(trees) else INFINITE
  opens = "[" if i and signs[i - 1] == "<=" else "("
  closes = "]" if i + 1 < len(trees) and signs[i] == "<=" else ")"
  return opens, closes, low, high
