"""The verbs that several methods share, bound to a task and a model."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from sitrain.judge.verifier import verdict_metrics, verify
from sitrain.losses.imitation import negative_log_likelihood
from sitrain.losses.policy_gradient import policy_gradient
from sitrain.losses.reduce import mean, per_episode
from sitrain.losses.regularizers import LOSSES, k3
from sitrain.models.logprobs import token_scores, token_scores_and_kl
from sitrain.models.roles import anchor, policy, whole
from sitrain.rollout.refill import check_slots, play
from sitrain.tasks.rows import take_rows
from sitrain.types import PAD, Batch, Task, TrainState

KL_ESTIMATORS = ("exact", "k1", "k2", "k3", "none")


def pose_from(task: Task, problems: int) -> Callable:
  """Draws fresh problems of the task, or takes the next rows of its table.

  Table and order are looked up in `state.frozen` under the names that
  `frozen_of` gives them, so that they are arguments of the program.
  """
  if task.table == ():
    return lambda key, state: task.problems(key, problems)
  return lambda key, state: take_rows(
    state.frozen["table"], state.frozen["order"], state.step, problems
  )


def frozen_of(task: Task, order: Any) -> Any:
  """What `pose_from` needs of a task in `TrainState.frozen`."""
  return () if task.table == () else {"table": task.table, "order": order}


def play_with(
  model: Any,
  task: Task,
  *,
  samples: int,
  turns: tuple[int, ...],
  temperature: float,
  slots: int = 0,
  who: Callable[[TrainState], Any] = policy,
) -> Callable:
  """Samples episodes of all turns with the parameters that `who` names.

  `slots` rows are decoded at a time on each group of devices; 0: all of them.
  Raises ValueError for fewer.
  """
  check_slots(slots)

  def generate(keys, state, problems):
    return play(
      keys, model, who(state), problems, slots=slots, samples=samples,
      reply=task.reply, turns=turns, eos=task.eos, temperature=temperature,
    )

  return generate


def judge_with(task: Task, turns: int) -> Callable:
  """Lets the task's verifier judge every turn."""

  def judge(key, state, problems, episodes):
    verdict = verify(task, problems, episodes, turns)
    return verdict, verdict_metrics(task, episodes, verdict)

  return judge


def keep_state(state, problems, episodes, verdict) -> TrainState:
  """Refreshes nothing."""
  return state


def likelihood_loss(model: Any) -> Callable:
  """Weighted likelihood of the masked tokens, as a mean over tokens."""

  def loss(params, state, batch: Batch):
    scores = token_scores(
      model, whole(params["policy"], state), batch.tokens, batch.turn,
      batch.path,
      inputs=batch.inputs, temperature=1.0,
    )
    nll = negative_log_likelihood(scores.logprob, batch.targets.weight)
    return {"nll": mean(nll, batch.mask)}, {
      "learn/nll": mean(nll, batch.mask),
      "learn/entropy": mean(scores.entropy, batch.mask),
    }

  return loss


def policy_loss(
  model: Any, *, turns: int, temperature: float, clip: float, kl: str,
  shared: tuple[int, ...] = (),
) -> Callable:
  """REINFORCE per turn plus the KL to the reference, as sums over tokens.

  `kl` is "exact" (full vocabulary, per token), "k2" or "k3" (from samples), or
  "k1" or "none" (nothing here; k1 belongs into the reward). Log-probabilities
  are taken at the temperature of the sampler. `shared` is that of
  `token_scores`, for batches [P G T]. Raises ValueError for a clip that is not
  above 0.
  """
  if clip <= 0.0:
    raise ValueError(f"clip={clip}: set it above 0, or inf for no clipping")

  def loss(params, state, batch: Batch):
    targets = batch.targets
    rows = batch.tokens, batch.turn, batch.path
    options = dict(
      inputs=batch.inputs, temperature=temperature, shared=shared
    )
    own = whole(params["policy"], state)
    if kl == "exact":
      scores, gap = token_scores_and_kl(
        model, own, anchor(state), *rows, **options
      )
    else:
      scores = token_scores(model, own, *rows, **options)
      gap = k3(scores.logprob, targets.reference_logprob)
    gain = policy_gradient(
      scores.logprob, targets.sampler_logprob, targets.advantage, clip=clip
    )
    terms = {"policy": per_episode(gain, batch.mask)}
    if kl in LOSSES:
      gap = LOSSES[kl](scores.logprob, targets.reference_logprob)
    if kl in LOSSES or kl == "exact":
      terms["kl"] = per_episode(gap * targets.kl_weight, batch.mask)
    return terms, _per_turn(batch, scores, gap, turns, kl)

  return loss


def _per_turn(batch, scores, gap, turns, kl):
  error = jnp.abs(scores.logprob - batch.targets.sampler_logprob)
  metrics = {"generate/sampler_gap": mean(error, batch.mask)}
  for k in range(1, turns + 1):
    mask = batch.mask * (batch.turn == k)
    metrics[f"learn/entropy_{k}"] = mean(scores.entropy, mask)
    if kl != "none":
      metrics[f"learn/kl_{k}"] = per_episode(gap, mask)
  return metrics


def check_turns(task: Task, turns: tuple[int, ...]) -> None:
  """Raises ValueError where a turn is too short for the task's answers."""
  short = [t for t in turns if t < task.turn_length]
  if short or not turns:
    raise ValueError(
      f"turns={tuple(turns)}: this task's answers need "
      f"{task.turn_length} tokens a turn; set every turn to at least that"
    )


def check_solutions(task: Task, turns: tuple[int, ...]) -> None:
  """Raises ValueError where a given turn of the table is longer than its limit.

  Also where no row gives any. Cut short, it would teach the policy to stop in
  the middle, and what is left would be taken for the next turn.
  """
  if task.table == ():
    return
  solution = np.asarray(task.table.solution)
  if not (solution != PAD).any():
    raise ValueError(
      "this task gives no solutions to imitate: take another task or method"
    )
  end = np.isin(solution, task.eos)
  turn = np.cumsum(end, axis=1) - end
  for k, limit in enumerate(turns):
    length = np.sum((turn == k) & (solution != PAD), axis=1)
    if long := np.flatnonzero(length > limit).tolist():
      row = task.texts.kept[long[0]] if task.texts != () else long[0]
      raise ValueError(
        f"turns={tuple(turns)}: turn {k + 1} of {len(long)} of {len(length)} "
        f"given solutions has more than {limit} tokens (first in row {row + 1},"
        f" the longest has {length.max()}): raise turns to that, or leave these"
        " rows out"
      )


def check_choice(name: str, value: str, choices: Any) -> None:
  """Raises ValueError naming the option, its value and what is allowed."""
  if value not in choices:
    raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
