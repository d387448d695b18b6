r"""MATH: competition problems whose answer is an expression in LaTeX.

Hendrycks et al. 2021, in the split of Lightman et al. 2023: 12,000 problems to
train on, and the 500 of MATH500.
"""

import functools
import logging

from sitrain.tasks import fields, tables, text
from sitrain.tasks.text import Row
from sitrain.tasks.verifiers import grading, pool
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Task

_LOG = logging.getLogger("sitrain")

ASK = r"""You are an expert in mathematics. Solve the problem below step by \
step. Write nothing but the solution, and close it with this sentence: The \
final answer is \boxed{answer}.

{problem}""".replace("\\\n", "")
AGAIN = r"""There might be an error in the solution above, because the \
question was misunderstood. Correct the error, if there is one, and rewrite \
the whole solution. Write nothing but the solution, and close it with this \
sentence: The final answer is \boxed{answer}.""".replace("\\\n", "")
VERIFIERS = {
  "strict": (grading.grade_math, grading.math_claim),
  "lenient": (grading.grade_math_lenient, grading.math_claim_lenient),
}


def make(
  chat: Chat,
  *,
  source: str = "nlile/hendrycks-MATH-benchmark",
  split: str = "train",
  limit: int = 0,
  ask: str = ASK,
  again: str = AGAIN,
  verifier: str = "strict",
  workers: int = 2,
  seconds: float = 10.0,
  memory: int = 1024,
  prompt_length: int = 0,
  long_prompts: str = "refuse",
) -> Task:
  """MATH in the form of `chat`; levels are those of the data set.

  Args:
    chat: how text becomes tokens.
    source: as in tables.read, with the fields problem, answer and level.
    split: of the data set; a file has none.
    limit: only the first rows; 0: all.
    ask, again: as in gsm8k.make.
    verifier: "strict", for rewards, or "lenient", for reports; see grading.py.
    workers, seconds, memory: processes of the verifier, and the limits of one
      answer (wall clock, MiB); an answer beyond them is unknown.
    prompt_length, long_prompts: as in text.make.

  Raises ValueError for unknown verifiers.
  """
  if verifier not in VERIFIERS:
    known = ", ".join(VERIFIERS)
    raise ValueError(f"verifier={verifier!r}: choose one of {known}")
  found = rows(source=source, split=split, limit=limit, ask=ask)
  processes = pool.make(workers=workers, seconds=seconds, memory=memory)
  verify, claim = VERIFIERS[verifier]
  grade = functools.partial(verify, pool=processes)
  return text.make(
    chat, found, again=wording(again), claim=claim,
    grade=text.grade_by_row(grade, [row.answer for row in found]),
    prompt_length=prompt_length, long_prompts=long_prompts,
  )


def rows(
  *, source: str = "nlile/hendrycks-MATH-benchmark", split: str = "train",
  limit: int = 0, ask: str = ASK,
) -> list[Row]:
  """The problems; their solutions are not used.

  A few rows of the data set have an empty answer; they are left out.
  """
  prompt = wording(ask, "{problem}")
  readers = {
    "problem": fields.text, "answer": fields.text_or_number,
    "level": fields.text_or_number,
  }
  found = tables.read(
    source, split=split, fields={name: name for name in readers},
    readers=readers, may_be_empty=("answer",),
  )
  complete = [row for row in found if row["answer"].strip()]
  if len(complete) < len(found):
    missing = len(found) - len(complete)
    _LOG.warning(
      "%d of %d rows of %s have an empty answer: they are left out", missing,
      len(found), source,
    )
  return [
    Row(
      prompt.replace("{problem}", row["problem"].strip()), (), (),
      f"level_{row['level'].removeprefix('Level ')}",
      row["answer"].strip(),
    )
    for row in tables.first(complete, limit)
  ]
