"""The kinds of answers as data: read by answers.py, compared in matching.py."""

from typing import Any, NamedTuple

from sitrain.tasks.verifiers.expressions import Tree


class Number(NamedTuple):
  """An expression, perhaps with a unit ("" for none) or a percent sign."""

  tree: Tree
  unit: str = ""
  percent: bool = False


class Words(NamedTuple):
  """An answer in words, in lower case."""

  text: str


class Fallback(NamedTuple):
  """An expression that only math-verify reads, such as an integral."""

  text: str


class Based(NamedTuple):
  """Digits in a base, such as 43_5."""

  digits: str
  base: int


class Residue(NamedTuple):
  r"""A number by a modulus, as 5 \pmod 7."""

  tree: Tree
  modulus: Tree


class Clock(NamedTuple):
  """A time of day, or a ratio that looks like one; `half`: am, pm or ""."""

  parts: tuple[int, ...]
  half: str


class Ratio(NamedTuple):
  """3:4 or 1:2:3."""

  parts: tuple[Tree, ...]


class Items(NamedTuple):
  """Items between brackets: a tuple, an interval, a set; "" "" for a list."""

  opens: str
  closes: str
  items: tuple[Any, ...]


class Union(NamedTuple):
  r"""Sets joined by \cup, \cap or \setminus, from the left."""

  signs: tuple[str, ...]
  sides: tuple[Any, ...]


class Matrix(NamedTuple):
  """Rows of expressions."""

  rows: tuple[tuple[Tree, ...], ...]


class Assigned(NamedTuple):
  """x = 5, f(x) = 2x, AB = 7: a name and its value."""

  name: str
  value: Any
  equation: Tree | None  # left minus right, where both are expressions


class Chain(NamedTuple):
  r"""Values joined by = or \approx: 2 + 3 = 5, 1/3 \approx 0.33."""

  signs: tuple[str, ...]
  values: tuple[Any, ...]


class Equation(NamedTuple):
  """An equation; the tree is left minus right."""

  tree: Tree


class Inequality(NamedTuple):
  r"""Steps `tree < 0` or `tree \le 0`.

  `bounds` is (opens, closes, low, high) where it is an interval of one name.
  """

  steps: tuple[tuple[str, Tree], ...]
  bounds: tuple[str, str, Tree, Tree] | None
  joint: str = ""


class Unequal(NamedTuple):
  """x != 3; `point` is the excluded value of a name."""

  tree: Tree
  point: Tree | None


INFINITE: Tree = ("constant", "infty")
DOTS: Tree = ("name", r"\ldots")
