"""The folder of a run: its config, its free space, and its JSON files."""

import contextlib
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
from sitrain.runtime.stopping import EVAL
from sitrain.runtime.storage import (
  explained,
  is_remote,
  takes_no_more,
  write_whole,
)

_CONFIG = "config.json"
RUN_ONLY = ("run",)  # fields that change no number of a run


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
  """dotted name -> value of a nested config, in order."""
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
  """12 hexadecimal digits of a config's hash; ignores the order of fields."""
  text = json.dumps(relevant(config, ignore), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(
  old: dict[str, Any],
  new: dict[str, Any],
  *,
  ignore: tuple[str, ...] = RUN_ONLY,
) -> list[identity.Change]:
  """The fields that differ, in order.

  A field that one side lacks has the value `(not set)` there.
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
  """Writes the config to the workdir; returns the config's hash.

  `found` is the result of sources.record. A run can be resumed with changes to
  stages that have not begun, with changes that affect no sample, and with more
  steps of the last stage that has begun (identity.py). Each change is logged.
  Raises ConfigError for the first other change, and for sources with other
  content, and where checkpoints exist without a config.
  """
  folder, digest = epath.Path(workdir), config_hash(config)
  path, first = folder / _CONFIG, jax.process_index() == 0
  known = sources.known_of(folder)
  lines, begun, old = [], identity.Begun((), frozenset()), {}
  if path.exists():
    old = read_config(folder)
    changes = differences(fields.placed(old), config)
    begun = identity.begun_in(folder, old)
    lines = identity.check_changes(workdir, begun, changes)
    lines += sources.check(workdir, begun, known, found or {})
    grown = identity.grown(changes, begun)
    lines += identity.bent(config, grown)
    rows = _rows(folder / "summary.json")
    gone = _reopened(rows, begun, changes)
    if first and gone:
      _forget(folder / "summary.json", gone)
    lines += _evaluated_before(rows, changes)
    lines += _judged_before(config, rows, begun, changes)
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
    for line in lines:
      logging.getLogger("sitrain").warning("goes on with %s", line)
  return digest


def finished(workdir: Any, config: dict[str, Any]) -> list[str]:
  """The stages that are done, without those that `claim` would reopen."""
  folder = epath.Path(workdir)
  if not str(workdir) or not (folder / _CONFIG).exists():
    return []
  rows, old = _rows(folder / "summary.json"), read_config(folder)
  changes = differences(fields.placed(old), config)
  gone = _reopened(rows, identity.begun_in(folder, old), changes)
  return [name for name in rows if name not in gone]


def _reopened(
  rows: Sequence[str], begun: identity.Begun,
  changes: Sequence[identity.Change],
) -> list[str]:
  """The stages that get more steps, or are to be trained anew."""
  return [
    *identity.grown(changes, begun), *identity.anew(rows, begun, changes)
  ]


def _rows(path: epath.Path) -> list[str]:
  """The stages of a summary; none where it is not there."""
  rows = read_json(path)["stages"] if path.exists() else []
  return [row["name"] for row in rows]


def _evaluated_before(
  rows: Sequence[str], changes: Sequence[identity.Change]
) -> list[str]:
  """A line on the stages that another evaluation has measured."""
  changed = any(  # Those while a stage trains are not in the summary.
    one.field.startswith("evaluate.")
    and not one.field.startswith("evaluate.every") for one in changes
  )
  return [f"the old evaluation's numbers of {', '.join(rows)}"] if (
    rows and changed
  ) else []


def _judged_before(
  config: dict[str, Any], rows: Sequence[str], begun: identity.Begun,
  changes: Sequence[identity.Change],
) -> list[str]:
  """A line on each running stage that evaluations rank or end.

  Another evaluation may choose another checkpoint, from which the next stage
  starts.
  """
  if not any(one.field.startswith("evaluate.") for one in changes):
    return []
  found = []
  for name in begun.stages:
    stage = config["stage"].get(name, {})
    metrics = stage.get("best", ""), stage.get("until", {}).get("metric", "")
    if name not in rows and any(x.startswith(EVAL) for x in metrics):
      found.append(
        f"stage {name}, which is ranked or ended by numbers of evaluations,"
        " those of the old one included: they cannot be compared"
      )
  return found


def _forget(path: epath.Path, stages: Sequence[str]) -> None:
  """Removes the rows of stages that get more steps from the summary."""
  if path.exists():
    summary = read_json(path)
    rows = [row for row in summary["stages"] if row["name"] not in stages]
    write_json(path, summary | {"stages": rows})


def read_config(workdir: Any) -> dict[str, Any]:
  """The config of the last start of a run; ValueError without one."""
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


def absolute(path: str, flag: str = "--workdir") -> str:
  """The absolute path of what a flag names; gs:// and "" are kept.

  Expands ~, because a shell does not after an equals sign. Raises ConfigError
  for stores other than gs://, and for the home of an unknown user.
  """
  if not path or path.startswith("gs://"):
    return path
  if is_remote(path):
    store = path.partition("://")[0]
    raise ConfigError(
      f"{flag}={path}: {store}:// is not supported: give a folder on a disk,"
      " without ://, or one on gs://"
    )
  expanded = os.path.expanduser(path)
  if path.startswith("~") and expanded == path:
    user = path[1:].partition("/")[0]
    raise ConfigError(f"{flag}={path}: there is no user {user}")
  return os.path.abspath(expanded)


def check_is_folder(folder: Any, what: str) -> None:
  """Raises ConfigError for a file where a folder is meant, and below one."""
  path = epath.Path(folder)
  if is_remote(folder):
    return
  for place in (path, *path.parents):
    if place.exists() and not place.is_dir():
      own = "" if what.endswith(f"={place}") else f": {place}"
      raise ConfigError(f"{what}{own} is a file: give a folder")


def check_file(path: Any, what: str) -> None:
  """Raises ConfigError if a file cannot be written; see `check_folder`."""
  if not is_remote(path) and epath.Path(path).is_dir():
    raise ConfigError(f"{what} is a folder: give a file")
  check_folder(str(epath.Path(path).parent), what)


def check_run(workdir: str) -> None:
  """Raises ConfigError if --workdir, an absolute path, is not that of a run."""
  what = f"--workdir={workdir}"
  if not workdir:
    raise ConfigError("--workdir is missing: give the workdir of a run")
  check_is_folder(workdir, what)
  folder = epath.Path(workdir)
  if not (folder / _CONFIG).exists():
    there = is_remote(workdir) or folder.exists()
    raise ConfigError(
      f"{what} has no {_CONFIG}: give the workdir of a run" if there
      else f"{what}: there is no such folder: give the workdir of a run"
    )


def check_folder(folder: str, what: str) -> None:
  """Raises ConfigError if a folder on a disk cannot be written.

  It writes a file, and removes everything that it has made. `what` is the flag
  that names the folder, for the message. Raises StorageError for a full disk,
  where the same command is right later.
  """
  if is_remote(folder) or jax.process_index() != 0:
    return
  check_is_folder(folder, what)
  made, path = [], os.path.abspath(folder)
  while not os.path.exists(path):
    made.append(path)
    path = os.path.dirname(path)
  probe = epath.Path(folder) / ".writable"
  try:
    os.makedirs(folder, exist_ok=True)
    probe.write_text("sitrain")
  except OSError as error:
    if takes_no_more(error):
      raise explained(error, folder) from error
    why = os.strerror(error.errno) if error.errno else str(error)
    raise ConfigError(
      f"{what} cannot be written ({why}): give a place on a disk"
      " where this user may write, or one on gs://"
    ) from error
  finally:
    with contextlib.suppress(OSError):
      probe.unlink()
    for path in made:
      with contextlib.suppress(OSError):
        os.rmdir(path)


def _check_version(workdir: Any, config: Any) -> None:
  """Raises ValueError for a run of an old version, with `anchor` in a stage."""
  stages = config.get("stage") or {}
  if any("anchor" in (stage or ()) for stage in stages.values()):
    raise ValueError(
      f"{workdir} holds a run of an older version of sitrain (its stages have"
      " an anchor, which is held.reference now): go on with that version, or"
      " give another --workdir"
    )


def write_json(path: Any, value: Any) -> None:
  """Writes valid JSON atomically."""
  write_whole(
    path, json.dumps(finite(value), indent=2, allow_nan=False, default=str)
  )


def read_json(path: Any) -> Any:
  """The value of a JSON file; raises ValueError, which names the file."""
  path = epath.Path(path)
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    # All other files say what a run is, and are not made again.
    fix = "put back what was there, or give another folder"
    if path.name == "summary.json":
      fix = "delete it, and the stages are evaluated again"
    raise ValueError(f"{path} is not JSON ({error}): {fix}") from error


def array_bytes(tree: Any) -> int:
  """Bytes of all arrays, or ShapeDtypeStructs, of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check_space(folder: Any, needed: int) -> None:
  """Raises OSError if a disk has fewer than `needed` bytes free.

  Folders on gs:// have no limit.
  """
  if is_remote(folder):
    return
  path = os.path.abspath(folder)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  free = shutil.disk_usage(path).free
  if free < needed:
    large = needed >= 1e8
    amount = lambda x: f"{x / 1e9:.2f} GB" if large else f"{x / 1e6:.3f} MB"
    raise OSError(
      f"{folder} has {amount(free)} free, the checkpoints of this run need"
      f" {amount(needed)}: free some space or give another --workdir"
    )
