"""Programs in a model's text, with their tests.

Rows are dictionaries with the fields of MBPP (`text`, `code`,
`test_setup_code`, `test_list`, `challenge_test_list`) or HumanEval (`prompt`,
`entry_point`, `test`). A model's text is never parsed in this process, because
input can crash a parser. All functions here but `grade_programs` are pure.
"""

import builtins
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sitrain.tasks.text import Grade
from sitrain.tasks.verifiers import sandbox, separation
from sitrain.tasks.verifiers.extraction import normalised, trimmed
from sitrain.tasks.verifiers.sandbox import Program

UNKNOWN = ("sandbox", "left_out")  # statuses that leave the grade unknown
# Where the body of a HumanEval function ends, as Chen et al. (2021) cut it.
AFTER_BODY = re.compile(r"\n(?:class\b|def\b|#|if\b|print\b|```)")

Row = Mapping[str, Any]


def mbpp_program(
  row: Row, program: str, *, tests: Sequence[str] = ("test_list",)
) -> Program:
  """A program for a row of MBPP, with its set-up code and its tests.

  The set-up code runs after the program, whose classes it uses.
  `tests` names the fields that hold them: ("test_list",
  "challenge_test_list") adds those that no prompt shows. ValueError for a row
  without any.
  """
  lines = [line for field in tests for line in row[field]]
  if not lines:
    raise ValueError(
      f"row {row.get('task_id')} has no tests in {', '.join(tests)}: name "
      "fields that hold some"
    )
  source = "\n".join([row["test_setup_code"], *lines])
  own, classes = separation.names_of_reference(source, row["code"])
  return Program(program, source, own, classes)


def humaneval_program(row: Row, completion: str) -> Program:
  """A completion of a row of HumanEval with its test.

  The completion continues the stub, and is cut where the body ends; or it has
  the complete function, which then replaces the stub. Functions of the prompt
  that the test uses run with the test as the prompt defines them, even where
  the completion defines them anew.
  """
  name, prompt = row["entry_point"], row["prompt"]
  if re.search(rf"^(?:async )?def {re.escape(name)}\b", completion, re.M):
    code = f"{prompt.rstrip()}\n    pass\n\n{completion}\n"
  else:
    code = prompt.rstrip("\n") + "\n" + _body(completion) + "\n"
  helpers = separation.helpers_of_prompt(prompt, name, row["test"])
  tests = f"{helpers}{row['test']}\ncheck({name})\n"
  own = (name,) if name in dir(builtins) else ()
  return Program(code, tests, own)


def _body(completion: str) -> str:
  """The body of a function, indented by four, without what follows it."""
  body = trimmed(completion)
  if not body.startswith((" ", "\t")):
    # Chats lose the indentation of the first line, or of all lines.
    others = [x for x in body.split("\n")[1:] if x.strip()]
    flat = any(not x.startswith((" ", "\t")) for x in others)
    body = textwrap.indent(body, "    ") if flat else "    " + body
  return AFTER_BODY.split(body, maxsplit=1)[0].rstrip()


def grade_programs(
  texts: Sequence[str],
  rows: Sequence[Row],
  *,
  extract: Callable[[str], str],
  assemble: Callable[[Row, str], Program],
  seconds: float,
  memory: int,
  workers: int,
  run_programs_without_sandbox: bool = False,
  run_tests_where_programs_can_forge_a_pass: bool = False,
) -> list[Grade]:
  """One grade for each text and its row; equal programs run once.

  `extract` finds the program (`strict_program`), `assemble` adds the tests
  (`mbpp_program`); the other options are those of `sandbox.run`. The status is
  that of the outcome, or "none" for a text without a program, which is wrong.
  A grade is unknown where the sandbox failed, or where the tests cannot run in
  a separate process.
  """
  found = [extract(text) for text in texts]
  assembled = [assemble(row, p) for row, p in zip(rows, found, strict=True)]
  runnable = [p for p, program in zip(assembled, found) if program.strip()]
  different = list(dict.fromkeys(runnable))
  outcomes = sandbox.run(
    different,
    seconds=seconds,
    memory=memory,
    workers=workers,
    run_programs_without_sandbox=run_programs_without_sandbox,
    run_tests_where_programs_can_forge_a_pass=(
      run_tests_where_programs_can_forge_a_pass
    ),
  )
  status = {p: outcome.status for p, outcome in zip(different, outcomes)}
  no_program = dict.fromkeys(range(len(rows)), "none")
  if not run_tests_where_programs_can_forge_a_pass:
    left = left_out(rows, assemble=assemble)
    no_program |= {i: "left_out" for i, _ in left}
  return [
    grade(status[p] if program.strip() else no_program[i])
    for i, (p, program) in enumerate(zip(assembled, found))
  ]


def left_out(
  rows: Sequence[Row], *, assemble: Callable[[Row, str], Program]
) -> list[tuple[int, str]]:
  """(place, why) of the rows whose tests cannot run in a separate process."""
  tests = [separation.separate(*assemble(row, "")[1:]) for row in rows]
  return [(i, t.problem) for i, t in enumerate(tests) if t.problem]


def grade(status: str) -> Grade:
  """The grade of an outcome's status; unknown for those of UNKNOWN."""
  return Grade(float(status == "pass"), float(status not in UNKNOWN), status)


def repair_rows(
  rows: Sequence[Row],
  samples: Sequence[Sequence[str]],
  grades: Sequence[Sequence[Grade]],
  *,
  extract: Callable[[str], str],
  most: int,
) -> list[dict[str, Any]]:
  """Repair problems (MBPP-R): rows with a wrong first attempt each.

  samples: texts that a frozen base model wrote for each row, and their grades.
  At most `most` different programs a row are kept, in the order of sampling;
  each gives one row with its fields, `first_attempt` (the text as sampled),
  `first_program` and `first_status`. Left out are right attempts, those that
  the sandbox failed on, and texts without a program. ValueError for most < 1.
  Ni et al. (2024), NExT.
  """
  if most < 1:
    raise ValueError(f"most={most}: keep at least one first attempt a row")
  built = []
  for row, texts, given in zip(rows, samples, grades, strict=True):
    seen: set[str] = set()
    for text, one in zip(texts, given, strict=True):
      program = extract(text)
      wrong = one.known and not one.right and program.strip()
      same = normalised(program)
      if not wrong or same in seen or len(seen) >= most:
        continue
      seen.add(same)
      built.append({
        **row, "first_attempt": text, "first_program": program,
        "first_status": one.status,
      })
  return built
