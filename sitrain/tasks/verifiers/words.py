r"""Answers in words, and whether two are equal."""

import re
from fractions import Fraction
from typing import Any

from sitrain.tasks.verifiers.records import Number, Words

NUMBER_WORDS = {
  word: i for i, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve"
    .split()
  )
}
PLAIN = re.compile(r"(?:\\text\{[^{}\\]*\}|[\w\s.,'-])+")


def words(text: str) -> str:
  r"""A text in lower case, without markup."""
  bare = re.sub(r"\\text\{([^{}]*)\}|\\[a-zA-Z]+ ?", r" \1 ", text)
  bare = re.sub(r"[{}\\$\"“”'`*]", "", bare).lower()
  bare = re.sub(r"\s*([,;:()])\s*", r" \1 ", bare)
  bare = " ".join(bare.split()).strip(" .,;:!")
  bare = re.sub(r"\s*\.\s*$", "", bare)
  return re.sub(r"^(?:the|an?) (?=\S)", "", bare)


def worded(gold: Any, found: Any) -> bool:
  """Whether the answers must be compared as words."""
  return isinstance(gold, Words) or isinstance(found, Words)


def same_words(gold: Any, gold_words: str, found: Any, text: str) -> bool:
  """Whether an answer has the words of the gold answer."""
  found_words = words(text)
  # A gold answer like odd is parsed as o d d. Never for a number.
  if found_words == gold_words and (
    isinstance(gold, Words) or PLAIN.fullmatch(text)
    and re.search(r"[a-z]{2}", found_words)
  ):
    return True
  if isinstance(gold, Words) and isinstance(found, Number):
    # A gold answer "four" is 4; an answer "four" is no number.
    spelled = NUMBER_WORDS.get(gold.text)
    return spelled is not None and found.tree == ("number", Fraction(spelled))
  if isinstance(gold, Words) and isinstance(found, Words):
    return _bare(gold.text) == _bare(found.text)
  return option(gold, text)


def _bare(text: str) -> str:
  return re.sub(r"[^\w+-]+", " ", text).strip()


def option(gold: Any, text: str) -> bool:
  """Whether a text names the gold answer's option: "E: the fifth"."""
  letter = gold.tree[1] if isinstance(gold, Number) else ""
  if not isinstance(letter, str) or not re.fullmatch(r"[A-Z]", letter):
    return False
  bare = re.sub(r"\\text\{([^{}]*)\}|[{}]", r" \1 ", text)
  found = re.match(r"\s*(?:\(\s*([A-Z])\s*\)|([A-Z])\s*[:.)])\s*(.*)", bare)
  if not found or letter not in (found[1], found[2]):
    return False
  others = re.findall(r"(?<![A-Za-z])[B-HJ-Z](?![A-Za-z'])", found[3])
  return set(others) <= {letter}
