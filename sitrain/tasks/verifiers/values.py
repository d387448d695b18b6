"""Values of expressions: exact where they are rational, else to many digits.

Sizes are bounded before each step, so no huge value is computed. Two
expressions are equal where their values are equal at a few random points for
their names, to more digits than the numbers in them could hide.
"""

import functools
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath

from sitrain.tasks.verifiers.exact import BITS, EXACT, FACTORIAL, Undefined
from sitrain.tasks.verifiers.expressions import Tree, names
from sitrain.tasks.verifiers.latex import TooMuch

DIGITS = 50  # of values that are not rational, at least
MAX_DIGITS = 20_000
MAX_QUICK_DIGITS = 150  # of a quick comparison
POINTS = 3


class NotExact(ValueError):
  """The value is not rational, or depends on names."""


class Slow(ValueError):
  """The comparison takes more than its caller has time for."""


class Near(NamedTuple):
  """The settings of values that are not rational."""

  names: Mapping[str, Fraction]
  size: list[float]  # [bits of the rational numbers, log10 of the largest]


def exact(tree: Tree) -> Fraction:
  """The value of an expression; else NotExact, Undefined or TooMuch."""
  return _value(tree, None)


def equal(one: Tree, other: Tree, most: int = MAX_DIGITS) -> bool:
  """Whether two expressions have the same value.

  most: the most digits; Slow where more are needed. Undefined where one of them
  has no value.
  """
  if one == other:
    return True
  try:
    return exact(one) == exact(other)
  except NotExact:
    pass
  free = names(one) | names(other)
  return all(
    _near(lambda near: (_value(one, near), _value(other, near)), point, most)
    for point in points(free)
  )


def proportional(one: Tree, other: Tree, most: int = MAX_DIGITS) -> int:
  """1 or -1 where one is a multiple of the other, by its sign; else 0.

  So x - 5 and 2x - 10 give 1, as equal equations and inequalities do.
  """
  free = sorted(names(one) | names(other))
  places = points(set(free), count=POINTS + 2)
  if not free:
    return 0
  signs = []
  for first, second in zip(places, places[1:]):
    def cross(near, first=first, second=second):
      here = near._replace(names=first), near._replace(names=second)
      a, b = (_value(one, place) for place in here)
      c, d = (_value(other, place) for place in here)
      if not (a and b and c and d):
        return (1, 1) if not (a or c) and not (b or d) else (0, 1)
      signs.append(1 if mpmath.re(_float(a) / _float(c)) > 0 else -1)
      return _times(a, d, near), _times(b, c, near)
    if not _near(cross, first, most):
      return 0
  return signs[0] if signs and len(set(signs)) == 1 else 0


def fingerprint(tree: Tree) -> str:
  """A text that is the same for equal expressions, and short."""
  try:
    return str(exact(tree))
  except NotExact:
    pass
  found = []
  for point in points(names(tree), count=2):
    with mpmath.workdps(DIGITS):
      value = mpmath.mpmathify(_float(_value(tree, Near(point, [0, 0]))))
      found += _parts(value)
  return "~" + ",".join(found)


def number(tree: Tree) -> Any:
  """A closed expression as an exact or as a long decimal number."""
  try:
    return exact(tree)
  except NotExact:
    with mpmath.workdps(DIGITS):
      return _value(tree, Near({}, [0, 0]))


def within(tree: Tree, value: Fraction, step: Fraction) -> bool:
  """Whether a closed expression is less than a step from a number."""
  with mpmath.workdps(DIGITS):
    return bool(abs(_float(number(tree)) - _float(value)) < _float(step))


def at(tree: Tree, point: Mapping[str, Fraction]) -> Any:
  """The value of a tree where its names have those of a point."""
  with mpmath.workdps(DIGITS):
    return _value(tree, Near(point, [0.0, 0.0]))


def shown(one: Any, other: Any) -> str:
  """The ratio of two values, in few digits."""
  with mpmath.workdps(DIGITS):
    if not other:
      return "nothing"
    ratio = mpmath.mpmathify(_float(one)) / _float(other)
    return "~" + ",".join(_parts(ratio))


def _parts(value) -> list[str]:
  """The real and the imaginary part in 15 digits, rounding errors as 0."""
  least = abs(value) * mpmath.mpf(10) ** -30
  return [
    mpmath.nstr(part, 15) if abs(part) > least else "0"
    for part in (value.real, value.imag)
  ]


def points(
  free: set[str], *, count: int = POINTS
) -> list[Mapping[str, Fraction]]:
  """Values for names, the same in every process; one point without names."""
  if not free:
    return [{}]
  return [
    {name: _drawn(name, i) for name in free} for i in range(count)
  ]


@functools.lru_cache(maxsize=4096)
def _drawn(name: str, i: int) -> Fraction:
  draw = random.Random(f"{name} {i}")
  value = Fraction(draw.randint(101, 999), draw.randint(307, 401))
  return value if i == 0 or draw.random() < 0.5 else -value


def _near(
  pair: Callable[[Near], tuple], point: Mapping[str, Fraction], most: int
) -> bool:
  """Whether the two values of `pair` are equal, to enough digits.

  The first round also measures the sizes of the numbers, from which the digits
  of the second follow.
  """
  digits = DIGITS
  for _ in range(3):
    near = Near(point, [0.0, 0.0])
    with mpmath.workdps(digits):
      one, other = pair(near)
      if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
      error = abs(_float(one) - _float(other))
      bound = mpmath.mpf(10) ** (near.size[1] + 25 - digits)
      if not error <= bound:  # also for NaN
        return False
    wanted = int(DIGITS + 0.302 * near.size[0] + near.size[1])
    if wanted <= digits:
      return True
    if wanted > most:
      raise TooMuch("large") if most == MAX_DIGITS else Slow
    digits = wanted
  return True


def _float(value):
  if isinstance(value, Fraction):
    return mpmath.mpf(value.numerator) / value.denominator
  return value


def _value(tree: Tree, near: Near | None) -> Any:
  kind = tree[0]
  if kind == "number":
    return tree[1]
  if kind == "name":
    if near is None or tree[1] not in near.names:
      raise NotExact
    return near.names[tree[1]]
  if kind == "constant":
    return _constant(tree[1], near)
  if kind == "call":
    return _call(tree[1], tree[2], near)
  values = [_value(part, near) for part in tree[1:]]
  if all(isinstance(value, Fraction) for value in values):
    found = EXACT[kind](*values)
    if found is not None:
      return _bounded(found, near)
  if near is None:
    raise NotExact
  return _sized(_real(NUMERIC[kind], values), near)


def _bounded(value: Fraction, near: Near | None) -> Fraction:
  bits = max(value.numerator.bit_length(), value.denominator.bit_length())
  if bits > BITS:
    raise TooMuch("large")
  if near is not None:
    near.size[0] = max(near.size[0], bits)
  return value


def _sized(value, near):
  """A finite number; its size is recorded in `near`."""
  if not mpmath.isfinite(value):
    raise Undefined("no number")
  if value:
    near.size[1] = max(near.size[1], float(mpmath.log10(abs(value))))
    if near.size[1] > MAX_DIGITS:
      raise TooMuch("large")
  return value


def _real(function, values):
  try:
    return function(*(_float(value) for value in values))
  except TooMuch:
    raise
  except (ZeroDivisionError, ValueError, OverflowError) as error:
    raise Undefined(str(error)) from None


def _constant(name, near):
  if name == "infty":
    raise Undefined("infinity")
  if near is None:
    raise NotExact
  return {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1)}[name]


def _call(name, argument, near):
  value = _angle(argument, near)
  if name == "exp":
    return _power_near(_constant("e", near), value, near)
  if near is None:
    known = {"sin": 0, "cos": 1, "tan": 0, "sec": 1, "arctan": 0, "arcsin": 0}
    if value == 0 and name in known:
      return Fraction(known[name])
    if name == "ln" and value == 1:
      return Fraction(0)
    raise NotExact
  if value and abs(_float(value)) > 10**9 and name != "ln":
    raise TooMuch("large")
  functions = {
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan,
    "ln": mpmath.log,
  }
  function = functions.get(name) or getattr(mpmath, name)
  return _sized(_real(function, [value]), near)


def _angle(tree, near):
  """The value of an argument, with degrees as radians."""
  return _value(_radians(tree), near)


def _radians(tree):
  if tree[0] == "degrees":
    part = ("divide", ("constant", "pi"), ("number", Fraction(180)))
    return ("multiply", _radians(tree[1]), part)
  return tuple(
    _radians(part) if isinstance(part, tuple) else part for part in tree
  )


def _times(one, other, near):
  if isinstance(one, Fraction) and isinstance(other, Fraction):
    return _bounded(one * other, near)
  return _sized(_float(one) * _float(other), near)


def _power_near(base, exponent, near):
  """A power to many digits; TooMuch where its own size is huge."""
  if near is None:
    raise NotExact
  return _sized(_real(_long_power, [base, exponent]), near)


def _long_power(base, exponent):
  if not base:
    return mpmath.mpf(0) if mpmath.re(exponent) > 0 else 1 / base
  if abs(exponent * mpmath.log(base)) > 3 * MAX_DIGITS:
    raise TooMuch("large")
  return mpmath.power(base, exponent)


def _long_root(index, value):
  if index == int(mpmath.re(index)) and int(mpmath.re(index)) % 2:
    if mpmath.im(value) == 0 and value < 0:
      return -_long_power(-value, 1 / index)  # the real root
  return _long_power(value, 1 / index)


def _long_factorial(value):
  if abs(value) > FACTORIAL:
    raise TooMuch("large")
  return mpmath.factorial(value)


def _long_choose(n, k):
  if max(abs(n), abs(k)) > FACTORIAL:
    raise TooMuch("large")
  return mpmath.binomial(n, k)


NUMERIC = {
  "add": lambda a, b: a + b,
  "subtract": lambda a, b: a - b,
  "multiply": lambda a, b: a * b,
  "divide": lambda a, b: a / b,
  "negate": lambda a: -a,
  "power": _long_power,
  "root": _long_root,
  "factorial": _long_factorial,
  "choose": _long_choose,
  "log": lambda base, a: mpmath.log(a) / mpmath.log(base),
  "absolute": abs,
  "floor": mpmath.floor,
  "ceiling": mpmath.ceil,
  "degrees": lambda a: a,
}
