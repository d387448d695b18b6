"""Values of rows that are not what a task expects: read right, or refused.

Every refusal comes before a model is read, in one line with the row, the field
and what to do.
"""

import datetime
import decimal
import gzip
import json
import pathlib
import re

import pyarrow
import pytest
from pyarrow import parquet

from sitrain.tasks import (
  fields,
  gsm8k,
  humaneval,
  math,
  mbpp,
  mbpp_repair,
  tables,
  word_problems,
)
from sitrain.tasks.verifiers import grading
from sitrain.tasks.wording import wording

MESSAGES = [{"role": "user", "content": "How many?"}]
HALF = "a\ud800b"  # JSON may hold it, as \ud800
SUM = {"question": "1 + 1?", "answer": "1+1=2\n#### 2"}
EXPRESSION = {"problem": "x?", "answer": "2", "level": "Level 1"}
PROGRAM = {
  "text": "Add.", "code": "def add(a, b):\n  return a + b", "task_id": 601,
  "test_setup_code": "", "test_list": ["assert add(1, 2) == 3"],
  "challenge_test_list": [],
}
STUB = {
  "task_id": "HumanEval/0", "prompt": 'def two():\n    """Two."""\n',
  "entry_point": "two", "canonical_solution": "    return 2\n",
  "test": "def check(f):\n    assert f() == 2\n",
}


def write(folder, rows, name="rows.jsonl"):
  path = pathlib.Path(folder) / name
  path.write_text("\n".join(json.dumps(row) for row in rows))
  return str(path)


def rows_of(task, folder, changed):
  """Rows of a task from a file whose second problem is changed."""
  if task is mbpp:
    shown = [{**PROGRAM, "task_id": i} for i in mbpp.EXAMPLES]
    table = [*shown, {**PROGRAM, **changed}]
    return mbpp.rows(source=write(folder, table), split="train")
  plain = {gsm8k: SUM, math: EXPRESSION, humaneval: STUB}[task]
  path = write(folder, [plain, {**plain, **changed}])
  return task.rows(source=path, split="")


# What stands in a field of text, and what is said of it.
NO_TEXT = [
  (7, "is the number 7, where text was expected"),
  (4.5, "is the number 4.5"),
  (True, "is the truth value True"),
  (float("nan"), "is nan"),
  (float("inf"), "is inf"),
  (None, "empty values"),
  ("  \n", "empty values"),
  ([], "is a list, where text was expected"),
  (["How many?"], "is a list"),
  ({}, "is an object"),
  ({"text": "How many?"}, "is an object"),
  (MESSAGES, "is a list of chat messages.*content of the one message"),
  (MESSAGES[0], "is a chat message, where text"),
  (HALF, r"half of a character \('\\ud800' at place 1\)"),
]
PLACES = [
  (gsm8k, "question"), (math, "problem"), (mbpp, "text"), (mbpp, "code"),
  (humaneval, "prompt"), (humaneval, "test"), (humaneval, "entry_point"),
]


@pytest.mark.parametrize("value, words", NO_TEXT, ids=lambda x: ascii(x)[:30])
@pytest.mark.parametrize("task, field", PLACES, ids=lambda x: str(x)[-12:])
def test_values_of_other_kinds_are_refused(tmp_path, task, field, value, words):
  with pytest.raises(ValueError, match=words) as error:
    rows_of(task, tmp_path, {field: value})
  said = str(error.value)
  assert "\n" not in said and repr(field) in said and "rows.jsonl" in said
  assert ("row 4" if task is mbpp else "row 2") in said


NUMBERS = [
  (0, "0"), (42, "42"), (-3, "-3"), (4.5, "4.5"), (42.0, "42"), (-0.0, "0"),
  (0.0000001, "0.0000001"), (1e21, "1000000000000000000000"), ("0", "0"),
  ("1,002", None),
]


@pytest.mark.parametrize("value, answer", NUMBERS, ids=str)
def test_an_answer_may_be_a_number(tmp_path, value, answer):
  found = rows_of(math, tmp_path, {"answer": value})
  assert [row.answer for row in found] == ["2", answer or value]
  found = rows_of(gsm8k, tmp_path, {"answer": value})
  assert found[1].answer == (answer or "1002")
  assert found[1].solutions == () and len(found[0].solutions) == 1


BAD_ANSWERS = [
  (True, "is the truth value True"), (float("nan"), "is nan, which is no num"),
  (float("-inf"), "is -inf"), ([42], "is a list"), ({"a": 1}, "is an object"),
  (MESSAGES, "is a list of chat messages"), (HALF, "holds half of a char"),
]


@pytest.mark.parametrize("value, words", BAD_ANSWERS, ids=str)
@pytest.mark.parametrize("task", [gsm8k, math], ids=["gsm8k", "math"])
def test_an_answer_of_another_kind_is_refused(tmp_path, task, value, words):
  with pytest.raises(ValueError, match=f"row 2 of .*field 'answer' {words}"):
    rows_of(task, tmp_path, {"answer": value})


def test_a_solution_without_its_number_is_named(tmp_path):
  for answer in ("It is two.", "#### two"):
    with pytest.raises(ValueError, match="row 2 of .*field 'answer'.*#### 42"):
      rows_of(gsm8k, tmp_path, {"answer": answer})
  with pytest.raises(ValueError, match="'answer' in 1, first in row 2"):
    rows_of(gsm8k, tmp_path, {"answer": None})


def test_levels_may_be_numbers(tmp_path):
  found = rows_of(math, tmp_path, {"level": 1})
  assert [row.level for row in found] == ["level_1", "level_1"]
  with pytest.raises(ValueError, match="'level' in 1, first in row 2"):
    rows_of(math, tmp_path, {"level": None})


def test_kinds_of_parquet(tmp_path):
  path = str(tmp_path / "a.parquet")
  row = {"problem": "x?", "answer": decimal.Decimal("4.50"), "level": 3}
  parquet.write_table(pyarrow.Table.from_pylist([row]), path)
  assert math.rows(source=path, split="")[0].answer == "4.5"
  for value, words in (
    (b"x?", "is bytes, where text.*UTF-8"),
    (datetime.date(2024, 1, 2), "is a date, where text"),
  ):
    table = pyarrow.Table.from_pylist([{**row, "problem": value}])
    parquet.write_table(table, path)
    with pytest.raises(ValueError, match=f"row 1 of .*field 'problem' {words}"):
      math.rows(source=path, split="")


# MBPP and HumanEval: what would fail, or pass, in the middle of a run.
GOOD_PROGRAMS = [
  {"test_setup_code": None}, {"challenge_test_list": None},
  {"task_id": "601"}, {"task_id": 601.0},
]


@pytest.mark.parametrize("changed", GOOD_PROGRAMS, ids=str)
def test_optional_fields_of_programs_may_be_missing(tmp_path, changed):
  shown = [{**PROGRAM, "task_id": i} for i in mbpp.EXAMPLES]
  path = write(tmp_path, [*shown, {**PROGRAM, **changed}])
  row = mbpp.table_of(path, "train")[0][0]
  assert row == PROGRAM


BAD_PROGRAMS = [
  ("test_list", "assert add(1, 2) == 3", "is text, where a list of texts"),
  ("test_list", [1], "has an element 1 that is the number 1"),
  ("test_list", ["assert 1", None], "has an element 2 that is null"),
  ("test_list", [MESSAGES[0]], "has an element 1 that is a chat mes"),
  ("test_list", ["", "# none"], "holds no test, so that every program"),
  ("test_list", ["assert add(1, 2 == 3"], "is no Python that could run"),
  ("test_list", ["assert add(1, '\0')"], "is no Python that could run"),
  ("test_list", {"a": 1}, "is an object, where a list of texts"),
  ("challenge_test_list", 0, "is the number 0, where a list of texts"),
  ("test_setup_code", ["import math"], "is a list, where text"),
  ("test_setup_code", 0, "is the number 0, where text"),
  ("test_setup_code", "import (", "is no Python that could run"),
  ("code", "def add(:", "is no Python that could run"),
  ("task_id", "MBPP/601", "is 'MBPP/601', where an integer"),
  ("task_id", 601.5, "is '601.5', where an integer"),
  ("task_id", True, "is the truth value True"),
]


@pytest.mark.parametrize("field, value, words", BAD_PROGRAMS, ids=str)
def test_rows_that_no_program_could_be_tested_with(
  tmp_path, field, value, words
):
  match = f"row 4 of .*'{field}' {words}"
  with pytest.raises(ValueError, match=match) as error:
    rows_of(mbpp, tmp_path, {field: value})
  assert "\n" not in str(error.value)


def test_stubs_that_no_completion_could_pass(tmp_path):
  with pytest.raises(ValueError, match="row 2 .*'prompt' defines no .*'three'"):
    rows_of(humaneval, tmp_path, {"entry_point": "three"})
  with pytest.raises(ValueError, match="row 2 .*'test' defines no .*'check'"):
    rows_of(humaneval, tmp_path, {"test": "assert two() == 2"})
  assert rows_of(humaneval, tmp_path, {"task_id": 7})[1].name == "7"


def test_attempts_of_a_base_model(tmp_path):
  shown = [{**PROGRAM, "task_id": i} for i in (*mbpp.EXAMPLES, 601)]
  source = write(tmp_path, shown)
  attempt = "[BEGIN]\ndef add(a, b):\n  return a\n[DONE]"
  good = {"id": 601, "texts": [attempt, ""], "statuses": ["assert", "none"]}

  def repairs(changed):
    path = write(tmp_path, [{**good, **changed}], "attempts.jsonl")
    return mbpp_repair.rows(source=source, attempts=path)

  assert [row.given for row in repairs({})] == [(attempt,)]
  assert len(repairs({"id": "601"})) == 1
  for changed, words in (
    ({"texts": attempt}, "'texts' is text, where a list of texts"),
    ({"statuses": ["assert", 1]}, "'statuses' has an element 2 that is the nu"),
    ({"statuses": ["assert"]}, "has 2 texts and 1 statuses"),
    ({"id": None}, "'id' in 1, first in row 1"),
  ):
    with pytest.raises(ValueError, match=words) as error:
      repairs(changed)
    assert "row 1" in str(error.value) and "attempts.jsonl" in str(error.value)


def test_numbers_and_lists_that_json_itself_refuses(tmp_path):
  for value in ("1" * 5000, "[" * 100_000):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(SUM) + '\n{"question": ' + value + "}")
    with pytest.raises(ValueError, match="line 2 of .*a.jsonl"):
      gsm8k.rows(source=str(path), split="")
  (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[" * 100_000))
  with pytest.raises(ValueError, match="a.json.gz cannot be read"):
    gsm8k.rows(source=str(tmp_path / "a.json.gz"), split="")


@pytest.mark.parametrize("task", [gsm8k, math, humaneval])
def test_a_limit_below_zero_would_drop_the_last_rows(tmp_path, task):
  rows = {gsm8k: [SUM] * 3, math: [EXPRESSION] * 3, humaneval: [STUB] * 3}
  path = write(tmp_path, rows[task])
  assert len(task.rows(source=path, split="", limit=2)) == 2
  assert len(task.rows(source=path, split="")) == 3
  with pytest.raises(ValueError, match="limit=-1: give the number of rows"):
    task.rows(source=path, split="", limit=-1)


def test_readers_belong_to_fields_that_are_asked_for(tmp_path):
  path = write(tmp_path, [{"a": 5, "b": 6}])
  found = tables.read(
    path, fields={"x": "a", "y": "a", "z": "b"},
    readers={"x": fields.text_or_number},
  )
  assert found == [{"x": "5", "y": 5, "z": 6}]


def test_wordings_of_files_and_of_command_lines(tmp_path):
  path = tmp_path / "ask.txt"
  path.write_bytes("\ufeffDo this: {problem}\n".encode())
  assert wording(f"file:{path}", "{problem}") == "Do this: {problem}"
  with pytest.raises(ValueError, match="half of a character"):
    wording(f"Do this: {HALF} {{problem}}", "{problem}")


@pytest.mark.parametrize("task", [gsm8k, math, mbpp, humaneval, word_problems])
def test_wordings_contain_no_answer_to_copy(task):
  """A model of 135 M parameters ended 6 of its first 8 answers in an example's.

  That was on GSM8K, with `as in "#### 42"`.
  """
  for said in (getattr(task, "ASK", ""), getattr(task, "AGAIN", "")):
    assert not re.search("[0-9]", said)
    assert not grading.gsm8k_last_number(said)
    assert grading.final_answer(said) in ("", "answer")


@pytest.mark.parametrize("options, words", [
  ({"count": 0}, "count=0"), ({"count": 1, "seed": -1}, "seed=-1"),
  ({"count": 1, "trials": float("nan")}, "trials=nan is no probability"),
])
def test_word_problems_that_cannot_be_made(options, words):
  with pytest.raises(ValueError, match=words):
    word_problems.rows(**options)
