"""Judged episodes as a batch for policy-gradient losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.curate.advantage import leave_one_out, to_tokens
from sitrain.curate.select import written
from sitrain.types import OFFLINE, Batch, Episodes, PolicyTargets


def own_turns(
  episodes: Episodes, known: Float[Array, "B K"]
) -> Bool[Array, "B K"]:
  """Turns that may be trained on: judged, and written by the policy itself.

  A first attempt that was given to the row (OFFLINE) is context only: no
  gradient and no KL (Kumar et al. 2024, section 5.1, "offline prompts"). After
  a turn whose verdict is not known no later one counts: its bonus and its
  baseline would build on that verdict.
  """
  first = jnp.arange(known.shape[1]) == 0
  given = (episodes.parent == OFFLINE)[:, None] & first
  return (jnp.cumprod(known > 0, axis=1) > 0) & ~given


def baselined(
  value: Float[Array, "B K"],
  group: Int[Array, "B K"],
  counted: Bool[Array, "B K"],
) -> Float[Array, "B K"]:
  """Leave-one-out advantages turn by turn, each turn with its own groups.

  Turn k is compared by its own value alone; what that sums up is the method's
  business (`advantage.returns`).
  """
  over_turns = jax.vmap(leave_one_out, in_axes=1, out_axes=1)
  return over_turns(value, group, counted.astype(jnp.float32))


def policy_batch(
  episodes: Episodes,
  advantage: Float[Array, "B K"],
  kl_weights: tuple[float, ...],
  trained: Bool[Array, "B K"],
  reference_logprob: Float[Array, "B T"],
) -> Batch:
  """Spreads advantages and KL weights over the tokens of their turns.

  The mask holds exactly the tokens that the policy wrote in a trained turn,
  the end token included, and nothing of prompt, instruction or padding.
  """
  beta = jnp.broadcast_to(jnp.asarray(kl_weights), advantage.shape)
  return Batch(
    inputs=episodes.tokens,
    tokens=episodes.tokens,
    turn=episodes.turn,
    path=episodes.path,
    mask=written(episodes.turn, trained),
    targets=PolicyTargets(
      advantage=to_tokens(advantage, episodes.turn),
      kl_weight=to_tokens(beta, episodes.turn),
      sampler_logprob=episodes.logprob,
      reference_logprob=reference_logprob,
    ),
  )
