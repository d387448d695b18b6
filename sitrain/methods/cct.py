"""CCT: second attempts after right and after wrong first ones, in proportion.

Yang et al. 2024 (arXiv:2412.19513): confidence examples, a right attempt and
the instruction, teach to stay; critique examples, behind a wrong one, teach to
mend. Their best share of the former is said to be about 0.4. There answers come
from the data; here they are own samples of the problem, a right one behind
another one, as in pair_sft.py. Inferred: the last attempt alone is trained.
"""

import jax.numpy as jnp

from sitrain.curate.select import balanced, token_mask
from sitrain.judge.groups import FULL
from sitrain.methods import checks, pair_sft, verbs
from sitrain.types import Method, Task, Weights


@verbs.forwards(pair_sft.make, without=("also_correct",))
def make(
  models: dict, task: Task, optimizer, *, confident: float = 0.4,
  answers: bool = False, **options,
) -> Method:
  """Options: see pair_sft.make.

  `confident` is the share that examples after a right attempt have in the
  weights of all: 1 is the paper's CLT, 0 its CST. `answers` trains these first
  attempts, too (SFT + CCT). Raises ValueError for a share that is none.
  """
  checks.check_share(confident=confident)
  method = pair_sft.make(models, task, optimizer, also_correct=True, **options)

  def curate(key, state, problems, episodes, verdict):
    batch, metrics = method.curate(key, state, problems, episodes, verdict)
    kept = jnp.any(batch.mask > 0, axis=1)
    right = kept & (verdict.reward[:, 0] >= FULL)
    # A share of 0 trains none, also where there are no others.
    kept &= jnp.where(right, confident > 0.0, confident < 1.0)
    right, weight = right & kept, balanced(right, kept, confident)
    batch = batch._replace(mask=batch.mask * kept[:, None])
    if answers:
      first = right[:, None] & (jnp.arange(2) == 0)
      batch = batch._replace(mask=batch.mask + token_mask(batch.turn, first))
    weights = jnp.broadcast_to(weight[:, None], batch.tokens.shape)
    return batch._replace(targets=Weights(weights)), metrics | {
      "curate/kept": verbs.share(kept), "curate/confident": verbs.share(right)
    }

  return method._replace(curate=curate)
