"""Where a model is: a folder on a disk or gs://, or the Hugging Face hub."""

import json
import re
from typing import Any

from etils import epath

# What a tokenizer is made of, and what a text ends with.
TOKENIZER_FILES = (
  "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json",
  "merges.txt", "chat_template*", "generation_config.json",
)  # fmt: skip


def locate(path: str) -> epath.Path:
  """The folder of a model: a local one, one of gs://, or one from the hub.

  A name of the hub ("Qwen/Qwen3-0.6B", or with "@revision") is downloaded into
  the hub's cache: weights, config and tokenizer only. Raises ValueError where
  there is no such model.
  """
  folder = epath.Path(path)
  if "://" in path or folder.exists():
    if not (folder / "config.json").exists():
      raise ValueError(f"{path} holds no config.json: give a model's folder")
    return folder
  if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", path) or path[0] == ".":
    raise ValueError(
      f"there is no folder {path}: give a model's folder, on a disk or gs://,"
      " or its name on the Hugging Face hub, owner/name"
    )
  return epath.Path(_download(*path.split("@")))


def _download(name, revision="main"):
  # Most runs have their model on a disk.
  import huggingface_hub

  wanted = ["*.safetensors", "*.json", "*.model", *TOKENIZER_FILES]
  try:
    return huggingface_hub.snapshot_download(
      name, revision=revision, allow_patterns=wanted,
      ignore_patterns=["*/*", "consolidated*"],
    )
  except Exception as error:  # noqa: BLE001 The hub raises many types.
    text = str(error).strip().splitlines() or [""]
    raise ValueError(
      f"{name} is no folder here and cannot be had from the Hugging Face hub"
      f" ({type(error).__name__}: {text[0][:160]}): check the name, log in"
      f" where it asks for that, or copy the model here and give its folder"
    ) from error


def read_config(folder: Any) -> dict[str, Any]:
  """The dict of a folder's config.json; ValueError where there is none."""
  return read_json(epath.Path(folder) / "config.json")


def read_json(path: epath.Path) -> Any:
  """The value in a file of JSON; ValueError that names the file."""
  if not path.exists():
    raise ValueError(f"there is no {path}: give a model's folder")
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not JSON ({error}): copy it again") from error
