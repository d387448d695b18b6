"""Best of n: imitate the best of the own samples of every problem.

Dong et al. 2023 (arXiv:2304.06767, RAFT) with one sample kept: where rewards
are more than right and wrong it climbs by rank, and needs no threshold.
"""

import jax.numpy as jnp

from sitrain.curate.select import best_of, imitation_batch
from sitrain.losses.reduce import mean
from sitrain.methods import checks, rest_em, verbs
from sitrain.types import Method, Task


@verbs.forwards(rest_em.make, without=("per_problem", "start"))
def make(
  models: dict, task: Task, optimizer, *, samples: int, least: float = 0.0,
  **options,
) -> Method:
  """Problems whose best reward is not above `least` are left out.

  Options: see rest_em.make; every round goes on from the one before.
  """
  checks.check_samples(samples)
  method = rest_em.make(
    models, task, optimizer, samples=samples, start="previous", **options
  )

  def curate(key, state, problems, episodes, verdict):
    last, turns = verdict.reward[:, -1], verdict.reward.shape[1]
    known = jnp.all(verdict.known > 0, axis=1)
    kept = best_of(
      last, known & (last > least), episodes.problem, problems.prompt.shape[0]
    )
    trained = jnp.broadcast_to(kept[:, None], (kept.size, turns))
    batch = imitation_batch(episodes, trained, jnp.ones(kept.size))
    return batch, {
      "curate/kept": verbs.share(kept), "curate/best": mean(last, kept * 1.0)
    }

  return method._replace(curate=curate)
