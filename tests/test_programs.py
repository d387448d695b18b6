"""Programs found in texts, put together with their tests, and graded."""

import gzip
import json
import os
import pathlib
import textwrap
import time

import pytest

from sitrain.tasks.verifiers import programs, sandbox
from sitrain.tasks.verifiers.extraction import (
  lenient_program,
  normalised,
  strict_program,
)
from sitrain.tasks.verifiers.programs import (
  grade,
  grade_programs,
  humaneval_program,
  mbpp_program,
  repair_rows,
)
from sitrain.tasks.verifiers.sandbox import Program

ADD = "def add(a, b):\n  return a + b"
DOC = '''def f(x):
  """Twice.

  ```python
  f(1)
  ```
  """
  return 2 * x'''
ROW = {
  "task_id": 1, "text": "Add.", "code": ADD, "test_setup_code": "two = 2",
  "test_list": ["assert add(1, two) == 3", "assert add(0, 0) == 0"],
  "challenge_test_list": ["assert add('a', 'b') == 'ab'"],
}
STUB = {
  "task_id": "HumanEval/x", "entry_point": "double",
  "prompt": "import math\n\n\ndef one():\n    return 1\n\n\n"
  'def double(x):\n    """Twice x.\n    >>> double(2)\n    4\n    """\n',
  "test": "def check(candidate):\n    assert candidate(2) == 4\n"
  "    assert candidate(0) == 0\n",
}
LIMITS = {"seconds": 5.0, "memory": 2**29, "workers": 2}


@pytest.fixture(scope="module")
def walls():
  try:
    sandbox.check()
  except ValueError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize("text, strict, lenient", [
  (f"[BEGIN]\n{ADD}\n[DONE]", ADD, ADD),
  (f"{ADD}\n[DONE]\nYou are an expert", ADD, ADD),
  (f"\n\n{ADD}\n\n[DONE]\n[BEGIN]\nmore", ADD, ADD),
  (f"Sure.\n[BEGIN]\n```python\n{ADD}\n```\n[DONE]", ADD, ADD),
  (f"Sure.\n```python\n{ADD}\n```\nDone.", ADD, ADD),
  (f"```\n{ADD}\n```", ADD, ADD),
  (f"```py\n{ADD}\n```".replace("\n", "\r\n"), ADD, ADD),
  (f"```bash\npip\n```\n```Python\n{ADD}\n```", ADD, ADD),
  ("```bash\npip\n```", "", "```bash\npip\n```"),
  # The last pair counts, and what names the markers in a sentence does not.
  (f"[BEGIN]\nx\n[BEGIN]\n{ADD}\n[DONE]", ADD, ADD),
  (f"[BEGIN]\nx\n[DONE]\nNo:\n[BEGIN]\n{ADD}\n[DONE]", ADD, ADD),
  (f"I use [BEGIN] and [DONE].\n[BEGIN]\n{ADD}\n[DONE]", ADD, ADD),
  (f"[BEGIN]\n{ADD}\n[DONE]\nIt is between [BEGIN] and [DONE].", ADD, ADD),
  (f"I write [BEGIN] and [DONE].\n```python\n{ADD}\n```", ADD, ADD),
  (f"<think>\n[BEGIN]\nx = 1\n[DONE]\n</think>\n[BEGIN]\n{ADD}\n[DONE]",
   ADD, ADD),
  (f"<think>\n```python\nx\n```\n</think>\n```python\n{ADD}\n```",
   ADD, ADD),
  ('[BEGIN]\nprint("[DONE]")\n[DONE]', 'print("[DONE]")', 'print("[DONE]")'),
  (f"# [BEGIN]\n{ADD}\n# [DONE]", ADD, ADD),
  (f"**[BEGIN]**\n{ADD}\n**[DONE]**", ADD, ADD),
  (f"[BEGIN]\n{ADD}\n[DONE]<|im_end|>", ADD, ADD),
  (f"[BEGIN]\n{ADD}\n```\n[DONE]", ADD, ADD),
  (f"[BEGIN]\nHere it is:\n```python\n{ADD}\n```\n[DONE]", ADD, ADD),
  # Fences: the first word of the info string, the length, the indentation.
  *((f"Sure.\n```{info}\n{ADD}\n```\nBye.", ADD, ADD) for info in (
    "python3.11", "py3", "PY", "ipython", "Python 3", 'python title="a.py"',
    "python:a.py", "{.python}", "python linenums"
  )),
  (f"````python\n{ADD}\n````", ADD, ADD),
  (f"````python\n{DOC}\n````", DOC, DOC),
  (f"```python\n{DOC}\n```", DOC, DOC),
  (f"[BEGIN]\n{DOC}\n[DONE]", DOC, DOC),
  (f"[BEGIN]\n```python\n{DOC}\n```\n[DONE]", DOC, DOC),
  (f"~~~python\n{ADD}\n~~~", ADD, ADD),
  ("1. So:\n\n   ```python\n   def f():\n     return 1\n   ```\n",
   "def f():\n  return 1", "def f():\n  return 1"),
  ("- ```python\n  def f():\n    return 1\n  ```", "def f():\n  return 1",
   "def f():\n  return 1"),
  (f"{ADD}\n```", ADD, ADD),
  (f"```python\n{ADD}\n```\n```markdown\nIt adds.\n```", ADD, ADD),
  # Tokens that end a turn, where they are kept.
  (f"```python\n{ADD}\n```<|im_end|>", ADD, ADD),
  (f"```python\n{ADD}\n```</s>\n<|eot_id|>", ADD, ADD),
  (f"```python\n{ADD}<|endoftext|>", "", ADD),
  (f"[BEGIN] {ADD} [DONE]", ADD, ADD),
  # A fence behind a sentence, another last marker, all of it indented.
  (f"Here it is: ```python\n{ADD}\n```\nIt adds.", ADD, ADD),
  (f"Sure! ```py\n{ADD}\n```", ADD, ADD),
  (f"It is this: ```\n{ADD}\n```", ADD, ADD),
  ("1. So: ```python\n   def f():\n     return 1\n   ```",
   "def f():\n  return 1", "def f():\n  return 1"),
  (f"Use ```add``` so:\n```python\n{ADD}\n```", ADD, ADD),
  (f"[BEGIN]\n{ADD}\n[END]", ADD, ADD),
  (f"[BEGIN]\n```python\n{ADD}\n```\n**[END]**", ADD, ADD),
  (f"[BEGIN]\n{ADD}\n# [END]\n[DONE]", f"{ADD}\n# [END]", f"{ADD}\n# [END]"),
  ("[BEGIN]\n" + textwrap.indent(ADD, "    ") + "\n[DONE]", ADD, ADD),
  ("```python\n" + textwrap.indent(ADD, "\t") + "\n```", ADD, ADD),
  (textwrap.indent(ADD, "  ") + "\n[DONE]", ADD, ADD),
  ('[BEGIN]\n    x = """a\n  b"""\n    def f():\n      return x\n[DONE]',
   'x = """a\n  b"""\ndef f():\n  return x',
   'x = """a\n  b"""\ndef f():\n  return x'),
  ("```python\n    def g():\n      return 1\n    return g()\n```",
   "    def g():\n      return 1\n    return g()",
   "    def g():\n      return 1\n    return g()"),
  # Only for reports.
  (f"{ADD}\n```\nThis adds.", "", ADD),
  (f"```python\n{ADD}```", "", ADD),
  (f"```python\n{ADD}\n``` This adds.", "", ADD),
  (f"```python\n{ADD}\n```python\nadd(1, 2)", "", ADD),
  (f"```txt\n{ADD}\n```", "", ADD),
  ("> ```python\n> x = 1\n> ```", "", "x = 1"),
  ("```python def f(): return 1 ```", "", "def f(): return 1"),
  ("```python\ndef g():\n  return 1\n```\n"
   "```python\ndef f():\n  return g()\n```", "",
   "def g():\n  return 1\n\ndef f():\n  return g()"),
  ("```python\ndef f():\n  return 2\n```\n"
   "```python\ndef f():\n  return 1\n```", "", "def f():\n  return 1"),
  # Not the form that was asked for: nothing for rewards.
  (f"[BEGIN]\n{ADD}", "", ADD),
  (f"```python\n{ADD}\n```\n```python\nadd(1, 2)\n```", "", ADD),
  (f"```python\nx\n```\n```python\n{ADD}\n```", "", ADD),
  (f"Sure.\n```python\n{ADD}", "", ADD),
  (ADD, "", ADD),
  ("    return 1", "", "    return 1"),
  ("", "", ""),
  ("[BEGIN]\n[DONE]", "", ""),
  ("```python\n```", "", ""),
])
def test_extraction(text, strict, lenient):
  assert strict_program(text) == strict
  assert lenient_program(text) == lenient


def test_a_long_text_is_searched_in_time():
  # Nothing may take time that grows with the square of the length.
  began = time.process_time()
  for part in (" ", "```python\n", "[BEGIN]", "\n", "\t\n", "```\n", " \n",
               "def f\n", "[DONE]", "#\n"):
    for text in (part * 50_000, part * 50_000 + "x"):
      strict_program(text)
      lenient_program(text)
      normalised(text)
      humaneval_program(STUB, text)
  assert time.process_time() - began < 20


def test_votes_ignore_layout():
  loose = "  def f(x):\n\n    # twice\n    return 2 * x   \n\n"
  assert normalised(loose) == normalised("def f(x):\n  return 2 * x")
  assert normalised("def f(x):\n\treturn 2") == "def f(x):\n    return 2"
  assert normalised("return 1") != normalised("return 2")
  assert normalised("") == normalised("# nothing\n") == ""


def test_mbpp_program():
  made = mbpp_program(ROW, ADD)
  first = ROW["test_list"]
  assert made == Program(ADD, "\n".join(["two = 2", *first]))
  both = mbpp_program(ROW, ADD, tests=("test_list", "challenge_test_list"))
  assert both.tests.endswith("== 'ab'") and len(both.tests.split("\n")) == 4
  with pytest.raises(ValueError, match="row 1 has no tests in challenge_test_"):
    mbpp_program({**ROW, "challenge_test_list": []}, ADD,
                 tests=("challenge_test_list",))


def test_a_reference_may_be_named_like_a_built_in_function():
  row = {**ROW, "code": "def sum(a, b): return 1\ndef len(x): return 2",
         "test_list": ["assert sum(10, 15) == 6"]}
  assert mbpp_program(row, "").own == ("sum",)


BODY = "    return 2 * x"


@pytest.mark.parametrize("completion", [
  BODY,
  f"{BODY}\n\n\ndef other():\n    return 1 / 0\n\nprint(other())",
  f"{BODY}\n\nif __name__ == '__main__':\n    1 / 0",
  f"{BODY}\n# and so on: 1 /",
  "return 2 * x",
  "y = 2 * x\nreturn y",
  "if x:\n        return 2 * x\n    return 0",
  "def double(x):\n    return 2 * x * one()",
  "from math import floor\n\n\ndef double(x):\n    return floor(2 * x)",
])
def test_humaneval_completions(walls, completion):
  made = humaneval_program(STUB, completion)
  assert sandbox.run([made])[0].status == "pass", made.code
  wrong = humaneval_program(STUB, completion.replace("2 * x", "3 * x"))
  assert sandbox.run([wrong])[0].status == "fail", wrong.code


def test_a_stub_alone_does_not_pass(walls):
  done = sandbox.run([humaneval_program(STUB, c) for c in ("", "    pass")])
  assert [o.status for o in done] == ["fail", "fail"]


def test_grades(walls, monkeypatch):
  ran = []
  run = sandbox.run
  monkeypatch.setattr(
    programs.sandbox, "run", lambda p, **o: ran.extend(p) or run(p, **o)
  )
  wrong = ADD.replace("+", "-")
  texts = [f"{p}\n[DONE]" for p in (ADD, wrong, "1/0", ADD, "while 1: pass")]
  texts.append("I cannot say.")
  given = grade_programs(
    texts, [ROW] * 6, extract=strict_program, assemble=mbpp_program,
    **{**LIMITS, "seconds": 1.0},
  )
  assert [g.status for g in given] == [
    "pass", "fail", "error", "pass", "timeout", "none"
  ]
  assert [g.right for g in given] == [1, 0, 0, 1, 0, 0]
  assert [g.known for g in given] == [1] * 6
  assert len(ran) == 4  # equal programs ran once


def test_failures_of_the_sandbox_are_unknown():
  for status in ("sandbox", "left_out"):
    assert grade(status).known == 0 and grade(status).right == 0
  assert grade("pass") == (1.0, 1.0, "pass")


def test_a_row_that_is_left_out_is_unknown_whatever_the_text(walls):
  code = "class Node: pass\ndef f(x): return isinstance(x, Node)"
  row = {**ROW, "code": code, "test_list": ["assert f(Node())"]}
  texts = [f"{code}\n[DONE]", "def f(x): return 1 / 0\n[DONE]", "I cannot say."]
  given = grade_programs(texts, [row] * 3, extract=strict_program,
                         assemble=mbpp_program, **LIMITS)
  assert given == [grade("left_out")] * 3
  given = grade_programs(
    texts, [row] * 3, extract=strict_program, assemble=mbpp_program,
    run_tests_where_programs_can_forge_a_pass=True, **LIMITS
  )
  assert [g.status for g in given] == ["pass", "error", "none"]
  assert programs.left_out([ROW, row], assemble=mbpp_program) == [
    (1, "they use the class Node of the program, in line 2")
  ]


def test_nothing_to_run_needs_no_sandbox(monkeypatch):
  monkeypatch.setattr(sandbox, "check", lambda: 1 / 0)
  given = grade_programs(["?"], [ROW], extract=strict_program,
                         assemble=mbpp_program, **LIMITS)
  assert given == [grade("none")]
  with pytest.raises(ValueError):
    grade_programs(["?"], [], extract=strict_program, assemble=mbpp_program,
                   **LIMITS)


def test_repair_rows():
  texts = ["a", "b", "# note\nb", "c", "d", "e", ""]
  status = ["pass", "fail", "fail", "sandbox", "error", "timeout", "none"]
  other = {**ROW, "task_id": 2}
  rows = [ROW, other]
  samples, grades = [texts, ["f"]], [[grade(s) for s in status], [grade("oom")]]
  built = repair_rows(rows, samples, grades, extract=str.strip, most=2)
  found = [(r["task_id"], r["first_attempt"], r["first_status"]) for r in built]
  assert found == [(1, "b", "fail"), (1, "d", "error"), (2, "f", "oom")]
  assert built[0]["first_program"] == "b"
  assert built[0]["test_list"] == ROW["test_list"]
  assert "first_program" not in ROW  # the given rows stay as they are
  more = repair_rows(rows, samples, grades, extract=str.strip, most=9)
  assert [r["first_attempt"] for r in more] == ["b", "d", "e", "f"]
  with pytest.raises(ValueError):
    repair_rows(rows, samples[:1], grades, extract=str.strip, most=1)
  with pytest.raises(ValueError, match="most=0: keep at least one"):
    repair_rows(rows, samples, grades, extract=str.strip, most=0)


# ---- rows of the public sets


def folder():
  if "SITRAIN_DATA" not in os.environ:
    pytest.skip("SITRAIN_DATA names no folder with mbpp.jsonl, HumanEval")
  return pathlib.Path(os.environ["SITRAIN_DATA"])


def test_references_of_mbpp_pass(walls):
  lines = (folder() / "mbpp.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  special = [r for r in rows if r["test_setup_code"] or r["task_id"] == 126]
  chosen = rows[::20] + special
  texts = [f"```python\n{row['code']}\n```" for row in chosen]
  given = grade_programs(
    texts, chosen, extract=strict_program, assemble=mbpp_program, **LIMITS
  )
  failed = [(r["task_id"], g.status) for r, g in zip(chosen, given)
            if not g.right]
  # Their tests make instances of a class of the program.
  together = {(n, "left_out") for n in (367, 601, 927)}
  assert len(chosen) > 50 and set(failed) <= together
  found = programs.left_out(rows, assemble=mbpp_program)
  assert [rows[i]["task_id"] for i, _ in found] == [367, 601, 927]
  # The same programs do not pass the tests of another row.
  shifted = chosen[1:10] + chosen[:1]
  given = grade_programs(
    texts[:10], shifted, extract=strict_program, assemble=mbpp_program, **LIMITS
  )
  assert {g.status for g in given} <= {"fail", "error"}


def test_references_of_humaneval_pass(walls):
  with gzip.open(folder() / "HumanEval.jsonl.gz", "rt") as file:
    rows = [json.loads(line) for line in file][::12]
  bodies = [row["canonical_solution"] for row in rows]
  whole = [row["prompt"] + row["canonical_solution"] for row in rows]
  for texts in (bodies, whole, [b.strip() for b in bodies]):
    given = grade_programs(
      texts, rows, extract=lenient_program, assemble=humaneval_program, **LIMITS
    )
    failed = [(r["task_id"], g) for r, g in zip(rows, given) if not g.right]
    assert not failed
