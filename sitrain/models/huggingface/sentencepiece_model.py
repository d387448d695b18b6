"""Tokenizers that are a SentencePiece model, tokenizer.model, alone.

Older models of Llama's and Gemma's kind ship that file without tokenizer.json.
Its token ids come from tensorflow-text, which runs SentencePiece itself: what
transformers converts such a file to gives other ids where a text begins with
spaces, and knows few of the normalizations. Special tokens and templates are
read by transformers.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from sitrain.models.huggingface import download, spelling
from sitrain.tasks import tensorflow_libraries
from sitrain.tasks.characters import UNKNOWN
from sitrain.types import PAD, Tokenizer

FILE = "tokenizer.model"
# Those whose ids are the model's own; others add offsets, or tokens of theirs.
CLASSES = (
  "LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer",
  "GemmaTokenizerFast",
)
_SPACE = "\u2581"
_UNKNOWN, _CONTROL = 2, 3  # types of pieces


def is_alone(folder: Any) -> bool:
  """Whether a folder has a SentencePiece model that this file reads."""
  folder = epath.Path(folder)
  if not (folder / FILE).is_file() or (folder / "tokenizer.json").exists():
    return False
  return _settings(folder).get("tokenizer_class") in CLASSES


def read(folder: Any) -> tuple[Any, Tokenizer]:
  """(what transformers knows of a tokenizer, its text functions).

  The former has special tokens, template and vocabulary, and must not be asked
  for ids of texts. Of the latter `encode` writes special tokens in a text as
  such, adds none, and puts the model's space before a text; before the text
  between two special tokens, too, if the tokenizer's `legacy` is true, as it is
  by default. `decode` is as in tokenizer.load. Raises ValueError without
  tensorflow-text, for a file that holds no such model, and for added tokens
  whose ids do not follow those of the model.
  """
  folder = epath.Path(folder)
  model, settings = _parsed(folder / FILE), _settings(folder)
  library = _library(folder, settings, model)
  prefix = model.normalizer_spec.add_dummy_prefix
  once = prefix and not settings.get("legacy", True)
  pieces = _without_prefix(model) if once else _encoder(model)
  added = {i: str(one) for i, one in library.added_tokens_decoder.items()}
  # What SentencePiece would leave out of a text.
  spelled = {
    i: one.piece for i, one in enumerate(model.pieces)
    if one.type in (_UNKNOWN, _CONTROL)
  } | added
  shell = library.backend_tokenizer
  piece = spelling.of(shell.to_str())
  spell = [piece(one.piece) for one in model.pieces]
  return library, Tokenizer(
    functools.partial(_encode, shell.encode, added, pieces, once),
    functools.partial(_decode, spelled, spell, prefix, once),
    max(library.get_vocab().values()) + 1,
  )


def _settings(folder: epath.Path) -> dict[str, Any]:
  """The settings of a tokenizer; an older file has some special tokens."""
  names = ("special_tokens_map.json", "tokenizer_config.json")
  files = [folder / name for name in names if (folder / name).is_file()]
  return functools.reduce(
    lambda all, file: all | download.read_json(file), files, {}
  )


def _parsed(file: epath.Path) -> Any:
  """The ModelProto of SentencePiece; ValueError for other contents."""
  tensorflow_libraries.load()  # It brings protobuf along.
  from google.protobuf.message import DecodeError
  from transformers.convert_slow_tokenizer import import_protobuf

  try:
    model = import_protobuf().ModelProto.FromString(file.read_bytes())
  except DecodeError:
    model = None
  if model is None or not model.pieces:
    raise ValueError(
      f"{file} holds no SentencePiece model: copy it again, or add the "
      "tokenizer.json of the model"
    )
  return model


def _library(folder: epath.Path, settings: dict[str, Any], model: Any) -> Any:
  """A tokenizer of transformers with all but the way to encode."""
  import tokenizers
  from tokenizers import decoders, models
  from transformers import PreTrainedTokenizerFast

  spec = model.trainer_spec
  # No text but a piece is in the vocabulary, so all text between special tokens
  # is one token, whose place in the text is what `_encode` reads.
  whole = tokenizers.Tokenizer(models.WordLevel(
    {one.piece: i for i, one in enumerate(model.pieces)},
    unk_token=model.pieces[spec.unk_id].piece,
  ))
  # Read by spelling.of.
  whole.decoder = decoders.Sequence(
    [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  ids = {"bos": spec.bos_id, "eos": spec.eos_id, "unk": spec.unk_id}
  named = {
    f"{name}_token": model.pieces[i].piece for name, i in ids.items()
    if i >= 0 and f"{name}_token" not in settings
  }
  library = PreTrainedTokenizerFast.from_pretrained(
    str(folder), tokenizer_object=whole,
    add_bos_token=settings.get("add_bos_token", True), **named,
  )
  _check_added(folder, settings, library)
  return library


def _check_added(
  folder: epath.Path, settings: dict[str, Any], library: Any
) -> None:
  """Raises ValueError where transformers gives an added token another id."""
  wanted = {
    one["content"]: int(i)
    for i, one in settings.get("added_tokens_decoder", {}).items()
  }
  if (file := folder / "added_tokens.json").is_file():
    wanted |= download.read_json(file)
  found = {str(one): i for i, one in library.added_tokens_decoder.items()}
  for text, i in wanted.items():
    if found.get(text) != i:
      raise ValueError(
        f"{folder}: the added token {text!r} should have id {i}, and would get "
        f"{found.get(text, 'none')}: add the tokenizer.json of the model"
      )


def _encoder(model: Any) -> Callable[[str], list[int]]:
  """SentencePiece's ids of a text without special tokens."""
  _, text = tensorflow_libraries.load()
  pieces = text.SentencepieceTokenizer(model=model.SerializeToString())
  return lambda words: pieces.tokenize(words).numpy().tolist()


def _without_prefix(model: Any) -> Callable[[str], list[int]]:
  """The encoder of a model that puts no space before a text."""
  bare = type(model)()
  bare.CopyFrom(model)
  bare.normalizer_spec.add_dummy_prefix = False
  encode = _encoder(bare)
  if not model.normalizer_spec.remove_extra_whitespaces:
    return encode
  # Else the spaces that a text begins with would go, too.
  before = bare.pieces[bare.trainer_spec.unk_id].piece
  skipped = len(encode(before))
  return lambda words: (
    encode(before + words)[skipped:] if words.startswith((" ", _SPACE))
    else encode(words)
  )


def _encode(
  split: Callable, added: dict[int, str], pieces: Callable, once: bool,
  text: str,
) -> list[int]:
  """once: the model's space is put before the whole text only, here."""
  parts, ids = split(text, add_special_tokens=False), []
  for i, (start, end) in zip(parts.ids, parts.offsets):
    part = text[start:end]
    if added.get(i, "").strip() == part.strip() != "":
      ids.append(i)
    else:
      ids += pieces(_SPACE + part if once and not start else part)
  return ids


def _decode(
  spelled: dict[int, str], spell: list[bytes], prefix: bool, once: bool,
  tokens: Any,
) -> str:
  ids = [int(i) for i in np.asarray(tokens).reshape(-1) if i != PAD]
  kind = lambda i: (i in spelled, i < len(spell))
  text = ""
  for (is_spelled, is_known), run in itertools.groupby(ids, key=kind):
    if is_spelled:
      text += "".join(spelled[i] for i in run)
    elif is_known:
      part = b"".join(spell[i] for i in run).decode(errors="replace")
      own = prefix and not (once and text)
      text += part.removeprefix(" ") if own else part
    else:
      text += UNKNOWN * len(list(run))
  return text
