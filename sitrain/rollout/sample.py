"""Draw the next token of every row from its own key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def keep_top_k(logits: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
  """Masks all but the k largest logits of a row; ties with the k-th stay."""
  threshold = jax.lax.top_k(logits, k)[0][:, -1:]
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
  """Nucleus sampling: keeps the smallest set of tokens whose mass reaches p.

  A token stays iff those ranked before it hold less than p (Holtzman et al.
  2020, section 3.1); of equal ones the lower id ranks first, and the likeliest
  always stays.
  """
  order = jnp.argsort(-logits, axis=-1)
  ranked = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
  before = jnp.cumsum(ranked, axis=-1) - ranked
  inside = jnp.put_along_axis(
    jnp.zeros(logits.shape, bool), order, before < p, axis=-1, inplace=False
  )
  return jnp.where(inside, logits, -jnp.inf)


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
  drawn = jax.vmap(jax.random.categorical)(keys, logits)
  token = jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn)
  token = token.astype(jnp.int32)
  scores = jax.nn.log_softmax(logits, axis=-1)
  return token, jnp.take_along_axis(scores, token[:, None], axis=-1)[:, 0]
