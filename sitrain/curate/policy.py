"""The walk from a verdict to a policy-gradient batch, top to bottom."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sitrain.curate.advantage import (
  at_last_token,
  gae,
  per_turn,
  returns,
  sampler_weight,
  to_tokens,
  token_mask,
  whiten_tokens,
)
from sitrain.judge.groups import right_turns
from sitrain.judge.verifier import written
from sitrain.types import (
  OFFLINE,
  PAD,
  Batch,
  Episodes,
  ImitatedTargets,
  PolicyTargets,
  Verdict,
)


def policy_batch(
  rows: Episodes,
  verdict: Verdict,
  *,
  shape: Callable,
  group: Callable,
  estimate: Callable,
  discount: float,
  kl: str,
  kl_weights: tuple[float, ...],
  reference_logprob: Float[Array, "B T"],
) -> Batch:
  """Rewards to values, values to advantages, advantages to tokens.

  Args:
    rows: episodes of K turns.
    verdict: their rewards.
    shape: reward [B K] -> value [B K], each turn from its own reward and those
      before it.
    group: (problem [B], reward [B K]) -> ids [B K] of rows that are compared;
      advantage.BASELINES.
    estimate: (value [B], group [B], known [B]) -> advantage [B], for each turn
      by itself; advantage.ESTIMATES.
    discount: of later turns' values in a turn's return; 0: its own alone.
    kl: the estimator; "k1" is subtracted from the values here, the others are
      the loss's.
    kl_weights: beta of each turn, on the sum of its tokens' KL (nat).
    reference_logprob: of every token, where `kl` needs it.

  The mask holds exactly the tokens that the policy wrote in a turn that counts,
  the end token included, and nothing of prompt, instruction or padding.
  """
  turns = verdict.reward.shape[1]
  counted = own_turns(rows, verdict.known)
  value = jnp.where(counted, shape(verdict.reward), 0.0)
  if kl == "k1":
    gap = per_turn(rows.logprob - reference_logprob, rows.turn, turns)
    value -= gap * jnp.asarray(kl_weights)
  there = jnp.asarray(written(rows, turns))
  value, counted = returns(value, counted, there, discount)
  over_turns = jax.vmap(estimate, in_axes=1, out_axes=1)
  ids = group(rows.problem, verdict.reward)
  advantage = over_turns(value, ids, counted.astype(jnp.float32))
  return token_batch(
    rows, to_tokens(advantage, rows.turn), counted, kl_weights=kl_weights,
    reference_logprob=reference_logprob,
  )


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


def gae_batch(
  rows: Episodes,
  verdict: Verdict,
  value: Float[Array, "B T"],
  *,
  discount: float,
  decay: float,
  kl_weight: float,
  reference_logprob: Float[Array, "B T"],
) -> tuple[Batch, Float[Array, "B T"]]:
  """Rewards of tokens to advantages of tokens, whitened over the round.

  As `policy_batch`, where every token is a step of its own: generalised
  advantages with the critic's `value` before each token. With a value of 0 and
  discount = decay = 1 they are the reward to come. Returns the batch, and the
  returns that a critic is to learn, of the tokens under the batch's mask.
  """
  reward, counted = token_rewards(
    rows, verdict, kl_weight=kl_weight, reference_logprob=reference_logprob
  )
  mask = token_mask(rows.turn, counted)
  gain = gae(reward, value, mask, discount=discount, decay=decay)
  batch = token_batch(
    rows, whiten_tokens(gain, mask), counted,
    kl_weights=(kl_weight,) * counted.shape[1],
    reference_logprob=reference_logprob,
  )
  return batch, jnp.where(mask > 0, gain + value, 0.0)


def token_rewards(
  rows: Episodes,
  verdict: Verdict,
  *,
  kl_weight: float,
  reference_logprob: Float[Array, "B T"],
) -> tuple[Float[Array, "B T"], Bool[Array, "B K"]]:
  """A reward for every token, and the turns that may be trained on them.

  r_t = r_k on the last token of turn k and 0 before it, less kl_weight times
  log pi - log ref of the token (k1; Ouyang et al. 2022, Eq. 2). What is made of
  them sums over later turns too, so a turn does not count where a later one was
  written and has no known reward.
  """
  turns = verdict.reward.shape[1]
  reward = jnp.where(verdict.known > 0, verdict.reward, 0.0)
  counted = own_turns(rows, verdict.known)
  there = jnp.asarray(written(rows, turns))
  _, counted = returns(reward, counted, there, 1.0)
  gap = jnp.where(rows.turn > 0, rows.logprob - reference_logprob, 0.0)
  return at_last_token(reward, rows.turn) - kl_weight * gap, counted


def token_batch(
  rows: Episodes,
  advantage: Float[Array, "B T"],
  trained: Bool[Array, "B K"],
  *,
  kl_weights: tuple[float, ...],
  reference_logprob: Float[Array, "B T"],
) -> Batch:
  """A policy-gradient batch of one advantage a token, for `trained` turns."""
  beta = jnp.broadcast_to(jnp.asarray(kl_weights), trained.shape)
  return Batch(
    inputs=rows.tokens,
    tokens=rows.tokens,
    turn=rows.turn,
    path=rows.path,
    mask=token_mask(rows.turn, trained),
    targets=PolicyTargets(
      advantage=advantage,
      kl_weight=to_tokens(beta, rows.turn),
      old_logprob=rows.logprob,
      sampler_logprob=rows.logprob,
      reference_logprob=reference_logprob,
    ),
  )


def against_sampler(
  batch: Batch, old_logprob: Float[Array, "B T"], most: float
) -> Batch:
  """Ratios to `old_logprob`, and the rest of the way to the sampler a weight.

  The old policy is the one before the update, as the update's own program
  scores it; advantages weigh min(old / sampler, most), so that a program that
  samples in bfloat16, or that is an update behind, is corrected for and clips
  still mean how far the update has gone.
  """
  old = batch.targets
  weight = sampler_weight(old_logprob, old.sampler_logprob, most)
  return batch._replace(targets=old._replace(
    old_logprob=old_logprob, advantage=old.advantage * weight
  ))


def imitate_right(batch: Batch, rows: Episodes, verdict: Verdict) -> Batch:
  """The batch with `ImitatedTargets`: the tokens of turns with a full reward.

  Where all samples of a problem are right their advantages are 0, and the
  likelihood is what trains them.
  """
  imitated = token_mask(rows.turn, right_turns(verdict))
  targets = ImitatedTargets(batch.targets, imitated)
  return batch._replace(targets=targets)


def widen(batch: Batch, columns: int) -> Batch:
  """The batch [B T] with padding up to `columns`."""
  fill = lambda x: 0 if jnp.issubdtype(x.dtype, jnp.floating) else PAD
  wide = jax.tree.map(
    lambda x: jnp.pad(
      x, ((0, 0), (0, columns - x.shape[1])), constant_values=fill(x)
    ),
    batch,
  )
  return wide._replace(path=jnp.maximum(wide.path, 0))


def join_batches(batches: Sequence[Batch], problems: int) -> Batch:
  """All rows of batches [P * S T] of one kind of targets, by problem.

  Those of a problem stand together, in the order of `batches`, so that a device
  keeps its problems and a minibatch has rows of every batch.
  """
  columns = max(batch.tokens.shape[1] for batch in batches)
  wide = [widen(batch, columns) for batch in batches]
  apart = lambda x: x.reshape(problems, -1, columns)
  return jax.tree.map(
    lambda *x: jnp.concatenate(list(map(apart, x)), axis=1).reshape(
      -1, columns
    ),
    *wide,
  )


def append_rows(
  batch: Batch,
  rows: Episodes,
  advantage: Float[Array, " C"],
  trained: Bool[Array, " C"],
  turns: int,
) -> Batch:
  """Appends other rows to the batch, with one advantage for each of them.

  For rows of earlier rounds: their importance ratio is to the policy of that
  round, and they are not in the sampler gap and the KL. `rows` are as wide as
  those of the batch, or wider.
  """
  every = lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], turns))
  batch = widen(batch, rows.tokens.shape[1])
  more = token_batch(
    rows, to_tokens(every(advantage), rows.turn), every(trained),
    kl_weights=(0.0,) * turns, reference_logprob=jnp.zeros_like(rows.logprob),
  )
  targets = more.targets._replace(
    sampler_logprob=jnp.full_like(rows.logprob, jnp.inf)
  )
  more = more._replace(targets=targets)
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), batch, more)
