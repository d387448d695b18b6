r"""Verifiers of GSM8K and MATH: strict ones for rewards, lenient for reports.

A grade is unknown (`known` 0) only where the verifier failed: it took too
long, died or raised, or cannot read the gold answer. No answer is a wrong one.
"""

import re
from collections.abc import Callable, Sequence

from sitrain.tasks.text import Grade
from sitrain.tasks.verifiers import equivalence
from sitrain.tasks.verifiers.pool import Pool

MARK = "####"
BEHIND_MARK = re.compile(r"#### \$?(-?[0-9.,]+)")
NUMBER = re.compile(
  r"(?:(?<![\w)])-)?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)
DECIMAL = re.compile(r"(-?)([0-9]*)\.?([0-9]*)")
SENTENCE = re.compile(r"[Ff]inal answer is:?\s*\$([^$]+)\$")
INTEGER = re.compile(r"-?[0-9]{1,30}")


def number(text: str) -> str:
  """A decimal number in its shortest form, without commas; "" for others.

  Equal numbers have equal forms: 1,200.50 and 1200.5, 42. and 42.00 and 42.
  """
  found = DECIMAL.fullmatch(text.replace(",", ""))
  sign, whole, part = found.groups() if found else ("", "", "")
  if not whole and not part:
    return ""
  whole, part = whole.lstrip("0") or "0", part.rstrip("0")
  shortest = f"{whole}.{part}" if part else whole
  return shortest if shortest == "0" else sign + shortest


def gsm8k_gold(answer: str) -> str:
  """The number behind #### of a row of GSM8K; ValueError without one."""
  gold = number(answer.rpartition(MARK)[2].strip()) if MARK in answer else ""
  if not gold:
    raise ValueError(
      f"the answer ends in {answer[-40:]!r}: a row of GSM8K ends in '#### 42'"
    )
  return gold


def gsm8k_answer(text: str) -> str:
  r"""The number behind the last ####, or "": the strict verifier.

  That is `#### \$?(-?[0-9.,]+)` at the last marker, commas dropped; where no
  number stands behind it, there is no answer.
  """
  found = BEHIND_MARK.match(text, max(0, text.rfind(MARK)))
  return number(found[1]) if found else ""


def gsm8k_last_number(text: str) -> str:
  """The last number in the text, or "": the lenient verifier."""
  found = NUMBER.findall(text)
  return number(found[-1].replace("$", "")) if found else ""


def grade_gsm8k(golds: Sequence[str], texts: Sequence[str]) -> list[Grade]:
  """Strict grades, for rewards: `gsm8k_answer` equals the gold number."""
  return _numbers(golds, [gsm8k_answer(text) for text in texts])


def grade_gsm8k_lenient(
  golds: Sequence[str], texts: Sequence[str]
) -> list[Grade]:
  """Lenient grades, for reports: the last number equals the gold number."""
  return _numbers(golds, [gsm8k_last_number(text) for text in texts])


def _numbers(golds, answers):
  grades = []
  for gold, answer in zip(golds, answers, strict=True):
    expected = number(gold)
    if not expected:
      grades.append(grade("gold"))
    elif not answer:
      grades.append(grade("none"))
    else:
      grades.append(grade("right" if answer == expected else "wrong"))
  return grades


def grade(status: str) -> Grade:
  """The grade of a status: right, wrong, none; all others are unknown."""
  known = status in ("right", "wrong", "none")
  return Grade(float(status == "right"), float(known), status)


def final_answer(text: str) -> str:
  r"""What a text claims in the end: LaTeX without its box, "" if nothing.

  That is the last `\boxed{...}` with its braces in balance; a text without any
  box may say "The final answer is $...$".
  """
  start = max(text.rfind(r"\boxed{"), text.rfind(r"\boxed {"))
  if start >= 0:
    return _balanced(text[text.index("{", start) + 1:]).strip()
  said = SENTENCE.findall(text)
  return said[-1].strip() if said else ""


def _balanced(text: str) -> str:
  """What stands before the brace that closes, "" if none does."""
  depth, escaped = 1, False
  for place, character in enumerate(text):
    if not escaped and character in "{}":
      depth += 1 if character == "{" else -1
      if not depth:
        return text[:place]
    escaped = character == "\\" and not escaped
  return ""


def grade_math(
  golds: Sequence[str], texts: Sequence[str], *, pool: Pool
) -> list[Grade]:
  """Strict grades, for rewards: `equivalence.strict` of `final_answer`.

  Status: right, wrong, none (no answer), and unknown: gold (it cannot be
  parsed), timeout, crash, error. Each distinct pair is verified once; equal
  strings and plain integers need no process.
  """
  answers = [final_answer(text) for text in texts]
  return _verified(equivalence.strict, golds, answers, pool)


def grade_math_lenient(
  golds: Sequence[str], texts: Sequence[str], *, pool: Pool
) -> list[Grade]:
  """Lenient grades, for reports: `equivalence.lenient` of the whole text."""
  claims = [final_answer(text) for text in texts]
  boxed = [rf"\boxed{{{c}}}" if c else text for c, text in zip(claims, texts)]
  return _verified(equivalence.lenient, golds, boxed, pool)


def _verified(
  function: Callable, golds: Sequence[str], answers: Sequence[str], pool: Pool
) -> list[Grade]:
  pairs = list(zip(golds, answers, strict=True))
  status = {pair: _at_once(*pair) for pair in pairs}
  asked = [pair for pair, found in status.items() if not found]
  for pair, result in zip(asked, pool.map(function, asked)):
    done = result.status == "done"
    status[pair] = result.value if done else result.status
  return [grade(status[pair]) for pair in pairs]


def _at_once(gold: str, answer: str) -> str:
  """The status where no algebra is needed, else ""."""
  if not gold.strip():
    return "gold"
  if not answer.strip():
    return "none"
  if "".join(gold.split()) == "".join(answer.split()):
    return "right"
  if INTEGER.fullmatch(gold) and INTEGER.fullmatch(answer):
    return "right" if int(gold) == int(answer) else "wrong"
  return ""
