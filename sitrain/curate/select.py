"""Which turns and rows are trained on. Filtering is masking: shapes stay."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.types import PAD, Batch, Episodes, Verdict, Weights


def token_mask(
  turn: Int[Array, "B T"], trained: Bool[Array, "B K"]
) -> Float[Array, "B T"]:
  """Mask of the tokens whose turn k has `trained[b, k - 1]`."""
  turns = jnp.arange(1, trained.shape[1] + 1)
  at = (turn[:, :, None] == turns) & trained[:, None, :]
  return jnp.any(at, axis=-1).astype(jnp.float32)


def at_most(
  key: Key[Array, ""],
  keep: Bool[Array, " B"],
  group: Int[Array, " B"],
  limit: int,
) -> Bool[Array, " B"]:
  """A random choice of at most `limit` kept rows of each group."""
  rows = keep.shape[0]
  noise = jax.random.uniform(key, (rows,))
  order = jnp.lexsort((noise, ~keep, group))
  first = jax.ops.segment_min(jnp.arange(rows), group[order], rows)
  place = jnp.zeros(rows, jnp.int32).at[order].set(
    (jnp.arange(rows) - first[group[order]]).astype(jnp.int32)
  )
  return keep & (place < limit)


def with_signal(rows: Episodes, verdict: Verdict, problems: int) -> Array:
  """Problems [P] whose rows differ in any turn's reward, of those known.

  A group of equal rewards has no advantage: DAPO's dynamic sampling leaves it
  out (Yu et al. 2025, Eq. 11).
  """
  known, reward = verdict.known > 0, verdict.reward
  most = jnp.where(known, reward, -jnp.inf)
  least = jnp.where(known, reward, jnp.inf)
  most = jax.ops.segment_max(most, rows.problem, problems)
  least = jax.ops.segment_min(least, rows.problem, problems)
  return jnp.any(most > least, axis=1)


def imitation_batch(
  episodes: Episodes, trained: Bool[Array, "B K"], weight: Float[Array, " B"]
) -> Batch:
  """Likelihood training on the chosen turns of each row, one weight a row."""
  inside = episodes.turn != PAD
  return Batch(
    inputs=episodes.tokens,
    tokens=episodes.tokens,
    turn=episodes.turn,
    path=episodes.path,
    mask=token_mask(episodes.turn, trained) * inside,
    targets=Weights(
      jnp.broadcast_to(weight[:, None], episodes.tokens.shape)
    ),
  )
