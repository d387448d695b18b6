"""Losses and advantages against the functions of verl, TRL and optax.

  python -m benchmarks.references

Prints a table: what was compared with what, and the largest difference in the
value and in the gradient by the log-probabilities, as a share of the largest
number where that is above 1. The rows are ragged, one has a single token, one
problem has equal rewards, ratios reach e^6, and what no token stands under is
infinite here (theirs is 0 there, for they multiply by the mask). verl and TRL
are looked for where this runs: what is not installed is left out.
"""

import functools
import importlib.util
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.compared_losses import (
  COLUMNS,
  GROUP,
  LENGTHS,
  LIMIT,
  REWARD,
  Comparison,
  difference,
  draw,
  here,
  reduced,
  surrogates,
  there,
)
from sitrain.curate import advantage, select
from sitrain.losses import policy_gradient as policy
from sitrain.losses import preference, reduce, regularizers
from sitrain.losses.value import value_error


def against_verl() -> Iterator[Comparison]:
  """Policy losses, aggregates, KL estimates, values and advantages."""
  from benchmarks.peers import verl_functions as verl

  logprob, drawn = draw()
  rows, theirs = here(drawn), there(drawn)
  losses = surrogates(rows)
  never = dict(clip_ratio_c=verl.NEVER)
  both = dict(clip_ratio_low=0.2, clip_ratio_high=0.28)
  for ours, loss, name, aggregate, config in (
    ("clipped", "clipped", "vanilla", "token_mean", both | never),
    ("dual_clip", "dual", "vanilla", "token_mean", both),
    ("sequence_ratio", "sequence", "gspo", "episode_mean",
     dict(clip_ratio_low=0.03, clip_ratio_high=0.04)),
    ("soft_gate", "soft", "sapo", "episode_mean", {}),
    ("cispo", "cispo", "cispo", "token_mean", both),
  ):
    finish = reduced(aggregate, rows.mask)
    yield Comparison(
      f"losses.policy_gradient.{ours}", f"verl, {name}", aggregate,
      lambda x, loss=loss, finish=finish: finish(losses[loss](x)),
      verl.policy_loss(name, aggregate, theirs, **config), logprob,
    )
  yield from _covariances(verl, logprob, rows, theirs, losses)
  for name in reduce.AGGREGATES:
    yield Comparison(
      f"losses.reduce, {name}", f"verl, agg_loss {verl.MODES[name]}", "",
      reduced(name, rows.mask), verl.aggregate(name, theirs, LIMIT), logprob,
    )
  for name, estimate in ({"k1": regularizers.k1} | regularizers.LOSSES).items():
    finish = reduced("token_mean", rows.mask)
    yield Comparison(
      f"losses.regularizers, {name}", "verl, kl_penalty", "",
      lambda x, of=estimate, finish=finish: finish(of(x, rows.reference)),
      verl.kl("abs" if name == "absolute" else name, theirs), logprob,
    )
  yield Comparison(
    "losses.value.value_error", "verl, compute_value_loss", "clip 0.5",
    lambda x: reduced("token_mean", rows.mask)(
      value_error(x, rows.returns, rows.old_value, clip=0.5)
    ), verl.value_loss(theirs, 0.5), drawn.value,
  )
  yield from _advantages(verl, rows, theirs)


def _covariances(verl, logprob, rows, theirs, losses) -> Iterator[Comparison]:
  """Clip-Cov and KL-Cov; covariances of the same log-probabilities."""
  fixed = jnp.asarray(logprob, jnp.float32)
  token_mean = reduced("token_mean", rows.mask)
  # All of a range, so that no draw decides, and no ratio is clipped before.
  kept = select.clip_covariance(
    rows.advantage, fixed, rows.mask, rows.mask, share=1.0, low=0.1, high=1.0
  )
  yield Comparison(
    "curate.select.clip_covariance", "verl, clip_cov",
    "all tokens of a range", lambda x: token_mean(policy.clipped(
      policy.importance_ratio(x, rows.old), kept, clip=math.inf,
      clip_high=math.inf,
    )),
    verl.policy_loss(
      "clip_cov", "token_mean", theirs, clip_ratio_low=verl.NEVER,
      clip_ratio_high=verl.NEVER, policy_loss=dict(
        clip_cov_ratio=1.0, clip_cov_lb=0.1, clip_cov_ub=1.0
      ),
    ), logprob,
  )
  chosen = select.top_share(
    select.covariance(rows.advantage, fixed, rows.mask), rows.mask, 0.2
  )
  held = lambda x: jnp.where(
    chosen > 0, regularizers.absolute(x, rows.old), 0.0
  )
  yield Comparison(
    "curate.select.covariance, top_share", "verl, kl_cov", "a share of 0.2",
    lambda x: token_mean(losses["plain"](x) + held(x)),
    verl.policy_loss("kl_cov", "token_mean", theirs, policy_loss=dict(
      kl_cov_ratio=0.2, ppo_kl_coef=1.0
    )), logprob,
  )


def _advantages(verl, rows, theirs) -> Iterator[Comparison]:
  """Those of rows, and of tokens."""
  known = jnp.ones_like(rows.reward)
  of = lambda name: lambda: advantage.ESTIMATES[name](
    rows.reward, rows.group, known
  )
  for name, peer, options in (
    ("leave_one_out", "rloo", {}),
    ("group_normalise_sample", "grpo", {}),
    ("group_mean", "grpo", {"norm_adv_by_std_in_grpo": False}),
  ):
    yield Comparison(
      f"curate.advantage.{name}", f"verl, {peer}",
      "as Dr. GRPO" if options else "", of(name),
      functools.partial(verl.outcome_advantage, peer, theirs, **options), (),
    )
  bessel = lambda n: math.sqrt(1 - 1 / n)
  spread = bessel(COLUMNS * len(GROUP))
  yield Comparison(
    "curate.advantage.group_whiten", "verl, reinforce_plus_plus_baseline",
    "times the ratio of its sample deviation to ours",
    lambda: of("group_whiten")() * spread,
    lambda: verl.outcome_advantage("reinforce_plus_plus_baseline", theirs), (),
  )
  parts = {"right": np.array(REWARD), "short": np.array(LENGTHS) % 2 / 1.0}
  weights = {"right": 1.0, "short": 0.5}
  yield Comparison(
    "curate.advantage.decoupled", "verl, gdpo", "answers of one token",
    lambda: advantage.decoupled(
      {k: jnp.asarray(x, jnp.float32) for k, x in parts.items()}, weights,
      rows.group, known,
    ), lambda: verl.gdpo(theirs, weights, parts), (),
  )
  tokens = bessel(sum(LENGTHS))
  options = dict(discount=0.97, decay=0.9)
  gae = lambda **more: advantage.gae(
    rows.token_reward, rows.old_value, rows.mask, **more
  )
  inside = np.asarray(rows.mask)
  yield Comparison(
    "curate.advantage.gae", "verl, gae", "discount 0.97, lambda 0.9; returns",
    lambda: (gae(**options) + rows.old_value) * inside,
    lambda: verl.gae(theirs, 0.97, 0.9)[1].numpy() * inside, (),
  )
  whiten = lambda x: advantage.whiten_tokens(x, rows.mask) * tokens
  yield Comparison(
    "curate.advantage.whiten_tokens", "verl, gae",
    "times the ratio of its sample deviation to ours",
    lambda: whiten(gae(**options)),
    lambda: verl.gae(theirs, 0.97, 0.9)[0].numpy() * inside, (),
  )
  future = lambda: advantage.gae(
    rows.token_reward, jnp.zeros_like(rows.mask), rows.mask, discount=1.0,
    decay=1.0,
  )
  yield Comparison(
    "curate.policy.gae_batch without a critic", "verl, reinforce_plus_plus",
    "times the ratio of its sample deviation to ours",
    lambda: whiten(future()), lambda: verl.future_rewards(theirs), (),
  )


def against_trl() -> Iterator[Comparison]:
  """Policy losses with the KL, and losses of pairs and of rows."""
  from benchmarks.peers import trl_functions as trl

  logprob, drawn = draw()
  rows, theirs = here(drawn), there(drawn)
  penalty = lambda x: 0.04 * regularizers.k3(x, rows.reference)
  both = dict(low=0.2, high=0.28)
  for ours, loss, name, aggregate, options in (
    ("clipped", "clipped", "grpo", "episode_mean", both),
    ("clipped", "clipped", "dr_grpo", "constant_length",
     both | {"length": LIMIT}),
    ("clipped", "clipped", "dapo", "token_mean", both),
    ("sequence_ratio", "sequence", "grpo", "episode_mean",
     dict(level="sequence", low=0.03, high=0.04)),
    ("soft_gate", "soft", "sapo", "episode_mean",
     dict(sapo_temperature_pos=1.0, sapo_temperature_neg=1.05)),
    ("cispo", "cispo, open", "cispo", "token_mean", dict(high=1.28)),
  ):
    # Theirs is one ratio a row for the sequence: advantages of whole rows.
    given = rows, theirs
    if loss == "sequence":
      gain = drawn.advantage[:, 0]
      whole = drawn._replace(advantage=gain[:, None] * np.ones(COLUMNS))
      given = here(whole), there(whole._replace(advantage=gain))
    finish, of = reduced(aggregate, rows.mask), surrogates(given[0])[loss]
    level = ", level=sequence" if loss == "sequence" else ""
    yield Comparison(
      f"losses.policy_gradient.{ours}", f"TRL, GRPOTrainer {name}{level}",
      f"{aggregate}, and 0.04 of k3",
      lambda x, of=of, finish=finish: finish(of(x) + penalty(x)),
      trl.policy_loss(name, given[1], beta=0.04, **options), logprob,
    )
  yield from _pairs(trl, logprob, rows, theirs)


def _pairs(trl, logprob, rows, theirs) -> Iterator[Comparison]:
  """Chosen rows are the first half of the batch, rejected ones the second."""
  pair = lambda x: jnp.stack(jnp.split(x, 2), axis=1)
  sums = lambda x: pair(preference.sequence_sum(x, rows.mask))
  means = lambda x: pair(preference.sequence_mean(x, rows.mask))
  one = jnp.ones(len(GROUP) // 2)
  best = lambda margin, label=1.0: jnp.mean(
    preference.bradley_terry(margin, label * one)
  )
  gap = lambda by, x, beta: preference.dpo_margin(
    by(x), by(rows.reference), beta=beta
  )
  cases = {
    "dpo_margin": ("DPOTrainer sigmoid", lambda x: best(gap(sums, x, 0.1)),
                   trl.pair_loss("sigmoid", theirs, beta=0.1)),
    "dpo_margin of means": (
      "DPOTrainer sigmoid_norm", lambda x: best(gap(means, x, 2.0)),
      trl.pair_loss("sigmoid_norm", theirs, beta=2.0)),
    "squared_margin": (
      "DPOTrainer ipo", lambda x: jnp.mean(preference.squared_margin(
        gap(means, x, 1.0), one, beta=0.1
      )), trl.pair_loss("ipo", theirs, beta=0.1)),
    "simpo_margin": (
      "CPOTrainer simpo, label smoothing 0.1",
      lambda x: best(
        preference.simpo_margin(means(x), beta=2.0, target=0.5), 0.9
      ), trl.simpo(theirs, beta=2.0, target=0.5, smoothing=0.1)),
    "orpo_margin": (
      "ORPOTrainer odds_ratio_loss",
      lambda x: 0.3 * best(preference.orpo_margin(means(x))),
      trl.orpo(theirs, weight=0.3)),
  }
  for name, (peer, ours, other) in cases.items():
    yield Comparison(
      f"losses.preference.{name}", f"TRL, {peer}", "", ours, other, logprob
    )
  good = np.array(REWARD) > 0.4
  row = lambda x: preference.sequence_sum(x - rows.reference, rows.mask)

  def kto(x):
    baseline = jnp.mean(jax.lax.stop_gradient(row(x)))
    return jnp.mean(preference.kto(
      row(x), jnp.asarray(good, jnp.float32),
      jnp.broadcast_to(baseline, good.shape), beta=0.3, weight_good=1.0,
      weight_bad=1.5,
    ))

  yield Comparison(
    "losses.preference.kto", "TRL, KTOTrainer kto",
    "the baseline is the mean gap of the same rows", kto,
    trl.kto(theirs, good, beta=0.3, desirable=1.0, undesirable=1.5), logprob,
  )


def against_optax() -> Iterator[Comparison]:
  """Losses of pairs, which are binary cross-entropies."""
  margin = jnp.linspace(-40.0, 40.0, 81)
  label = jnp.linspace(0.0, 1.0, 81)
  yield Comparison(
    "losses.preference.bradley_terry",
    "optax, sigmoid_binary_cross_entropy", "margins up to 40, soft labels",
    lambda: preference.bradley_terry(margin, label),
    lambda: optax.losses.sigmoid_binary_cross_entropy(margin, label), (),
  )
  yield Comparison(
    "losses.value.value_error", "optax, l2_loss", "no clip",
    lambda: value_error(margin, label, label, clip=math.inf),
    lambda: optax.losses.l2_loss(margin, label), (),
  )


PEERS = {"optax": against_optax, "verl": against_verl, "trl": against_trl}


def installed() -> list[str]:
  """The peers that this environment has."""
  return [name for name in PEERS if importlib.util.find_spec(name)]


def main() -> None:
  """Prints the table of all peers that are installed."""
  print("| here | there | settings | largest difference |\n|---|---|---|---|")
  for name in installed():
    for one in PEERS[name]():
      print(f"| `{one.ours}` | {one.peer} | {one.about} |"
            f" {difference(one):.1e} |", flush=True)


if __name__ == "__main__":
  main()
