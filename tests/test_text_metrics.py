"""tensorflow-text against the sentencepiece package and plain NumPy."""

import importlib.util
import io
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from sitrain.models import text_metrics
from sitrain.types import PAD

# Whether it is there; TensorFlow itself is imported only by the tests below.
needs_text = pytest.mark.skipif(
  importlib.util.find_spec("tensorflow_text") is None,
  reason="needs the extra: pip install 'sitrain[tensorflow]'",
)
WORDS = "the cat sat on a mat and ran 1 2 42 über".split()


def some_texts(n, seed):
  chance = random.Random(seed)
  return [" ".join(chance.choices(WORDS, k=chance.randrange(9)))
          for _ in range(n)]


def longest_common(a, b):
  """Length of the longest common subsequence."""
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      longer = max(table[i, j + 1], table[i + 1, j])
      table[i + 1, j + 1] = table[i, j] + 1 if x == y else longer
  return table[-1, -1]


def test_without_the_library_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_text", None)
  for call in (
    lambda: text_metrics.rouge_l(["a"], ["a"]),
    lambda: text_metrics.normalize(["a"]),
    lambda: text_metrics.fold_case(["a"]),
    lambda: text_metrics.sentencepiece("model"),
  ):
    with pytest.raises(ValueError, match=r"pip install 'sitrain\[tensorflow"):
      call()


def test_the_module_alone_imports_no_tensorflow():
  code = (
    "import sys, sitrain.models.text_metrics\n"
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_wrong_arguments_are_named_before_anything_is_loaded():
  with pytest.raises(ValueError, match="form='NFX': use one of NFC, NFD"):
    text_metrics.normalize(["a"], form="NFX")
  with pytest.raises(ValueError, match="2 texts and 1 references"):
    text_metrics.rouge_l(["a", "b"], ["a"])


@needs_text
def test_rouge_l_is_that_of_the_definition():
  texts, references = some_texts(60, 1), some_texts(60, 2)
  texts += ["The  CAT\nsat", "", "a", ""]
  references += ["the cat SAT", "a", "", ""]
  found = text_metrics.rouge_l(texts, references)
  assert found.f_measure[60] == 1
  for i, (text, reference) in enumerate(zip(texts, references)):
    a, b = text.lower().split(), reference.lower().split()
    common = longest_common(a, b)
    precision = common / len(a) if a else 0
    recall = common / len(b) if b else 0
    both = precision + recall
    f_measure = 2 * precision * recall / both if both else 0
    np.testing.assert_allclose(
      [score[i] for score in found], [f_measure, precision, recall], rtol=1e-6
    )


@needs_text
def test_rouge_l_of_nothing():
  assert text_metrics.rouge_l([], []).f_measure.shape == (0,)


@needs_text
def test_unicode_forms_are_those_of_python():
  texts = ["ﬁne Å", "e\u0301", "½ x² Ⅷ", "", "日本 ｶﾞ"]
  for form in text_metrics.FORMS:
    expected = [unicodedata.normalize(form, text) for text in texts]
    assert text_metrics.normalize(texts, form=form) == expected
  assert text_metrics.fold_case(["GROSSE Straße", "ÀB", "Σς"]) == [
    "grosse strasse", "àb", "σσ"
  ]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
  """A small SentencePiece model with byte fallback."""
  library = pytest.importorskip("sentencepiece")
  made = io.BytesIO()
  library.SentencePieceTrainer.train(
    sentence_iterator=iter([*some_texts(40, 3), *WORDS]),
    model_writer=made,
    vocab_size=300,
    model_type="bpe",
    byte_fallback=True,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  path = tmp_path_factory.mktemp("model") / "tokenizer.model"
  path.write_bytes(made.getvalue())
  return path


@needs_text
def test_sentencepiece_is_that_of_its_own_package(model_file):
  import sentencepiece

  oracle = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
  ours = text_metrics.sentencepiece(model_file)
  assert ours.size == oracle.vocab_size()
  for text in [*some_texts(30, 4), "unseen: \U0001f600 Größe", ""]:
    ids = ours.encode(text)
    assert ids == oracle.encode(text)
    assert ours.decode(ids) == oracle.decode(ids) == text
  row = np.array([PAD, *ours.encode("the cat"), oracle.eos_id(), PAD], np.int32)
  assert ours.decode(row) == "the cat"
  assert ours.decode([]) == ""
  assert ours.decode([ours.size, *ours.encode("cat")]) == "\ufffdcat"


@needs_text
def test_files_without_a_model_are_named(tmp_path):
  with pytest.raises(ValueError, match="there is no file .*none.model: give"):
    text_metrics.sentencepiece(tmp_path / "none.model")
  (tmp_path / "a.model").write_bytes(b"rubbish")
  with pytest.raises(ValueError, match="a.model holds no SentencePiece model"):
    text_metrics.sentencepiece(tmp_path / "a.model")
