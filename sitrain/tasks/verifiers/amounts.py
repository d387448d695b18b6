"""Whether two single values say the same: numbers, times, ratios, residues."""

import re
from fractions import Fraction

from sitrain.tasks.verifiers import units, values
from sitrain.tasks.verifiers.records import (
  DOTS,
  INFINITE,
  Based,
  Clock,
  Number,
  Ratio,
  Residue,
)


def equal(one, other, quick: bool) -> bool:
  """Two trees; Slow for what takes many digits, where `quick`."""
  if one == other:
    return True
  ends = [infinite(tree) for tree in (one, other)]
  if any(ends):
    return ends[0] == ends[1]
  return values.equal(one, other, digits(quick))


def digits(quick: bool) -> int:
  """Digits that a comparison may take."""
  return values.MAX_QUICK_DIGITS if quick else values.MAX_DIGITS


def infinite(tree) -> int:
  """1 or -1 for the infinite ends, 0 for all other trees."""
  if tree == INFINITE:
    return 1
  return -1 if tree == ("negate", INFINITE) else 0


def numbers(gold: Number, found: Number, quick: bool) -> bool:
  """The same value in no other unit, with or without a percent sign."""
  if units.differ(_unit(gold), _unit(found)):
    return False
  if DOTS in (gold.tree, found.tree):
    return gold.tree == found.tree
  if equal(gold.tree, found.tree, quick):
    return True
  if gold.percent == found.percent:
    return False
  part = ("number", Fraction(1, 100))
  scaled = [
    ("multiply", x.tree, part) if x.percent else x.tree for x in (gold, found)
  ]
  return equal(*scaled, quick)


def _unit(record: Number) -> str:
  """The unit of a number; degrees and per cent are units, too."""
  if record.percent:
    return "percent"
  return record.unit or ("deg" if _degrees(record.tree) else "")


def _degrees(tree) -> bool:
  while tree[0] in ("negate", "multiply"):
    tree = tree[-1]
  return tree[0] == "degrees"


def residues(gold: Residue, found: Residue, quick: bool) -> bool:
  """The same number by the same modulus."""
  return equal(gold.tree, found.tree, quick) and equal(
    gold.modulus, found.modulus, quick
  )


def from_residue(gold: Residue, found: Number, quick: bool) -> bool:
  """A number without its modulus, as the question named it."""
  return not found.unit and equal(gold.tree, found.tree, quick)


def from_base(gold: Number, found: Based, quick: bool) -> bool:
  """42_10 is 42; 43_5 is not 23: the question may have given that value."""
  value = _base_value(found) if found.base == 10 else None
  return value is not None and equal(gold.tree, ("number", value), quick)


def to_base(gold: Based, found: Number, quick: bool) -> bool:
  """Digits without their base, as the question named it; not their value."""
  decimal = not re.search(r"[^0-9.-]", gold.digits)
  if not decimal or found.tree[0] not in ("number", "negate"):
    return False
  try:
    return values.exact(found.tree) == Fraction(gold.digits)
  except values.NotExact:
    return False


def _base_value(record: Based) -> Fraction | None:
  sign = -1 if record.digits.startswith("-") else 1
  whole, _, part = record.digits.lstrip("-").partition(".")
  if not 2 <= record.base <= 36 or len(record.digits) > 200:
    return None
  try:
    value = Fraction(int(whole + part, record.base), record.base ** len(part))
  except ValueError:
    return None
  return sign * value


def clocks(gold: Clock, found: Clock, quick: bool) -> bool:
  """The same time; the half of the day may be left out."""
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


def ratios(gold, found, quick: bool) -> bool:
  """Ratios, and what may be meant as one: 9:24, 3/8; no time of day."""
  parts = [_parts(gold), _parts(found)]
  if None in parts or len(parts[0]) != len(parts[1]):
    # 9 p.m. without its half is 9.
    if isinstance(gold, Clock) and isinstance(found, Number):
      hours, *rest = gold.parts
      return bool(gold.half) and not any(rest) and equal(
        ("number", Fraction(hours)), found.tree, quick
      )
    return False
  one, other = parts
  try:
    return all(
      equal(("multiply", a, other[0]), ("multiply", b, one[0]), quick)
      for a, b in zip(one, other)
    ) and not any(_zero(part, quick) for part in (*one, *other))
  except values.Undefined:
    return False


def _zero(tree, quick):
  return equal(tree, ("number", Fraction(0)), quick)


def _parts(record) -> tuple | None:
  if isinstance(record, Ratio):
    return record.parts
  if isinstance(record, Clock) and not record.half and not record.parts[2]:
    return tuple(("number", Fraction(x)) for x in record.parts[:2])
  if isinstance(record, Number) and not record.percent:
    return record.tree, ("number", Fraction(1))
  return None
