"""Rounds of drafts, each of which reads some drafts of the round before."""

from collections.abc import Callable

import jax.numpy as jnp

from sitrain.judge.drafts import draft_turns
from sitrain.rollout import operators
from sitrain.strategies.meter import Cost, parallel, then
from sitrain.strategies.strategy import (
  Answer,
  Play,
  row_tokens,
  width_of_reply,
)
from sitrain.types import Task


def refine(
  play: Play, task: Task, *, turns: tuple[int, ...], drafts: int, rounds: int,
  keep: int, choose: Callable,
) -> tuple[Callable[..., Answer], Callable[[int], Cost]]:
  """The functions `answer` and `cost` of a strategy that refines drafts.

  rounds - 1 times `drafts` drafts, then an attempt, which is the answer. A
  draft is an attempt, and where the policy judges itself its verdict on it.

  Drafts of the first round read the prompt alone; their attempts are those of
  self_consistency with the same seed. `choose` is a distiller, judge/drafts.py.
  """
  limits = draft_turns(task, turns)
  reply = width_of_reply(task)

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=drafts, turns=limits)
    found, read = [rows], []
    for number in range(2, rounds + 1):
      last = number == rounds
      rows, places = operators.refine(
        play, choose, keys, state, problems, rows, reply=task.reply,
        turns=limits, then=limits[:1] if last else limits,
        calls=1 if last else drafts, number=number,
      )
      found.append(rows)
      read.append(places.astype(jnp.int32))
    row = jnp.arange(len(keys), dtype=jnp.int32)
    return Answer(tuple(found), tuple(read), row, jnp.ones_like(row))

  def cost(prompt):
    draft = row_tokens(task, limits)
    later = prompt + keep * (draft + reply)
    whole = parallel(prompt + draft, drafts)
    for _ in range(2, rounds):
      whole = then(whole, parallel(later + draft, drafts))
    return then(whole, parallel(later + limits[0], 1))

  return answer, cost
