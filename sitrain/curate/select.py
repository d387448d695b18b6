"""Which turns and rows are trained on. Filtering is masking: shapes stay."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.curate.advantage import token_mask
from sitrain.types import PAD, Batch, Episodes, Weights


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


def with_signal(
  problem: Int[Array, " B"],
  value: Float[Array, "B K"],
  counted: Bool[Array, "B K"],
  problems: int,
) -> Bool[Array, " P"]:
  """Problems whose rows differ in the value of any turn, of those counted.

  A group of equal values has no advantage: DAPO's dynamic sampling leaves it
  out (Yu et al. 2025, Eq. 11).
  """
  most = jnp.where(counted, value, -jnp.inf)
  least = jnp.where(counted, value, jnp.inf)
  most = jax.ops.segment_max(most, problem, problems)
  least = jax.ops.segment_min(least, problem, problems)
  return jnp.any(most > least, axis=1)


def best_of(
  value: Float[Array, " B"],
  keep: Bool[Array, " B"],
  problem: Int[Array, " B"],
  problems: int,
) -> Bool[Array, " B"]:
  """The first row of the highest value of each problem, of those kept."""
  rows = jnp.arange(value.shape[0])
  value = jnp.where(keep, value, -jnp.inf)
  most = jax.ops.segment_max(value, problem, problems)[problem]
  at = jnp.where(keep & (value == most), rows, rows.size)
  return rows == jax.ops.segment_min(at, problem, problems)[problem]


def top_share(
  score: Float[Array, "*B T"], mask: Float[Array, "*B T"], share: float
) -> Float[Array, "*B T"]:
  """1 on the `share` of all tokens under the mask with the highest scores.

  Of the whole round, and at least one of them if there is any.
  """
  inside = (mask > 0).reshape(-1)
  flat = jnp.where(inside, score.reshape(-1), -jnp.inf)
  # Before the others, whatever their scores are: those under the mask.
  order = jnp.lexsort((-flat, ~inside))
  place = jnp.zeros(flat.size, jnp.int32).at[order].set(jnp.arange(flat.size))
  count = jnp.maximum(jnp.floor(share * jnp.sum(inside) + 1e-3), 1.0)
  return ((place < count) & inside).reshape(mask.shape).astype(jnp.float32)


def covariance(
  advantage: Float[Array, "*B T"],
  logprob: Float[Array, "*B T"],
  mask: Float[Array, "*B T"],
) -> Float[Array, "*B T"]:
  """(A_t - mean A) (log pi_t - mean log pi), means over the mask; 0 elsewhere.

  Cui et al. 2025 (arXiv:2505.22617): its mean says how fast the entropy falls.
  """
  count = jnp.maximum(jnp.sum(mask > 0), 1)
  zero = lambda x: jnp.where(mask > 0, x, 0.0)
  gap = lambda x: zero(x - jnp.sum(zero(x)) / count)
  return gap(advantage) * gap(logprob)


def clip_covariance(
  advantage: Float[Array, "B T"],
  logprob: Float[Array, "B T"],
  mask: Float[Array, "B T"],
  noise: Float[Array, "B T"],
  *,
  share: float,
  low: float,
  high: float,
) -> Float[Array, "B T"]:
  """Advantages, but 0 for random tokens of a large covariance (Clip-Cov).

  Cui et al. 2025 (arXiv:2505.22617): of the tokens with low < covariance < high
  as many as a `share` of all under the mask lose their gradient, those of the
  highest `noise`; they count in means all the same. The authors' code takes the
  covariance of the policy at each gradient step and passes over what PPO clips;
  here it is that of the round, under the policy that sampled, where no token is
  clipped.
  """
  found = covariance(advantage, logprob, mask)
  among = (mask > 0) & (found > low) & (found < high)
  chosen = top_share(jnp.where(among, noise, -1.0), mask, share)
  return jnp.where(among & (chosen > 0), 0.0, advantage)


def balanced(
  one: Bool[Array, " B"], kept: Bool[Array, " B"], share: float
) -> Float[Array, " B"]:
  """Weights of the kept rows, of which those of `one` have a `share` in all.

  Their mean is 1. Where all kept rows are of one kind each has weight 1.
  """
  count = lambda rows: jnp.sum(rows, dtype=jnp.float32)
  one = one & kept
  other, total = kept & ~one, count(kept)
  alone = (count(one) == 0) | (count(other) == 0)
  scale = lambda rows, part: part * total / jnp.maximum(count(rows), 1.0)
  weight = jnp.where(one, scale(one, share), scale(other, 1.0 - share))
  return jnp.where(kept, jnp.where(alone, 1.0, weight), 0.0)


def row_noise(
  key: Key[Array, ""], tokens: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """Uniform numbers in [0, 1), the same for a row wherever it stands.

  A function of the key and the row's tokens, so that neither waves nor the
  order of rows change what is drawn.
  """
  place = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.uint32)
  mixed = (tokens.astype(jnp.uint32) + 2) * (place * jnp.uint32(2654435761))
  mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2246822519)
  hashes = jnp.sum(mixed ^ (mixed >> 13), axis=1, dtype=jnp.uint32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, hashes)
  draw = lambda key: jax.random.uniform(key, tokens.shape[1:])
  return jax.vmap(draw)(keys)


def corrupt(
  tokens: Int[Array, "B T"],
  mask: Float[Array, "B T"],
  noise: Float[Array, "B T"],
  substitute: Int[Array, "B T"],
  rate: float | Float[Array, ""],
) -> Int[Array, "B T"]:
  """Inputs in which a share `rate` of the tokens under the mask is replaced.

  `noise` is uniform (`row_noise`). Targets stay what they were, so the policy
  learns to go on from a text that it cannot trust (arXiv:2403.02178, Masked
  Thought, where the substitute is one mask token).
  """
  return jnp.where((noise < rate) & (mask > 0), substitute, tokens)


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
