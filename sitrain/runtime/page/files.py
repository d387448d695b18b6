"""The files of a run as its report needs them, whatever is missing or torn."""

import json
import re
from typing import Any, NamedTuple

from etils import epath

Record = dict[str, Any]

# What a run writes, and when; said where it is missing.
WRITTEN = {
  "metrics.jsonl": "after the first steps",
  "summary.json": "when the first stage has ended",
  "config.json": "when the run starts",
}
_START = re.compile(r"^\S+ \S+ --- (\S+) (.*)$")  # of a process, in its log


class Files(NamedTuple):
  """What was found of a run."""

  name: str
  folder: str
  records: list[Record]  # metrics.jsonl
  samples: list[Record]  # samples.jsonl
  summary: Record
  config: Record
  evaluation: Record
  arguments: str  # of the last command that trained it; "" if not known
  notes: list[str]  # what is missing or could not be read, a line each


def read(folder: Any) -> Files:
  """Reads all files of a run that are there.

  Raises FileNotFoundError if there are neither metrics nor a summary.
  """
  folder, notes = epath.Path(folder), []
  lines = {}
  for name in ("metrics.jsonl", "samples.jsonl"):
    lines[name], torn = read_lines(folder / name)
    if torn:
      each = "1 line is" if torn == 1 else f"{torn} lines are"
      notes.append(f"{name}: {each} torn or no record, and left out")
  objects = {
    name: _object(folder / name, notes)
    for name in ("summary.json", "config.json", "evaluation.json")
  }
  if not lines["metrics.jsonl"] and not objects["summary.json"]:
    raise FileNotFoundError(
      f"{folder} has neither metrics.jsonl nor summary.json: give the"
      " --workdir of a run"
    )
  notes += [
    f"{name} is missing: a run writes it {when}"
    for name, when in WRITTEN.items() if not (folder / name).exists()
  ]
  return Files(
    folder.name, str(folder), lines["metrics.jsonl"], lines["samples.jsonl"],
    *objects.values(), _arguments(folder / "logs" / "host_0.log"), notes,
  )


def read_lines(path: Any) -> tuple[list[Record], int]:
  """The records of a .jsonl file, and how many lines hold none."""
  path, found, torn = epath.Path(path), [], 0
  for line in _text(path).splitlines() if path.exists() else []:
    try:
      record = json.loads(line)
    except ValueError:
      record = ()
    if isinstance(record, dict):
      found.append(record)
    else:
      torn += bool(line.strip())
  return found, torn


def read_records(path: Any) -> list[Record]:
  """The records of a metrics.jsonl; lines that hold none are skipped."""
  return read_lines(path)[0]


def _text(path: epath.Path) -> str:
  """Half a character at the end of a torn file is no reason to read nothing."""
  return path.read_bytes().decode("utf-8", errors="replace")


def _object(path: epath.Path, notes: list[str]) -> Record:
  if not path.exists():
    return {}
  try:
    found = json.loads(_text(path))
  except ValueError:
    found = ()
  if isinstance(found, dict):
    return found
  notes.append(f"{path.name} is torn, and left out")
  return {}


def _arguments(log: epath.Path) -> str:
  """Those of the last process that wrote to a log of the run."""
  found = ""
  for line in _text(log).splitlines() if log.exists() else []:
    start = _START.match(line)
    if start and "--workdir" in start[2]:
      found = start[2]
  return found
