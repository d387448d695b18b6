r"""Expressions that only math-verify reads: integrals, sums, \gcd.

Expressions whose value may be huge are refused first.
"""

import re
from collections.abc import Sequence

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from math_verify import verify as same
from sympy import Rational, nan, zoo

from sitrain.tasks.verifiers import values
from sitrain.tasks.verifiers.expressions import Tree
from sitrain.tasks.verifiers.latex import TooMuch

CONFIG = (LatexExtractionConfig(
  boxed_match_priority=0,
  try_extract_without_anchor=False,
  normalization_config=NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=False, nits=False,
    boxed="all", equations=False,
  ),
),)
HUGE = re.compile(
  r"!|\d{7}|\^ ?(?:\{[^{}]*(?:\^|\d{4})|\d{4})"
)


def equal(
  texts: Sequence[str | None], trees: Sequence[Tree | None]
) -> bool:
  """Whether two expressions are equal; each has a text or a tree."""
  if any(text and HUGE.search(text) for text in texts):
    raise TooMuch("large")
  found = [_parsed(text) if text else None for text in texts]
  for i, tree in enumerate(trees):
    if tree is not None:
      try:
        value = values.exact(tree)
      except values.NotExact:
        return False
      found[i] = Rational(value.numerator, value.denominator)
  one, other = found
  if one is None or other is None:
    return False
  one, other = (x.doit() if hasattr(x, "doit") else x for x in (one, other))
  if any(x.has(nan, zoo) for x in (one, other)):
    return False
  return bool(same([one], [other], timeout_seconds=None, raise_on_error=True))


def _parsed(text: str):
  found = parse(
    rf"\boxed{{{text}}}", CONFIG, fallback_mode="no_fallback",
    extraction_mode="any_match", parsing_timeout=None,
  )[:1]
  return found[0] if found and not isinstance(found[0], str) else None


