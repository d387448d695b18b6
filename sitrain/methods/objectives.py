"""Losses bound to a model: what the loss verb of most methods is.

An objective is a pure function of log-probabilities (losses/); here they are
computed, and what it returns is masked and reduced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sitrain.losses.preference import kto, sequence_mean, sequence_sum
from sitrain.losses.ratios import ratio_metrics, token_metrics
from sitrain.losses.reduce import mean, per_attempt, per_episode, per_turn
from sitrain.losses.regularizers import LOSSES, k3
from sitrain.losses.value import value_error
from sitrain.models.heads import values
from sitrain.models.logprobs import token_scores, token_scores_and_kl
from sitrain.models.roles import join_base, params_of
from sitrain.types import Batch, Mean


def policy_objective(
  model: Any, *, turns: int, temperature: float, objective: Callable,
  aggregate: Callable, kl: str, shared: tuple[int, ...] = (),
  anchor: float = 0.0,
) -> Callable:
  """A policy-gradient loss of every turn, and the KL to the reference.

  `objective(logprob, old_logprob, advantage, masks) -> loss`, all [*B T], where
  `masks` has one of each turn: a turn is the sequence of losses that look at
  whole sequences. `aggregate(x, mask) -> Mean` is one of
  losses.reduce.AGGREGATES, for both terms of each turn. `kl` is "exact" (full
  vocabulary, per token), one of regularizers.LOSSES (from samples), or "k1" or
  "none" (nothing here; k1 belongs into the reward). Log-probabilities are taken
  at the temperature of the sampler. `shared` is that of `token_scores`, for
  batches [P G T]. `anchor` above 0 weighs the likelihood of what is imitated,
  the mean over the tokens of a turn, then over turns; targets then are
  `ImitatedTargets`.
  """

  def loss(params, state, batch: Batch):
    if anchor:
      imitated = batch.mask * batch.targets.imitated
      batch = batch._replace(targets=batch.targets.policy)
    targets = batch.targets
    rows = batch.tokens, batch.turn, batch.path
    options = dict(
      inputs=batch.inputs, temperature=temperature, shared=shared
    )
    own = join_base(params["policy"], state)
    if kl == "exact":
      scores, gap = token_scores_and_kl(
        model, own, params_of(state, "reference"), *rows, **options
      )
    else:
      scores = token_scores(model, own, *rows, **options)
      gap = k3(scores.logprob, targets.reference_logprob)
    masks = [batch.mask * (batch.turn == k) for k in range(1, turns + 1)]
    each = objective(
      scores.logprob, targets.old_logprob, targets.advantage, masks
    )
    terms = per_turn(
      "policy", each, batch.mask, batch.turn, turns, aggregate
    )
    if kl in LOSSES:
      gap = LOSSES[kl](scores.logprob, targets.reference_logprob)
    if kl in LOSSES or kl == "exact":
      weighted = gap * targets.kl_weight
      terms |= per_turn(
        "kl", weighted, batch.mask, batch.turn, turns, aggregate
      )
    of = lambda logprob: objective(
      logprob, targets.old_logprob, targets.advantage, masks
    )
    if anchor:
      nll = per_attempt(-scores.logprob, imitated, batch.turn, turns)
      terms["likelihood"] = Mean(anchor * nll.total, nll.count)
    return terms, policy_metrics(batch, scores, gap, turns, kl) | token_metrics(
      of, scores.logprob, targets.advantage, batch.mask, batch.turn
    )

  return loss


def policy_metrics(batch, scores, gap, turns: int, kl: str) -> dict:
  """Of every turn entropy and KL, the ratios, and the gap to the sampler.

  Rows of earlier rounds have a gap for a reason, and are left out of it.
  """
  sampled = batch.targets.sampler_logprob
  own = batch.mask * (sampled != jnp.inf)
  error = jnp.abs(scores.logprob - sampled)
  metrics = {"generate/sampler_gap": mean(error, own)} | ratio_metrics(
    jax.lax.stop_gradient(scores.logprob), batch.targets.old_logprob, batch.mask
  )
  for k in range(1, turns + 1):
    mask = batch.mask * (batch.turn == k)
    metrics[f"learn/entropy_{k}"] = mean(scores.entropy, mask)
    if kl != "none":
      metrics[f"learn/kl_{k}"] = per_episode(gap, mask)
  return metrics


def pair_objective(
  model: Any, *, margin: Callable, objective: Callable, temperature: float,
  anchor: float, per_token: bool = False,
) -> Callable:
  """A loss on pairs [N 2 T], as a mean over those of which both are trained.

  `margin(logprob, reference_logprob) -> [N]` of sequences [N 2], which are the
  sums of the tokens under the mask or, `per_token`, their means, and
  `objective(margin, label) -> [N]`: losses/preference.py. `anchor` weighs the
  likelihood of the chosen rows beside it (after Pang et al. 2024), as a mean
  over all their tokens.
  """
  sequence = sequence_mean if per_token else sequence_sum

  def loss(params, state, batch: Batch):
    scores = token_scores(
      model, join_base(params["policy"], state), batch.tokens, batch.turn,
      batch.path, inputs=batch.inputs, temperature=temperature,
    )
    found = margin(
      sequence(scores.logprob, batch.mask),
      sequence(batch.targets.reference_logprob, batch.mask),
    )
    pair = jnp.all(jnp.any(batch.mask > 0, axis=-1), axis=-1)
    over_pairs = lambda x: mean(x, pair.astype(jnp.float32))
    term = over_pairs(objective(found, batch.targets.label))
    chosen = mean(-scores.logprob[:, 0], batch.mask[:, 0])
    terms = {"preference": term}
    if anchor:
      terms["likelihood"] = Mean(anchor * chosen.total, chosen.count)
    return terms, {
      "learn/preference": term,
      "learn/margin": over_pairs(found),
      # Not how many are above 0: at the reference that is rounding alone.
      "learn/preferred": over_pairs(jax.nn.sigmoid(found)),
      "learn/nll_chosen": chosen,
      "learn/nll_rejected": mean(-scores.logprob[:, 1], batch.mask[:, 1]),
    }

  return loss


def unpaired_objective(
  model: Any, *, beta: float, weight_good: float, weight_bad: float,
  temperature: float,
) -> Callable:
  """KTO on rows [B T], as a mean over those that are trained.

  Targets are `UnpairedTargets`; see losses.preference.kto.
  """

  def loss(params, state, batch: Batch):
    scores = token_scores(
      model, join_base(params["policy"], state), batch.tokens, batch.turn,
      batch.path, inputs=batch.inputs, temperature=temperature,
    )
    targets = batch.targets
    gap = sequence_sum(scores.logprob, batch.mask) - sequence_sum(
      targets.reference_logprob, batch.mask
    )
    row = jnp.any(batch.mask > 0, axis=-1).astype(jnp.float32)
    each = kto(
      gap, targets.good, targets.baseline, beta=beta, weight_good=weight_good,
      weight_bad=weight_bad,
    )
    term = mean(targets.weight * each, row)
    return {"preference": term}, {
      "learn/preference": term,
      "learn/gap_good": mean(gap, row * (targets.good > 0)),
      "learn/gap_bad": mean(gap, row * (targets.good <= 0)),
      "learn/baseline": mean(targets.baseline, row),
    }

  return loss


def value_loss(model: Any, *, clip: float, weight: float) -> Callable:
  """Squared error of the role "critic", as a mean over tokens, times `weight`.

  Values may move by `clip` from those of the sampled round; inf: freely.
  """

  def loss(params, state, batch: Batch):
    value = values(
      model, join_base(params["critic"], state), batch.tokens, batch.turn,
      batch.path,
    )
    targets = batch.targets
    error = value_error(value, targets.returns, targets.old_value, clip=clip)
    return {"value": mean(weight * error, batch.mask)}, {
      "learn/value_error": mean(error, batch.mask)
    }

  return loss


def join_losses(*losses: Callable) -> Callable:
  """One loss of several, for targets that hold those of each, in their order.

  Raises ValueError where two of them name a term or a metric alike.
  """

  def loss(params, state, batch: Batch):
    terms, metrics = {}, {}
    for one, targets in zip(losses, batch.targets, strict=True):
      more = one(params, state, batch._replace(targets=targets))
      if twice := terms.keys() & more[0] | metrics.keys() & more[1]:
        raise ValueError(f"join_losses: two losses name {sorted(twice)}")
      terms, metrics = terms | more[0], metrics | more[1]
    return terms, metrics

  return loss
