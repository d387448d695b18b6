r"""Whether two answers in LaTeX are equal.

Answers are compared by structure first (answers.py, matching.py), then by exact
arithmetic, then to many digits (values.py). Expressions that these cannot read
go to math-verify. A slow comparison runs in a pool of processes, which limits
its time.
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

# It warns that it has no time limit: the pool has one.
logging.getLogger("math_verify").setLevel(logging.ERROR)

QUICK = 300  # characters of answers that are compared without a pool
# Numbers that need no parser: -12, 0.5, \\frac{1}{2}.
SIMPLE = re.compile(
  r"(-?)(?:(\d{1,60}(?:\.\d{1,60})?|\.\d{1,60})"
  r"|\\[dt]?frac\{(-?\d{1,60})\}\{0*([1-9]\d{0,60})\})", re.ASCII
)
PROSE = re.compile(r"(?:(?<![\\{a-z])[a-z]{2,}[ ,.]+){3}")
GROUPED = re.compile(r"(?<![\d.,\\])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def strict(pair: tuple[str, str]) -> str:
  r"""Whether an answer equals a gold answer, both LaTeX without a box.

  Returns "right", "wrong", or the reason why it is unknown: "gold" (the gold
  answer cannot be read or has no value), "long", "deep", "large" (beyond the
  bounds). Only valid LaTeX is right.
  """
  return compared(*pair, quick=False)


def lenient(pair: tuple[str, str]) -> str:
  """As `strict`, with malformed LaTeX repaired."""
  gold, answer = pair
  found = strict(pair)
  if found != "wrong":
    return found
  repaired = repair(answer)
  if repaired != answer:
    found = strict((gold, repaired))
  return found


def quickly(gold: str, answer: str) -> str:
  """As `strict` where that is faster than a call to a pool, else ""."""
  if max(len(gold), len(answer)) > QUICK:
    return ""
  if SIMPLE.fullmatch(gold) and SIMPLE.fullmatch(answer):
    return "right" if _simple(gold) == _simple(answer) else "wrong"
  try:
    return compared(gold, answer, quick=True)
  except Exception:  # the pool counts it; this process must continue
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
  """The status of an answer; "" where `quick` and the comparison is slow."""
  try:
    known = _gold(gold)
  except (Unreadable, Undefined):
    return "gold"
  except (TooMuch, RecursionError) as error:
    return _reason(error)
  try:
    for text in _readings(answer):
      if _same(known, text, quick):
        return "right"
    return "wrong"
  except Slow:
    return ""
  except (TooMuch, RecursionError) as error:
    return _reason(error)


def _reason(error: Exception) -> str:
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
  """The gold answer's record, its words, and the words that are its units.

  Any words after the number of a gold answer are its unit.
  """
  bare = plain(text)
  if not re.search(r"\w|\\", bare) or PROSE.search(bare):
    raise Unreadable("prose")
  if GROUPED.search(bare) and not _is_list(bare):
    bare = _ungrouped(bare)
  texts = re.findall(r"\\text\{([^{}]*)\}", bare)
  units = frozenset(
    word for part in texts for word in part.lower().split()
  ) - leaves.RESERVED
  record = answers.read(bare, units)
  matching.check(record)
  return record, words.words(bare), units


@lru_cache(maxsize=8192)
def _readings(answer: str) -> tuple[str, ...]:
  """Readings of an answer: 8,000 as one number, then as two."""
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
  """The text without commas in numbers, except inside brackets."""
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
  r"""Repairs malformed LaTeX: \sqrt(2), 2^(10), sqrt(2), 3pi."""
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
  except Exception:  # no answer may end a run; its spelling is its key
    return " ".join(answer.split())

