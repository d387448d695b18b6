"""Other steps that a policy takes from prefixes of its own solutions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from sitrain.models.roles import params_of
from sitrain.rollout import steps
from sitrain.rollout.play import play_on, row_keys
from sitrain.types import GIVEN, PAD, ROOT, Episodes, Params, Problems, Task


def make(
  model: Any, task: Task, solve: Callable, number: Callable, *, samples: int,
  **options: Any,
) -> Callable:
  """As generate(keys, state, problems): {"solve": rows, "step": rows}.

  `solve` generates `samples` solutions of a problem, `number` (rows) has the
  step of each token, and "step" are `alternatives` of the reference to them.
  """
  # A solution folds the numbers of its turns, from 1 on, into the key of its
  # row; 0 is none of them, so that no draw of a step is one of a solution.
  apart = lambda keys: row_keys(row_keys(keys, samples), 1)

  def generate(keys, state, problems):
    rows = solve(keys, state, problems)
    return {"solve": rows, "step": alternatives(
      apart(keys), model, params_of(state, "reference"), task, problems, rows,
      number(rows), **options,
    )}

  return generate


def alternatives(
  keys: Key[Array, " B"],
  model: Any,
  params: Params,
  task: Task,
  problems: Problems,
  rows: Episodes,
  number: Int[Array, "B T"],
  *,
  tries: int,
  ends: tuple[int, ...],
  limit: int,
  rollouts: int = 0,
  rest: int = 0,
  temperature: float,
) -> Episodes:
  """`tries` rows for each: a prefix of it, and another step, as turn 1.

  Each goes on before a step of its own, which is uniformly drawn. `number` is
  that of each token's step, from 1 on, 0 outside of the solution. A step ends
  with one of `ends`, with its turn, or after `limit` tokens. With `rollouts`
  each is continued so often to the end of the attempt, as turn 2 of at most
  `rest` tokens, and there are as many rows of it, [B * tries * rollouts]. Rows
  of one that is continued stand together; they are roots, for `parent` counts
  rows of the own kind.
  """
  own = row_keys(keys, tries)
  # play_on folds the number of its samples, 0, into a key.
  chance = jax.vmap(
    lambda key: jax.random.uniform(jax.random.fold_in(key, 1))
  )(own)
  repeat = lambda x: jnp.repeat(x, tries, axis=0)
  number = repeat(number)
  count = jnp.max(number, axis=1)
  step = 1 + jnp.floor(chance * count).astype(jnp.int32)
  begun = prefixes(
    jax.tree.map(repeat, rows), number < jnp.minimum(step, count)[:, None]
  )
  options = dict(reply=task.reply, temperature=temperature)
  found = play_on(
    own, model, params, problems, begun, samples=1, turns=(limit,),
    eos=(*task.eos, *ends), **options,
  )
  if rollouts:
    found = play_on(
      own, model, params, problems, found, samples=rollouts, turns=(rest,),
      eos=task.eos, first_turn=2, live=~steps.ends(found, task.eos), **options,
    )
  return found._replace(parent=jnp.full_like(found.parent, ROOT))


def prefixes(rows: Episodes, kept: Bool[Array, "B T"]) -> Episodes:
  """The kept tokens of each row, which are its first ones, as given text."""
  kept &= rows.turn != PAD
  return rows._replace(
    tokens=jnp.where(kept, rows.tokens, PAD),
    turn=jnp.where(kept, GIVEN, PAD),
    logprob=jnp.zeros_like(rows.logprob),
  )
