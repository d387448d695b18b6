"""The data sets and models that a run began with, by fingerprint.

A path may have another file later, and a name of the hub another revision.
WORKDIR/sources.json has a fingerprint of each source. A run whose sources have
changed is not resumed.
"""

import glob
import hashlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import numpy as np
from etils import epath

from sitrain.models.huggingface import download, weights
from sitrain.runtime.identity import Begun
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import is_remote
from sitrain.runtime.task import reads_text
from sitrain.tasks.own_functions import with_imports
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
  }
  for field, one in tasks.items():
    options = _options(config, field)
    # Rows that an earlier stage writes are made by the run itself.
    written = field.startswith("stage") and _table(config, field)
    if one.table != () and not written:
      found[field] = rows_of(one, options.get("source", ""))
    found |= files_of(field, options)
  for name, stage in config["stage"].items():
    found |= files_of(f"stage.{name}.method", stage.get("method", {}))
  if reads_text(config):
    found |= _tokenizer(config, pins)
  given, pinned_paths = models_of(config), models_of(pins)
  return found | {
    field: model_of(pinned_paths[field]) | {"path": path}
    for field, path in given.items()
  }


def _table(config: dict, field: str) -> dict:
  return config["stage"][field.split(".")[1]].get("table", {})


def _tokenizer(config: dict, pins: dict) -> dict[str, dict]:
  """Fingerprints of tokenizer and template; {} if the run trains its own.

  The end tokens of a model are among the files.
  """
  found, given = {}, config.get("tokenizer", {})
  path = given.get("path", "") or config["model"].get("path", "")
  if path:
    pinned = pins.get("tokenizer", {}).get("path", "") or pins["model"]["path"]
    folder = download.locate_tokenizer(pinned)
    files = [
      file for file in sorted(folder.iterdir()) if file.is_file()
      and any(fnmatch(file.name, x) for x in download.TOKENIZER_FILES)
    ]
    found["tokenizer"] = _of_files(path, files, "a tokenizer")
    found["tokenizer"]["revision"] = revision_of(folder)
  template = given.get("template", "")
  if template and epath.Path(template).expanduser().is_file():
    file = epath.Path(template).expanduser()
    found["tokenizer.template"] = _of_files(template, [file], "a file")
  return found


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
  """Fingerprints of the files of functions or texts that options name.

  With the files that they import from their own folder; not those that they
  read while they run, and no installed packages.
  """
  found = {}
  for name, value in options.items():
    inner = f"{field}.{name}"
    if isinstance(value, dict):
      found |= files_of(inner, value)
    if there := _named(value):
      found[inner] = _of_files(value, there, "a file")
  return found


def _named(value: Any) -> list[epath.Path]:
  """The files of the "file:" names of an option, with their imports."""
  parts = value.split(",") if isinstance(value, str) else ()
  parts = [part.strip() for part in parts]
  named = [p.removeprefix(_FILE) for p in parts if p.startswith(_FILE)]
  paths = [epath.Path(part.partition(":")[0]).expanduser() for part in named]
  there = [path for path in paths if path.is_file()]
  known = [pathlib.Path(path) for path in there if not is_remote(path)]
  imported = [x for one in known for x in with_imports(one)[1:]]
  return list(dict.fromkeys([*there, *map(epath.Path, imported)]))


def _of_files(path: str, files: list[epath.Path], what: str) -> dict[str, str]:
  size = sum(file.stat().length for file in files)
  digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
  count = f", in {len(files)} files" if len(files) > 1 else ""
  return {
    "path": path, "what": f"{what} of {size} bytes{count}",
    "fingerprint": digest.hexdigest()[:16], "revision": "",
  }


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
  """The files of a disk that a source, or each of a mixture, is read from."""
  names = (source, *(_WEIGHT.sub("", part) for part in source.split(",")))
  found: list[str] = []
  for name in filter(None, names):
    place = os.path.expanduser(name)
    if os.path.isdir(place):
      inside = sorted(glob.glob(f"{glob.escape(place)}/**", recursive=True))
      found += [one for one in inside if one.endswith((*FILES, ".arrow"))]
    elif not is_remote(place):
      found += [place] if os.path.isfile(place) else sorted(glob.glob(place))
  return [epath.Path(x) for x in dict.fromkeys(found) if os.path.isfile(x)]


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
  """The sources that the workdir began with; {} if not known.

  Raises ValueError for a damaged file: without it nobody would notice that a
  run goes on with other data.
  """
  path = epath.Path(workdir) / FILE
  if not str(workdir) or not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f"{path} is not JSON ({error}): put back what was there, or give another"
      " --workdir"
    ) from error


def check_base(workdir: Any, config: dict) -> None:
  """Raises ConfigError if adapters of a run were trained on another base.

  The same path may hold another model by now, and its output would be wrong in
  silence.
  """
  was = known_of(workdir).get("model.path", {})
  if not was or not config["model"].get("lora", {}).get("rank", 0):
    return
  now = model_of(config["model"]["path"])
  if now["fingerprint"] != was["fingerprint"]:
    raise ConfigError(
      f"the adapters of {workdir} are of another base than config.model.path="
      f"{was['path']!r} has now: that was {was['what']} with the fingerprint"
      f" {was['fingerprint']}, and is {now['what']} with {now['fingerprint']}:"
      " put back what was there"
    )


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
  if path := config.get("tokenizer", {}).get("path", ""):
    found["tokenizer"] = config["tokenizer"] | {"path": at("tokenizer", path)}
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
  """The options of config.`field`, with those of config.task as defaults.

  A stage's task of another name has none of these.
  """
  own: Any = config
  for part in field.split("."):
    own = own.get(part, {})
  shared = dict(config["task"])
  other = own.get("name", shared["name"]) != shared["name"]
  return dict(own) if other and field.startswith("stage") else shared | own
