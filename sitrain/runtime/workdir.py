"""The folder of a run: whose it is, whether it has room, and its JSON files."""

import hashlib
import json
import os
import shutil
from typing import Any

import jax
from etils import epath

from sitrain.runtime.metrics import finite
from sitrain.runtime.storage import is_remote, write_object

_CONFIG = "config.json"
_NOT_SET = "(not set)"
RUN_ONLY = ("run",)  # what shows and stores a run, and changes no number of it


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
  """The fields of a nested config by dotted name, in order."""
  if not isinstance(config, dict) or not config:
    return {prefix: config}
  flat = {}
  for name, value in config.items():
    flat |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
  return flat


def relevant(config: dict[str, Any], ignore: tuple[str, ...]) -> dict[str, str]:
  """The fields of a config as JSON, without those that start with `ignore`."""
  return {
    field: json.dumps(finite(value), sort_keys=True, default=str)
    for field, value in flatten(config).items()
    if not any(field == i or field.startswith(f"{i}.") for i in ignore)
  }


def config_hash(
  config: dict[str, Any], *, ignore: tuple[str, ...] = RUN_ONLY
) -> str:
  """12 hexadecimal digits that name a config, whatever its fields' order."""
  text = json.dumps(relevant(config, ignore), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def first_difference(
  old: dict[str, Any],
  new: dict[str, Any],
  *,
  ignore: tuple[str, ...] = RUN_ONLY,
) -> tuple[str, str, str]:
  """(field, old value, new value) of the first that differs, or ("", "", "").

  What only one side has shows as `(not set)` on the other.
  """
  a, b = relevant(old, ignore), relevant(new, ignore)
  for field in sorted(a.keys() | b.keys()):
    pair = a.get(field, _NOT_SET), b.get(field, _NOT_SET)
    if pair[0] != pair[1]:
      return field, *pair
  return "", "", ""


def claim(
  workdir: Any,
  config: dict[str, Any],
  *,
  ignore: tuple[str, ...] = RUN_ONLY,
) -> str:
  """Makes the workdir this config's; returns the config's hash.

  Fields under `ignore` change nothing that a run computes: they may differ.
  Raises ValueError where the workdir is another config's, naming the first
  field that differs.
  """
  path = epath.Path(workdir) / _CONFIG
  if path.exists():
    begun = read_json(path)
    if not isinstance(begun, dict):
      raise ValueError(f"{path} is no config of a run: delete it")
    _check_version(workdir, begun)
    field, was, now = first_difference(begun, config, ignore=ignore)
    if field:
      fix = f", or --config.{field}={was.strip(chr(34))}"
      raise ValueError(
        f"{workdir} holds a run with config.{field}={was}, this one has {now}:"
        f" give another --workdir{'' if was == _NOT_SET else fix}"
      )
  elif jax.process_index() == 0:
    write_json(path, config)
  return config_hash(config, ignore=ignore)


def _check_version(workdir: Any, config: Any) -> None:
  """Raises ValueError for a run of a version whose stages had an `anchor`."""
  stages = config.get("stage") or {}
  if any("anchor" in (stage or ()) for stage in stages.values()):
    raise ValueError(
      f"{workdir} holds a run of an older version of sitrain (its stages have"
      " an anchor, which is held.reference now): go on with that version, or"
      " give another --workdir"
    )


def write_json(path: Any, value: Any) -> None:
  """Writes valid JSON so that a reader sees the old file or the new one."""
  path = epath.Path(path)
  text = json.dumps(finite(value), indent=2, allow_nan=False, default=str)
  path.parent.mkdir(parents=True, exist_ok=True)
  if is_remote(path):
    return write_object(path, text)
  new = epath.Path(f"{path}.new")
  new.write_text(text)
  os.replace(new, path)


def read_json(path: Any) -> Any:
  """The value in a file of JSON; raises ValueError that names the file."""
  path = epath.Path(path)
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not JSON ({error}): delete it") from error


def array_bytes(tree: Any) -> int:
  """Bytes of all arrays, or ShapeDtypeStructs, of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check_space(folder: Any, needed: int) -> None:
  """Raises OSError where a disk has fewer than `needed` bytes free.

  Folders on gs:// are not limited.
  """
  if is_remote(folder):
    return
  path = os.path.abspath(folder)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  free = shutil.disk_usage(path).free
  if free < needed:
    raise OSError(
      f"{folder} has {free / 1e9:.2f} GB free, the checkpoints of this run"
      f" need {needed / 1e9:.2f} GB: free some space or give another --workdir"
    )
