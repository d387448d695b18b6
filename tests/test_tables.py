"""Rows of data sets, from files of all kinds."""

import gzip
import json
import os
import pathlib

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from sitrain.tasks import tables

ROWS = [
  {"question": "2 + 3?", "answer": "5", "tests": ["a"], "level": 1},
  {"question": "Größe\u2028?", "answer": "µ", "tests": [], "level": 2},
  {"question": "x", "answer": "y\nz", "tests": ["b", "c"], "level": 0},
]
FIELDS = {"problem": "question", "gold": "answer", "level": "level"}
EXPECTED = [
  {"problem": r["question"], "gold": r["answer"], "level": r["level"]}
  for r in ROWS
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def write(folder, name, rows=None, text=None):
  """A file of the kind that its name says; returns its path."""
  path = pathlib.Path(folder) / name
  rows = ROWS if rows is None else rows
  if name.endswith(".parquet"):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)
  if text is None:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
  data = text if isinstance(text, bytes) else text.encode()
  path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  return str(path)


NAMES = ["a.json", "a.jsonl", "a.jsonl.gz", "a.json.gz", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_every_kind(tmp_path, name):
  assert tables.read(write(tmp_path, name), fields=FIELDS) == EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_files_at_an_address(tmp_path, name):
  memory = fsspec.filesystem("memory")
  memory.pipe(f"/bucket/{name}", pathlib.Path(write(tmp_path, name)).
              read_bytes())
  assert tables.read(f"memory://bucket/{name}", fields=FIELDS) == EXPECTED
  memory.store.clear()


def test_a_json_file_may_hold_a_list(tmp_path):
  for name in ("list.json", "list.json.gz"):
    path = write(tmp_path, name, text=json.dumps(ROWS, indent=1))
    assert tables.read(path, fields=FIELDS) == EXPECTED


def test_blank_lines_line_ends_and_marks_are_passed_over(tmp_path):
  text = "\ufeff" + LINES.replace("\n", "\r\n\r\n") + "\n\n"
  path = write(tmp_path, "a.jsonl", text=text)
  assert tables.read(path, fields=FIELDS) == EXPECTED


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_pattern_names_several_files(tmp_path, kind):
  for i in (2, 0, 1):
    write(tmp_path, f"part-{i}.{kind}", rows=[ROWS[i]])
  path = str(tmp_path / f"part-*.{kind}")
  assert tables.read(path, fields=FIELDS) == EXPECTED
  with pytest.raises(ValueError, match=r"there is no file .*none-\*\.jsonl"):
    tables.read(str(tmp_path / "none-*.jsonl"), fields=FIELDS)


def refused(match, source, **options):
  """The message of the error for `source`, one line that matches."""
  with pytest.raises(ValueError, match=match) as error:
    tables.read(source, **{"fields": FIELDS, **options})
  assert "\n" not in str(error.value)
  return str(error.value)


def test_missing_files_are_refused(tmp_path):
  refused("there is no file .*a.jsonl", str(tmp_path / "a.jsonl"))
  refused("there is no file memory://b/a.parquet", "memory://b/a.parquet")
  refused(r"no file or folder .*\.txt.*\.jsonl\.gz", str(tmp_path / "a.txt"))
  (tmp_path / "d.json").mkdir()
  refused("there is no file", str(tmp_path / "d.json"))


def test_missing_fields_are_refused(tmp_path):
  path = write(tmp_path, "a.jsonl", rows=[*ROWS, {"question": "?", "answr": 1}])
  message = refused(r"row 4 of .*a.jsonl has no field 'answer'", path)
  assert "(do you mean 'answr'?): name one of answr, question" in message
  path = write(tmp_path, "a.parquet")
  fields = {"gold": "anser"}
  message = refused("a.parquet has no field 'anser'", path, fields=fields)
  assert "(do you mean 'answer'?)" in message and "level, question" in message


def test_tables_without_rows(tmp_path):
  for name, text in (("a.jsonl", "\n\n"), ("a.json", "[]"), ("b.json", "")):
    path = write(tmp_path, name, text=text)
    refused("has no rows: name a data set that has some", path)
  empty = pyarrow.Table.from_pylist(ROWS).slice(0, 0)
  parquet.write_table(empty, tmp_path / "a.parquet")
  refused("has no rows", str(tmp_path / "a.parquet"))


BROKEN = {
  r"line 2 of .* is no JSON \(.* at column": '{"question": 1}\n{"question": ',
  "line 3 of .* is no object|line 3 of .*, no object": "{}\n{}\n[1, 2]",
  "line 2 of .* is no UTF-8": b'{}\n{"question": "\xff"}',
  "is one object over several lines: write": '{\n"rows": [{}]\n}',
}


@pytest.mark.parametrize("match", BROKEN)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_broken_lines_are_numbered(tmp_path, name, match):
  refused(match, write(tmp_path, name, text=BROKEN[match]), fields={})


def test_broken_lists_are_numbered(tmp_path):
  path = write(tmp_path, "a.json", text='[\n{"a": 1},\n{"a": }\n]')
  refused("line 3 of .*a.json is no JSON", path)
  path = write(tmp_path, "b.json", text='[\n{"a": 1}, 7\n]')
  refused("element 2 of .*b.json is '7', no object", path, fields={})
  path = write(tmp_path, "c.json", text=b'[\n{"a": 1},\n"\xff"\n]')
  refused("line 3 of .*c.json is no UTF-8", path)


def test_damaged_files_are_named(tmp_path):
  for name, match in (
    ("a.jsonl.gz", "cannot be read"), ("a.parquet", "no complete parquet file"),
  ):
    path = pathlib.Path(write(tmp_path, name, rows=ROWS * 50))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(match, str(path))
  path.write_bytes(b"no gzip")
  refused("cannot be read", str(path.rename(tmp_path / "b.jsonl.gz")))


def test_empty_values_are_counted(tmp_path):
  rows = [*ROWS, {**ROWS[0], "answer": " \n"}, {**ROWS[0], "answer": None},
          {**ROWS[0], "question": ""}]
  for name in ("a.jsonl", "a.parquet"):
    path = write(tmp_path, name, rows=rows)
    message = refused("has empty values among its 6 rows", path)
    assert "'question' in 1, first in row 6" in message
    assert "'answer' in 2, first in row 4" in message
    assert "'level'" not in message  # 0 is a value
  path = write(tmp_path, "b.jsonl")
  fields = {"checks": "tests"}
  refused("'tests' in 1, first in row 2", path, fields=fields)
  read = tables.read(path, fields=fields, may_be_empty=("checks",))
  assert [row["checks"] for row in read] == [["a"], [], ["b", "c"]]
  refused("may_be_empty has no field 'tests'", path, may_be_empty=("tests",))


def test_a_file_has_no_splits(tmp_path):
  refused("split='test' of the file", write(tmp_path, "a.jsonl"), split="test")


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A folder with two splits; `datasets` keeps its copies elsewhere."""
  import datasets

  monkeypatch.setattr(
    datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache")
  )
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", "train.jsonl")
  write(tmp_path / "data", "test.jsonl", rows=ROWS[:1])
  return str(tmp_path / "data")


def test_splits_of_a_data_set(hub):
  assert tables.read(hub, split="train", fields=FIELDS) == EXPECTED
  assert tables.read(hub, split="test", fields=FIELDS) == EXPECTED[:1]
  refused("has the splits train, test: name one", hub)
  match = r"no split 'trian' \(do you mean 'train'\?\): name one of train, test"
  refused(match, hub, split="trian")
  message = refused("has no field 'anser'", hub, split="train",
                    fields={"gold": "anser"})
  assert "(train)" in message and "do you mean 'answer'" in message


def test_names_and_configs_of_the_hub(monkeypatch):
  """What the hub is asked for; a stand-in answers."""
  import datasets

  asked = []

  def load_dataset(name, config, *, revision):
    asked.append((name, config, revision))
    if name == "owner/none":
      raise FileNotFoundError("Couldn't find it\nanywhere")
    table = datasets.Dataset.from_list(ROWS)
    return datasets.DatasetDict({"train": table})

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  assert tables.read("openai/gsm8k:main", fields=FIELDS) == EXPECTED
  assert tables.read("gsm8k", split="train", fields=FIELDS) == EXPECTED
  assert tables.read("openai/gsm8k:main@v1/2", fields=FIELDS) == EXPECTED
  assert tables.read("owner/rows@0a1b", fields=FIELDS) == EXPECTED
  assert asked == [
    ("openai/gsm8k", "main", None), ("gsm8k", None, None),
    ("openai/gsm8k", "main", "v1/2"), ("owner/rows", None, "0a1b"),
  ]
  refused(r"owner/none cannot be loaded \(Couldn't find it\)", "owner/none")


def test_a_saved_folder_keeps_its_splits(tmp_path, monkeypatch):
  """`load_dataset` refuses one, and would join splits of other names."""
  import datasets

  datasets.disable_progress_bars()
  rows = datasets.Dataset.from_list(ROWS)
  rows.save_to_disk(tmp_path / "one")
  for name in (str(tmp_path / "one"), f"file://{tmp_path}/one"):
    assert tables.read(name, fields=FIELDS) == EXPECTED
  splits = {"easy": rows, "hard": rows.select([1])}
  datasets.DatasetDict(splits).save_to_disk(tmp_path / "two")
  monkeypatch.chdir(tmp_path)  # Without a slash it is no name of the hub.
  assert tables.read("two", split="hard", fields=FIELDS) == EXPECTED[1:2]
  refused("two has the splits easy, hard: name one", "two")
  refused("two has no split 'test': name one of easy, hard", "two",
          split="test")


def test_a_remote_folder_of_files_is_named_by_a_pattern():
  memory = fsspec.filesystem("memory")
  memory.pipe("/rows/a.jsonl", LINES.encode())
  refused("by a pattern, as memory://rows/.*/*.parquet", "memory://rows")
  assert tables.read("memory://rows/*.jsonl", fields=FIELDS) == EXPECTED
  memory.store.clear()


PUBLIC = {
  "gsm8k_train.jsonl": (7473, {"problem": "question", "gold": "answer"}),
  "math500.jsonl": (500, {"problem": "problem", "gold": "answer"}),
  "mbpp.jsonl": (974, {"problem": "text", "tests": "test_list"}),
  "HumanEval.jsonl.gz": (164, {"problem": "prompt", "tests": "test"}),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_data_sets_are_read_completely(name):
  folder = os.environ.get("SITRAIN_DATA")
  if not folder:
    pytest.skip("SITRAIN_DATA names no folder with public data sets")
  count, fields = PUBLIC[name]
  rows = tables.read(str(pathlib.Path(folder) / name), fields=fields)
  assert len(rows) == count
  assert all(set(row) == set(fields) for row in rows)
