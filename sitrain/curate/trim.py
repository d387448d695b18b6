"""Episodes without the columns that no row of them uses."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sitrain.types import PAD

COLUMNS = ("tokens", "turn", "logprob", "path")  # fields with an axis of them


def trimmed(learn: Callable, buckets: int) -> Callable:
  """`learn` on as many columns of the episodes as the longest row asks for.

  The columns are the least that hold it of `buckets` equally spaced lengths,
  each of which is a branch of one program. What is cut off is padding, so the
  result is the same up to rounding. Raises ValueError for less than one.
  """
  if buckets < 1:
    raise ValueError(f"buckets={buckets}: set it to at least 1")

  def on_columns(length, state, key, problems, episodes, verdict):
    rows = {name: getattr(episodes, name)[..., :length] for name in COLUMNS}
    return learn(state, key, problems, episodes._replace(**rows), verdict)

  def learn_trimmed(state, key, problems, episodes, verdict):
    whole = episodes.tokens.shape[-1]
    lengths = sorted({-(-whole * i // buckets) for i in range(1, buckets + 1)})
    column = jnp.arange(1, whole + 1)
    longest = jnp.max(jnp.where(episodes.turn != PAD, column, 0))
    place = jnp.sum(longest > jnp.array(lengths[:-1], jnp.int32))
    branches = [functools.partial(on_columns, n) for n in lengths]
    given = state, key, problems, episodes, verdict
    return jax.lax.switch(place, branches, *given)

  return learn_trimmed if buckets > 1 else learn
