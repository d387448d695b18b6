"""Mistake tuning: imitation of right and wrong samples, each behind its tag.

Tong et al. 2024 (arXiv:2403.20046): wrong answers teach, too, if a tag in front
of them says that they are wrong; the policy is asked with the tag of right
ones. Here the answers are its own, and prompt and tag are not trained.
"""

import jax.numpy as jnp

from sitrain.curate.select import imitation_batch
from sitrain.curate.tags import ids_of, retagged
from sitrain.losses.reduce import mean
from sitrain.methods import rest_em, verbs
from sitrain.types import Method, Task


@verbs.forwards(rest_em.make, without=("per_problem",))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  least: float = 1.0, good: str = "<ok>", bad: str = "<bad>", **options,
) -> Method:
  """Options: see rest_em.make. Prompts of the task end with the tag `good`.

  A row is good if its last reward is `least` or more. With bad=good it is
  imitation of all samples. Raises ValueError for tags that the task lacks.
  """
  tags = ids_of(task, good, bad)
  method = rest_em.make(
    models, task, optimizer, turns=turns, least=least, **options
  )

  def curate(key, state, problems, episodes, verdict):
    known = jnp.all(verdict.known > 0, axis=1)
    right = known & (verdict.reward[:, -1] >= least)
    rows = retagged(episodes, jnp.where(right, *tags))
    trained = jnp.broadcast_to(known[:, None], (known.size, len(turns)))
    batch = imitation_batch(rows, trained, jnp.ones(known.size))
    return batch, {"curate/good": mean(right * 1.0, known * 1.0)}

  return method._replace(curate=curate)
