"""Programs that stood in a model's text, and what they are tested with.

Rows are dictionaries with the fields of MBPP (`text`, `code`,
`test_setup_code`, `test_list`, `challenge_test_list`) or HumanEval (`prompt`,
`entry_point`, `test`). A model's text is never parsed in this process: a
parser can be made to fail hard. All functions here but `grade_programs` are
pure.
"""

import ast
import builtins
import functools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sitrain.tasks.text import Grade
from sitrain.tasks.verifiers import extraction, sandbox
from sitrain.tasks.verifiers.extraction import normalised, trimmed
from sitrain.tasks.verifiers.sandbox import Program

# Where the body of a HumanEval function ends, as Chen et al. (2021) cut it.
AFTER_BODY = re.compile(r"\n(?:class\b|def\b|#|if\b|print\b|```)")

Row = Mapping[str, Any]
BEGIN, DONE = extraction.BEGIN, extraction.DONE
strict_program = extraction.strict_program
lenient_program = extraction.lenient_program


def mbpp_program(
  row: Row, program: str, *, tests: Sequence[str] = ("test_list",)
) -> Program:
  """A program for a row of MBPP, with its set-up code and its tests.

  The set-up code runs behind the program, whose classes it uses.
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
  return Program(program, source, _own(source, row["code"]))


@functools.lru_cache(maxsize=4096)
def _own(tests: str, reference: str) -> tuple[str, ...]:
  """Built-in names (`sum`) by which tests call what the reference defines."""
  defined = {
    node.name for node in ast.parse(reference).body
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
  }
  named = {n.id for n in ast.walk(ast.parse(tests)) if isinstance(n, ast.Name)}
  return tuple(sorted(defined & named & set(dir(builtins))))


def humaneval_program(row: Row, completion: str) -> Program:
  """A completion of a row of HumanEval with its test.

  The completion goes on behind the stub, and is cut where the body ends; or it
  writes the whole function again, which then replaces the stub.
  """
  name, prompt = row["entry_point"], row["prompt"]
  if re.search(rf"^(?:async )?def {re.escape(name)}\b", completion, re.M):
    code = f"{prompt.rstrip()}\n    pass\n\n{completion}\n"
  else:
    code = prompt.rstrip("\n") + "\n" + _body(completion) + "\n"
  tests = f"{row['test']}\ncheck({name})\n"
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
) -> list[Grade]:
  """One grade for each text and its row; equal programs run once.

  `extract` finds the program (`strict_program`), `assemble` adds the tests
  (`mbpp_program`); the others are those of `sandbox.run`. The status is that of
  the outcome, or "none" for a text without a program, which is wrong; unknown
  is only what the sandbox failed on.
  """
  found = [extract(text) for text in texts]
  asked = [
    assemble(row, program) if program.strip() else None
    for row, program in zip(rows, found, strict=True)
  ]
  different = list(dict.fromkeys(p for p in asked if p is not None))
  outcomes = sandbox.run(
    different,
    seconds=seconds,
    memory=memory,
    workers=workers,
    run_programs_without_sandbox=run_programs_without_sandbox,
  )
  status = {p: outcome.status for p, outcome in zip(different, outcomes)}
  status[None] = "none"
  return [grade(status[program]) for program in asked]


def grade(status: str) -> Grade:
  """The grade of an outcome's status; only "sandbox" leaves it unknown."""
  return Grade(float(status == "pass"), float(status != "sandbox"), status)


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
