"""Whether two records of answers are equal; see records.py."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sitrain.tasks.verifiers import (
  expressions,
  fallback,
  sets,
  units,
  values,
)
from sitrain.tasks.verifiers.latex import TooMuch
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
  Unequal,
  Union,
  Words,
)

MAX_ITEMS = 200
SETS = (Items, Union, Inequality, Unequal, Number)


def same(gold: Any, found: Any, quick: bool) -> bool:
  """Whether a record equals the gold answer's; `quick` may raise Slow."""
  if gold == found:
    return not isinstance(gold, Words) or bool(gold.text)
  if isinstance(gold, Words) or isinstance(found, Words):
    return False
  if isinstance(gold, Chain) or isinstance(found, Chain):
    return _chained(gold, found, quick)
  if isinstance(gold, (Assigned, Equation)):
    return _equations(gold, found, quick)
  if isinstance(found, Assigned):
    return same(gold, found.value, quick)
  if isinstance(found, Equation):
    return False
  if isinstance(gold, Fallback) or isinstance(found, Fallback):
    return _fallback(gold, found, quick)
  pair = (type(gold), type(found))
  if pair in PAIRS:
    return PAIRS[pair](gold, found, quick)
  if isinstance(gold, (Clock, Ratio)) or isinstance(found, (Clock, Ratio)):
    return _ratios(gold, found, quick)
  if isinstance(gold, SETS) and isinstance(found, SETS):
    return _sets(gold, found, quick)
  return False


def _equal(one, other, quick: bool) -> bool:
  """Whether two trees are equal; Slow where `quick` and many digits needed."""
  if one == other:
    return True
  ends = [_infinite(tree) for tree in (one, other)]
  if any(ends):
    return ends[0] == ends[1]
  return values.equal(one, other, _digits(quick))


def _digits(quick: bool) -> int:
  return values.MAX_QUICK_DIGITS if quick else values.MAX_DIGITS


def _infinite(tree) -> int:
  if tree == INFINITE:
    return 1
  return -1 if tree == ("negate", INFINITE) else 0


def _numbers(gold: Number, found: Number, quick: bool) -> bool:
  if units.differ(gold.unit, found.unit):
    return False
  if DOTS in (gold.tree, found.tree):
    return gold.tree == found.tree
  if _equal(gold.tree, found.tree, quick):
    return True
  if gold.percent == found.percent:
    return False
  part = ("number", Fraction(1, 100))
  scaled = [
    ("multiply", x.tree, part) if x.percent else x.tree for x in (gold, found)
  ]
  return _equal(*scaled, quick)


def _from_base(gold: Number, found: Based, quick: bool) -> bool:
  """42_10 is 42; 43_5 is not 23: the question may have given that value."""
  value = _base_value(found) if found.base == 10 else None
  return value is not None and _equal(gold.tree, ("number", value), quick)


def _to_base(gold: Based, found: Number, quick: bool) -> bool:
  """The digits without their base, which the question named."""
  digits = re.sub(r"[^0-9.-]", "", gold.digits)
  if digits != gold.digits or found.tree[0] not in ("number", "negate"):
    return False
  try:
    return values.exact(found.tree) == Fraction(digits)
  except values.NotExact:
    return False


def _base_value(record: Based) -> Fraction | None:
  sign = -1 if record.digits.startswith("-") else 1
  integer, _, part = record.digits.lstrip("-").partition(".")
  if not 2 <= record.base <= 36 or len(record.digits) > 200:
    return None
  try:
    value = int(integer + part, record.base)
  except ValueError:
    return None
  return Fraction(sign * value, record.base ** len(part))


def _clocks(gold: Clock, found: Clock, quick: bool) -> bool:
  if gold.half and found.half:
    return _minutes(gold) == _minutes(found)
  if gold.parts == found.parts:
    return True
  return bool(gold.half or found.half) and _minutes(gold) == _minutes(found)


def _minutes(clock: Clock) -> tuple[int, ...]:
  hours, *rest = clock.parts
  if clock.half:
    hours = hours % 12 + (12 if clock.half == "pm" else 0)
  return hours, *rest


def _ratios(gold, found, quick: bool) -> bool:
  """Ratios, and values that may be ratios: 9:24, 3/8; no time of day."""
  parts = [_parts(gold), _parts(found)]
  if None in parts or len(parts[0]) != len(parts[1]):
    # 9 p.m. without its half is 9.
    if isinstance(gold, Clock) and isinstance(found, Number):
      hours, *rest = gold.parts
      return bool(gold.half) and not any(rest) and _equal(
        ("number", Fraction(hours)), found.tree, quick
      )
    return False
  one, other = parts
  try:
    return all(
      _equal(("multiply", a, other[0]), ("multiply", b, one[0]), quick)
      for a, b in zip(one, other)
    ) and not any(_zero(part, quick) for part in (*one, *other))
  except values.Undefined:
    return False


def _zero(tree, quick):
  return _equal(tree, ("number", Fraction(0)), quick)


def _parts(record) -> tuple | None:
  if isinstance(record, Ratio):
    return record.parts
  if isinstance(record, Clock) and not record.half and not record.parts[2]:
    return tuple(("number", Fraction(x)) for x in record.parts[:2])
  if isinstance(record, Number) and not record.percent:
    return record.tree, ("number", Fraction(1))
  return None


def _items(gold: Items, found: Items, quick: bool) -> bool:
  kinds = [x.opens + x.closes for x in (gold, found)]
  if max(len(gold.items), len(found.items)) > MAX_ITEMS:
    raise TooMuch("long")
  if kinds[0] == kinds[1] and kinds[0] not in ("", "{}"):
    return _ordered(gold.items, found.items, quick)
  if "{}" in kinds and set(kinds) <= {"{}", ""}:
    return _contains_all(gold.items, found.items, quick) and _contains_all(
      found.items, gold.items, quick
    )
  if kinds == ["", ""]:
    dots = any(isinstance(x, Number) and x.tree == DOTS for x in gold.items)
    names = _named(found.items) and not _indexed(found.items)
    if dots or names and not _named(gold.items):
      return _ordered(gold.items, _by_name(found.items), quick)
    return _matched(gold.items, found.items, quick)
  if set(kinds) == {"", "()"}:  # x = 2, y = 3 for (2, 3)
    return _ordered(_by_name(gold.items), _by_name(found.items), quick)
  return False


def _named(items: Sequence[Any]) -> bool:
  names = [x.name for x in items if isinstance(x, Assigned)]
  return len(names) == len(items) == len(set(names))


def _indexed(items: Sequence[Any]) -> bool:
  """Whether the names are x_1, x_2, ...: roots, which have no order."""
  names = {re.sub(r"_\d+$", "_", x.name) for x in items}
  return len(names) == 1 and names.pop().endswith("_")


def _by_name(items: Sequence[Any]) -> Sequence[Any]:
  """Values of x = 2, y = 3 in the order of their names."""
  if not _named(items):
    return items
  return [x.value for x in sorted(items, key=lambda x: x.name)]


def _ordered(gold, found, quick) -> bool:
  return len(gold) == len(found) and all(
    same(one, other, quick) for one, other in zip(gold, found)
  )


def _contains_all(some, others, quick) -> bool:
  return all(any(same(y, x, quick) for y in others) for x in some)


def _matched(gold, found, quick) -> bool:
  """Whether the items are equal in pairs, in any order."""
  if len(gold) != len(found):
    return False
  left = list(found)
  for item in gold:
    partner = next(
      (i for i, other in enumerate(left) if same(item, other, quick)), None
    )
    if partner is None:
      return False
    del left[partner]
  return True


def _single(gold, found, quick) -> bool:
  """Whether a number equals a list or a set of one item."""
  many, one = (gold, found) if isinstance(gold, Items) else (found, gold)
  if one.tree == sets.REALS and many.opens == "(":
    return _sets(gold, found, quick)
  if many is found and not many.opens and len(many.items) > 1:
    # "1/2 or 0.5" is one value in two spellings; "5, 5" and "28 or 0.28"
    # (for 28%) are two values.
    return len(set(many.items)) == len(many.items) and all(
      same(x, item, quick) for item in many.items for x in (gold, many.items[0])
    )
  if len(many.items) != 1 or many.opens not in ("", "{"):
    return False
  pair = (many.items[0], one)
  return same(*(pair if many is gold else pair[::-1]), quick)


def _matrices(gold: Matrix, found: Matrix, quick: bool) -> bool:
  shapes = [[len(row) for row in matrix.rows] for matrix in (gold, found)]
  return shapes[0] == shapes[1] and all(
    _equal(a, b, quick)
    for one, other in zip(gold.rows, found.rows) for a, b in zip(one, other)
  )


def _chained(gold, found, quick: bool) -> bool:
  r"""Chains of equal values: 10/2 = 5 equals 5; 6 = 5 equals nothing.

  Both sides of \approx count if the last is a rounding of the first:
  1/3 \approx 0.33 equals 1/3 and 0.33.
  """
  if isinstance(gold, Chain):
    if isinstance(found, Chain) and gold.signs == found.signs and _ordered(
      gold.values, found.values, quick
    ):
      return True
    wanted = [x for x in gold.values if not isinstance(x, Words)]
    return any(same(one, found, quick) for one in wanted)
  first, *rest = found.values
  numbers = all(isinstance(x, Number) for x in found.values)
  for sign, other in zip(found.signs, rest):
    if sign == "=" and not same(first, other, quick):
      return False
    if sign == "~" and not (numbers and _rounds(first, other, quick)):
      return False
  about = [x for sign, x in zip(found.signs, rest) if sign == "~"]
  return any(same(gold, x, quick) for x in [first, *about])


def _rounds(exact: Number, about: Number, quick: bool) -> bool:
  """Whether a decimal is the other value, rounded or cut at its last digit."""
  try:
    other, digits = values.exact(about.tree), 0
  except values.NotExact:
    return False
  while (other * 10**digits).denominator != 1 and digits < 40:
    digits += 1
  if not expressions.closed(exact.tree):
    return False
  return values.within(exact.tree, other, Fraction(1, 10**digits))


def _equations(gold, found, quick: bool) -> bool:
  """Whether an answer equals a gold equation or assignment: y = 2x + 3."""
  if isinstance(gold, Assigned):
    if isinstance(found, Assigned):
      alike = gold.name.casefold() == found.name.casefold()
      if alike and same(gold.value, found.value, quick):
        return True
    elif not isinstance(found, Equation):
      return same(gold.value, found, quick)
  trees = [
    x.tree if isinstance(x, Equation) else getattr(x, "equation", None)
    for x in (gold, found)
  ]
  if None in trees:
    return False
  return trees[0] == trees[1] or values.proportional(
    *trees, _digits(quick)
  ) != 0


def _fallback(gold, found, quick: bool) -> bool:
  if quick:
    raise values.Slow
  texts = [x.text if isinstance(x, Fallback) else None for x in (gold, found)]
  trees = [x.tree if isinstance(x, Number) else None for x in (gold, found)]
  if any(x is None and y is None for x, y in zip(texts, trees)):
    return False
  return fallback.equal(texts, trees)


def _sets(gold, found, quick: bool) -> bool:
  """Sets in different notations: x < 3 and an interval, unions."""
  if quick:
    raise values.Slow
  if isinstance(gold, Inequality) and isinstance(found, Inequality):
    if _steps(gold, found):
      return True
    if _names(gold) != _names(found):
      return False
  if isinstance(gold, Unequal) and isinstance(found, Unequal):
    return values.proportional(gold.tree, found.tree) != 0
  return sets.equal(gold, found)


def _steps(gold: Inequality, found: Inequality) -> bool:
  """Whether each step is a positive multiple of one of the other's."""
  left = list(found.steps)
  for sign, tree in gold.steps:
    partner = next((
      i for i, (other, x) in enumerate(left)
      if other == sign and not _unbounded(tree) and not _unbounded(x)
      and values.proportional(tree, x) == 1
    ), None)
    if partner is None:
      return False
    del left[partner]
  return not left


def _names(record: Inequality) -> set[str]:
  """The names in an inequality, in lower case."""
  found, waiting = set(), [tree for _, tree in record.steps]
  while waiting:
    kind, *parts = waiting.pop()
    if kind == "name":
      found.add(str(parts[0]).casefold())
    waiting += [part for part in parts if isinstance(part, tuple)]
  return found


def _unbounded(tree) -> bool:
  return any(
    _infinite(part) for part in tree[1:] if isinstance(part, tuple)
  )


def check(gold: Any) -> None:
  """Raises Undefined for a gold number such as 1/0, TooMuch for a huge one."""
  if isinstance(gold, Number) and not _infinite(gold.tree):
    try:
      values.exact(gold.tree)
    except values.NotExact:
      pass


PAIRS = {
  (Number, Number): _numbers,
  (Number, Based): _from_base,
  (Based, Number): _to_base,
  (Clock, Clock): _clocks,
  (Items, Items): _items,
  (Items, Number): _single,
  (Number, Items): _single,
  (Matrix, Matrix): _matrices,
}
