"""RISE: reward-weighted imitation of own attempts, turn after turn.

Qu et al. 2024 (arXiv:2407.18219), self-distilled: each attempt, behind those
before it, weighs exp(reward / tau).
"""

import jax.numpy as jnp

from sitrain.curate import attempts
from sitrain.curate.advantage import to_tokens
from sitrain.curate.select import imitation_batch
from sitrain.judge.verifier import charge_missing, last_reward
from sitrain.methods import checks, rest_em, verbs
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

  Of later turns a row keeps the best of `best_of` attempts. `stop` at a right
  one, `criterion`: attempts.chosen. `repeats` trains copies of an earlier one.
  `missing`: the reward of no answer. `normalise`: weights over their mean.
  """
  checks.check_choice("criterion", criterion, attempts.CRITERIA)
  checks.check_attempts(task)
  attempts.check(tau, missing)
  rows = dict(samples=samples, temperature=temperature, slots=slots)
  options |= rows | {"turns": turns, "start": "previous"}
  method = rest_em.make(models, task, optimizer, **options)

  def judge(key, state, problems, episodes):
    verdict, metrics = method.judge(key, state, problems, episodes)
    return charge_missing(task, episodes, verdict, missing), metrics

  def curate(key, state, problems, episodes, verdict):
    kept = attempts.chosen(verdict, criterion=criterion, stop=stop)
    kept &= repeats | ~attempts.repeated(episodes, turns)
    weight = attempts.reward_weights(
      verdict.reward, kept, tau=tau, normalise=normalise
    )
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
