"""The verbs that several methods share, bound to a task and a model."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.curate import select
from sitrain.curate.policy import own_turns
from sitrain.judge.verifier import samples_of, verdict_metrics, verify
from sitrain.losses.imitation import negative_log_likelihood
from sitrain.losses.policy_gradient import policy_gradient
from sitrain.losses.preference import bradley_terry, dpo_margin
from sitrain.losses.reduce import mean, per_attempt, per_episode
from sitrain.losses.regularizers import LOSSES
from sitrain.methods.objectives import pair_objective, policy_objective
from sitrain.models import foreign
from sitrain.models.logprobs import token_scores
from sitrain.models.roles import join_base, params_of
from sitrain.rollout import by_turn
from sitrain.rollout.play import check_slots, play
from sitrain.tasks.rows import some_problems, take_rows
from sitrain.types import PAD, Batch, Mean, Method, Task, TrainState

KL_ESTIMATORS = ("exact", "k1", *LOSSES, "none")


def forwards(maker: Callable, *, without: tuple[str, ...] = ()) -> Callable:
  """Declares that a function passes its `**options` on to `maker`.

  `without` names the options of `maker` that it sets itself. Configs are
  checked against both signatures (runtime/options.py).
  """

  def declare(function: Callable) -> Callable:
    vars(function)["forwards"] = maker, without
    return function

  return declare


def pose_from(task: Task, problems: int) -> Callable:
  """Draws fresh problems of the task, or takes the next rows of its table.

  Table, order and the step at which the stage began are looked up in
  `state.frozen` under the names that `frozen_of` gives them, so that they are
  arguments of the program. Where an iteration may pose several times,
  `state.posed` counts in the place of the step. Raises ValueError for no
  problems.
  """
  if problems < 1:
    raise ValueError(f"problems={problems}: set it to 1 or more")
  if task.table == ():
    return lambda key, state: task.problems(key, problems)

  def pose(key, state):
    frozen = state.frozen
    counted = not isinstance(state.posed, tuple)
    number = state.posed if counted else state.step - frozen["first"]
    return take_rows(frozen["table"], frozen["order"], number, problems)

  return pose


def frozen_of(task: Task, order: Any) -> dict[str, Any]:
  """What `pose_from` needs of a task in `TrainState.frozen`."""
  return {} if task.table == () else {"table": task.table, "order": order}


def play_with(
  model: Any,
  task: Task,
  *,
  samples: int,
  turns: tuple[int, ...],
  temperature: float,
  slots: int = 0,
  role: str = "policy",
) -> Callable:
  """Samples episodes of all turns with the parameters of a role.

  `slots` rows are decoded at a time on each group of devices; 0: all of them.
  Where the host writes the replies, `generate.by_turn` has the programs that it
  is made of. Raises ValueError for fewer slots, and for a temperature that
  cannot be trained on.
  """
  sample = player(model, task, temperature=temperature, slots=slots, role=role)

  def generate(keys, state, problems):
    return sample(keys, state, problems, samples=samples, turns=turns)

  if by_turn.on_host(task.reply) and len(turns) > 1:
    if slots:
      raise ValueError(
        f"slots={slots}: set it to 0, as all rows wait for the environment "
        "together"
      )
    vars(generate)["by_turn"] = by_turn.make(
      model, lambda state: (params_of(state, role), temperature),
      samples=samples, reply=task.reply, turns=turns, eos=task.eos,
    )
  return generate


def player(
  model: Any, task: Task, *, temperature: float, slots: int = 0,
  role: str = "policy",
) -> Callable:
  """`play_with` of problems, samples and turns that are given at each call.

  As play(keys [P], state, problems, *, samples, turns).
  """
  check_slots(slots)
  check_temperature(temperature)
  foreign.check(model)

  def sample(keys, state, problems, *, samples, turns):
    return play(
      keys, model, params_of(state, role), problems, slots=slots,
      samples=samples, reply=task.reply, turns=turns, eos=task.eos,
      temperature=temperature,
    )

  return sample


def judge_with(task: Task, turns: int) -> Callable:
  """Lets the task's verifier judge every turn."""

  def judge(key, state, problems, episodes):
    verdict = verify(task, problems, episodes, turns)
    samples = samples_of(problems, episodes)
    return verdict, verdict_metrics(task, episodes, verdict, samples=samples)

  return judge


def with_signal(shape: Callable) -> Callable:
  """Which problems teach a method that compares the rows of each.

  For `Method.wanted`: those whose rows differ in `shape(reward)` [B K] of a
  turn that may be trained on. In the others every advantage is 0.
  """

  def wanted(problems, episodes, verdict):
    return select.with_signal(
      episodes.problem, shape(verdict.reward),
      own_turns(episodes, verdict.known), problems.prompt.shape[0],
    )

  return wanted


def of_kind(name: str, method: Method) -> Method:
  """A method of one kind of rows, for rows and verdicts by name.

  Its `refresh`, `curate` and `wanted` read those that are called `name`.
  """

  def of(verb):
    return lambda *args: verb(*args[:-2], args[-2][name], args[-1][name])

  return method._replace(
    refresh=of(method.refresh), curate=of(method.curate),
    wanted=() if method.wanted == () else of(method.wanted),
  )


def keep_state(state, problems, rows, verdicts) -> TrainState:
  """Refreshes nothing."""
  return state


def promote(state, problems, rows, verdicts) -> TrainState:
  """Makes the policy that has just sampled the reference, in its dtypes.

  A copy, for no array may stand in two fields. Raises ValueError where the
  stage holds none.
  """
  if "reference" not in state.held:
    raise ValueError(
      "this method replaces the reference: set held.reference of its stage"
    )
  copy = lambda own, held: jnp.array(own, held.dtype, copy=True)
  reference = jax.tree.map(
    copy, state.params["policy"], state.held["reference"]
  )
  return state._replace(held=dict(state.held, reference=reference))


def likelihood_loss(model: Any, *, attempts: int = 0) -> Callable:
  """Weighted likelihood of the masked tokens, as a mean over tokens.

  `attempts`: turns of a row, each of which is one item: the mean over its
  tokens, then over the items of the batch. 0: all tokens count alike.
  """

  def loss(params, state, batch: Batch):
    scores = token_scores(
      model, join_base(params["policy"], state), batch.tokens, batch.turn,
      batch.path, inputs=batch.inputs, temperature=1.0,
    )
    nll = negative_log_likelihood(scores.logprob, batch.targets.weight)
    term = mean(nll, batch.mask) if not attempts else per_attempt(
      nll, batch.mask, batch.turn, attempts
    )
    return {"nll": term}, {
      "learn/nll": mean(nll, batch.mask),
      "learn/entropy": mean(scores.entropy, batch.mask),
    }

  return loss


def policy_loss(
  model: Any, *, turns: int, temperature: float, clip: float,
  clip_high: float, max_ratio: float, kl: str, shared: tuple[int, ...] = (),
  aggregate: Callable = per_episode,
) -> Callable:
  """REINFORCE per turn plus the KL to the reference, as sums over tokens.

  `objectives.policy_objective` with ratios that are clipped as in PPO. Raises
  ValueError for a clip that is not above 0.
  """
  check_clip(clip)
  objective = functools.partial(
    policy_gradient, clip=clip, clip_high=clip_high, most=max_ratio
  )
  return policy_objective(
    model, turns=turns, temperature=temperature, kl=kl, shared=shared,
    objective=objective, aggregate=aggregate,
  )


def preference_loss(
  model: Any, *, beta: float, temperature: float, anchor: float
) -> Callable:
  """DPO on pairs [N 2 T]: Rafailov et al. 2023, Eq. 7.

  `anchor` is that of `objectives.pair_objective`.
  """
  return pair_objective(
    model, margin=functools.partial(dpo_margin, beta=beta),
    objective=bradley_terry, temperature=temperature, anchor=anchor,
  )


def restart_from_reference(optimizer: Any) -> Callable:
  """A refresh that makes the policy a copy of the reference, and the optimizer
  new, as ReST-EM and STaR have it.

  A copy, for no array may stand in two fields, in the trained dtype. The verb
  raises ValueError where the stage holds no reference.
  """

  def refresh(state, problems, rows, verdicts) -> TrainState:
    if "reference" not in state.held:
      raise ValueError(
        "this method restarts from it: set held.reference of its stage"
      )
    copy = lambda base, own: jnp.array(base, own.dtype, copy=True)
    policy = jax.tree.map(
      copy, state.held["reference"], state.params["policy"]
    )
    params = dict(state.params, policy=policy)
    return state._replace(params=params, opt_state=optimizer.init(params))

  return refresh


def ramp(state: TrainState, most: float, warmup: int) -> Any:
  """`most`, to which it grows from 0 on in the first `warmup` iterations."""
  done = state.step - state.frozen.get("first", 0) + 1
  return most * jnp.minimum(done / max(warmup, 1), 1.0)


def share(chosen: Any) -> Mean:
  """How many of the rows are chosen, as a metric."""
  chosen = chosen.astype(jnp.float32)
  return mean(chosen, jnp.ones_like(chosen))


def check_turns(task: Task, turns: tuple[int, ...], *, least: int = 1) -> None:
  """Raises ValueError for too few turns, or one too short for the answers."""
  if len(turns) < least:
    raise ValueError(
      f"turns={tuple(turns)}: this method needs {least} or more: give the "
      "token limit of each"
    )
  if any(t < task.turn_length for t in turns):
    raise ValueError(
      f"turns={tuple(turns)}: this task's answers need "
      f"{task.turn_length} tokens a turn; set every turn to at least that"
    )


def check_verdicts(
  task: Task, turns: tuple[int, ...], only: tuple[str, ...] = ()
) -> None:
  """Raises ValueError unless the policy judges its own attempts here.

  `only` names the turns of a method that knows no others.
  """
  if task.accepts == ():
    raise ValueError(
      "this method trains verdicts of the policy on its own attempts, and this "
      "task has none: take one with them, such as chain.critic"
    )
  check_turns(task, turns, least=2)
  if only and len(turns) != len(only):
    raise ValueError(f"turns={turns}: {', '.join(only)}: give {len(only)}")


def check_clip(clip: float, dual: float = math.inf) -> None:
  """Raises ValueError for bounds of ratios that leave nothing to train."""
  if clip <= 0.0:
    raise ValueError(f"clip={clip}: set it above 0, or inf for no clipping")
  if dual <= 1.0:
    raise ValueError(f"dual={dual}: set it above 1, or inf for none")


def check_above_zero(**options: float) -> None:
  """Raises ValueError naming an option that turns a loss around, or off."""
  for name, value in options.items():
    if not value > 0.0:
      raise ValueError(f"{name}={value}: set it above 0")


def check_temperature(temperature: float) -> None:
  """Raises ValueError where samples would have no log-probability to train."""
  if not 0.0 < temperature < float("inf"):
    raise ValueError(
      f"temperature={temperature}: samples to train on need one above 0, such "
      "as 1.0; 0 (greedy) is for evaluation"
    )


def check_solutions(task: Task, turns: tuple[int, ...]) -> None:
  """Raises ValueError where a given turn of the table is longer than its limit.

  Also where no row gives any. Cut short, it would teach the policy to stop in
  the middle, and what is left would be taken for the next turn.
  """
  solution = np.asarray(some_problems(task).solution)
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


def check_pairs(task: Task, turns: tuple[int, ...]) -> None:
  """Raises ValueError where a row gives no pair of turns, or one too long."""
  if len(turns) != 1:
    raise ValueError(f"turns={turns}: a pair is of one turn: give one limit")
  given = np.asarray(some_problems(task).solution)
  if (np.isin(given, task.eos).sum(axis=1) < 2).any():
    raise ValueError(
      "this task gives no pairs: it needs rows with chosen and rejected"
    )
  check_solutions(task, turns * 2)


def check_samples(samples: int, least: int = 2) -> None:
  """Raises ValueError where a problem's samples cannot be compared."""
  if samples < least:
    why = "this method compares the samples of a problem: " * (least > 1)
    raise ValueError(f"samples={samples}: {why}set it to {least} or more")


def check_role(models: dict, role: str, head: str = "") -> None:
  """Raises ValueError where the run does not define a role."""
  if role not in models:
    raise ValueError(
      f"this method needs the role {role!r}: set config.roles.{role} to "
      f"{{'start': 'policy', 'head': {head!r}}}"
    )


def check_choice(name: str, value: str, choices: Any) -> None:
  """Raises ValueError naming the option, its value and what is allowed."""
  if value not in choices:
    raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
