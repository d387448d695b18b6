"""Tokenizers of transformers: read, trained, copied; their tokens as bytes."""

import contextlib
import fnmatch
import itertools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from sitrain.models.huggingface import (
  chat,
  download,
  end_tokens,
  sentencepiece_model,
  spelling,
  tensorfile,
)
from sitrain.tasks.characters import UNKNOWN
from sitrain.types import PAD, Chat, Tokenizer

_LOG = logging.getLogger("sitrain")

END = "<|end|>"  # the end token of a tokenizer that `train_bpe` makes
_BYTES = 256
LEAST = _BYTES + 1  # tokens of one that is trained: all bytes and END
# What lies beside a tokenizer and is not read with it.
_WEIGHTS = (
  ".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx",
)


def load(
  path: Any, model: Any = "", *, template: str = "", reasoning: str = "refuse",
  thinking: str = "default",
) -> Chat:
  """Tokenizer and dialogue form of a model.

  Args:
    path: a folder of transformers, on a disk or on gs://, or a hub id, which
      may end in "@revision".
    model: likewise, where the model is in another place than its tokenizer.
    template: "" for the chat template of the tokenizer; "plain" for no chat
      form: a message and a line break, the answer and its end token, a line
      break, and so on; or the path of a jinja file.
    reasoning: see `chat.make`.
    thinking: "on" or "off" for templates that write prompts with reasoning or
      without (enable_thinking, as that of Qwen3); "default" is what the
      template does by itself, which is on for Qwen3.

  A turn ends with the end token of the template, that of the tokenizer, and
  all that generation_config.json names (see end_tokens.py). `encode` adds no
  special tokens; `decode` writes them as they are spelled, so that a verifier
  sees what the policy wrote, leaves PAD out, and writes U+FFFD for ids that the
  tokenizer lacks, for a model may have more. `size` is the highest id + 1.
  Raises ValueError for a path without tokenizer, without an end-of-sequence
  token, without a chat template, and as `chat.make` and `end_tokens.of` do.
  """
  source, texts = _read(path)
  if source.eos_token_id is None:
    raise ValueError(
      f"the tokenizer of {path} has no end-of-sequence token, so that no turn "
      "would end: set eos_token in its tokenizer_config.json"
    )
  try:
    ends = dict.fromkeys((*end_tokens.of(path), *end_tokens.of(model or path)))
    _check_ends(source, path, ends)
    form = _template(source, path, template).removeprefix("\ufeff")
    form = chat.with_thinking(source, form, thinking)
    return chat.make(
      source, texts, form, reasoning=reasoning, ends=tuple(ends)
    )
  except ValueError as error:
    name = "" if str(path) in str(error) else f"{path}: "
    raise ValueError(f"{name}{error}") from error


def _check_ends(source: Any, path: Any, ends: Iterable[int]) -> None:
  """Warns of an end token that stands in ordinary text, too."""
  special = {*source.all_special_ids, *source.added_tokens_decoder}
  for i in ends:
    if i not in special:
      _LOG.warning(
        "eos_token_id of the model names token %d, which the tokenizer of %s "
        "reads as %r: every turn ends where that is written", i, path,
        source.decode([i]) if i < len(source) else UNKNOWN,
      )


def _template(source: Any, path: Any, template: str) -> str:
  if template == "plain":
    begins = source.encode("a")[:1] == [source.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + chat.PLAIN
  if template:
    file = epath.Path(template).expanduser()
    if not file.is_file():
      raise ValueError(
        f"template={template}: there is no such file: give the path of a jinja "
        "file, 'plain' for no chat form, or '' for the tokenizer's own"
      )
    try:
      return file.read_text()
    except UnicodeDecodeError as error:
      raise ValueError(
        f"template={template} is no UTF-8 ({error}): save it as UTF-8"
      ) from error
  if not source.chat_template:
    raise ValueError(
      f"the tokenizer of {path} has no chat template: use template='plain', or "
      "give the path of a jinja file"
    )
  return source.get_chat_template()


def _texts(source: Any) -> Tokenizer:
  known = frozenset(source.get_vocab().values())

  def encode(text: str) -> list[int]:
    return source.encode(text, add_special_tokens=False)

  def decode(tokens: Any) -> str:
    ids = [int(i) for i in np.asarray(tokens).reshape(-1) if i != PAD]
    runs = itertools.groupby(ids, key=known.__contains__)
    return "".join(
      source.decode(
        list(run), skip_special_tokens=False, clean_up_tokenization_spaces=False
      )
      if is_known
      else UNKNOWN * len(list(run))
      for is_known, run in runs
    )

  return Tokenizer(encode, decode, max(known) + 1)


def _read(path: Any) -> tuple[Any, Tokenizer]:
  """The tokenizer of transformers at `path`, and its text functions."""
  from transformers import AutoTokenizer

  with _local(path) as folder:
    try:
      if sentencepiece_model.is_alone(folder):
        return sentencepiece_model.read(folder)
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from error
    try:
      source = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of many kinds, and some of many lines
      why = next(iter(str(error).strip().splitlines()), type(error).__name__)
      raise ValueError(
        f"no tokenizer could be read from {path} ({why}): give a folder with "
        "tokenizer.json and tokenizer_config.json, or the id of a model on the "
        "hub"
      ) from error
  # Lengths are checked where the turns are known; here it would only warn.
  source.model_max_length = 1 << 62
  return source, _texts(source)


def other_token(path: Any, other: Any) -> str:
  """A token of one tokenizer that has another id, or none, in the other.

  "" where every token of `path` has the same id there.
  """
  theirs = _read(other)[0].get_vocab()
  own = sorted(_read(path)[0].get_vocab().items(), key=lambda each: each[1])
  return next((token for token, i in own if theirs.get(token) != i), "")


def is_there(folder: Any) -> bool:
  """Whether a model's folder has a tokenizer, too."""
  names = "tokenizer.json", "tokenizer.model", "vocab.json"
  return any((epath.Path(folder) / name).exists() for name in names)


@contextlib.contextmanager
def _local(path: Any) -> Iterator[str]:
  """A folder on a disk with the tokenizer of `path`."""
  folder = download.locate_tokenizer(path)
  if "://" not in str(folder):
    yield str(folder)
    return
  with tempfile.TemporaryDirectory() as copy:
    for file in folder.iterdir():
      if file.is_file() and file.suffix not in _WEIGHTS:
        file.copy(epath.Path(copy) / file.name)
    yield copy


def train_bpe(texts: Iterable[str], folder: Any, *, size: int) -> None:
  """Trains a byte-level BPE on `texts` and saves it where `load` reads it.

  Digits stay single, every byte has a token, and the end token is END; the
  chat template is the plain form. There are `size` tokens, or fewer where the
  texts have no more pairs to merge. Equal texts give equal files, of which
  tokenizer.json appears last. Raises ValueError for no texts and for a size
  without room for the bytes.
  """
  if size <= _BYTES:
    raise ValueError(
      f"size={size} has no room for {_BYTES} bytes and the end token: use "
      f"{_BYTES + 1} at least"
    )
  from transformers import PreTrainedTokenizerFast

  source = PreTrainedTokenizerFast(
    tokenizer_object=_trained(texts, size),
    eos_token=END,
    clean_up_tokenization_spaces=False,
  )
  source.chat_template = chat.PLAIN
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as temporary:
    source.save_pretrained(temporary)
    files = sorted(epath.Path(temporary).iterdir())
    # A run that is killed here leaves no folder that looks complete.
    for file in sorted(files, key=lambda file: file.name == "tokenizer.json"):
      tensorfile.write_whole(folder / file.name, [file.read_bytes()])


def is_trained(folder: Any) -> bool:
  """Whether `train_bpe` has come to its end in a folder."""
  return (epath.Path(folder) / "tokenizer.json").exists()


def _trained(texts: Iterable[str], size: int) -> Any:
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  texts = iter(texts)
  first = next((text for text in texts if text), None)
  if first is None:
    raise ValueError("there are no texts to train a tokenizer on: give some")
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False),
  ])
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=[END],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  bpe.train_from_iterator(itertools.chain([first], texts), trainer)
  return bpe


def copy(
  path: Any, output: Any, *, template: str = "", thinking: str = "default"
) -> list[str]:
  """Copies the files of a tokenizer into a folder; returns their names.

  Where `template` is not "" it becomes the chat template of the copy, and what
  `thinking` says becomes its default; they and `path` are those of `load`, and
  raise ValueError as they do there.
  """
  source, output = download.locate_tokenizer(path), epath.Path(output)
  output.mkdir(parents=True, exist_ok=True)
  changed = template or thinking != "default"
  files = {
    file.name: file.read_bytes() for file in sorted(source.iterdir())
    if any(fnmatch.fnmatch(file.name, f) for f in download.TOKENIZER_FILES)
    and not (changed and file.name.startswith("chat_template"))
  }
  if changed:
    read, _ = _read(path)
    text = _template(read, path, template).removeprefix("\ufeff")
    text = chat.with_thinking(read, text, thinking)
    name = "tokenizer_config.json"  # Where versions before 4.43 look for it.
    settings = json.loads(files.get(name, b"{}")) | {"chat_template": text}
    files[name] = json.dumps(settings, indent=2).encode()
    files["chat_template.jinja"] = text.encode()
  for name, content in files.items():
    tensorfile.write_whole(output / name, [content])
  return list(files)


def vocabulary(path: Any) -> list[bytes]:
  """The bytes of every token, by id; none for special tokens and unused ids.

  For byte-level tokenizers and for SentencePiece ones; of the latter some put a
  space before the first word, which is then among the bytes too. Raises
  ValueError for other kinds, whose tokens do not tell where spaces are.
  """
  source, _ = _read(path)
  try:
    spell = spelling.of(source.backend_tokenizer.to_str())
  except (AttributeError, ValueError) as error:
    raise ValueError(
      f"the tokens of {path} are neither byte-level nor SentencePiece, so that "
      "their bytes are unknown: use a tokenizer of one of these kinds"
    ) from error
  added = source.added_tokens_decoder
  found = [b""] * (max(source.get_vocab().values()) + 1)
  for token, i in source.get_vocab().items():
    if i not in added:
      found[i] = spell(token)
    elif not added[i].special:
      found[i] = token.encode()
  return found
