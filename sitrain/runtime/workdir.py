"""The folder of a run: whose it is, whether it has room, and its JSON files."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from sitrain.runtime import fields, identity, sources
from sitrain.runtime.metrics import finite
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import is_remote, write_object

_CONFIG = "config.json"
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


def differences(
  old: dict[str, Any],
  new: dict[str, Any],
  *,
  ignore: tuple[str, ...] = RUN_ONLY,
) -> list[identity.Change]:
  """The fields that differ, in order.

  What only one side has shows as `(not set)` on the other.
  """
  a, b = relevant(old, ignore), relevant(new, ignore)
  none = identity.NOT_SET
  pairs = [
    identity.Change(field, a.get(field, none), b.get(field, none))
    for field in sorted(a.keys() | b.keys())
  ]
  return [one for one in pairs if one.was != one.now]


def first_difference(
  old: dict[str, Any],
  new: dict[str, Any],
  *,
  ignore: tuple[str, ...] = RUN_ONLY,
) -> tuple[str, str, str]:
  """(field, old value, new value) of the first that differs, or three ""."""
  return next(
    map(tuple, differences(old, new, ignore=ignore)), ("", "", "")
  )


def claim(
  workdir: Any, config: dict[str, Any], found: dict[str, Any] | None = None
) -> str:
  """Makes the workdir this config's; returns the config's hash.

  `found` is what sources.record says of data and models. A run goes on with
  changes of what has not begun, of what changes no sample, and with more steps
  of the last stage that has begun (identity.py); they are told in a line each.
  Raises ConfigError for other changes, naming the first, and for sources with
  another content, and where checkpoints are there but no config.
  """
  folder, digest = epath.Path(workdir), config_hash(config)
  path, first = folder / _CONFIG, jax.process_index() == 0
  known = sources.known_of(folder)
  told, begun, old = [], identity.Begun((), frozenset()), {}
  if path.exists():
    old = read_config(folder)
    changes = differences(fields.placed(old), config)
    begun = identity.begun_in(folder, old)
    told = identity.check_changes(workdir, begun, changes)
    told += sources.check(workdir, begun, known, found or {})
    grown = identity.grown(changes, begun)
    told += identity.bent(config, grown)
    if first and grown:
      _forget(folder / "summary.json", grown)
  elif there := identity.begun_in(folder, config).stages:
    raise ConfigError(
      f"{workdir} has checkpoints of {', '.join(there)}, but no {_CONFIG} that"
      " says of what run: put it back, or give another --workdir"
    )
  if first and differences(old, config, ignore=()):
    write_json(path, config)
  merged = (known if begun.stages else {}) | (found or {})
  if first and merged and merged != known:
    write_json(folder / sources.FILE, merged)
  if begun.stages:
    for line in told:
      logging.getLogger("sitrain").warning("goes on with %s", line)
  return digest


def _forget(path: epath.Path, stages: Sequence[str]) -> None:
  """Takes the rows of stages that go on out of the summary."""
  if path.exists():
    summary = read_json(path)
    rows = [row for row in summary["stages"] if row["name"] not in stages]
    write_json(path, summary | {"stages": rows})


def read_config(workdir: Any) -> dict[str, Any]:
  """The config of a run, as it was last started; ValueError without one."""
  path = epath.Path(workdir) / _CONFIG
  try:
    config = json.loads(path.read_text())
  except ValueError:
    config = ()
  if not isinstance(config, dict):
    raise ValueError(
      f"{path} is no config of a run: put back what was there, or give another"
      " --workdir"
    )
  _check_version(workdir, config)
  return config


def absolute(path: str) -> str:
  """A folder as it is called from everywhere; gs:// and "" stay as they are.

  A shell expands no ~ behind an equals sign. Raises ConfigError for other
  stores than gs://, and for the home of a user that this machine does not know.
  """
  if not path or path.startswith("gs://"):
    return path
  if is_remote(path):
    store = path.partition("://")[0]
    raise ConfigError(
      f"{path}: {store}:// is not supported: give a folder on a disk, without"
      " ://, or one on gs://"
    )
  expanded = os.path.expanduser(path)
  if path.startswith("~") and expanded == path:
    raise ConfigError(f"{path}: there is no user {path[1:].partition('/')[0]}")
  return os.path.abspath(expanded)


def check_folder(workdir: str) -> None:
  """Raises ConfigError where a folder of a disk cannot be written.

  It tries, and leaves nothing behind.
  """
  if is_remote(workdir) or jax.process_index() != 0:
    return
  made, path = [], os.path.abspath(workdir)
  while not os.path.exists(path):
    made.append(path)
    path = os.path.dirname(path)
  probe = epath.Path(workdir) / ".writable"
  try:
    os.makedirs(workdir, exist_ok=True)
    probe.write_text("sitrain")
    probe.unlink()
  except OSError as error:
    if error.errno == errno.ENOSPC:
      raise
    why = os.strerror(error.errno) if error.errno else str(error)
    raise ConfigError(
      f"--workdir={workdir} cannot be written ({why}): give a folder on a disk"
      " where this user may write, or one on gs://"
    ) from error
  finally:
    for folder in made:
      with contextlib.suppress(OSError):
        os.rmdir(folder)


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
