"""Whether two records of answers are equal; see records.py."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sitrain.tasks.verifiers import (
  amounts,
  expressions,
  fallback,
  sets,
  values,
)
from sitrain.tasks.verifiers.latex import TooMuch
from sitrain.tasks.verifiers.records import (
  DOTS,
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
    return amounts.ratios(gold, found, quick)
  if isinstance(gold, SETS) and isinstance(found, SETS):
    return _sets(gold, found, quick)
  return False


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
  return all(any(
    _is_set(y) == _is_set(x) and same(y, x, quick) for y in others
  ) for x in some)


def _is_set(record) -> bool:
  return isinstance(record, Items) and record.opens == "{"


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
  if _is_set(many) and _is_set(many.items[0]):
    return False
  pair = (many.items[0], one)
  return same(*(pair if many is gold else pair[::-1]), quick)


def _matrices(gold: Matrix, found: Matrix, quick: bool) -> bool:
  shapes = [[len(row) for row in matrix.rows] for matrix in (gold, found)]
  return shapes[0] == shapes[1] and all(
    amounts.equal(a, b, quick)
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
    *trees, amounts.digits(quick)
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
    amounts.infinite(part) for part in tree[1:] if isinstance(part, tuple)
  )


def check(gold: Any) -> None:
  """Undefined for a gold number without a value (1/0), TooMuch for a huge one.
  """
  if isinstance(gold, Number) and not amounts.infinite(gold.tree):
    try:
      values.exact(gold.tree)
    except values.NotExact:
      pass


PAIRS = {
  (Number, Number): amounts.numbers,
  (Number, Based): amounts.from_base,
  (Based, Number): amounts.to_base,
  (Clock, Clock): amounts.clocks,
  (Residue, Residue): amounts.residues,
  (Residue, Number): amounts.from_residue,
  (Items, Items): _items,
  (Items, Number): _single,
  (Number, Items): _single,
  (Matrix, Matrix): _matrices,
}
