"""tokenizer.model without tokenizer.json, against SentencePiece itself."""

import importlib.util
import io
import json
import random
import shutil
import sys

import numpy as np
import pytest
from test_tokenizer import GEMMA, LLAMA2

from sitrain.models.huggingface import tokenizer
from sitrain.types import PAD

# TensorFlow is imported only by the tests below.
needs_text = pytest.mark.skipif(
  importlib.util.find_spec("tensorflow_text") is None
  or importlib.util.find_spec("sentencepiece") is None,
  reason="needs the extra: pip install 'sitrain[tensorflow]'",
)
WORDS = "the cat sat on a mat and ran 1 2 42 \u00fcber [INST] model".split()
TEXTS = (
  "the cat", " the  cat\n", "  ", "\n", "", "<unk>", "</s>", "</s>the cat",
  "<s> the cat</s>\nsat on", "a</s> the<s>mat", "<s></s>x", "unseen \U0001f600",
  "<foo>the<foo> cat ", "tw\u00f6 <start_of_turn>model\nthe<end_of_turn>\n",
  "\u2581the", "</s>\u2581the", "fo<foo",
)
GEMMA_TOKENS = ["<start_of_turn>", "<end_of_turn>"]


def train(path, **options):
  """A small model of the kind of Llama's, with byte fallback."""
  library = pytest.importorskip("sentencepiece")
  chance, made = random.Random(3), io.BytesIO()
  lines = [" ".join(chance.choices(WORDS, k=8)) for _ in range(200)]
  library.SentencePieceTrainer.train(
    sentence_iterator=iter(lines), model_writer=made, vocab_size=340,
    model_type="bpe", byte_fallback=True, hard_vocab_limit=False,
    minloglevel=2, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
    **{"normalization_rule_name": "identity", "split_digits": True,
       "remove_extra_whitespaces": False} | options,
  )
  path.write_bytes(made.getvalue())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """legacy, new and tidy: Llama's; gemma: no space before a text."""
  place = tmp_path_factory.mktemp("models")
  for name, more, options in (
    ("legacy", {}, {}), ("new", {"legacy": False}, {}),
    ("tidy", {"legacy": False}, {"remove_extra_whitespaces": True}),
    ("gemma", {}, {"add_dummy_prefix": False,
                   "user_defined_symbols": GEMMA_TOKENS}),
  ):
    (folder := place / name).mkdir()
    train(folder / "tokenizer.model", **options)
    settings = {"tokenizer_class": "LlamaTokenizer", "chat_template": LLAMA2}
    if name == "gemma":
      settings = {
        "tokenizer_class": "GemmaTokenizer", "chat_template": GEMMA,
        "additional_special_tokens": GEMMA_TOKENS,
      }
    settings |= {"eos_token": "</s>", **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return place


def slow(folder, legacy):
  """Ids by the classes of transformers that run the package sentencepiece."""
  from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

  source = SentencePieceBackend(
    vocab_file=str(folder / "tokenizer.model"), legacy=legacy, bos_token="<s>",
    eos_token="</s>", unk_token="<unk>",
    extra_special_tokens=GEMMA_TOKENS if folder.name == "gemma" else ["<foo>"],
  )

  def encode(text):
    if legacy or not text:
      return source.convert_tokens_to_ids(source.tokenize(text))
    # As the class of Llama did it until version 5.
    tokens = source.tokenize("\u2581" + text.replace("\u2581", " "))
    if len(tokens) > 1 and tokens[0] == "\u2581" and (
      tokens[1] in source.all_special_tokens
    ):
      tokens = tokens[1:]
    return source.convert_tokens_to_ids(tokens)

  return encode


@pytest.mark.nightly
@needs_text
@pytest.mark.parametrize("name", ["legacy", "new", "tidy", "gemma"])
def test_ids_are_those_of_sentencepiece_and_of_slow_tokenizers(
  folders, name, tmp_path
):
  import sentencepiece

  folder = tmp_path / name
  shutil.copytree(folders / name, folder)
  oracle = sentencepiece.SentencePieceProcessor(
    model_file=str(folder / "tokenizer.model")
  )
  (folder / "added_tokens.json").write_text(
    "{}" if name == "gemma" else json.dumps({"<foo>": oracle.vocab_size()})
  )
  ours = tokenizer.load(folder).tokenizer
  expected = slow(folder, name in ("legacy", "gemma"))
  assert ours.size == oracle.vocab_size() + (name != "gemma")
  for text in TEXTS:
    ids = ours.encode(text)
    assert ids == expected(text), text
    if not any(mark in text for mark in ("<", "\u2581", "  ", "\n")):
      assert ids == oracle.encode(text), text
    if name != "tidy":
      assert ours.decode(ids) == text.replace("\u2581", " "), text
    assert ours.encode(ours.decode(ids)) == ids, text
  row = np.array([PAD, *ours.encode("the cat"), oracle.eos_id(), PAD], np.int32)
  assert ours.decode(row) == "the cat</s>"
  assert ours.decode([*ours.encode("cat"), ours.size]) == "cat\ufffd"


@pytest.mark.nightly
@needs_text
def test_a_dialogue_ends_and_can_be_copied(folders, tmp_path):
  chat = tokenizer.load(folders / "legacy")
  assert chat.eos == (2,)
  asked = chat.ask("the cat?")
  assert asked[0] == 1 and asked.count(1) == 1
  assert chat.tokenizer.decode(asked) == "<s>[INST] the cat? [/INST]"
  assert chat.again("again")[:1] != [2]
  plain = tokenizer.load(folders / "gemma", template="plain")
  assert plain.ask("the cat")[0] == 1  # add_bos_token, as by default
  spelled = tokenizer.vocabulary(folders / "gemma")
  text = "the cat\n\u00fc 42 \U0001f600"
  ids = plain.tokenizer.encode(text)
  assert b"".join(spelled[i] for i in ids) == text.encode()
  names = tokenizer.copy(folders / "new", tmp_path, template="plain")
  assert "tokenizer.model" in names
  again = tokenizer.load(tmp_path)
  assert again.ask("the cat")[0] == 1


@pytest.mark.nightly
@needs_text
def test_wrong_files_are_named(folders, tmp_path):
  shutil.copytree(folders / "new", tmp_path / "a")
  (tmp_path / "a" / "added_tokens.json").write_text('{"<foo>": 999}')
  with pytest.raises(ValueError, match="token '<foo>' should have id 999"):
    tokenizer.load(tmp_path / "a")
  (tmp_path / "a" / "tokenizer.model").write_bytes(b"rubbish")
  with pytest.raises(ValueError, match="model holds no SentencePiece"):
    tokenizer.load(tmp_path / "a")


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "tensorflow_text", None)
  (tmp_path / "tokenizer.model").write_bytes(b"\n")
  (tmp_path / "tokenizer_config.json").write_text(
    '{"tokenizer_class": "LlamaTokenizer"}'
  )
  with pytest.raises(ValueError, match=r"pip install 'sitrain\[tensorflow"):
    tokenizer.load(tmp_path)
