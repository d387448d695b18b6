"""MBPP: short Python programs, tested in a sandbox.

Austin et al. 2021, with three examples in the prompt. Row numbers are its own:
2, 3 and 4 are the examples, 11-510 test, 511-600 validation, 601-974 train.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sitrain.tasks import fields, tables, text
from sitrain.tasks.text import Row
from sitrain.tasks.verifiers import extraction, programs, sandbox
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Task

ASK = """You are an expert Python programmer. Here is your task: {problem} \
Your program must pass these tests:

{tests}

Write nothing but the program, between [BEGIN] and [DONE]."""
AGAIN = """There might be an error in the program above, because the task was \
misunderstood. Correct the error, if there is one, and rewrite the whole \
program. Write nothing but the final program, between [BEGIN] and [DONE]."""
IDS = {
  "prompt": (1, 10), "test": (11, 510), "validation": (511, 600),
  "train": (601, 974), "all": (1, 974),
}
EXAMPLES = (2, 3, 4)
READERS = {
  "text": fields.text, "code": fields.python, "task_id": fields.integer,
  "test_setup_code": fields.python, "test_list": fields.tests,
  "challenge_test_list": fields.tests,
}
VERIFIERS = {
  "strict": extraction.strict_program, "lenient": extraction.lenient_program
}


def make(
  chat: Chat,
  *,
  source: str = "google-research-datasets/mbpp:full",
  split: str = "train",
  limit: int = 0,
  ask: str = ASK,
  again: str = AGAIN,
  verifier: str = "strict",
  seconds: float = 5.0,
  memory: int = 512,
  workers: int = 2,
  run_programs_without_sandbox: bool = False,
  run_tests_where_programs_can_forge_a_pass: bool = False,
  prompt_length: int = 0,
  long_prompts: str = "refuse",
) -> Task:
  """MBPP in the form of `chat`.

  Args:
    chat: how text becomes tokens.
    source: as in tables.read, with the fields of MBPP; a file holds all rows.
    split: "train", "validation", "test", or "all", by the number of the row.
    limit: only the first rows; 0: all.
    ask: the prompt, with {problem} and {tests} in it, or "file:" and a path;
      the examples use the same text.
    again: the message between two attempts.
    verifier: how a program is found: "strict", for rewards (between the
      markers), or "lenient", for reports; see programs.py.
    seconds, memory, workers: wall clock and MiB of a program, and how many run
      at a time.
    run_programs_without_sandbox: run programs of the model with the rights of
      this user where there is no sandbox.
    run_tests_where_programs_can_forge_a_pass: run tests that cannot run in a
      separate process in the program's; else their grade is unknown.
    prompt_length, long_prompts: as in text.make.

  Raises ValueError for unknown splits and verifiers, and without a sandbox.
  """
  extract = extractor(verifier)
  found, table = _rows(source, split, limit, ask)
  return text.make(
    chat, found, again=wording(again), claim=claimer(extract),
    grade=grader(
      table, extract, programs.mbpp_program, seconds=seconds, memory=memory,
      workers=workers,
      run_programs_without_sandbox=run_programs_without_sandbox,
      run_tests_where_programs_can_forge_a_pass=(
        run_tests_where_programs_can_forge_a_pass
      ),
    ),
    prompt_length=prompt_length, long_prompts=long_prompts,
  )


def rows(
  *, source: str = "google-research-datasets/mbpp:full", split: str = "train",
  limit: int = 0, ask: str = ASK,
) -> list[Row]:
  """The problems, with their reference programs as solutions."""
  return _rows(source, split, limit, ask)[0]


def extractor(verifier: str) -> Callable[[str], str]:
  """How a verifier finds the program; ValueError for an unknown one."""
  if verifier not in VERIFIERS:
    known = ", ".join(VERIFIERS)
    raise ValueError(f"verifier={verifier!r}: choose one of {known}")
  return VERIFIERS[verifier]


def claimer(extract: Callable[[str], str]) -> Callable[[str], str]:
  """The answer of a text for votes: its program without layout."""
  return lambda text: extraction.normalised(extract(text))


def grader(
  table: Sequence[Mapping[str, Any]],
  extract: Callable[[str], str],
  assemble: Callable,
  *,
  seconds: float,
  memory: int,
  workers: int,
  run_programs_without_sandbox: bool,
  run_tests_where_programs_can_forge_a_pass: bool,
) -> Callable:
  """Grades texts by the numbers of their rows; `memory` in MiB.

  Raises ValueError at once where there is no sandbox.
  """
  if not run_programs_without_sandbox:
    sandbox.check()
  run = functools.partial(
    programs.grade_programs, extract=extract, assemble=assemble,
    seconds=seconds, memory=memory * 2**20, workers=workers,
    run_programs_without_sandbox=run_programs_without_sandbox,
    run_tests_where_programs_can_forge_a_pass=(
      run_tests_where_programs_can_forge_a_pass
    ),
  )
  return lambda texts, numbers: run(texts, [table[i] for i in numbers])


def table_of(source: str, split: str) -> tuple[list[dict], list[dict]]:
  """Rows of a split, and rows of the examples."""
  if split not in IDS:
    raise ValueError(f"split={split!r}: choose one of {', '.join(IDS)}")
  read = functools.partial(
    tables.read, source, fields={name: name for name in READERS},
    readers=READERS, may_be_empty=("test_setup_code", "challenge_test_list"),
  )
  if source.endswith(tables.FILES):
    found = read()
  else:
    parts = tuple(IDS)[:-1] if split == "all" else (split, "prompt")
    found = [row for part in dict.fromkeys(parts) for row in read(split=part)]
  low, high = IDS[split]
  chosen = [row for row in found if low <= row["task_id"] <= high]
  shown = [row for row in found if row["task_id"] in EXAMPLES]
  if not chosen or len(shown) < len(EXAMPLES):
    raise ValueError(
      f"{source} has {len(chosen)} rows of split {split!r} and {len(shown)} of "
      f"the examples {EXAMPLES} by task_id: name the complete data set"
    )
  return chosen, sorted(shown, key=lambda row: row["task_id"])


def messages(
  table: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]],
  ask: str,
) -> list[str]:
  """The prompt of every row: the examples with their programs, then the row."""
  prompt = wording(ask, "{problem}", "{tests}")

  def task(row):
    text = prompt.replace("{tests}", "\n".join(row["test_list"]))
    return text.replace("{problem}", row["text"].strip())

  shots = [f"{task(row)}\n{solution(row)}\n\n" for row in shown]
  return ["".join(shots) + task(row) for row in table]


def solution(row: Mapping[str, Any]) -> str:
  """The reference program between the markers."""
  code = row["code"].replace("\r\n", "\n").strip()
  return f"{extraction.BEGIN}\n{code}\n{extraction.DONE}"


def _rows(source, split, limit, ask) -> tuple[list[Row], list[dict]]:
  table, shown = table_of(source, split)
  table = list(tables.first(table, limit))
  prompts = messages(table, shown, ask)
  found = [
    Row(
      message, (), (solution(row),), "all", row["code"], str(row["task_id"])
    )
    for message, row in zip(prompts, table)
  ]
  return found, table
