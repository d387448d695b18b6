"""Word problems with written steps, made from a seed: text without a download.

There are two kinds. *Sums* need two steps. In *trials* one of two numbers fits,
and only a complete calculation shows which one:

  Mia packs 3 or 5 boxes with 4 pens in each. Then she adds 7 pens and has 27
  pens in all. How many boxes?
  Try 3. 3*4=12. 12+7=19. That is not 27. #### 3
"""

from typing import NamedTuple

import numpy as np

from sitrain.tasks import text
from sitrain.tasks.draw import check_corpus, check_probability
from sitrain.tasks.text import Row
from sitrain.tasks.verifiers import grading
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Task

AGAIN = "There may be an error. Correct it, if any."
NAMES = ("Mia", "Tom", "Ana", "Ben", "Eva", "Leo", "Zoe", "Max")
SHE = ("she", "he")  # by the parity of the name's index
BOXES = ("boxes", "bags", "jars", "trays")
THINGS = ("pens", "coins", "nuts", "cards", "eggs", "keys")


class Corpus(NamedTuple):
  """Probabilities of the given attempts; see `make`."""

  mistake: float
  copied: float
  corrupted: float


class Trial(NamedTuple):
  """`fits * each + more = total`, and `other` does not fit."""

  fits: int
  other: int
  each: int
  more: int
  total: int


def make(
  chat: Chat,
  *,
  count: int = 20000,
  seed: int = 0,
  trials: float = 0.7,
  mistake: float = 0.03,
  copied: float = 0.1,
  corrupted: float = 0.15,
  again: str = AGAIN,
) -> Task:
  """`count` problems, a function of the seed; the host verifies them.

  Args:
    chat: how text becomes tokens.
    count: rows of the table.
    seed: of the problems and of the corpus.
    trials: the share of trials; the others are sums.
    mistake: probability that a step of the corpus is wrong; the steps after it
      continue from the written value.
    copied, corrupted: probability that the second attempt of the corpus is a
      copy of the first, or a copy with another answer; else a trial tries the
      other number and a sum is computed anew, whether the first was right or
      wrong.
    again: the message between two attempts.

  An answer is right iff the number after its last `####` is. Raises ValueError
  for impossible probabilities.
  """
  options = dict(trials=trials, mistake=mistake)
  options |= dict(copied=copied, corrupted=corrupted)
  found = rows(count=count, seed=seed, **options)
  return text.make(
    chat, found, again=wording(again), claim=grading.gsm8k_answer,
    grade=text.grade_by_row(grading.grade_gsm8k, [row.answer for row in found]),
    prompt_length=0, long_prompts="refuse",
  )


def rows(
  *, count: int = 20000, seed: int = 0, trials: float = 0.7,
  mistake: float = 0.03, copied: float = 0.1, corrupted: float = 0.15,
) -> list[Row]:
  """The problems and given attempts of `make`."""
  if count < 1 or seed < 0:
    raise ValueError(
      f"count={count} and seed={seed}: give a count of 1 at least, and a seed "
      "of 0 at least"
    )
  check_probability("trials", trials)
  check_probability("mistake", mistake)
  check_corpus(copied, corrupted)
  corpus = Corpus(mistake, copied, corrupted)
  made = []
  for i in range(count):
    rng = np.random.default_rng((seed, i))
    make_one = _trial if rng.random() < trials else _sum
    made.append(make_one(rng, corpus))
  return made


def _words(rng) -> dict[str, str]:
  person = int(rng.integers(len(NAMES)))
  return {
    "name": NAMES[person], "she": SHE[person % 2],
    "boxes": BOXES[rng.integers(len(BOXES))],
    "things": THINGS[rng.integers(len(THINGS))],
  }


def _trial(rng, corpus: Corpus) -> Row:
  fits, other = (int(x) for x in rng.choice(np.arange(2, 6), 2, replace=False))
  each, more = (int(x) for x in rng.integers(2, 6, 2))
  trial = Trial(fits, other, each, more, fits * each + more)
  low, high = (fits, other) if rng.random() < 0.5 else (other, fits)
  message = (
    "{name} packs {low} or {high} {boxes} with {each} {things} in each. Then "
    "{she} adds {more} {things} and has {total} {things} in all. "
    "How many {boxes}?"
  ).format(low=low, high=high, **trial._asdict(), **_words(rng))
  tried = fits if rng.random() < 0.5 else other
  first = _tried(rng, trial, tried, corpus.mistake)
  fresh = _tried(rng, trial, fits + other - tried, corpus.mistake)
  second = _second(rng, corpus, first, fresh)
  return Row(message, (), (first, second), "trial", str(fits))


def _tried(rng, trial: Trial, number: int, mistake: float) -> str:
  product = _step(rng, number * trial.each, mistake)
  total = _step(rng, product + trial.more, mistake)
  verdict = "is" if total == trial.total else "is not"
  return (
    f"Try {number}. {number}*{trial.each}={product}. "
    f"{product}+{trial.more}={total}. That {verdict} {trial.total}. "
    f"#### {number}"
  )


def _sum(rng, corpus: Corpus) -> Row:
  has, buys = (int(x) for x in rng.integers(2, 10, 2))
  gives = int(rng.integers(2, has + buys))
  message = (
    "{name} has {has} {things} and gets {buys} more. Then {she} gives {gives} "
    "{things} away. How many {things} are left?"
  ).format(has=has, buys=buys, gives=gives, **_words(rng))
  first, fresh = (
    _summed(rng, has, buys, gives, corpus.mistake) for _ in range(2)
  )
  second = _second(rng, corpus, first, fresh)
  return Row(message, (), (first, second), "sum", str(has + buys - gives))


def _summed(rng, has: int, buys: int, gives: int, mistake: float) -> str:
  total = _step(rng, has + buys, mistake)
  left = _step(rng, total - gives, mistake)
  return f"{has}+{buys}={total}. {total}-{gives}={left}. #### {left}"


def _step(rng, value: int, mistake: float) -> int:
  """The value, or with probability `mistake` one near it."""
  off = int(rng.choice((-10, -2, -1, 1, 2, 10)))
  return value + off if rng.random() < mistake else value


def _second(rng, corpus: Corpus, first: str, fresh: str) -> str:
  look = rng.random()
  if look < corpus.copied:
    return first
  if look < corpus.copied + corpus.corrupted:
    steps, number = first.rsplit(" ", 1)
    return f"{steps} {_step(rng, int(number), 1.0)}"
  return fresh
