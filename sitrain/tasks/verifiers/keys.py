"""A text for each answer, the same for equal answers, for counting votes."""

from fractions import Fraction
from typing import Any

from sitrain.tasks.verifiers import values
from sitrain.tasks.verifiers.records import (
  DOTS,
  INFINITE,
  Assigned,
  Based,
  Chain,
  Clock,
  Equation,
  Fallback,
  Inequality,
  Items,
  Matrix,
  Number,
  Ratio,
  Residue,
  Unequal,
  Union,
  Words,
)


def key(record: Any) -> str:
  """The key of a record; Undefined and TooMuch where there is no value."""
  if isinstance(record, Number):
    return _tree(record.tree)
  if isinstance(record, (Words, Fallback)):
    return "words " + record.text
  if isinstance(record, Based):
    return f"{record.digits} in base {record.base}"
  if isinstance(record, Residue):
    return f"{_tree(record.tree)} modulo {_tree(record.modulus)}"
  if isinstance(record, Clock):
    return f"clock {record.parts} {record.half}"
  if isinstance(record, Ratio):
    first, *rest = record.parts
    return _tree(("divide", first, rest[0])) if len(rest) == 1 else (
      "ratio " + ":".join(_tree(("divide", x, first)) for x in rest)
    )
  if isinstance(record, Assigned):
    return key(record.value)
  if isinstance(record, Chain):
    return key(record.values[0])
  if isinstance(record, Matrix):
    rows = (",".join(map(_tree, row)) for row in record.rows)
    return "matrix " + ";".join(rows)
  if isinstance(record, Items):
    return _items(record)
  if isinstance(record, Union):
    return "sets " + " ".join(map(key, record.sides)) + str(record.signs)
  return _relation(record)


def _tree(tree) -> str:
  if tree in (DOTS, INFINITE, ("negate", INFINITE)):
    return str(tree)
  if tree[0] == "name":
    return tree[1]
  return values.fingerprint(tree)


def _items(record: Items) -> str:
  found = [key(item) for item in record.items]
  if record.opens == "{":
    found = sorted(set(found))
    # A set of one equals its element, and a larger set the list of its items.
  elif not record.opens:
    found = sorted(found)
  if len(found) == 1:
    return found[0]
  brackets = record.opens + record.closes
  brackets = "" if brackets == "{}" else brackets
  return f"{brackets} {'; '.join(found)}"


def _relation(record) -> str:
  """An equation up to a factor: its values at two points, as a ratio."""
  if isinstance(record, Inequality):
    if record.bounds:
      opens, closes, low, high = record.bounds
      return f"{opens}{closes} {_tree(low)}; {_tree(high)}"
    steps = (f"{_scaled(tree)} {sign}" for sign, tree in record.steps)
    return "steps " + "; ".join(steps)
  if isinstance(record, Unequal):
    return "unequal " + _scaled(record.tree)
  if isinstance(record, Equation):
    return "equation " + _scaled(record.tree)
  raise TypeError(f"no record of an answer: {record!r}")


def _scaled(tree) -> str:
  names = sorted(values.names(tree))
  first, second, third = (
    values.at(tree, point) for point in values.points(set(names), count=3)
  ) if names else (Fraction(1), Fraction(1), Fraction(1))
  return values.shown(second, first) + values.shown(third, first)
