"""Rollouts that go on from the best of several attempts of every turn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from sitrain.models.roles import params_of
from sitrain.rollout import by_turn, contexts
from sitrain.rollout.play import play, play_on, row_keys
from sitrain.types import ROOT, Episodes, Params, Problems, Task


def play_best(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  *,
  samples: int,
  best_of: int,
  score: Callable[[Problems, Episodes, int], Array],
  reply: Callable,
  turns: tuple[int, ...],
  **options: Any,
) -> Episodes:
  """Samples episodes [P * samples T] by per-turn best of n.

  Each row has a first attempt of its own; of every later turn `best_of`
  attempts are sampled, and the row keeps the first of the highest
  `score(problems, rows, turn) -> [B]`, which sees rows up to that turn (RISE,
  arXiv:2407.18219). Other options as in `play.play_on`; with best_of=1 rows
  are distributed as those of `play.play`.
  """
  rows = play(
    keys, model, params, problems, samples=samples, reply=reply,
    turns=turns[:1], **options,
  )
  count = rows.problem.shape[0]
  keys, live = row_keys(keys, samples), jnp.ones(count, bool)
  for turn, limit in enumerate(turns[1:], start=2):
    last = jnp.full(count, turn - 1, jnp.int32)
    answered = reply(problems.answer[rows.problem], rows, last)
    live &= ~answered.done
    tries = play_on(
      keys, model, params, problems,
      contexts.append_reply(rows, answered._replace(done=~live)),
      samples=best_of, reply=reply, turns=(limit,), first_turn=turn, live=live,
      **options,
    )
    value = score(problems, tries, turn).reshape(count, best_of)
    best = jnp.arange(count) * best_of + jnp.argmax(value, axis=1)
    rows = jax.tree.map(lambda x, best=best: x[best], tries)
  return rows._replace(parent=jnp.full(count, ROOT, jnp.int32))


def make(
  model: Any, task: Task, score: Callable, *, best_of: int, **options: Any
) -> Callable:
  """`play_best` of a task by the policy, as generate(keys, state, problems).

  Raises ValueError for a number below 1, and where the host verifies or
  replies, for attempts are compared while others are still to be sampled.
  """
  if best_of < 1:
    raise ValueError(f"best_of={best_of}: set it to 1 or more")
  if task.on_host or by_turn.on_host(task.reply):
    raise ValueError(
      f"best_of={best_of}: set it to 1, as this task verifies or replies on "
      "the host, and attempts are compared in the middle of a rollout"
    )

  def generate(keys, state, problems):
    return play_best(
      keys, model, params_of(state, "policy"), problems, best_of=best_of,
      score=score, reply=task.reply, eos=task.eos, **options,
    )

  return generate
