"""GSM8K: grade-school word problems whose answer is an integer.

Cobbe et al. 2021. Answers are verified on the host, or on the device from token
ids; then sampling, verifying and learning are one program.
"""

import re
from typing import Any

from sitrain.tasks import fields, tables, text
from sitrain.tasks.text import Row
from sitrain.tasks.verifiers import digits, grading
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Task

ASK = """Solve this problem step by step. Write nothing but the solution, and \
end it with a line that holds #### and the final number.

{problem}"""
AGAIN = """There might be an error in the solution above, because the question \
was misunderstood. Correct the error, if there is one, and rewrite the whole \
solution. Write nothing but the solution, and end it with a line that holds \
#### and the final number."""
CALCULATOR = re.compile(r"<<[^<>]*>>")  # annotations in given solutions
VERIFIERS = {
  "strict": (grading.grade_gsm8k, grading.gsm8k_answer),
  "lenient": (grading.grade_gsm8k_lenient, grading.gsm8k_last_number),
}


def make(
  chat: Chat,
  *,
  source: str = "openai/gsm8k:main",
  split: str = "train",
  limit: int = 0,
  ask: str = ASK,
  again: str = AGAIN,
  verifier: str = "strict",
  prompt_length: int = 0,
  long_prompts: str = "refuse",
) -> Task:
  """GSM8K in the form of `chat`.

  Args:
    chat: how text becomes tokens.
    source: a data set of the hub or a file, as in tables.read, with the fields
      question and answer.
    split: of the data set; a file has none.
    limit: only the first rows; 0: all.
    ask: the prompt, with {problem} in it, or "file:" and a path.
    again: the message between two attempts, likewise.
    verifier: "strict" (the number after the last ####), "lenient" (the last
      number), or "device" (as strict, from token ids).
    prompt_length, long_prompts: as in text.make.

  Raises ValueError for rows without an answer and unknown verifiers.
  """
  known = (*VERIFIERS, "device")
  if verifier not in known:
    raise ValueError(f"verifier={verifier!r}: choose one of {', '.join(known)}")
  found = rows(source=source, split=split, limit=limit, ask=ask)
  golds = [row.answer for row in found]
  grade, claim = VERIFIERS.get(verifier, VERIFIERS["strict"])
  task = text.make(
    chat, found, again=wording(again), claim=claim,
    grade=text.grade_by_row(grade, golds),
    prompt_length=prompt_length, long_prompts=long_prompts,
  )
  return digits.on_device(task, chat, golds) if verifier == "device" else task


def rows(
  *, source: str = "openai/gsm8k:main", split: str = "train", limit: int = 0,
  ask: str = ASK,
) -> list[Row]:
  """The problems, with the given solutions and the final numbers."""
  prompt = wording(ask, "{problem}")
  found = tables.read(
    source, split=split, fields={"problem": "question", "answer": "answer"},
    readers={"problem": fields.text, "answer": _solution},
  )
  return [
    Row(
      prompt.replace("{problem}", row["problem"].strip()), (),
      _steps(row["answer"]), "all",
      grading.gsm8k_gold(row["answer"]),
    )
    for row in tables.first(found, limit)
  ]


def _steps(answer: str) -> tuple[str, ...]:
  """The solution to imitate; none where the answer is a number alone."""
  solution = CALCULATOR.sub("", answer).strip()
  return () if solution.startswith(grading.MARK) else (solution,)


def _solution(value: Any) -> str:
  """A solution that ends in "#### number"; the field may be a number alone."""
  solution = fields.text_or_number(value)
  if solution.strip() and grading.MARK not in solution:
    solution = f"{grading.MARK} {solution.strip()}"
  if solution.strip():
    grading.gsm8k_gold(solution)
  return solution
