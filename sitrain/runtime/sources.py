"""The data sets and models that a run began with, by fingerprint.

A path may have another file later, and a name of the hub another revision.
WORKDIR/sources.json has a fingerprint of each source. A run whose sources have
changed is not resumed.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from sitrain.models.huggingface import weights
from sitrain.models.huggingface.download import read_json
from sitrain.runtime.identity import Begun
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import is_remote
from sitrain.tasks.tables import FILES
from sitrain.types import Stage, Task

_LOG = logging.getLogger("sitrain")
FILE = "sources.json"
_WEIGHT = re.compile(r"\*[0-9.]+$")  # of one source among others
_FILE = "file:"  # what begins the name of a user's file in an option
_BLOCK, _BLOCKS = 2**20, 64  # bytes and count; larger files are sampled


def record(
  config: dict, pins: dict, task: Task, evaluation_task: Task,
  stages: list[Stage],
) -> dict:
  """field -> the rows or the model that it names, with their fingerprint.

  `pins` is the config with pinned revisions. `task` and `evaluation_task` are
  those of config.task and config.evaluate.task.
  """
  found = {}
  tasks = {"task": task, "evaluate.task": evaluation_task} | {
    f"stage.{stage.name}.task": stage.task for stage in stages
    if config["stage"][stage.name].get("task", {})
    and not config["stage"][stage.name].get("table", {})
  }
  for field, one in tasks.items():
    options = _options(config, field)
    if one.table != ():
      found[field] = rows_of(one, options.get("source", ""))
    found |= files_of(field, options)
  given, pinned_paths = models_of(config), models_of(pins)
  return found | {
    field: model_of(pinned_paths[field]) | {"path": path}
    for field, path in given.items()
  }


def models_of(config: dict) -> dict[str, str]:
  """field -> path, for the models that a config names."""
  paths = {"model.path": config["model"].get("path", "")} | {
    f"roles.{name}.path": role.get("path", "")
    for name, role in config.get("roles", {}).items()
  }
  return {field: path for field, path in paths.items() if path}


def remark(found: dict) -> None:
  """Warns if the evaluation uses the training problems."""
  own, test = (found.get(n, {}) for n in ("task", "evaluate.task"))
  if own and own.get("fingerprint") == test.get("fingerprint"):
    _LOG.warning(
      "the evaluation poses the rows that are trained on: set"
      " config.evaluate.task.source or config.evaluate.task.split"
    )


def files_of(field: str, options: dict) -> dict[str, dict]:
  """Fingerprints of the files whose functions or texts a task names.

  What a file of functions imports is not in its fingerprint.
  """
  found = {}
  for name, value in options.items():
    parts = value.split(",") if isinstance(value, str) else ()
    named = [p.removeprefix(_FILE) for p in parts if p.startswith(_FILE)]
    paths = [epath.Path(part.partition(":")[0]).expanduser() for part in named]
    if there := [path for path in paths if path.is_file()]:
      digest = hashlib.sha256(b"".join(path.read_bytes() for path in there))
      found[f"{field}.{name}"] = {
        "path": value, "what": f"a file of {_size(there)} bytes",
        "fingerprint": digest.hexdigest()[:16], "revision": "",
      }
  return found


def _size(paths: list[epath.Path]) -> int:
  return sum(path.stat().length for path in paths)


def rows_of(task: Task, source: str) -> dict[str, Any]:
  """Count and fingerprint of the rows of a table and of their file.

  The file has data that no prompt shows, such as tests of programs.
  """
  digest = hashlib.sha256()
  for array in task.table:
    array = np.asarray(array)
    digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
  for row in getattr(task.texts, "rows", ()):
    digest.update(repr(tuple(row)).encode())
  for file in _files(source):
    digest.update(hashlib.sha256(file.read_bytes()).digest())
  path = epath.Path(source).expanduser() if source else ()
  count = len(task.table.prompt)
  return {
    "path": source, "what": f"{count} rows",
    "fingerprint": digest.hexdigest()[:16],
    "revision": "" if path and path.exists() else _revision_of_rows(source),
  }


def _files(source: str) -> list[epath.Path]:
  """The files of a disk among the sources of a mixture, or the one source."""
  names = (source, *(_WEIGHT.sub("", part) for part in source.split(",")))
  paths = [epath.Path(name).expanduser() for name in names if name]
  found = [path for path in paths if not is_remote(path) and path.is_file()]
  return list(dict.fromkeys(found))


def _revision_of_rows(source: str) -> str:
  """The commit of a hub data set, "owner/name:config"; "" for other sources."""
  if not source or is_remote(source) or source.endswith(FILES):
    return ""
  if "," in source or _WEIGHT.search(source):
    return ""  # A mixture: its names may say their revisions.
  import huggingface_hub

  try:
    name = source.partition("@")[0].partition(":")[0]
    found = huggingface_hub.HfApi().dataset_info(name, timeout=10.0)
    return found.sha or ""
  except Exception:  # noqa: BLE001 Optional: the rows are read.
    return ""


def model_of(path: str) -> dict[str, str]:
  """Fingerprint and revision of a model: its config and its weights.

  From a file of weights above 64 MiB, 64 blocks of 1 MiB are read, equally
  spaced from the first to the last.
  """
  folder, digest, total = weights.locate(path), hashlib.sha256(), 0
  names = sorted(
    file.name for file in folder.iterdir()
    if file.name == "config.json" or file.name.endswith(".safetensors")
  )
  for name in names:
    file = folder / name
    size = file.stat().length
    total += size
    digest.update(f"{name} {size}".encode())
    for block in _blocks(file, size):
      digest.update(block)
  return {
    "what": f"a model of {total} bytes",
    "fingerprint": digest.hexdigest()[:16], "revision": revision_of(folder),
  }


def _blocks(file: epath.Path, size: int) -> Iterator[bytes]:
  with file.open("rb") as opened:
    if size <= _BLOCK * _BLOCKS:
      yield opened.read()
      return
    for i in range(_BLOCKS):
      opened.seek((size - _BLOCK) * i // (_BLOCKS - 1))
      yield opened.read(_BLOCK)


def revision_of(folder: epath.Path) -> str:
  """The commit of a folder in the hub's cache; "" for other folders."""
  inside = folder.parent.name == "snapshots"
  return folder.name if inside else ""


def known_of(workdir: Any) -> dict:
  """The sources that the workdir began with; {} if not known."""
  path = epath.Path(workdir) / FILE
  if not str(workdir) or not path.exists():
    return {}
  return read_json(path)


def check(workdir: Any, begun: Begun, known: dict, found: dict) -> list[str]:
  """A line for each changed source that no stage that has begun depends on.

  Raises ConfigError for other changed sources.
  """
  lines = []
  for field, now in found.items():
    was = known.get(field, now)
    if was["fingerprint"] == now["fingerprint"]:
      continue
    line = (
      f"config.{field}: {was['path']!r} was {was['what']} with the fingerprint"
      f" {was['fingerprint']}, {now['path']!r} is {now['what']} with"
      f" {now['fingerprint']}"
    )
    if _concerns(field, begun):
      raise ConfigError(
        f"{workdir} was begun with other content of {line}: put back what was"
        " there, or give another --workdir"
      )
    lines.append(line)
  return lines


def _concerns(field: str, begun: Begun) -> bool:
  first, *rest = field.split(".")
  if first == "stage":
    return rest[0] in begun.stages
  if first == "roles":
    return rest[0] in begun.roles
  return first != "evaluate" and bool(begun.stages)


def pinned(config: dict, known: dict) -> dict:
  """The config with the hub revisions that the run began with.

  Paths that name a revision, and paths that have changed, are kept.
  """
  at = lambda field, path: _at(known.get(field, {}), path)

  def renamed(field: str, part: str, given: dict) -> dict:
    path = given.get(part, "")
    whole = field if part == "source" else f"{field}.{part}"
    return given | {part: at(whole, path)} if path else given

  found = dict(config)
  found["model"] = renamed("model", "path", config["model"])
  found["task"] = renamed("task", "source", config["task"])
  test = renamed("evaluate.task", "source", config["evaluate"].get("task", {}))
  if test:
    found["evaluate"] = config["evaluate"] | {"task": test}
  if "roles" in config:
    found["roles"] = {
      name: renamed(f"roles.{name}", "path", role)
      for name, role in config["roles"].items()
    }
  found["stage"] = {
    name: stage | {
      "task": renamed(f"stage.{name}.task", "source", stage["task"])
    } if stage.get("task", {}) else stage
    for name, stage in config["stage"].items()
  }
  return found


def _at(known: dict, path: str) -> str:
  revision = known.get("revision", "")
  same = known.get("path", "") == path and "@" not in path
  return f"{path}@{revision}" if revision and same else path


def _options(config: dict, field: str) -> dict:
  """The options of config.`field`, with those of config.task as defaults."""
  own: Any = config
  for part in field.split("."):
    own = own.get(part, {})
  return dict(config["task"]) | dict(own)
