"""Answers and programs of a file of cases, each with what it should get.

SITRAIN_CASES names a folder with answers.jsonl: rows with `kind` (math, gsm8k
or code, and a colon), `input` (`gold` and `text`) and `expected`, a status, or
one for each verifier; "any" stands for any.
"""

import json
import os
import pathlib

import pytest

from sitrain.tasks.verifiers import extraction, grading, programs, sandbox
from sitrain.tasks.verifiers import pool as pools

GRADES = {
  "math": {
    "strict": grading.grade_math, "lenient": grading.grade_math_lenient
  },
  "gsm8k": {
    "strict": grading.grade_gsm8k, "lenient": grading.grade_gsm8k_lenient
  },
}
# The task of all programs.
ROW = {
  "task_id": 0, "text": "Add.", "code": "def add(a, b):\n  return a + b",
  "test_setup_code": "", "challenge_test_list": [],
  "test_list": ["assert add(1, 2) == 3", "assert add(-4, 4) == 0"],
}


def cases(kind):
  folder = os.environ.get("SITRAIN_CASES")
  if not folder:
    pytest.skip("set SITRAIN_CASES to the folder of answers.jsonl")
  path = pathlib.Path(folder) / "answers.jsonl"
  rows = [json.loads(line) for line in path.open()]
  found = [row for row in rows if row["kind"].split(":")[0] == kind]
  assert found, f"{path} has no rows of kind {kind}"
  return found


def differing(rows, statuses, verifier):
  """Rows whose status is not the expected one."""
  found = []
  for row, status in zip(rows, statuses, strict=True):
    wanted = row["expected"]
    wanted = wanted if isinstance(wanted, str) else wanted[verifier]
    if wanted not in ("any", status):
      found.append((row["kind"], row["input"], wanted, status))
  return found


@pytest.mark.parametrize("kind, verifier", [
  ("math", "strict"), ("gsm8k", "strict"), ("gsm8k", "lenient"),
])
def test_answers_get_their_grades(kind, verifier):
  rows = cases(kind)
  pool = pools.make(workers=1, seconds=5.0, memory=1024)
  more = {"pool": pool} if kind == "math" else {}
  grades = GRADES[kind][verifier](
    [row["input"]["gold"] for row in rows],
    [row["input"]["text"] for row in rows], **more,
  )
  pool.close()
  assert differing(rows, [grade.status for grade in grades], verifier) == []


def test_strictly_right_answers_are_leniently_right():
  rows = [row for row in cases("math") if row["expected"] == "right"]
  pool = pools.make(workers=1, seconds=5.0, memory=1024)
  grades = grading.grade_math_lenient(
    [row["input"]["gold"] for row in rows],
    [row["input"]["text"] for row in rows], pool=pool,
  )
  pool.close()
  assert differing(rows, [grade.status for grade in grades], "lenient") == []


@pytest.mark.parametrize("verifier", ["strict", "lenient"])
def test_programs_get_their_grades(verifier):
  rows = cases("code")
  try:
    sandbox.check()
  except ValueError as error:
    pytest.skip(str(error))
  extract = getattr(extraction, f"{verifier}_program")
  grades = programs.grade_programs(
    [row["input"]["text"] for row in rows], [ROW] * len(rows),
    extract=extract, assemble=programs.mbpp_program, seconds=5.0,
    memory=2**29, workers=2,
  )
  assert differing(rows, [grade.status for grade in grades], verifier) == []
