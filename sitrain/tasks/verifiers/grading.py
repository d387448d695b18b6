r"""Verifiers of GSM8K and MATH: strict ones for rewards, lenient for reports.

A grade is unknown (`known` 0) only where the verifier failed: it took too long,
crashed or raised, or cannot read the gold answer. A missing answer is wrong.
"""

import re
from collections.abc import Callable, Sequence

from sitrain.tasks.text import Grade
from sitrain.tasks.verifiers import equivalence
from sitrain.tasks.verifiers.gsm8k_numbers import MARK, has_digits, number
from sitrain.tasks.verifiers.gsm8k_numbers import lenient as gsm8k_last_number
from sitrain.tasks.verifiers.gsm8k_numbers import strict as gsm8k_answer
from sitrain.tasks.verifiers.latex import MAX_CHARACTERS, final_answer
from sitrain.tasks.verifiers.pool import Pool

ANSWER_PHRASE = re.compile(
  r"[Aa]nswer(?: is|:| =):? ?\s*((?:\$[^$\n]{1,300}\$|[^\n$]{1,200}?)"
  r"(?=[.,;]?\s*(?:$|\n|\. )))"
)
FORMULA = re.compile(
  r"\$\$?([^$]{1,600})\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]", re.DOTALL
)
NUMBER = re.compile(r"(?:(?<![\w)])[-−])?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?"
                    r"|(?<![0-9])\.[0-9]+)(?:/[0-9]+|%)?")

def gsm8k_gold(answer: str) -> str:
  """The number after #### of a row of GSM8K; ValueError without one."""
  gold = number(answer.rpartition(MARK)[2].strip()) if MARK in answer else ""
  if not gold:
    raise ValueError(
      f"the answer ends in {answer[-40:]!r}: a row of GSM8K ends in '#### 42'"
    )
  return gold


def grade_gsm8k(golds: Sequence[str], texts: Sequence[str]) -> list[Grade]:
  """Strict grades, for rewards: `gsm8k_answer` equals the gold number.

  Status: right, wrong, none (no digit after the marker), gold.
  """
  return [
    _number(gold, gsm8k_answer(text), text)
    for gold, text in zip(golds, texts, strict=True)
  ]


def grade_gsm8k_lenient(
  golds: Sequence[str], texts: Sequence[str]
) -> list[Grade]:
  """Lenient grades, for reports: `gsm8k_last_number` equals the gold number."""
  return [
    _number(gold, gsm8k_last_number(text), "")
    for gold, text in zip(golds, texts, strict=True)
  ]


def _number(gold: str, answer: str, text: str) -> Grade:
  expected = number(gold)
  if not expected:
    return grade("gold")
  if not answer:
    return grade("wrong" if has_digits(text) else "none")
  return grade("right" if answer == expected else "wrong")


def grade(status: str) -> Grade:
  """The grade of a status: right, wrong, none; all others are unknown."""
  known = status in ("right", "wrong", "none")
  return Grade(float(status == "right"), float(known), status)


def grade_math(
  golds: Sequence[str], texts: Sequence[str], *, pool: Pool
) -> list[Grade]:
  """Strict grades, for rewards: `equivalence.strict` of `final_answer`.

  Status: right, wrong, none (no answer), and unknown: gold (it cannot be
  read), long, deep, large (bounds of latex.py and values.py), timeout, crash,
  error. Each distinct pair is verified once; equal strings and rational numbers
  need no process.
  """
  answers = [final_answer(text) for text in texts]
  ways = equivalence.quickly, equivalence.strict
  return _verified(ways, golds, answers, pool)


def grade_math_lenient(
  golds: Sequence[str], texts: Sequence[str], *, pool: Pool
) -> list[Grade]:
  """Lenient grades, for reports: also of the answers of `loose_answer`."""
  claims = [final_answer(text) or loose_answer(text) for text in texts]
  ways = equivalence.quickly_lenient, equivalence.lenient
  return _verified(ways, golds, claims, pool)


def math_claim(text: str) -> str:
  r"""The answer of a text as votes count it: \frac12 and 0.5 are one."""
  return equivalence.key(final_answer(text))


def math_claim_lenient(text: str) -> str:
  """As `math_claim`, for the answers that `grade_math_lenient` reads."""
  return equivalence.key(final_answer(text) or loose_answer(text))


def loose_answer(text: str) -> str:
  """The answer of a text without a box, "" if there is none.

  That is the text after the last "answer is", else the last formula, else the
  last number.
  """
  text = text[-MAX_CHARACTERS:]
  phrases = ANSWER_PHRASE.findall(text)
  if phrases:
    return phrases[-1].strip()
  formulas = FORMULA.findall(text)
  if formulas:
    return next(part for part in formulas[-1] if part).strip()
  numbers = NUMBER.findall(text)
  return numbers[-1].strip() if numbers else ""


def _verified(
  ways: tuple[Callable, Callable], golds: Sequence[str],
  answers: Sequence[str], pool: Pool,
) -> list[Grade]:
  """Grades by the quick way, or in the pool where that decides nothing."""
  quickly, function = ways
  pairs = list(zip(golds, answers, strict=True))
  status = {pair: _at_once(*pair, quickly) for pair in pairs}
  open_pairs = [pair for pair, found in status.items() if not found]
  for pair, result in zip(open_pairs, pool.map(function, open_pairs)):
    done = result.status == "done"
    status[pair] = result.value if done else result.status
  return [grade(status[pair]) for pair in pairs]


def _at_once(gold: str, answer: str, quickly: Callable) -> str:
  """The status where a pool is not needed, else ""."""
  if not gold.strip():
    return "gold"
  if gold == answer:
    return "right"
  if not answer.strip():
    return "none"
  if len(answer) > MAX_CHARACTERS:
    return "long"
  if gold.split() == answer.split():
    return "right"
  return quickly(gold, answer)
