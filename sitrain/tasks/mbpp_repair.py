"""MBPP-R: wrong programs of a frozen base model, to be corrected.

The idea is from Ni et al. 2024 (NExT), whose attempts were not published; here
they are samples that `sitrain sample` wrote for MBPP.
The prompt holds the problem, the wrong attempt as the policy's own, and the
instruction to correct it; the policy writes one turn, the repair.
"""

from sitrain.tasks import fields, mbpp, tables, text
from sitrain.tasks.text import Row
from sitrain.tasks.verifiers import extraction, programs
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Task

READERS = {
  "id": fields.text_or_number, "texts": fields.texts, "statuses": fields.texts
}


def make(
  chat: Chat,
  *,
  attempts: str,
  most: int = 4,
  source: str = "google-research-datasets/mbpp:full",
  split: str = "train",
  limit: int = 0,
  ask: str = mbpp.ASK,
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
  """Repairs of MBPP in the form of `chat`; options as those of mbpp.make.

  Args:
    chat: how text becomes tokens.
    attempts: file of samples of a base model for MBPP, of the first turn; they
      were graded when they were written.
    most: the most wrong programs of one problem.

  Raises ValueError where no wrong attempt is left.
  """
  extract = mbpp.extractor(verifier)
  table = tables.first(_table(source, split, attempts, most), limit)
  return text.make(
    chat, _rows(table, source, split, ask), again=wording(again),
    claim=mbpp.claimer(extract),
    grade=mbpp.grader(
      table, extract, programs.mbpp_program, seconds=seconds, memory=memory,
      workers=workers,
      run_programs_without_sandbox=run_programs_without_sandbox,
      run_tests_where_programs_can_forge_a_pass=(
        run_tests_where_programs_can_forge_a_pass
      ),
    ),
    prompt_length=prompt_length, long_prompts=long_prompts,
  )


# The splits are ranges of task_id: a file has them too.
make.splits_files = True


def rows(
  *, attempts: str, most: int = 4,
  source: str = "google-research-datasets/mbpp:full", split: str = "train",
  limit: int = 0, ask: str = mbpp.ASK,
) -> list[Row]:
  """The problems and wrong attempts, with reference programs as repairs."""
  table = tables.first(_table(source, split, attempts, most), limit)
  return _rows(table, source, split, ask)


def _table(source, split, attempts, most):
  sampled = {row["id"]: row for row in _attempts(attempts)}
  table, _ = mbpp.table_of(source, split)
  table = [row for row in table if str(row["task_id"]) in sampled]
  samples = [sampled[str(row["task_id"])] for row in table]
  # An attempt that was cut at its limit is no complete program.
  grades = [
    [programs.grade("sandbox" if s == "cut" else s) for s in row["statuses"]]
    for row in samples
  ]
  texts = [row["texts"] for row in samples]
  found = programs.repair_rows(
    table, texts, grades, extract=extraction.lenient_program, most=most
  )
  if not found:
    raise ValueError(
      f"{attempts} holds no wrong program for split {split!r} of {source}: "
      "sample that split first"
    )
  return found


def _attempts(attempts):
  """The samples of each problem, with a status for every text."""
  found = tables.read(
    attempts, fields={name: name for name in READERS}, readers=READERS
  )
  for number, row in enumerate(found, 1):
    texts, statuses = len(row["texts"]), len(row["statuses"])
    if texts != statuses:
      raise ValueError(
        f"row {number} of {attempts} has {texts} texts and {statuses} "
        "statuses: sample it again"
      )
  return found


def _rows(table, source, split, ask):
  prompts = mbpp.messages(table, mbpp.table_of(source, split)[1], ask)
  return [
    Row(
      message, (row["first_attempt"],), (mbpp.solution(row),),
      row["first_status"], row["code"], str(row["task_id"]),
    )
    for message, row in zip(prompts, table)
  ]
