"""How often texts verify, backtrack, set subgoals, and reason backward.

Counts of phrases, of role tokens, and of those of the traces of Countdown. A
text of another style or language may do it in other words, so compare counts of
one policy over time, or of two policies of one family. Give phrases of your own
as `patterns`.

Source: the four habits of Gandhi et al. 2025, arXiv:2503.01307, who have a
language model count them.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

_CHECK = r"(?:double[- ]?)?(?:check|verify|confirm)"
PATTERNS: Mapping[str, re.Pattern[str]] = {
  # "let me check", "this is not correct", "not equal to 24", "<bad@2>", "<no>"
  "verification": re.compile(
    rf"\b(?:let me|let's|let us|i will|i'll|we can|we) {_CHECK}\b"
    rf"|\bto {_CHECK}\b|\bdouble[- ]?check\w*"
    r"|\b(?:this|that|which|it) is (?:not )?(?:correct|right|wrong|incorrect)\b"
    r"|\bnot equal to\b|<ok>|<bad(?:@\d+)?>|<yes>|<no>",
    re.IGNORECASE,
  ),
  # "wait,", "let's try again"; a verdict after which the same text goes on.
  "backtracking": re.compile(
    r"\bwait\b\s*[,.!:-]|\btry (?:again|another|something else|a different)\b"
    r"|\b(?:go|going|went) back\b|\bbacktrack\w*|\bstart(?:ing)? over\b"
    r"|\b(?:does not|doesn't|did not|didn't|won't|will not) work\b"
    r"|\bon second thought\b|<retry>|<fix>|<back>|<bad(?:@\d+)?>(?=.)",
    re.IGNORECASE | re.DOTALL,
  ),
  # "step 2:", "first,", "we need to find"
  "subgoals": re.compile(
    r"\bstep \d+\b|\b(?:first|second|third|next|finally),"
    r"|\b(?:first|next) (?:we|i) (?:need|have|want) to\b"
    r"|\bsub-?goals?\b|\bbreak (?:this|it|the problem) down\b"
    r"|\b(?:we|i) need to (?:find|get|make|reach|compute|calculate)\b"
    r"|<goal>",
    re.IGNORECASE,
  ),
  # "working backwards", "to get 24, we need"
  "backward_chaining": re.compile(
    r"\bwork(?:ing)? (?:it )?backwards?\b|\bin reverse\b"
    r"|\bstart(?:ing)? (?:from|with) the (?:target|goal|answer|result|end)\b"
    r"|\bto (?:get|reach|make|obtain) -?\d[\d.,]*,? (?:we|i) (?:need|could|can"
    r"|would|must)\b|<from>",
    re.IGNORECASE,
  ),
}


def count(
  text: str, patterns: Mapping[str, re.Pattern[str]] = PATTERNS
) -> dict[str, int]:
  """How often each behaviour is found in a text; matches do not overlap."""
  return {
    name: sum(1 for _ in pattern.finditer(text))
    for name, pattern in patterns.items()
  }


def means(
  texts: Sequence[str], patterns: Mapping[str, re.Pattern[str]] = PATTERNS
) -> dict[str, float]:
  """Counts a text, NaN without texts."""
  counts = [count(text, patterns) for text in texts]
  return {
    name: float(np.mean([one[name] for one in counts])) if counts else np.nan
    for name in patterns
  }
