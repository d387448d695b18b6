"""A file of rows, written in parts: a killed process loses at most one part.

The parts are in a folder beside the file, with the suffix .parts. Each is
written atomically, on a disk and on gs://. In the end they are merged into the
file.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Bool

from sitrain.runtime import workdir as workdirs
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import write_whole


def folder_of(path: Any) -> epath.Path:
  """The folder of a file's parts, until they are merged."""
  return epath.Path(f"{path}.parts")


def header_of(path: Any) -> epath.Path:
  """The JSON file with the options of the rows and their summary."""
  return epath.Path(f"{path}.json")


def claim(path: Any, options: dict[str, Any]) -> None:
  """Raises ConfigError if there are rows of other options.

  Also if there are rows at `path` without a header. A header alone, which a
  command leaves that has failed at its first row, may have any options.
  """
  header = header_of(path)
  if not header.exists():
    if epath.Path(path).exists() or folder_of(path).exists():
      raise ConfigError(
        f"--output={path} is taken, and {header} does not say by what: give "
        "another --output"
      )
    return
  begun = workdirs.read_json(header)
  known = begun.get("options") if isinstance(begun, dict) else None
  if not isinstance(known, dict):
    raise ConfigError(f"{header} is of something else: give another --output")
  field, was, now = workdirs.first_difference(known, options, ignore=())
  if field and _has_rows(path):
    raise ConfigError(
      f"--output={path} holds samples with {field}={was}, and this command asks"
      f" for {now}: give another --output"
    )


def begin(path: Any, options: dict[str, Any]) -> None:
  """Writes the options to the header, unless there are rows of it."""
  begun = header_of(path).exists() and _has_rows(path)
  if jax.process_index() == 0 and not begun:
    workdirs.write_json(header_of(path), {"options": options})


def _has_rows(path: Any) -> bool:
  folder = folder_of(path)
  return epath.Path(path).exists() or (
    folder.exists() and any(folder.iterdir())
  )


def note(path: Any, summary: dict[str, Any]) -> None:
  """Adds the summary of the rows to the header."""
  header = header_of(path)
  known = workdirs.read_json(header) | {"summary": summary}
  workdirs.write_json(header, known)


def known(path: Any) -> dict[str, Any]:
  """The summary that `note` wrote; {} before it."""
  return workdirs.read_json(header_of(path)).get("summary", {})


def read(path: Any) -> list[dict[str, Any]]:
  """The rows of the file and its parts, sorted by number."""
  file, folder = epath.Path(path), folder_of(path)
  files = [file] if file.exists() else []
  if folder.exists():
    files += [p for p in folder.iterdir() if p.name.endswith(".jsonl")]
  found = {row["row"]: row for part in files for row in _rows(part)}
  return [found[number] for number in sorted(found)]


def missing(path: Any, numbers: Sequence[int]) -> Bool[np.ndarray, " N"]:
  """Which of the rows `numbers` are not there, as the first process sees it."""
  lacks = np.ones(len(numbers), bool)
  if jax.process_index() == 0:
    done = {row["row"] for row in read(path)}
    lacks = np.array([number not in done for number in numbers])
  if jax.process_count() > 1:
    lacks = multihost_utils.broadcast_one_to_all(lacks)
  return np.asarray(lacks, bool)


def add(path: Any, rows: Sequence[dict[str, Any]]) -> None:
  """Writes the next part."""
  folder, names = folder_of(path), []
  folder.mkdir(parents=True, exist_ok=True)
  if folder.exists():  # On gs:// an empty folder does not exist.
    names = [p.stem for p in folder.iterdir() if p.name.endswith(".jsonl")]
  number = max((int(name) for name in names if name.isdigit()), default=0) + 1
  _write(folder / f"{number:05d}.jsonl", rows)


def finish(path: Any) -> list[dict[str, Any]]:
  """Merges the parts into the file and removes them; returns all rows."""
  rows = read(path)
  if folder_of(path).exists():
    _write(epath.Path(path), rows)
    folder_of(path).rmtree()
  return rows


def _rows(path: epath.Path) -> list[dict[str, Any]]:
  try:
    return [json.loads(x) for x in path.read_bytes().split(b"\n") if x.strip()]
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged ({error}): delete it, and its rows are made again"
    ) from error


def _write(path: epath.Path, rows: Sequence[dict[str, Any]]) -> None:
  """Writes a file atomically."""
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  text = "".join(lines)
  for end in "\x85\u2028\u2029":  # Some readers split lines there.
    text = text.replace(end, f"\\u{ord(end):04x}")
  write_whole(path, text.encode(errors="replace"))
