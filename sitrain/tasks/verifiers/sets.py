"""Sets of real numbers by sympy: intervals, unions, inequalities."""

from fractions import Fraction
from typing import Any

import mpmath
import sympy

from sitrain.tasks.verifiers import values
from sitrain.tasks.verifiers.records import (
  INFINITE,
  Inequality,
  Items,
  Number,
  Unequal,
  Union,
)

MAX_PARTS = 40
DIGITS = 30  # of an end that is not rational
REALS = ("name", "mathbb R")


def equal(one: Any, other: Any) -> bool:
  """Whether two records are the same set of real numbers."""
  found = [_set(record, True) for record in (one, other)]
  return None not in found and bool(found[0] == found[1])


def _set(record: Any, top: bool) -> Any:
  """The record as a set of sympy, or None where it is no set.

  top: a plain number is no set, and a pair is an interval only beside others.
  """
  if isinstance(record, Number):
    return sympy.S.Reals if record.tree == REALS else None
  if isinstance(record, Inequality):
    return _of_inequality(record)
  if isinstance(record, Unequal):
    point = _end(record.point) if record.point else None
    return None if point is None else sympy.S.Reals - sympy.FiniteSet(point)
  if isinstance(record, Union):
    return _of_union(record)
  if isinstance(record, Items):
    return _of_items(record)
  return None


def _of_inequality(record):
  if record.bounds:
    opens, closes, low, high = record.bounds
    return _interval(opens, closes, low, high)
  return None


def _of_union(record):
  if len(record.sides) > MAX_PARTS:
    return None
  parts = [_set(side, False) for side in record.sides]
  if None in parts:
    return None
  found = parts[0]
  for sign, part in zip(record.signs, parts[1:]):
    if sign == "cup":
      found = sympy.Union(found, part)
    elif sign == "cap":
      found = sympy.Intersection(found, part)
    else:
      found = sympy.Complement(found, part)
  return found


def _of_items(record):
  if record.opens in ("{", ""):
    ends = [_end(x.tree) if isinstance(x, Number) else None
            for x in record.items[:MAX_PARTS]]
    return None if None in ends else sympy.FiniteSet(*ends)
  if len(record.items) != 2:
    return None
  low, high = record.items
  if not (isinstance(low, Number) and isinstance(high, Number)):
    return None
  return _interval(record.opens, record.closes, low.tree, high.tree)


def _interval(opens, closes, low, high):
  ends = [_end(tree) for tree in (low, high)]
  if None in ends or ends[0] > ends[1]:
    return None
  return sympy.Interval(*ends, opens == "(", closes == ")")


def _end(tree):
  """A bound as a rational number, or infinity; None for no real number."""
  if tree == INFINITE:
    return sympy.oo
  if tree == ("negate", INFINITE):
    return -sympy.oo
  try:
    value = values.number(tree)
  except values.NotExact:
    return None
  if isinstance(value, Fraction):
    return sympy.Rational(value.numerator, value.denominator)
  if mpmath.im(value):
    return None
  return sympy.Rational(mpmath.nstr(mpmath.re(value), DIGITS))
