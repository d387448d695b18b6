"""Rounds of drafts, each of which reads some drafts of the round before."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from sitrain.judge.verifier import final_answers
from sitrain.rollout import workspace
from sitrain.rollout.play import row_keys
from sitrain.strategies.choose import mean_logprob, votes
from sitrain.strategies.meter import Cost, parallel, then
from sitrain.strategies.strategy import (
  Answer,
  Play,
  width_of_reply,
)
from sitrain.types import Task

DISTIL = ("vote", "random")
# Folded into a problem's key, so that it is no number of a sample.
DRAFT, CHOICE = 1 << 20, 1 << 21


def check_distil(keep: int, distil: str, drafts: int) -> None:
  """Raises ValueError for a workspace that cannot be made."""
  if distil not in DISTIL:
    raise ValueError(f"distil={distil!r}: choose one of {', '.join(DISTIL)}")
  if not 1 <= keep <= drafts:
    raise ValueError(
      f"keep={keep}: set it from 1 to samples={drafts}, the drafts of a round"
    )


def refine(
  play: Play, task: Task, *, limit: int, drafts: int, rounds: int, keep: int,
  choose: Callable,
) -> tuple[Callable[..., Answer], Callable[[int], Cost]]:
  """The functions `answer` and `cost` of a strategy that refines drafts.

  rounds - 1 times `drafts` attempts, then one, which is the answer.

  Drafts of the first round read the prompt alone; they are those of
  self_consistency with the same seed. `choose(keys [P * calls], votes,
  score, final, calls, keep)`, the middle three [P D] of the D drafts, gives the
  places [P * calls keep] of those that each call of the next round reads.
  """
  reply = width_of_reply(task)

  def next_round(keys, state, problems, rows, number, calls):
    count = len(keys)
    fold = lambda by: jax.vmap(partial(jax.random.fold_in, data=by + number))
    final = jnp.asarray(final_answers(task, rows, 1)).reshape(count, -1)
    score = mean_logprob(rows, 1).reshape(count, -1)
    place = choose(
      row_keys(fold(CHOICE)(keys), calls), votes(final), score, final,
      calls=calls, keep=keep,
    )
    own = jnp.repeat(jnp.arange(count), calls) * final.shape[1]
    read = own[:, None] + place
    posed = workspace.compose(task.reply, problems, rows, read, limit=limit)
    written = play(
      row_keys(fold(DRAFT)(keys), calls), state, posed, samples=1,
      turns=(limit,),
    )
    return written._replace(problem=written.problem // calls), read

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=drafts, turns=(limit,))
    found, read = [rows], []
    for number in range(2, rounds + 1):
      calls = drafts if number < rounds else 1
      rows, places = next_round(keys, state, problems, rows, number, calls)
      found.append(rows)
      read.append(places.astype(jnp.int32))
    row = jnp.arange(len(keys), dtype=jnp.int32)
    return Answer(tuple(found), tuple(read), row, jnp.ones_like(row))

  def cost(prompt):
    later = prompt + keep * (limit + reply) + limit
    whole = parallel(prompt + limit, drafts)
    for number in range(2, rounds + 1):
      calls = drafts if number < rounds else 1
      whole = then(whole, parallel(later, calls))
    return whole

  return answer, cost
