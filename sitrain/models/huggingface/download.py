"""Where a model is: a folder on a disk or gs://, or the Hugging Face hub."""

import json
import re
from typing import Any, NamedTuple

from etils import epath

# What a tokenizer is made of, and what a text ends with.
TOKENIZER_FILES = (
  "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
  "merges.txt", "chat_template*", "generation_config.json", "*.model",
)  # fmt: skip
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_HUB = re.compile(r"(?!\.)([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


class HubName(NamedTuple):
  """A repository of the hub at a revision."""

  name: str  # "owner/name", or a name alone
  revision: str | None  # a commit, branch or tag; None: the main branch


def hub_name(path: Any) -> HubName:
  """What "owner/name" or "owner/name@revision" names; name "" for no hub id."""
  found = _HUB.fullmatch(str(path))
  return HubName(*found.groups()) if found else HubName("", None)


def locate(path: str) -> epath.Path:
  """The folder of a model: a local one, one of gs://, or one from the hub.

  A name of the hub ("Qwen/Qwen3-0.6B", or with "@revision") is downloaded into
  the hub's cache: weights, config and tokenizer only. Raises ValueError where
  there is no such model.
  """
  folder = epath.Path(path).expanduser()
  if "://" in path or folder.exists():
    if not (folder / "config.json").exists():
      raise ValueError(f"{path} holds no config.json: give a model's folder")
    return folder
  found = hub_name(path)
  if "/" not in found.name:
    raise ValueError(
      f"there is no folder {path}: give a model's folder, on a disk or gs://,"
      " or its name on the Hugging Face hub, owner/name or"
      " owner/name@revision"
    )
  return _download(found, "*.safetensors", "*.json", *TOKENIZER_FILES)


def locate_tokenizer(path: Any) -> epath.Path:
  """The folder of a tokenizer: likewise, but without weights from the hub.

  Raises ValueError where there is no such folder or hub id.
  """
  folder = epath.Path(path).expanduser()
  if folder.is_dir():
    return folder
  found = hub_name(path)
  if not found.name:
    raise ValueError(
      f"there is no folder {path}: give the folder of a tokenizer, or the id "
      "of a model on the hub, with @revision if you like"
    )
  # Files of old tokenizers do not name their class: config.json tells.
  return _download(found, "config.json", *TOKENIZER_FILES)


def locate_adapters(path: str) -> epath.Path:
  """The folder of adapters of PEFT; likewise.

  Raises ValueError where there is no such folder or hub id, or no adapters in
  safetensors.
  """
  folder, hub = epath.Path(path).expanduser(), hub_name(path)
  if "://" not in path and not folder.exists():
    if "/" not in hub.name:
      raise ValueError(f"there is no folder {path}: give a folder of PEFT")
    folder = _download(hub, *ADAPTER_FILES)
  for name in ADAPTER_FILES:
    if not (folder / name).exists():
      raise ValueError(f"{path} holds no {name}: give a folder of PEFT")
  return folder


def _download(hub: HubName, *wanted: str) -> epath.Path:
  # Most runs have their model on a disk.
  import huggingface_hub

  try:
    return epath.Path(huggingface_hub.snapshot_download(
      hub.name, revision=hub.revision, allow_patterns=list(wanted),
      ignore_patterns=["*/*", "consolidated*"],
    ))
  except Exception as error:  # noqa: BLE001 The hub raises many types.
    text = str(error).strip().splitlines() or [""]
    at = f"@{hub.revision}" if hub.revision else ""
    raise ValueError(
      f"{hub.name}{at} is no folder here and cannot be had from the Hugging"
      f" Face hub ({type(error).__name__}: {text[0][:160]}): check the name,"
      " log in where it asks for that, or copy the model here and give its"
      " folder"
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
