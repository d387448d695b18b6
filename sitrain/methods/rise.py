"""RISE: reward-weighted imitation of own attempts, turn after turn.

Qu et al. 2024 (arXiv:2407.18219), self-distilled: each attempt, behind those
before it, weighs exp(reward / tau).
"""

import jax.numpy as jnp

from sitrain.curate.advantage import to_tokens
from sitrain.curate.attempts import CRITERIA, chosen, repeated, reward_weights
from sitrain.curate.select import imitation_batch
from sitrain.judge.verifier import charge_missing, last_reward
from sitrain.methods import rest_em, verbs
from sitrain.rollout import best
from sitrain.types import Method, Task, Weights


@verbs.forwards(rest_em.make, without=("least", "per_problem", "start"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...], samples: int,
  temperature: float = 1.0, slots: int = 0, best_of: int = 1, tau: float = 0.4,
  criterion: str = "all", stop: bool = True, repeats: bool = False,
  missing: float = -1.0, normalise: bool = False, **options,
) -> Method:
  """Options: see rest_em.make; every round goes on from the one before.

  Of every turn but the first a row keeps the best of `best_of` attempts.
  `stop` at a reward of 1, `criterion`: curate.attempts.chosen. `repeats` trains
  copies of an earlier attempt, too. `missing` is the reward where there is no
  answer. `normalise`: weights over their mean in the round.
  """
  verbs.check_choice("criterion", criterion, CRITERIA)
  if not 0.02 <= tau < float("inf"):  # e^(1 / 0.01) is beyond float32.
    raise ValueError(f"tau={tau}: set it above 0, from 0.02 on, such as 0.4")
  rows = dict(samples=samples, temperature=temperature, slots=slots)
  method = rest_em.make(
    models, task, optimizer, turns=turns, start="previous", **rows, **options
  )

  def judge(key, state, problems, episodes):
    verdict, metrics = method.judge(key, state, problems, episodes)
    return charge_missing(task, episodes, verdict, missing), metrics

  def curate(key, state, problems, episodes, verdict):
    kept = chosen(verdict, criterion=criterion, stop=stop)
    kept &= repeats | ~repeated(episodes, turns)
    weight = reward_weights(verdict.reward, kept, tau=tau, normalise=normalise)
    batch = imitation_batch(episodes, kept, jnp.ones(kept.shape[0]))
    targets = Weights(to_tokens(weight, episodes.turn))
    return batch._replace(targets=targets), {"curate/kept": verbs.share(kept)}

  if best_of != 1:
    score = lambda *rows: last_reward(task, *rows, missing=missing)
    options = rows | {"turns": turns, "best_of": best_of}
    generate = best.make(models["policy"], task, score, **options)
    method = method._replace(generate=generate)
  return method._replace(
    judge=judge, curate=curate,
    loss=verbs.likelihood_loss(models["policy"], attempts=len(turns)),
  )
