"""A file of rows that grows part by part: what is killed loses one part.

Parts lie beside the file, in a folder with the ending .parts, each of them
whole or not there, on a disk and on gs:// alike; in the end they become the
file.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from sitrain.runtime import workdir as workdirs
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import is_remote


def folder_of(path: Any) -> epath.Path:
  """Where the parts of a file lie until it is whole."""
  return epath.Path(f"{path}.parts")


def header_of(path: Any) -> epath.Path:
  """The JSON file that says how the rows were made, and what they add up to."""
  return epath.Path(f"{path}.json")


def claim(path: Any, options: dict[str, Any]) -> None:
  """Raises ConfigError where a file was begun with other options.

  Also where rows lie at `path` and nothing says where they come from.
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
  if field:
    raise ConfigError(
      f"--output={path} holds samples with {field}={was}, and this command asks"
      f" for {now}: give another --output"
    )


def begin(path: Any, options: dict[str, Any]) -> None:
  """Says in the header how the rows are made."""
  if jax.process_index() == 0 and not header_of(path).exists():
    workdirs.write_json(header_of(path), {"options": options})


def note(path: Any, summary: dict[str, Any]) -> None:
  """Writes what the rows add up to into the header."""
  header = header_of(path)
  known = workdirs.read_json(header) | {"summary": summary}
  workdirs.write_json(header, known)


def read(path: Any) -> list[dict[str, Any]]:
  """The rows that there are by their numbers, of the file and its parts."""
  file, folder = epath.Path(path), folder_of(path)
  files = [file] if file.exists() else []
  if folder.exists():
    files += [p for p in folder.iterdir() if p.name.endswith(".jsonl")]
  found = {row["row"]: row for part in files for row in _rows(part)}
  return [found[number] for number in sorted(found)]


def add(path: Any, rows: Sequence[dict[str, Any]]) -> None:
  """Writes the next part."""
  folder, names = folder_of(path), []
  folder.mkdir(parents=True, exist_ok=True)
  if folder.exists():  # On gs:// an empty one does not.
    names = [p.stem for p in folder.iterdir() if p.name.endswith(".jsonl")]
  number = max((int(name) for name in names if name.isdigit()), default=0) + 1
  _write(folder / f"{number:05d}.jsonl", rows)


def finish(path: Any) -> list[dict[str, Any]]:
  """Makes the file of its parts, in order, and removes them; all rows."""
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
  """A reader sees the whole file or none."""
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  text = "".join(lines)
  for end in "\x85\u2028\u2029":  # Some readers would end a line there.
    text = text.replace(end, f"\\u{ord(end):04x}")
  content = text.encode(errors="replace")
  if is_remote(path):  # Writing an object replaces it as a whole.
    path.write_bytes(content)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  new = epath.Path(f"{path}.new")
  new.write_bytes(content)
  os.replace(new, path)
