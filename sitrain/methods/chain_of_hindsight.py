"""Chain of hindsight: a right and a wrong sample in one row, behind their tags.

Liu et al. 2023 (arXiv:2302.02676): both orders, and rows of one sample; both
answers are trained, prompt and tags are not; the policy is asked with the tag
of right ones. The pairs are of its own samples. Left out: other wordings, rows
that ask which is better, random hiding of tokens, and the pre-training loss.
"""

import jax.numpy as jnp

from sitrain.curate.pairs import right_and_wrong
from sitrain.curate.select import imitation_batch, row_noise
from sitrain.curate.tags import chained, ids_of
from sitrain.losses.reduce import mean
from sitrain.methods import checks, rest_em, verbs
from sitrain.types import Method, Task


@verbs.forwards(rest_em.make, without=("per_problem",))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  least: float = 1.0, good: str = "<ok>", bad: str = "<bad>",
  train_bad: bool = True, **options,
) -> Method:
  """Options: see rest_em.make. Prompts of the task end with the tag `good`.

  A sample is good if its reward is `least` or more. Of each problem a random
  good one follows all that are not, and a random other one all good ones.
  `train_bad` off: wrong ones are only read. Raises ValueError for tags that the
  task lacks, and for more turns.
  """
  checks.check_samples(options.get("samples", 2))
  tags = ids_of(task, good, bad)
  if len(turns) > 1:
    raise ValueError(f"turns={turns}: single turns are chained: give one")
  method = rest_em.make(
    models, task, optimizer, turns=turns, least=least, **options
  )

  def curate(key, state, problems, episodes, verdict):
    known = verdict.known[:, 0] > 0
    right = known & (verdict.reward[:, 0] >= least)
    noise, group = row_noise(key, episodes.tokens)[:, 0], episodes.problem
    one, other, both = right_and_wrong(
      noise, right * 1.0, known, group, problems.prompt.shape[0]
    )
    found = known & both[group]
    partner = jnp.where(right, other[group], one[group])
    rows = chained(episodes, jnp.where(right, *tags), partner, turns[0])
    trained = jnp.stack(
      [known & (right | train_bad), found & (~right | train_bad)], axis=1
    )
    batch = imitation_batch(rows, trained, jnp.ones(known.size))
    return batch, {"curate/good": mean(right * 1.0, known * 1.0)}

  return method._replace(curate=curate)
