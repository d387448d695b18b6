"""The verbs that several methods share, bound to a task and a model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sitrain.curate import select
from sitrain.curate.policy import own_turns
from sitrain.judge.verifier import samples_of, verdict_metrics, verify
from sitrain.losses.imitation import negative_log_likelihood
from sitrain.losses.policy_gradient import policy_gradient
from sitrain.losses.preference import bradley_terry, dpo_margin
from sitrain.losses.reduce import mean, per_attempt, per_episode
from sitrain.losses.regularizers import LOSSES
from sitrain.methods.checks import check_clip, check_temperature
from sitrain.methods.objectives import pair_objective, policy_objective
from sitrain.models import foreign
from sitrain.models.logprobs import token_scores
from sitrain.models.roles import join_base, params_of
from sitrain.rollout import by_turn
from sitrain.rollout.play import check_slots, play
from sitrain.tasks.rows import take_rows
from sitrain.types import Batch, Mean, Method, Task, TrainState

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
