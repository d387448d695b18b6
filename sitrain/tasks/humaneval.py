"""HumanEval: Python functions from their stubs, tested in a sandbox.

Chen et al. 2021. For evaluation only: prompts do not show the tests, and there
is no training split.
"""

import re

from sitrain.tasks import fields, mbpp, tables, text
from sitrain.tasks.text import Row
from sitrain.tasks.verifiers import programs
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Task

ASK = """Complete this Python function. Write nothing but the whole function, \
with all imports that it needs, between [BEGIN] and [DONE].

{problem}"""
READERS = {
  "task_id": fields.text_or_number, "prompt": fields.text,
  "entry_point": fields.text, "canonical_solution": fields.text,
  "test": fields.python,
}


def make(
  chat: Chat,
  *,
  source: str = "openai/openai_humaneval",
  split: str = "test",
  limit: int = 0,
  ask: str = ASK,
  again: str = mbpp.AGAIN,
  verifier: str = "strict",
  seconds: float = 5.0,
  memory: int = 512,
  workers: int = 2,
  run_programs_without_sandbox: bool = False,
  run_tests_where_programs_can_forge_a_pass: bool = False,
  prompt_length: int = 0,
  long_prompts: str = "refuse",
) -> Task:
  """HumanEval in the form of `chat`; options as those of mbpp.make.

  source: as in tables.read, with the fields of HumanEval. Raises ValueError
  for unknown verifiers, and without a sandbox.
  """
  extract = mbpp.extractor(verifier)
  table = _table(source, split, limit)
  return text.make(
    chat, _rows(table, ask), again=wording(again),
    claim=mbpp.claimer(extract),
    grade=mbpp.grader(
      table, extract, programs.humaneval_program, seconds=seconds,
      memory=memory, workers=workers,
      run_programs_without_sandbox=run_programs_without_sandbox,
      run_tests_where_programs_can_forge_a_pass=(
        run_tests_where_programs_can_forge_a_pass
      ),
    ),
    prompt_length=prompt_length, long_prompts=long_prompts,
  )


def rows(
  *, source: str = "openai/openai_humaneval", split: str = "test",
  limit: int = 0, ask: str = ASK,
) -> list[Row]:
  """The problems, without solutions."""
  return _rows(_table(source, split, limit), ask)


def _table(source, split, limit):
  if source.endswith(tables.FILES):
    split = ""
  found = tables.read(
    source, split=split, fields={name: name for name in READERS},
    readers=READERS,
  )
  for number, row in enumerate(found, 1):
    _check_names(row, f"row {number} of {source}")
  return tables.first(found, limit)


def _check_names(row, where):
  """Raises ValueError where no completion can pass."""
  for field, name in (("prompt", row["entry_point"]), ("test", "check")):
    if not re.search(rf"^(?:async )?def {re.escape(name)}\b", row[field], re.M):
      raise ValueError(
        f"{where}: field {field!r} defines no function {name!r}: mend it, or "
        "leave the row out"
      )


def _rows(table, ask):
  prompt = wording(ask, "{problem}")
  return [
    Row(
      prompt.replace("{problem}", row["prompt"].strip()), (), (), "all",
      row["canonical_solution"], row["task_id"],
    )
    for row in table
  ]
