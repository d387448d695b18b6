"""Arithmetic of rational numbers, each step bounded before it is taken.

A function gives None where its value is not rational.
"""

import math
from fractions import Fraction

from sitrain.tasks.verifiers.latex import TooMuch

BITS = 40_000  # of the numerator or denominator of a value
FACTORIAL = 3000  # the largest number whose factorial is computed


class Undefined(ValueError):
  """The expression has no value, such as 1/0."""


def _divide(one: Fraction, other: Fraction) -> Fraction:
  if not other:
    raise Undefined("a division by zero")
  return one / other


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
  """An exact power, None where it is not rational."""
  if exponent.denominator != 1:
    if base < 0 or exponent.denominator > 64:
      return None
    root = _root(Fraction(exponent.denominator), base)
    return None if root is None else _power(root, Fraction(exponent.numerator))
  size = max(base.numerator.bit_length(), base.denominator.bit_length())
  if base in (0, 1, -1):
    size = 0
  if abs(exponent) * size > BITS:
    raise TooMuch("large")
  if not base and exponent < 0:
    raise Undefined("a division by zero")
  if not size:
    return base ** int(exponent % 2 or 2 * (exponent != 0))
  return base ** int(exponent)


def _root(index: Fraction, value: Fraction) -> Fraction | None:
  """An exact root, None where it is not rational."""
  if index.denominator != 1 or not 0 < index <= 64:
    return None
  n = int(index)
  sign = 1
  if value < 0:
    if n % 2 == 0:
      return None
    sign, value = -1, -value
  parts = [_whole_root(x, n) for x in (value.numerator, value.denominator)]
  return None if None in parts else sign * Fraction(*parts)


def _whole_root(value: int, n: int) -> int | None:
  low, high = 0, 1 << (value.bit_length() // n + 1)
  while low < high:
    middle = (low + high) // 2
    if middle**n < value:
      low = middle + 1
    else:
      high = middle
  return low if low**n == value else None


def _factorial(value: Fraction) -> Fraction | None:
  if value.denominator != 1 or value < 0:
    return None
  if value > FACTORIAL:
    raise TooMuch("large")
  return Fraction(math.factorial(int(value)))


def _choose(n: Fraction, k: Fraction) -> Fraction | None:
  if n.denominator != 1 or k.denominator != 1 or n < 0:
    return None
  if k < 0 or k > n:
    return Fraction(0)
  # The bits of n^k, an upper bound of the result.
  if min(k, n - k) * n.numerator.bit_length() > 2 * BITS:
    raise TooMuch("large")
  return Fraction(math.comb(int(n), int(k)))


def _log(base: Fraction, value: Fraction) -> Fraction | None:
  if value <= 0 or base <= 0 or base == 1:
    raise Undefined("no logarithm")
  for exponent in range(200):
    power = base**exponent
    if power in (value, 1 / value):
      return Fraction(exponent if power == value else -exponent)
    if max(power, 1 / power) > max(value, 1 / value):
      return None
  return None


EXACT = {
  "add": lambda a, b: a + b,
  "subtract": lambda a, b: a - b,
  "multiply": lambda a, b: a * b,
  "divide": _divide,
  "negate": lambda a: -a,
  "power": _power,
  "root": _root,
  "factorial": _factorial,
  "choose": _choose,
  "log": _log,
  "absolute": abs,
  "floor": lambda a: Fraction(a.__floor__()),
  "ceiling": lambda a: Fraction(a.__ceil__()),
  "degrees": lambda a: a,
}
