"""The tokens that end a turn of a model, as its folder names them.

transformers ends a text at every id of `eos_token_id` in
generation_config.json; where there is no such file, in config.json.
"""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from sitrain.models.huggingface import tensorfile
from sitrain.models.huggingface.download import hub_name, read_json

FILES = ("generation_config.json", "config.json")  # the first that is there


def of(path: Any) -> tuple[int, ...]:
  """Ids that end a turn; none where neither file is there or names one.

  path: a folder of transformers, on a disk or on gs://, or a hub id, which may
  end in "@revision". Raises ValueError for what is no token id.
  """
  for name in FILES:
    file = _find(path, name)
    if file is not None and file.is_file():
      settings = read_json(file)
      text = settings.get("text_config") or {}  # of models that see images too
      found = settings.get("eos_token_id", text.get("eos_token_id"))
      return _ids(found, file)
  return ()


def write(folder: Any, ids: Sequence[int]) -> list[str]:
  """Makes `ids` those that end a turn of a folder; names of files written."""
  folder = epath.Path(folder)
  if set(of(folder)) == set(ids):
    return []
  file = folder / FILES[0]
  settings = read_json(file) if file.exists() else {}
  text = json.dumps(settings | {"eos_token_id": list(ids)}, indent=2)
  tensorfile.write_whole(file, [text.encode()])
  return [FILES[0]]


def _find(path: Any, name: str) -> epath.Path | None:
  """The file in a folder, or that one file of the hub, in its cache."""
  folder = epath.Path(path).expanduser()
  if "://" in str(path) or folder.is_dir():
    return folder / name
  import huggingface_hub
  from huggingface_hub.errors import EntryNotFoundError

  model = hub_name(path)
  if not model.name:
    raise ValueError(
      f"there is no folder {path}: give one, or the id of a model on the hub"
    )
  try:
    found = huggingface_hub.hf_hub_download(
      model.name, name, revision=model.revision
    )
  except EntryNotFoundError:
    return None
  except Exception as error:  # noqa: BLE001 The hub raises many types.
    why = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise ValueError(
      f"{name} of {path} cannot be had from the Hugging Face hub ({why}): check"
      " the name, or copy the model here and give its folder"
    ) from error
  return epath.Path(found)


def _ids(found: Any, file: epath.Path) -> tuple[int, ...]:
  ids = found if isinstance(found, list) else [found]
  if found is None or ids == []:
    return ()
  if not all(type(i) is int and i >= 0 for i in ids):
    raise ValueError(
      f"eos_token_id={found!r} of {file} is no token id: write a number from 0 "
      "on, or a list of such numbers"
    )
  return tuple(dict.fromkeys(ids))
