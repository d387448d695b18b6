"""Rewards by comparison with the answer of a row."""

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from sitrain.tasks import overlap
from sitrain.tasks.verifiers import gsm8k_numbers

KINDS = ("exact", "number", *overlap.REWARDS)
_QUOTES = "\"'`*\u201c\u201d\u2018\u2019 "  # `*` is bold in Markdown
_MARKS = ".,;:"  # behind an answer only: .5 is not 5


def normalised(text: str) -> str:
  """A text without case, forms of Unicode, quotes, and marks behind it."""
  text = unicodedata.normalize("NFKC", text).casefold()
  return " ".join(text.split()).lstrip(_QUOTES).rstrip(_QUOTES + _MARKS)


def pattern_of(text: str) -> re.Pattern | str:
  """The compiled option `extract`; "" for none, ValueError for no pattern."""
  try:
    return re.compile(text, re.DOTALL) if text else ""
  except re.error as error:
    raise ValueError(
      f"extract={text!r} is no regular expression ({error}): mend it"
    ) from error


def claim(text: str, pattern: Any) -> str:
  """The answer in a text: normalised, "" where there is none.

  That is the last match of the pattern, of its first group if it has one.
  """
  return normalised(_extracted(text, pattern))


def _extracted(text: str, pattern: Any) -> str:
  if not pattern:
    return text
  *_, last = [None, *pattern.finditer(text)]
  return "" if last is None else last[1 if pattern.groups else 0] or ""


def gold(answer: str, pattern: Any) -> str:
  """The answer of a row, in which the pattern need not be."""
  return claim(answer, pattern) or normalised(answer)


def bound(kind: str, answers: dict[str, str], pattern: Any) -> Callable:
  """The reward `kind` for the answers of rows, by what `Given.where` says.

  exact: the claim of the text is that of the answer. number: the last number
  of the text is that of the answer. The others are those of overlap.py, of what
  the pattern finds. A text that was cut earns 0.
  """
  if kind in overlap.REWARDS:
    return _by_overlap(kind, answers, pattern)
  if kind == "exact":
    read = functools.partial(claim, pattern=pattern)
    want = {where: gold(text, pattern) for where, text in answers.items()}
  else:
    read = gsm8k_numbers.lenient
    want = {where: read(text) for where, text in answers.items()}
  for where, text in want.items():
    if not text:
      raise ValueError(
        f"{where} has no answer to compare with: add one, drop the row by "
        "prepare, or give a function as reward"
        if kind == "exact" else
        f"{where} has no number in its answer: drop the row by prepare, or set "
        "reward='exact'"
      )

  def reward(given: Any) -> list[float]:
    return [
      float(ended and read(text) == want[where])
      for text, where, ended in zip(given.texts, given.where, given.ended)
    ]

  return reward


def _by_overlap(kind: str, answers: dict[str, str], pattern: Any) -> Callable:
  """The reward `kind` of overlap.py."""
  score, words_of = overlap.REWARDS[kind]
  want = {w: _extracted(text, pattern) or text for w, text in answers.items()}
  for where, words in zip(want, words_of(list(want.values()))):
    if not words:
      raise ValueError(
        f"{where} has no words in its answer to compare with: drop the row by "
        "prepare, or set reward='exact'"
      )

  def reward(given: Any) -> Any:
    found = np.zeros(len(given.texts), np.float32)
    ended = np.flatnonzero(given.ended)
    found[ended] = score(
      [_extracted(given.texts[i], pattern) for i in ended],
      [want[given.where[i]] for i in ended],
    )
    return found

  return reward
