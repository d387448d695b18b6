"""Whether two mathematical expressions in LaTeX are equal, by math-verify.

Its functions run in the processes of a pool, which bounds their time; so this
module imports nothing that a worker does not need.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from math_verify import verify as same
from sympy import nan, zoo

# It warns that no time limit of its own is set: the pool sets one.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def _latex(forgiving: bool, units: bool) -> LatexExtractionConfig:
  return LatexExtractionConfig(
    boxed_match_priority=0,
    try_extract_without_anchor=forgiving,
    normalization_config=NormalizationConfig(
      basic_latex=True, units=units, malformed_operators=forgiving,
      nits=forgiving, boxed="all", equations=False,
    ),
  )


STRICT = (_latex(False, False),)
# math-verify takes the t of 2t for tons, so its units are only asked for where
# nothing else can be read.
UNITS = (_latex(False, True),)
LENIENT = (_latex(True, True), ExprExtractionConfig())
UNIT = re.compile(
  r"(?<=.)(\\ )*(\\(text|textrm|mathrm|mbox)\s*\{[^{}]*\})+(\^\{?\d\}?)?$"
)
BASE = re.compile(r"\d_\{?(\d+)")  # as in 43_5; math-verify drops it


def strict(pair: tuple[str, str]) -> str:
  r"""Whether an answer equals a gold answer, both bare LaTeX without a box.

  Only valid LaTeX is paid: malformed operators are not repaired, and an answer
  that cannot be parsed or has no value (1/0) is wrong. A unit in \text at the
  right counts for nothing, and 12\% equals 12 and 0.12. Gives "right", "wrong",
  or "gold" where the gold answer itself is such. Raises what math-verify
  raises on comparing.
  """
  gold, answer = pair
  bases = [BASE.findall(text) for text in pair]
  if all(bases) and bases[0] != bases[1]:
    return "wrong"
  found = _parsed(_box(answer), STRICT) or _parsed(_box(answer), UNITS)
  return _compared(_box(gold), found)


def lenient(pair: tuple[str, str]) -> str:
  """As `strict`, for a whole text and what math-verify finds in it.

  That is the last box; without one what stands behind "answer is", else the
  last formula or number. Malformed LaTeX is repaired.
  """
  gold, text = pair
  return _compared(_box(gold), _parsed(_braced(text), LENIENT))


def _compared(gold: str, answer: list) -> str:
  # The gold answer is trusted, so it is read in the forgiving way if need be.
  ways = (STRICT, UNITS, LENIENT)
  expected = next(filter(None, (_known(gold, way) for way in ways)), [])
  if not expected or _undefined(expected[0]):
    return "gold"
  if not answer or _undefined(answer[0]):
    return "wrong"
  # The gold answer comes first: `verify` is not symmetric.
  right = same(expected, answer, timeout_seconds=None, raise_on_error=True)
  return "right" if right else "wrong"


def _undefined(value: Any) -> bool:
  return bool(value.has(nan, zoo))


def _box(latex: str) -> str:
  bare = _braced(latex.strip().rstrip(".,"))
  return rf"\boxed{{{UNIT.sub('', bare)}}}"


def _braced(latex: str) -> str:
  r"""Valid LaTeX as math-verify reads it: \frac12 as \frac{1}{2}, no \!."""
  latex = re.sub(r"(?<=\d),\\!(?=\d{3})", "", latex).replace(r"\!", "")
  pi = r"\\pi(?![a-zA-Z])"
  latex = re.sub(
    rf"(\\[dt]?frac)(\s*\d|\s*{pi}|\s+[a-zA-Z](?![a-zA-Z]))", r"\1{\2}", latex
  )
  above = r"(\\[dt]?frac)\s*(\{[^{}]*\})"
  latex = re.sub(rf"{above}\s*(\d|[a-zA-Z]|{pi})", r"\1\2{\3}", latex)
  return re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", latex)


def _parsed(text: str, config: tuple) -> list:
  """One expression, or none."""
  return parse(
    text, config, fallback_mode="no_fallback", extraction_mode="any_match",
    parsing_timeout=None,
  )[:1]


# Every sample of a problem, in every epoch, meets the same gold answer.
_known = lru_cache(maxsize=4096)(_parsed)
