"""GDPO: one normalised advantage for each named reward of the task.

Liu et al. 2026 (arXiv:2601.05242): rewards are normalised one by one among the
samples of a problem, then added up and whitened over the round, so that rows
that earned the same sum by other rewards are told apart.
"""

import jax
import jax.numpy as jnp

from sitrain.curate.advantage import decoupled
from sitrain.curate.policy import own_turns
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "estimate", "baseline"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  weights: dict, beta: float = 0.0, kl: str = "none", clip: float = 0.2,
  aggregate: str = "episode_mean", **options,
) -> Method:
  """`weights` has a number for every reward that the task names.

  A turn is compared with that turn of all samples of its problem. It is masked
  where a reward with a weight here is not known.

  Options: see reinforce.make. Raises ValueError for other names.
  """
  if set(weights) != set(task.rewards):
    raise ValueError(
      f"weights of {sorted(weights)}: this task's rewards are "
      f"{sorted(task.rewards)}; give each a number"
    )
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, clip=clip, estimate="as_it_is",
    aggregate=aggregate, **options,
  )

  def curate(key, state, problems, episodes, verdict):
    known = verdict.known
    for name, part in verdict.parts.items():  # NaN: only logged by the task
      known = known * (jnp.isfinite(part) | (weights[name] == 0))
    counted = own_turns(episodes, known).astype(jnp.float32)
    of_turn = lambda parts, known: decoupled(
      parts, weights, episodes.problem, known
    )
    over_turns = jax.vmap(of_turn, in_axes=1, out_axes=1)
    parts = jax.tree.map(jnp.nan_to_num, verdict.parts)
    gained = verdict._replace(reward=over_turns(parts, counted), known=known)
    return method.curate(key, state, problems, episodes, gained)

  return method._replace(curate=curate)
