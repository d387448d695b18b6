"""Countdown whose turn is a trace and then an answer, with chosen habits.

Prompt: the numbers, `>`, the target, `:`, such as ` 3 5 4> 19:`; a number is
one token. Turn: a search as countdown_habits.py writes it, then `<answer>`, a
line, `<end>`, such as
` 5+ 3= 8+ 4= 12<no><back>* 4= 32<no><answer> 5* 3= 15+ 4= 19<end>`. The corpora
of "Four Habits" (arXiv:2503.01307) and of "To Backtrack or Not to Backtrack"
(arXiv:2504.07052) differ in options alone.

Only the answer is judged. Boards of "test" are in no other part.
"""

import functools
import random
import zlib
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sitrain.tasks import countdown_habits as writer
from sitrain.tasks import roles
from sitrain.tasks.attempt import attempt, ends_once
from sitrain.tasks.countdown_habits import HABITS, ORDERS, Board, Style
from sitrain.tasks.countdown_table import apply
from sitrain.tasks.draw import check_probability, constant_reply
from sitrain.types import PAD, Episodes, Problems, Task, Verdict

NAMES = (
  *(writer.number(n) for n in range(writer.MOST + 1)), *writer.SIGNS, "=", ">",
  ":", writer.ANSWER, writer.END, "<retry>", writer.BACK, writer.YES, writer.NO,
  writer.GOAL, writer.FROM, writer.DOT,
)
ID = {name: i for i, name in enumerate(NAMES)}
PARTS = ("train", "test")
HELD_OUT = 8  # one of so many boards is of "test"
LEAST = 10  # target
LEVELS = ("one_line", "two_lines", "more_lines")
PLAIN = Style(("backtracking", "verification"), "fixed", True, False)


def make(
  *,
  numbers: int = 3,
  largest: int = 15,
  habits: str = "backtracking",
  order: str = "fixed",
  prune: bool = True,
  skip: bool = False,
  dots: bool = False,
  right: float = 1.0,
  formed: float = 0.1,
  length: int = 96,
  rows: int = 8192,
  part: str = "train",
) -> Task:
  """`numbers` numbers of 1 to `largest` and a target of 10 to 99.

  habits: names of HABITS with commas between them, the trace of `solution`; ""
  has the answer alone. order, prune, skip: see countdown_habits.Style. dots: a
  `.` in the place of each token of the trace. right: share of the rows whose
  answer is right; in the others the search is as long, with the same habits,
  and meets no right line. `solution` of "test" is the answer alone.

  formed: the reward of a wrong answer that has the form of one; a right one has
  1. length: tokens of a turn. "train" has boards alone that a search with
  backtracking and verification solves in them, so that all corpora have the
  same boards but for a few longer traces. rows: of the table. The answer fields
  are the sorted numbers, the target and the number of right lines. Raises
  ValueError for impossible options.
  """
  names = tuple(name for name in habits.split(",") if name)
  _check(numbers, largest, names, order, part, length)
  check_probability("right", right)
  check_probability("formed", formed)
  if formed == 1:
    raise ValueError(
      "formed=1: set it below 1, the reward of a right answer, so that a wrong "
      "one is not taken for it"
    )
  if rows < 1:
    raise ValueError(f"rows={rows}: set it to 1 or more")
  style = Style(names, order, prune, skip)
  table = _table(numbers, largest, style, dots, right, length, rows, part)
  return Task(
    problems=lambda key, n: (),
    verify=partial(_verify, numbers=numbers, formed=formed),
    reply=constant_reply([ID["<retry>"]]),
    final=partial(_final, numbers=numbers, largest=largest),
    level=lambda problems: jnp.minimum(problems.answer[:, -1], 3) - 1,
    levels=LEVELS,
    eos=(ID[writer.END],),
    turn_length=answer_length(numbers),
    tokenizer=roles.tokenizer(NAMES),
    table=table,
    on_host=False,
  )


def _check(numbers, largest, names, order, part, length) -> None:
  if not 2 <= numbers <= 4:
    raise ValueError(
      f"numbers={numbers} is out of range: use 2 to 4, as searches of more are "
      "too long"
    )
  if not 2 <= largest <= 25:
    raise ValueError(f"largest={largest} is out of range: use 2 to 25")
  for field, values, known in (
    ("habits", names, HABITS), ("order", (order,), ORDERS),
    ("part", (part,), PARTS),
  ):
    for value in values:
      if value not in known:
        raise ValueError(f"{field}={value}: choose from {', '.join(known)}")
  least = 2 * answer_length(numbers)
  if length < least:
    raise ValueError(
      f"length={length} holds no search of {numbers} numbers and its answer: "
      f"use {least} or more"
    )


def answer_length(numbers: int) -> int:
  """Tokens of `<answer>`, a line and `<end>`."""
  return 4 * numbers - 1


def boards(
  numbers: int, largest: int, part: str, rng: random.Random
):
  """Boards of a part without end, each a random line that is solved."""
  while True:
    drawn = tuple(1 + rng.randrange(largest) for _ in range(numbers))
    step, rest = rng.choice(writer.first_steps(drawn))
    while rest:
      step, rest = rng.choice(writer.next_steps(step.value, rest))
    board = Board(drawn, step.value)
    if board.target >= LEAST and part_of(board) == part:
      yield board


def part_of(board: Board) -> str:
  """The part that a board is in, whatever the order of its numbers."""
  text = f"{sorted(board.numbers)} {board.target}".encode()
  return "train" if zlib.crc32(text) % HELD_OUT else "test"


def trace(
  board: Board, style: Style, rng: random.Random, *, dots: bool, right: float
) -> tuple[list[str], writer.Line] | None:
  """A trace and the line of its answer; None for a board without a wrong one.
  """
  if rng.random() < right:
    found = writer.search(board, style, rng)
  else:
    found = writer.fruitless(board, style, rng)
  if found and dots:
    return [writer.DOT] * len(found[0]), found[1]
  return found


@functools.lru_cache(maxsize=8)
def _table(
  numbers: int, largest: int, style: Style, dots: bool, right: float,
  length: int, rows: int, part: str,
) -> Problems:
  """The rows of a part, equal for equal options."""
  rng = random.Random(f"{part} {numbers} {largest}")
  prompts, answers, solutions = [], [], []
  for board in boards(numbers, largest, part, rng):
    own = random.Random(f"{board} {len(prompts)}")
    found = writer.search(board, PLAIN, own)
    if part == "test":
      found = [], found[1]
    elif len(found[0]) + answer_length(numbers) > length:
      continue
    else:
      found = trace(board, style, own, dots=dots, right=right)
    if found is None:
      continue
    text = [*found[0], *writer.answer(found[1])]
    if len(text) > length:
      continue
    prompt = [*map(writer.number, board.numbers), ">",
              writer.number(board.target), ":"]
    prompts.append([ID[token] for token in prompt])
    answers.append([*sorted(board.numbers), board.target,
                    len(writer.lines_of(board))])
    solutions.append([ID[x] for x in text] + [PAD] * (length - len(text)))
    if len(prompts) == rows:
      return Problems(*(np.array(x, np.int32) for x in (
        prompts, answers, solutions
      )))
  raise AssertionError("boards have no end")


class Answer(NamedTuple):
  """The line behind the last `<answer>`, as it is written."""

  numbers: Int[Array, "B N"]
  signs: Int[Array, "B M"]  # 0, 1, 2
  values: Int[Array, "B M"]
  formed: Bool[Array, " B"]  # one `<answer>`, a line, and `<end>` at the end


def answer_of(walk: Int[Array, "B T"], numbers: int) -> Answer:
  """The answer of turns that stand from column 0 on, PAD behind them."""
  size, count = answer_length(numbers), jnp.sum(walk != PAD, axis=1)
  place = count[:, None] - size + jnp.arange(size)
  line = jnp.take_along_axis(walk, jnp.maximum(place, 0), axis=1)
  found = Answer(
    jnp.concatenate([line[:, 1:2], line[:, 3:-1:4]], axis=1),
    line[:, 2:-1:4] - ID[writer.SIGNS[0]],
    line[:, 5:-1:4],
    (count >= size) & ends_once(walk, (ID[writer.END],)),
  )
  formed = jnp.sum(walk == ID[writer.ANSWER], axis=1) == 1
  formed &= line[:, 0] == ID[writer.ANSWER]
  formed &= jnp.all(line[:, 4:-1:4] == ID["="], axis=1)
  formed &= jnp.all((found.signs >= 0) & (found.signs < 3), axis=1)
  for part in (found.numbers, found.values):
    formed &= jnp.all((part >= 0) & (part <= writer.MOST), axis=1)
  return found._replace(formed=found.formed & formed)


def is_right(
  answer: Int[Array, "B A"], found: Answer
) -> Bool[Array, " B"]:
  """Whether each number is used once, all values are right, and meet."""
  count = found.numbers.shape[1]
  before = jnp.concatenate(
    [found.numbers[:, :1], found.values[:, :-1]], axis=1
  )
  value = apply(before, found.signs, found.numbers[:, 1:])
  used = jnp.sort(found.numbers, axis=1) == answer[:, :count]
  true = jnp.all(used, axis=1) & jnp.all(value == found.values, axis=1)
  return found.formed & true & (found.values[:, -1] == answer[:, count])


def _turn(episodes: Episodes, k: int) -> Int[Array, "B T"]:
  return attempt(episodes, k, episodes.tokens.shape[1])


def _verify(
  answer: Int[Array, "B A"], episodes: Episodes, turns: int, numbers: int,
  formed: float,
) -> Verdict:
  rewards = []
  for k in range(turns):
    found = answer_of(_turn(episodes, k + 1), numbers)
    rewards.append(jnp.where(
      is_right(answer, found), 1.0, formed * found.formed
    ))
  reward = jnp.stack(rewards, axis=1).astype(jnp.float32)
  return Verdict(reward, jnp.ones_like(reward))


def _final(
  episodes: Episodes, turns: int, numbers: int, largest: int
) -> Int[Array, "B K"]:
  """Numbers and signs of answers as the digits of one number, or -1."""
  each = []
  for k in range(turns):
    found = answer_of(_turn(episodes, k + 1), numbers)
    code = jnp.zeros(found.formed.shape, jnp.int32)
    for number in found.numbers.T:
      code = code * (largest + 1) + number
    for sign in found.signs.T:
      code = code * len(writer.SIGNS) + sign
    known = found.formed & jnp.all(found.numbers <= largest, axis=1)
    each.append(jnp.where(known, code, -1))
  return jnp.stack(each, axis=1)
