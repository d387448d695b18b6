"""Draw the next token of every row from its own key."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sitrain.models import axes


def keep_top_k(logits: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
  """Masks all but the k largest logits of a row; ties with the k-th stay."""
  threshold = jax.lax.top_k(logits, k)[0][:, -1:]
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
  """Nucleus sampling: keeps the smallest set of tokens whose mass reaches p.

  A token stays iff those ranked before it hold less than p (Holtzman et al.
  2020, section 3.1); of equal ones the lower id ranks first, and the likeliest
  always stays. The least likely that stays is found by bisection, not by
  sorting.
  """
  mass = jax.nn.softmax(logits, axis=-1)
  least = _least_kept(mass, p)
  above = jnp.sum(jnp.where(mass > least, mass, 0.0), axis=-1, keepdims=True)
  equal = mass == least
  before = above + (jnp.cumsum(equal, axis=-1) - 1) * least
  stays = (mass > least) | (equal & (before < p))
  return jnp.where(stays, logits, -jnp.inf)


def _least_kept(mass, p):
  """The smallest x [B 1] such that masses above x do not reach p.

  Floats that are not negative are ordered as the integers of their bits. Those
  have 31 bits beside the sign, so 31 halvings find it exactly.
  """

  def halve(_, ends):
    low, high = ends
    middle = low + (high - low) // 2
    floor = jax.lax.bitcast_convert_type(middle, jnp.float32)
    reached = jnp.sum(jnp.where(mass > floor, mass, 0.0), -1, keepdims=True)
    return jnp.where(reached >= p, middle, low), jnp.where(
      reached >= p, high, middle
    )

  last = jax.lax.bitcast_convert_type(
    jnp.max(mass, axis=-1, keepdims=True), jnp.int32
  )
  ends = jnp.zeros_like(last), last
  _, high = jax.lax.fori_loop(0, 31, halve, ends)
  return jax.lax.bitcast_convert_type(high, jnp.float32)


def inverse_cdf(
  uniform: Float[Array, " B"], weight: Float[Array, "B V"]
) -> Int[Array, " B"]:
  """The first token whose cumulated weight exceeds uniform * total.

  Weights need not sum to one; uniform is in [0, 1). Sums are made in two
  levels of about sqrt(V) terms, which is cheaper than one over all tokens and
  rounds less; a token of weight 0 is never chosen. Where `tensor` splits the
  vocabulary no block lies on two devices, so weights stay where they are.
  """
  rows, size = weight.shape
  parts = _parts_of_vocabulary(size)
  size //= parts
  width = _block_width(size)
  padding = -size % width
  blocks = jnp.pad(
    weight.reshape(rows, parts, size), ((0, 0), (0, 0), (0, padding))
  ).reshape(rows, -1, width)
  sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
  target = uniform * sums[:, -1]
  block = _first_above(sums, target)
  before = jnp.where(block > 0, _at(sums, block - 1), 0.0)
  inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  sums = jnp.cumsum(inside, axis=-1)
  chosen = block * width + _first_above(sums, target - before)
  # That counts the padding at the end of each part before the chosen one.
  return chosen - block // (blocks.shape[1] // parts) * padding


def _parts_of_vocabulary(size):
  """Parts that the devices hold of a vocabulary; 1 where it does not divide."""
  parts = axes.over(("tensor",))
  return parts if size % parts == 0 else 1


def _block_width(size):
  """The least power of two whose square is at least `size`.

  The sums over blocks and those inside of one then have about as many terms,
  which is when both together are shortest. For a large vocabulary a divisor of
  it that is not much smaller is better: padding is a slow copy.
  """
  bits = (size - 1).bit_length()  # `size` is at most 2 ** bits
  width, divisor = 2 ** math.ceil(bits / 2), size & -size
  return divisor if width >= 64 and width / 8 <= divisor < width else width


def _first_above(sums, target):
  """Index of the first sum above the target; the last that grew, if none is."""
  last = jnp.sum(sums < sums[:, -1:], axis=-1)
  found = jnp.sum(sums <= target[:, None], axis=-1)
  return jnp.minimum(found, last).astype(jnp.int32)


def _at(values, index):
  return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]


def draw(
  keys: Key[Array, " B"],
  logits: Float[Array, "B V"],
  temperature: Float[Array, " B"],
  *,
  top_k: int = 0,
  top_p: float = 1.0,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
  """Samples one token a row and returns it with its log-probability.

  The log-probability is that of the distribution drawn from: after
  temperature, then top-k, then top-p. Rows of temperature 0 are greedy, and
  their log-probability is the one at temperature 1. Defaults filter nothing.
  """
  greedy = temperature == 0.0
  logits = logits / jnp.where(greedy, 1.0, temperature)[:, None]
  if top_k > 0:
    logits = keep_top_k(logits, min(top_k, logits.shape[-1]))
  if top_p < 1.0:
    logits = keep_top_p(logits, top_p)
  top = jnp.max(logits, axis=-1)
  weight = jnp.exp(logits - top[:, None])
  # Greedily, the first of the largest: `argmax` takes longer than all of this.
  largest = (logits == top[:, None]).astype(weight.dtype)
  uniform = jnp.where(greedy, 0.0, jax.vmap(jax.random.uniform)(keys))
  token = inverse_cdf(uniform, jnp.where(greedy[:, None], largest, weight))
  return token, _at(logits, token) - top - jnp.log(jnp.sum(weight, axis=-1))
