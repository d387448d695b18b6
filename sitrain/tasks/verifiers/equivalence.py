r"""Whether two answers in LaTeX are equal.

Structure decides first (answers.py), then exact arithmetic, then many digits
(values.py). Only what neither reads goes to math-verify. A slow comparison
runs in the processes of a pool, which bounds its time.
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from sitrain.tasks.verifiers import answers, keys, leaves, matching, words
from sitrain.tasks.verifiers.latex import TooMuch, Unreadable, plain
from sitrain.tasks.verifiers.records import Words
from sitrain.tasks.verifiers.values import Slow, Undefined

# It warns that no time limit of its own is set: the pool sets one.
logging.getLogger("math_verify").setLevel(logging.ERROR)

QUICK = 300  # characters of answers that are compared without a pool
# Numbers that need no reader: -12, 0.5, \\frac{1}{2}.
SIMPLE = re.compile(
  r"(-?)(?:(\d{1,60}(?:\.\d{1,60})?|\.\d{1,60})"
  r"|\\[dt]?frac\{(-?\d{1,60})\}\{0*([1-9]\d{0,60})\})", re.ASCII
)
PROSE = re.compile(r"(?:(?<![\\{a-z])[a-z]{2,}[ ,.]+){3}")
GROUPED = re.compile(r"(?<![\d.,\\])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def strict(pair: tuple[str, str]) -> str:
  r"""Whether an answer equals a gold answer, both LaTeX without a box.

  Gives "right", "wrong", or what leaves it unknown: "gold" (the gold answer
  cannot be read or has no value), "long", "deep", "large" (it would take too
  much). Only valid LaTeX is paid.
  """
  return compared(*pair, quick=False)


def lenient(pair: tuple[str, str]) -> str:
  """As `strict`, with malformed LaTeX repaired and roundings taken."""
  gold, answer = pair
  found = strict(pair)
  if found != "wrong":
    return found
  repaired = repair(answer)
  if repaired != answer:
    found = strict((gold, repaired))
  return found


def quickly(gold: str, answer: str) -> str:
  """As `strict` where that takes less than a call to a pool, else ""."""
  if max(len(gold), len(answer)) > QUICK:
    return ""
  if SIMPLE.fullmatch(gold) and SIMPLE.fullmatch(answer):
    return "right" if _simple(gold) == _simple(answer) else "wrong"
  try:
    return compared(gold, answer, quick=True)
  except Exception:  # a pool counts it; this process must go on
    return ""


def quickly_lenient(gold: str, answer: str) -> str:
  """As `lenient`, likewise."""
  found = quickly(gold, answer)
  repaired = repair(answer) if found == "wrong" else answer
  return found if repaired == answer else quickly(gold, repaired)


def _simple(text: str) -> Fraction:
  sign, decimal, top, bottom = SIMPLE.fullmatch(text).groups()
  value = Fraction(decimal) if decimal else Fraction(int(top), int(bottom))
  return -value if sign else value


def compared(gold: str, answer: str, *, quick: bool) -> str:
  """The status of an answer; `quick` gives "" for what is slow."""
  try:
    known = _gold(gold)
  except (Unreadable, Undefined):
    return "gold"
  except (TooMuch, RecursionError) as error:
    return _said(error)
  try:
    for text in _readings(answer):
      if _same(known, text, quick):
        return "right"
    return "wrong"
  except Slow:
    return ""
  except (TooMuch, RecursionError) as error:
    return _said(error)


def _said(error: Exception) -> str:
  return str(error) if isinstance(error, TooMuch) else "deep"


def _same(known, text: str, quick: bool) -> bool:
  gold, gold_words, units = known
  try:
    found = answers.read(text, units)
  except Unreadable:
    found = Words("")
  try:
    if words.worded(gold, found) or words.option(gold, text):
      return words.same_words(gold, gold_words, found, text)
    return matching.same(gold, found, quick)
  except Undefined:
    return False


@lru_cache(maxsize=8192)
def _gold(text: str) -> tuple[Any, str, frozenset[str]]:
  """The gold answer's record, its words, and those that are units for it.

  It is trusted: what stands behind its number is a unit, whatever it says.
  """
  bare = plain(text)
  if not re.search(r"\w|\\", bare) or PROSE.search(bare):
    raise Unreadable("prose")
  if GROUPED.search(bare) and not _is_list(bare):
    bare = _ungrouped(bare)
  said = re.findall(r"\\text\{([^{}]*)\}", bare)
  units = frozenset(
    word for part in said for word in part.lower().split()
  ) - leaves.RESERVED
  record = answers.read(bare, units)
  matching.check(record)
  return record, words.words(bare), units


@lru_cache(maxsize=8192)
def _readings(answer: str) -> tuple[str, ...]:
  """The text of an answer, and with 8,000 as one number where that differs."""
  bare = plain(answer)
  other = _ungrouped(bare) if GROUPED.search(bare) else bare
  return (bare,) if other == bare else (other, bare)


def _is_list(text: str) -> bool:
  """Whether 100,101 is more likely two numbers than one."""
  found = GROUPED.fullmatch(text.strip(" .{}"))
  groups = text.strip(" .{}").split(",")
  if not found or len(groups[0]) < 3 or any(x[0] == "0" for x in groups[1:]):
    return False
  steps = {int(b) - int(a) for a, b in zip(groups, groups[1:])}
  return len(steps) == 1 and 0 < abs(min(steps)) <= 100


def _ungrouped(text: str) -> str:
  """Without the commas in numbers that stand in no brackets, or in braces."""
  depth, last, found = 0, 0, []
  for mark in re.finditer(r"\\[{}]|[()\[\]]|" + GROUPED.pattern, text):
    piece = mark[0]
    if piece[0].isdigit():
      if not depth:
        found += [text[last:mark.start()], piece.replace(",", "")]
        last = mark.end()
    else:
      depth += 1 if piece in ("(", "[", r"\{") else -1
  return "".join([*found, text[last:]])


def repair(answer: str) -> str:
  r"""What is likely meant by \sqrt(2), 2^(10), sqrt(2), 3pi, 1/2x."""
  text = re.sub(r"(?<![\\a-zA-Z])sqrt(?=[({])", r"\\sqrt", answer)
  text = re.sub(r"(?<![\\a-zA-Z])(pi|infty)(?![a-zA-Z])", r"\\\1 ", text)
  text = re.sub(r"(\\sqrt|\^) ?\(([^()]*)\)", r"\1{\2}", text)
  text = re.sub(r"(?<![\\a-zA-Z])frac(?=\{)", r"\\frac", text)
  missing = text.count("{") - text.count("}")
  return text + "}" * missing if 0 < missing < 4 else text


def key(answer: str) -> str:
  """A text that is the same for equal answers, for counting votes."""
  if not answer.strip():
    return ""
  if len(answer) > QUICK:
    return answer
  try:
    text = _readings(answer)[0]
    if re.fullmatch(r"[A-Za-z]{3,}", text):  # a word without \\text
      return keys.key(Words(words.words(text)))
    return keys.key(answers.read(text))
  except Exception:  # no answer may end a run; it has its own spelling
    return " ".join(answer.split())

