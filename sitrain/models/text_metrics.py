"""SentencePiece, ROUGE-L and Unicode forms by tensorflow-text.

For data and for reports: everything runs on the host, on CPU. The library is
an extra, `pip install 'sitrain[tensorflow]'`; it brings TensorFlow along and
takes seconds to import, so it is imported only where a function needs it. With
TensorFlow installed, EPATH_USE_TF=0 must be set before `etils` is imported, as
the mains do, or gs:// goes through TensorFlow.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from sitrain.tasks.characters import UNKNOWN
from sitrain.types import PAD, Tokenizer

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class RougeL(NamedTuple):
  """ROUGE-L of pairs of texts, each number in [0, 1]."""

  f_measure: Float[np.ndarray, " N"]
  precision: Float[np.ndarray, " N"]
  recall: Float[np.ndarray, " N"]


def _libraries() -> tuple[Any, Any]:
  """(tensorflow, tensorflow_text), with no accelerator taken."""
  try:
    import tensorflow
    import tensorflow_text
  except ImportError as error:
    raise ValueError(
      f"this needs tensorflow-text ({error}): pip install 'sitrain[tensorflow]'"
    ) from error
  try:
    # Else TensorFlow would take the memory that JAX needs.
    tensorflow.config.set_visible_devices([], "GPU")
  except RuntimeError:
    pass  # TensorFlow has been initialised already, with other settings.
  return tensorflow, tensorflow_text


def sentencepiece(model_file: Any) -> Tokenizer:
  """The tokenizer of a SentencePiece model file, on a disk or on gs://.

  `encode` adds no control tokens; `decode` leaves them and PAD out, and writes
  U+FFFD for ids that the model lacks. Raises ValueError for a file that is not
  there or holds no such model.
  """
  tensorflow, text = _libraries()
  path = epath.Path(model_file).expanduser()
  if not path.is_file():
    raise ValueError(
      f"there is no file {model_file}: give a SentencePiece model, such as "
      "tokenizer.model"
    )
  try:
    pieces = text.SentencepieceTokenizer(model=path.read_bytes())
    size = int(pieces.vocab_size())
  except tensorflow.errors.OpError as error:
    raise ValueError(
      f"{model_file} holds no SentencePiece model: give one, such as "
      "tokenizer.model"
    ) from error

  def encode(words: str) -> list[int]:
    return pieces.tokenize(words).numpy().tolist()

  def decode(tokens: Any) -> str:
    ids = [int(i) for i in np.asarray(tokens).reshape(-1) if i != PAD]
    runs = itertools.groupby(ids, key=range(size).__contains__)
    return "".join(
      _text(pieces.detokenize(np.array(list(run), np.int32)))
      if is_known
      else UNKNOWN * len(list(run))
      for is_known, run in runs
    )

  return Tokenizer(encode, decode, size)


def _text(value: Any) -> str:
  return value.numpy().decode(errors="replace")


def normalize(texts: Sequence[str], *, form: str = "NFKC") -> list[str]:
  """Texts in a Unicode normal form, one of FORMS.

  Raises ValueError for another form.
  """
  if form not in FORMS:
    raise ValueError(f"form={form!r}: use one of {', '.join(FORMS)}")
  _, text = _libraries()
  return [_text(t) for t in text.normalize_utf8(_strings(texts), form)]


def fold_case(texts: Sequence[str]) -> list[str]:
  """Texts without differences of case; also in normal form NFKC."""
  _, text = _libraries()
  return [_text(t) for t in text.case_fold_utf8(_strings(texts))]


def _strings(texts: Sequence[str]) -> Any:
  tensorflow, _ = _libraries()
  return tensorflow.constant(list(texts), tensorflow.string)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> RougeL:
  """How much of the words two texts share, in order, pair by pair.

  With l the length of the longest common subsequence of words, precision is
  l / words of the text, recall l / words of the reference, and the F-measure
  their harmonic mean; 0 where a text has no words. Words stand between white
  space; case and Unicode forms do not matter. Raises ValueError for lists of
  unequal length. Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation
  of Summaries".
  """
  if len(texts) != len(references):
    raise ValueError(
      f"{len(texts)} texts and {len(references)} references: give one for each"
    )
  _, text = _libraries()
  words = text.WhitespaceTokenizer()
  ours, theirs = (
    words.tokenize(text.case_fold_utf8(_strings(each)))
    for each in (texts, references)
  )
  scores = text.metrics.rouge_l(ours, theirs, alpha=0.5)
  return RougeL(*(np.asarray(score) for score in scores))
