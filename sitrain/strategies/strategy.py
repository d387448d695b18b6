"""What a strategy is: a way to spend tokens on an answer, at test time.

A strategy is two pure functions and what a main has to know of them. Parameters
are fixed; it has no loss. `strategies/NAME.py` has

  make(play, task, *, turns, OPTION=DEFAULT ...) -> Strategy

where `play` samples with the policy that is asked, and `turns` are the token
limits of config.evaluate.turns: the first is that of an attempt.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from sitrain.rollout.play import reply_width, row_length
from sitrain.strategies.meter import Cost
from sitrain.tasks.rows import problem_shape
from sitrain.types import Episodes, Task

# Rows [P * samples T] of the policy that is asked, as rollout.play writes them,
# with the task's reply between turns: play(keys [P], state, problems, *,
# samples, turns), where `turns` are token limits.
Play = Callable[..., Episodes]


class Answer(NamedTuple):
  """What a strategy wrote, and which attempt it gives as its answer.

  Rows of a problem stand together, and `problem` is its number.
  """

  rounds: tuple[Episodes, ...]  # calls of each; a later one reads earlier ones
  read: tuple[Int[Array, "B k"], ...]  # by each later round: which rows of the
  #                                      round before it a call has read
  row: Int[Array, " P"]  # of the last round
  turn: Int[Array, " P"]  # of that row, from 1


class Strategy(NamedTuple):
  """How problems are answered, and what is known before."""

  answer: Callable[..., Answer]  # (keys [P], state, problems)
  cost: Callable[[int], Cost]  # the most, by the tokens of a prompt
  rows: int  # of a problem that are sampled at the same time
  turns: int  # of a row at the most
  context: int  # turns of one context, those in a workspace with it
  needs: str = ""  # of the task: "instruction", "verdicts" or "drafts", one of
  #                  both; see needs.py
  grows: str = ""  # the option that a larger budget raises
  every: int = 1  # every which turn is an attempt; others judge it
  varied: bool = True  # its samples must differ: not at temperature 0
  oracle: bool = False  # whether it looks at the verifier: an upper bound


def repeat_last(turns: tuple[int, ...], count: int) -> tuple[int, ...]:
  """The first `count` limits; missing ones repeat the last."""
  return (turns + turns[-1:] * count)[:count]


def one_round(
  rows: Episodes, row: Int[Array, " P"], turn: Int[Array, " P"]
) -> Answer:
  """The answer of a strategy whose calls are independent of each other."""
  return Answer((rows,), (), row.astype(jnp.int32), turn.astype(jnp.int32))


def row_tokens(task: Task, turns: tuple[int, ...]) -> int:
  """The most tokens that follow a prompt: turns, and the replies between."""
  return row_length(0, turns, width_of_reply(task))


def width_of_reply(task: Task) -> int:
  """Tokens of the longest reply of a task."""
  return reply_width(task.reply, problem_shape(task))


def check_at_least(name: str, value: int, least: int) -> None:
  """Raises ValueError for an option below its least value."""
  if value < least:
    raise ValueError(f"{name}={value}: set it to {least} or more")
