"""Rows of a data set, from the hub or from files."""

import csv
import difflib
import io
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sitrain.tasks.fields import Reader
from sitrain.tasks.fields import read as read_field

FILES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".csv")


def read(
  source: str,
  *,
  split: str = "",
  fields: Mapping[str, str],
  readers: Mapping[str, Reader] = MappingProxyType({}),
  may_be_empty: Collection[str] = (),
) -> list[dict[str, Any]]:
  """All rows of a data set, with its fields under our names.

  Args:
    source: a file whose name ends as in FILES, on a disk or at an address that
      fsspec knows, such as gs://; a pattern with `*` for several of one kind,
      read in the order of their names; a folder of such files, or one that
      `save_to_disk` of `datasets` wrote; or a data set of the hub as
      "owner/name" or "owner/name:config", which may end in "@revision".
    split: a split of a folder or of the hub; "" where there is only one. A file
      has none.
    fields: name of each field in the result -> its name in the data set.
    readers: name in the result -> a function of fields.py that reads the value;
      a field without one is unchanged.
    may_be_empty: fields of the result that may be missing or empty.

  A .json file holds a list of objects, or an object a line, as .jsonl does. A
  .csv file begins with the names of its fields; all its values are text.
  Raises ValueError, with the row (from 1) or line, for data that cannot be
  read, a missing split or field, values that their reader refuses, empty
  values, and a table without rows.
  """
  rows = whole_rows(source, split=split, fields=fields)
  name = f"{source} ({split})" if split else source
  renamed = [
    _renamed(row, fields, readers, f"row {number} of {name}")
    for number, row in enumerate(rows, 1)
  ]
  if not renamed:
    raise ValueError(f"{name} has no rows: name a data set that has some")
  _check_values(renamed, fields, may_be_empty, name)
  return renamed


def whole_rows(
  source: str, *, split: str = "",
  fields: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[dict[str, Any]]:
  """The rows of `read` as they are, with all their fields where none is named.

  Raises ValueError for data that cannot be read.
  """
  if not source.endswith(FILES):
    return _from_hub(source, split, fields)
  if split:
    raise ValueError(
      f"split={split!r} of the file {source}: a file has no splits, leave it "
      "empty and name the file of the split"
    )
  return _from_files(source, fields)


def first(rows: Sequence[Any], limit: int) -> Sequence[Any]:
  """The first `limit` rows; 0: all. ValueError for a limit below 0."""
  if limit < 0:
    raise ValueError(f"limit={limit}: give the number of rows, or 0 for all")
  return rows[: limit or None]


def _renamed(row, fields, readers, where) -> dict[str, Any]:
  for theirs in fields.values():
    _check_field(theirs, row, where)
  values = {ours: row[theirs] for ours, theirs in fields.items()}
  return values | {
    ours: read_field(values[ours], reader, f"{where}: field {fields[ours]!r}")
    for ours, reader in readers.items()
  }


def _check_field(name: str, known: Collection[str], where: str) -> None:
  if name not in known:
    raise ValueError(
      f"{where} has no field {name!r}{_suggestion(name, known)}: name one of "
      f"{', '.join(sorted(known)) or 'none, for it is empty'}"
    )


def _suggestion(name: str, known: Collection[str]) -> str:
  near = difflib.get_close_matches(name, list(known), 1)
  return f" (do you mean {near[0]!r}?)" if near else ""


def _check_values(
  rows: Sequence[Mapping[str, Any]],
  fields: Mapping[str, str],
  may_be_empty: Collection[str],
  name: str,
) -> None:
  """Raises ValueError for fields with empty values, counted."""
  for ours in may_be_empty:
    _check_field(ours, fields, "may_be_empty")
  found = []
  for ours in (ours for ours in fields if ours not in may_be_empty):
    empty = [i for i, row in enumerate(rows, 1) if _is_empty(row[ours])]
    if empty:
      found.append(f"{fields[ours]!r} in {len(empty)}, first in row {empty[0]}")
  if found:
    raise ValueError(
      f"{name} has empty values among its {len(rows)} rows ("
      f"{'; '.join(found)}): fill them in or leave these rows out"
    )


def _is_empty(value: Any) -> bool:
  if isinstance(value, str):
    return not value.strip()
  return value is None or (isinstance(value, (list, dict)) and not value)


def _from_files(
  source: str, fields: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
  """Rows of one file, or of all that a pattern names."""
  import fsspec

  try:
    system, path = fsspec.core.url_to_fs(source)
    paths = sorted(system.glob(path)) if "*" in path else [path]
    if not paths or not all(system.isfile(path) for path in paths):
      raise ValueError(
        f"there is no file {source}, or you may not read it: check the path"
      )
    for path in paths:
      name = source if "*" not in source else path
      compression = "gzip" if path.endswith(".gz") else None
      with system.open(path, "rb", compression=compression) as file:
        if path.endswith(".parquet"):
          yield from _parquet(file, name, fields)
        elif path.endswith(".csv"):
          yield from _csv(file, name)
        else:
          yield from _json(file, name)
  except (OSError, EOFError, zlib.error, ImportError) as error:
    why = " ".join(str(error).split())
    raise ValueError(
      f"{source} cannot be read ({why}): check that it is complete and that "
      "you may read it"
    ) from error


def _json(file: Any, name: str) -> Iterator[dict[str, Any]]:
  """Objects of a list, or of lines; blank lines are skipped."""
  content = file.read()
  content = content.removeprefix(b"\xef\xbb\xbf")  # a byte-order mark
  if content.lstrip()[:1] == b"[":
    for number, row in enumerate(_loaded(content, name, 0), 1):
      yield _object(row, f"element {number} of {name}")
    return
  lines = content.split(b"\n")
  if lines[0].strip() == b"{":
    raise ValueError(
      f"{name} is one object over several lines: write a list of objects, or "
      "each object in a line of its own"
    )
  for number, line in enumerate(lines, 1):
    if line.strip():
      yield _object(_loaded(line, name, number), f"line {number} of {name}")


def _csv(file: Any, name: str) -> Iterator[dict[str, Any]]:
  """Rows of a .csv file; its first line has the names of the fields."""
  try:
    content = file.read().decode("utf-8-sig")
    rows = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    names = rows.fieldnames or []
    if twice := [name for name in names if names.count(name) > 1]:
      raise ValueError(
        f"the first line of {name} has the name {twice[0]!r} twice, so that one"
        " of the columns would be lost: rename it"
      )
    for number, row in enumerate(rows, 1):
      if None in row or None in row.values():
        raise ValueError(
          f"row {number} of {name} has {_many(row)} values than the first line "
          'has names: put values with a comma in quotes, "a, b"'
        )
      yield row
  except UnicodeDecodeError as error:
    raise ValueError(f"{name} is no UTF-8: save the file as UTF-8") from error
  except csv.Error as error:
    raise ValueError(
      f"line {rows.line_num} of {name} is no CSV ({error}): mend it"
    ) from error


def _many(row: dict) -> str:
  return "more" if None in row else "fewer"


def _loaded(content: bytes, name: str, line: int) -> Any:
  """JSON of a line, or of a file where `line` is 0."""
  try:
    return json.loads(content.decode())
  except UnicodeDecodeError as error:
    at = line or 1 + content[: error.start].count(b"\n")
    raise ValueError(
      f"line {at} of {name} is no UTF-8: save the file as UTF-8"
    ) from error
  except json.JSONDecodeError as error:
    raise ValueError(
      f"line {line or error.lineno} of {name} is no JSON ({error.msg} at "
      f"column {error.colno}): mend or remove it"
    ) from error
  except (ValueError, RecursionError) as error:  # a huge number, deep lists
    where = f"line {line} of {name}" if line else name
    raise ValueError(f"{where} cannot be read ({error}): mend it") from error


def _object(row: Any, where: str) -> dict[str, Any]:
  if not isinstance(row, dict):
    raise ValueError(
      f"{where} is {str(row)[:30]!r}, no object: write "
      "{\"field\": value, ...}"
    )
  return row


def _parquet(
  file: Any, name: str, fields: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
  """Rows of a parquet file, of the named columns only."""
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(file)
    for theirs in fields.values():
      _check_field(theirs, table.schema_arrow.names, name)
    for batch in table.iter_batches(columns=list(fields.values()) or None):
      yield from batch.to_pylist()
  except pyarrow.ArrowException as error:
    why = " ".join(str(error).split())
    raise ValueError(
      f"{name} is no complete parquet file ({why}): copy it again"
    ) from error


def _from_hub(
  source: str, split: str, fields: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
  """Rows of a data set that the library `datasets` loads."""
  import datasets

  local = os.path.exists(source)  # Its name might be that of one of the hub.
  if local or "://" in source or source.startswith(("/", ".", "~")):
    name, config, revision = _folder(source), "", ""
    saved = _is_saved(name)
    if "://" in name and not saved:  # `datasets` would look on the disk.
      raise ValueError(
        f"{source} is a folder that save_to_disk did not write: name its files "
        f"by a pattern, as {name.rstrip('/')}/*.parquet"
      )
  else:
    where, _, revision = source.partition("@")
    name, _, config = where.partition(":")
    saved = False
  try:
    found = _saved(name) if saved else datasets.load_dataset(
      name, config or None, revision=revision or None
    )
  except Exception as error:  # of many kinds, and some of many lines
    why = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise ValueError(
      f"the data set {source} cannot be loaded ({why}): give a file that ends "
      f"in one of {', '.join(FILES)}, or a data set of the hub as "
      "'owner/name', 'owner/name:config' or 'owner/name:config@revision'"
    ) from error
  if not split and len(found) > 1:
    raise ValueError(f"{source} has the splits {', '.join(found)}: name one")
  split = split or next(iter(found))
  if split not in found:
    raise ValueError(
      f"{source} has no split {split!r}{_suggestion(split, found)}: name one "
      f"of {', '.join(found)}"
    )
  rows = found[split]
  for theirs in fields.values():
    _check_field(theirs, rows.column_names, f"{source} ({split})")
  yield from rows.select_columns(list(fields.values()) or rows.column_names)


def _is_saved(folder: str) -> bool:
  """Whether `save_to_disk` of `datasets` wrote a folder.

  As a folder of files like any other it would lose the names of its splits.
  """
  import fsspec

  system, path = fsspec.core.url_to_fs(folder)
  marks = ("dataset_dict.json", "state.json")
  return any(system.isfile(f"{path}/{mark}") for mark in marks)


def _saved(folder: str) -> Mapping[str, Any]:
  """The splits of a folder that `save_to_disk` wrote, by name."""
  import datasets

  found = datasets.load_from_disk(folder)
  if isinstance(found, datasets.DatasetDict):
    return found
  return {str(found.split or "train"): found}


def _folder(source: str) -> str:
  """The address of an existing folder."""
  import fsspec

  system, path = fsspec.core.url_to_fs(source)
  if not system.isdir(path):
    ends = f"give a file that ends in one of {', '.join(FILES)}"
    if system.isfile(path):
      raise ValueError(f"{source} is a file of another kind: {ends}")
    raise ValueError(f"there is no file or folder {source}: {ends}")
  return source if "://" in source else path
