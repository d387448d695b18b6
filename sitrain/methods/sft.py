"""SFT: imitation with corrupted inputs, or of the hard tokens alone.

Chen et al. 2024 (arXiv:2403.02178, Masked Thought): a share of the given tokens
is hidden from the inputs, never from the targets. arXiv:2508.03178 (Light-IF):
only the tokens are trained that the policy finds hardest, less their entropy.
Both are off by default, where this is methods/imitation.py.
"""

import jax
import jax.numpy as jnp

from sitrain.curate.select import corrupt, row_noise, top_share
from sitrain.losses.imitation import hard_tokens
from sitrain.methods import imitation, verbs
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import params_of
from sitrain.types import Method, Task


@verbs.forwards(imitation.make)
def make(
  models: dict, task: Task, optimizer, *, rate: float = 0.0, warmup: int = 0,
  mask_token: int = -1, share: float = 1.0, entropy_weight: float = 0.8,
  **options,
) -> Method:
  """Options: see imitation.make.

  `rate` of the input tokens of the turns are replaced by `mask_token`, or by
  random ones where that is -1, from 0 on over the first `warmup` iterations.
  `share` of the tokens of an iteration are trained, by their negative
  log-likelihood less `entropy_weight` times their entropy. Raises ValueError
  for shares that are none.
  """
  if not (0.0 <= rate < 1.0 and 0.0 < share <= 1.0):
    raise ValueError(
      f"rate={rate} and share={share}: set 0 <= rate < 1 and 0 < share <= 1"
    )
  method = imitation.make(models, task, optimizer, **options)
  model, size = models["policy"], task.tokenizer.size

  def curate(key, state, problems, episodes, verdict):
    batch, metrics = method.curate(key, state, problems, episodes, verdict)
    if rate:
      keys = jax.random.split(key)
      noise, other = (row_noise(k, batch.tokens) for k in keys)
      random = jnp.floor(other * size).astype(batch.tokens.dtype)
      hidden = jnp.where(mask_token < 0, random, mask_token)
      now = verbs.ramp(state, rate, warmup)
      inputs = corrupt(batch.tokens, batch.mask, noise, hidden, now)
      batch = batch._replace(inputs=inputs)
    if share < 1.0:
      scores = score_rows(
        model, params_of(state, "policy"), episodes, temperature=1.0
      )
      hard = hard_tokens(*scores, weight=entropy_weight)
      batch = batch._replace(mask=top_share(hard, batch.mask, share))
    return batch, metrics

  return method._replace(curate=curate)
