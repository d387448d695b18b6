"""How much a text shares with a reference: SQuAD's scores and ROUGE-L.

For rewards and reports of text tasks, by tensorflow-text on the host. All
ignore case and Unicode forms (NFKC). On ASCII texts they equal the official
scripts, SQuAD's evaluate-v1.1.py and the package rouge-score without stemming.
Lists of unequal length raise ValueError.
"""

import collections
import string
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from sitrain.tasks import tensorflow_libraries

_PUNCTUATION = "[" + "".join(f"\\{mark}" for mark in string.punctuation) + "]"
_ARTICLES = (b"a", b"an", b"the")
_BETWEEN_WORDS = r"[^\pL\pM\pN]+"


class RougeL(NamedTuple):
  """ROUGE-L of pairs of texts, each number in [0, 1]."""

  f_measure: Float[np.ndarray, " N"]
  precision: Float[np.ndarray, " N"]
  recall: Float[np.ndarray, " N"]


def squad_exact(
  texts: Sequence[str], references: Sequence[str]
) -> Float[np.ndarray, " N"]:
  """1 where the words of two texts are the same, by `squad_words`."""
  pairs = _pairs(squad_words, texts, references)
  return np.array([float(a == b) for a, b in pairs], np.float32)


def squad_f1(
  texts: Sequence[str], references: Sequence[str]
) -> Float[np.ndarray, " N"]:
  """Harmonic mean of precision and recall of the words, in any order.

  A word counts as often as it stands in both texts; 0 where none does. Source:
  Rajpurkar et al. 2016, "SQuAD".
  """
  pairs = _pairs(squad_words, texts, references)
  return np.array([_f1(a, b) for a, b in pairs], np.float32)


def _f1(ours: list[bytes], theirs: list[bytes]) -> float:
  shared = collections.Counter(ours) & collections.Counter(theirs)
  return 2 * shared.total() / max(len(ours) + len(theirs), 1)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> RougeL:
  """How much of the words two texts share, in order, pair by pair.

  With l the length of the longest common subsequence of `rouge_words`,
  precision is l / words of the text, recall l / words of the reference, and the
  F-measure their harmonic mean; 0 where a text has no words. Source: Lin 2004,
  "ROUGE: A Package for Automatic Evaluation of Summaries".
  """
  pairs = _pairs(rouge_words, texts, references)
  tensorflow, text = tensorflow_libraries.load()
  ours, theirs = (
    tensorflow.ragged.constant(list(side), tensorflow.string, ragged_rank=1)
    for side in (zip(*pairs) if pairs else ((), ()))
  )
  scores = text.metrics.rouge_l(ours, theirs, alpha=0.5)
  return RougeL(*(np.asarray(score) for score in scores))


def squad_words(texts: Sequence[str]) -> list[list[bytes]]:
  """The words of texts without ASCII punctuation, "a", "an" and "the".

  Punctuation goes without a trace, as in SQuAD: "3.5" and "35" are one word, so
  that answers which are numbers need another comparison.
  """
  return [
    [word for word in words if word not in _ARTICLES]
    for words in _words(texts, _PUNCTUATION, "")
  ]


def rouge_words(texts: Sequence[str]) -> list[list[bytes]]:
  """The runs of letters and digits of texts."""
  return _words(texts, _BETWEEN_WORDS, " ")


def _words(
  texts: Sequence[str], pattern: str, replacement: str
) -> list[list[bytes]]:
  """Texts without case, after a replacement, as words."""
  if not texts:
    return []
  tensorflow, text = tensorflow_libraries.load()
  # JSON may hold half of a surrogate pair, which UTF-8 has not.
  given = [one.encode(errors="replace") for one in texts]
  folded = text.case_fold_utf8(tensorflow.constant(given))
  changed = tensorflow.strings.regex_replace(folded, pattern, replacement)
  return text.WhitespaceTokenizer().tokenize(changed).to_list()


def _pairs(
  words: Callable[[Sequence[str]], list[list[bytes]]],
  texts: Sequence[str], references: Sequence[str],
) -> list[tuple[list[bytes], list[bytes]]]:
  """The words of each text and of its reference."""
  if len(texts) != len(references):
    raise ValueError(
      f"{len(texts)} texts and {len(references)} references: give one for each"
    )
  return list(zip(words(texts), words(references)))


# As rewards: (texts, references) -> a number for each, and the words of texts.
REWARDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
  "squad_exact": (squad_exact, squad_words),
  "squad_f1": (squad_f1, squad_words),
  "rouge_l": (lambda *given: rouge_l(*given).f_measure, rouge_words),
}
