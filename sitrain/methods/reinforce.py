"""REINFORCE per turn with a leave-one-out baseline: what RL recipes share.

Kumar et al. 2024, Eq. 2, and Ahmadian et al. 2024 for the estimator. SCoRe and
its baselines differ in `shape`, `kl_weights` and `turns` alone.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sitrain.curate.advantage import (
  BASELINES,
  EQUAL_IS_ZERO,
  ESTIMATES,
  WITHIN_PROBLEMS,
)
from sitrain.curate.policy import (
  against_sampler,
  imitate_right,
  policy_batch,
)
from sitrain.losses.policy_gradient import policy_gradient
from sitrain.losses.reduce import AGGREGATES, aggregate_of
from sitrain.methods import checks, verbs
from sitrain.methods.objectives import policy_objective
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import params_of
from sitrain.rollout import contexts
from sitrain.rollout.play import columns_of, play, play_on, row_keys
from sitrain.types import OFFLINE, Method, Task

OFFLINE_STREAM = 2**31  # number of a sample that no other row has


def build(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], shape: Callable, kl_weights: tuple[float, ...],
  objective: Callable, aggregate: str = "episode_sum",
  temperature: float = 1.0, kl: str = "exact",
  baseline: str = "leave_one_out", estimate: str = "leave_one_out",
  discount: float = 0.0, sampler_ratio: float = -1.0, offline: int = 0,
  slots: int = 0, share_prompts: bool = False, prompt_columns: int = 0,
  anchor: float = 0.0,
) -> Method:
  """A policy gradient on every turn.

  Args:
    models: the decoder as "policy".
    task: what is posed and how it is verified.
    optimizer: not used; every method takes it.
    problems: problems of an iteration.
    samples: episodes of each, at least 2.
    turns: token limit of each turn.
    shape: reward [B K] -> value [B K].
    kl_weights: beta of each turn, on its tokens' KL (nat), summed or averaged
      as `aggregate` says.
    objective: see objectives.policy_objective.
    aggregate: how the losses of tokens are reduced, for each turn by itself:
      token_mean, episode_sum, episode_mean, or constant_length, of which the
      constant is the largest of `turns`; losses.reduce.AGGREGATES.
    temperature: of the sampler, and of all log-probabilities; above 0.
    kl: exact, k1 (in the reward), k2, k3, k3+ (k3 with the gradient of k2),
      absolute, or none.
    baseline: which rows are compared: leave_one_out (of one problem),
      same_outcome or batch_outcome; advantage.BASELINES.
    estimate: how they are compared; advantage.ESTIMATES.
    discount: of later turns' values in a turn's return; 0: its own alone.
    sampler_ratio: 0: importance ratios are to the sampler's log-probabilities.
      Above 0: to those of the policy before the update, scored anew, and
      advantages weigh as much as that differs from the sampler, truncated to
      this number; losses.policy_gradient.sampler_weight. -1: 2 for a policy
      that computes in bfloat16, else 0.
    offline: more episodes a problem, whose first attempt the reference wrote.
      With samples=0 they are all there is: turn 1 is not trained then.
    slots: rows that are decoded at a time; 0: all. See rollout/refill.py.
    share_prompts: whether the update reads the prompt of a problem once for all
      its rows, where they are short (models/reading.py); a part of a batch then
      is whole problems.
    prompt_columns: of prompts, where `pose` makes wider ones than the task.
    anchor: weight of the likelihood of turns with a full reward, beside the
      policy gradient: the mean over a turn's tokens, then over all such turns.

  Raises ValueError for a choice that is not known, for turns that are too short
  for the task, for a lone sample, for offline attempts with one turn, for a
  temperature of 0, and for slots or an anchor below 0.
  """
  checks.check_turns(task, turns)
  checks.check_choice("kl", kl, verbs.KL_ESTIMATORS)
  checks.check_choice("baseline", baseline, BASELINES)
  checks.check_choice("estimate", estimate, ESTIMATES)
  checks.check_choice("aggregate", aggregate, AGGREGATES)
  if sampler_ratio not in (-1, 0):
    checks.check_above_zero(sampler_ratio=sampler_ratio)
  checks.check_from_zero(anchor=anchor)
  checks.check_credit(discount, kl_weights)
  if samples == 1 or samples + offline < 2:
    raise ValueError(f"samples={samples}: a baseline needs at least 2")
  if offline and len(turns) < 2:
    raise ValueError(f"offline={offline} needs a second turn: set it to 0")
  model = models["policy"]
  options = dict(turns=turns, temperature=temperature, slots=slots)
  generate = verbs.play_with(model, task, samples=samples, **options)
  if sampler_ratio == -1:
    sampler_ratio = 2.0 if jnp.dtype(model.dtype) == jnp.bfloat16 else 0.0
  if offline:
    given = play_offline(model, task, offline, **options)
    generate = side_by_side(generate, given) if samples else given
  together, shared = 1, ()
  if share_prompts:
    prompt, rest = columns_of(task, turns)
    shared = max(prompt, prompt_columns), rest
    together = math.gcd(samples, offline)
  read = dict(temperature=temperature, together=together, shared=shared)

  def curate(key, state, problems, episodes, verdict):
    reference = jnp.zeros_like(episodes.logprob)
    if kl != "none":
      held = params_of(state, "reference")  # An error here if it is missing.
    if kl not in ("exact", "none"):
      reference = score_rows(model, held, episodes, **read).logprob
    batch = policy_batch(
      episodes, verdict, shape=shape, group=BASELINES[baseline],
      estimate=ESTIMATES[estimate], discount=discount, kl=kl,
      kl_weights=kl_weights, reference_logprob=reference,
    )
    if sampler_ratio:
      own = score_rows(model, params_of(state, "policy"), episodes, **read)
      batch = against_sampler(batch, own.logprob, sampler_ratio)
    batch = imitate_right(batch, episodes, verdict) if anchor else batch
    return group_rows(batch, together) if share_prompts else batch, {}

  compares = estimate in EQUAL_IS_ZERO and baseline in WITHIN_PROBLEMS
  return Method(
    pose=verbs.pose_from(task, problems),
    generate=generate,
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.keep_state,
    curate=curate,
    loss=policy_objective(
      model, turns=len(turns), temperature=temperature, objective=objective,
      aggregate=aggregate_of(aggregate, max(turns)), kl=kl, shared=shared,
      anchor=anchor,
    ),
    wanted=verbs.with_signal(shape) if compares else (),
  )


@verbs.forwards(build, without=("objective", "anchor"))
def make(
  models: dict, task: Task, optimizer, *, clip: float = math.inf,
  clip_high: float = -1.0, dual: float = math.inf, max_ratio: float = 10.0,
  **options,
) -> Method:
  """REINFORCE, or with a `clip` PPO without a critic.

  Args:
    models: as those after it, and all other options, of `build`.
    task: what is posed.
    optimizer: not used.
    clip: of the importance ratio, below 1; inf: none.
    clip_high: of the ratio above 1; -1: as `clip`.
    dual: bound of the ratio where the advantage is negative; inf: none, 3 is
      usual.
    max_ratio: what ratios are truncated to. On policy all are 1; bfloat16 and
      delayed samples have larger ones.
    **options: of `build`.
  """
  checks.check_clip(clip, dual)
  checks.check_above_zero(max_ratio=max_ratio)
  objective = functools.partial(
    policy_gradient, clip=clip, clip_high=clip if clip_high < 0 else clip_high,
    most=max_ratio, dual=dual,
  )
  return build(models, task, optimizer, objective=objective, **options)


def play_offline(
  model, task: Task, samples: int, *, turns: tuple[int, ...],
  temperature: float, slots: int,
) -> Callable:
  """Samples episodes whose first attempt the reference wrote."""
  options = dict(
    slots=slots, reply=task.reply, eos=task.eos, temperature=temperature
  )

  def generate(keys, state, problems):
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, OFFLINE_STREAM)
    first = play(
      keys, model, params_of(state, "reference"), problems, samples=samples,
      turns=turns[:1], **options,
    )
    reply = task.reply(
      problems.answer[first.problem], first, jnp.ones_like(first.problem)
    )
    rows = play_on(
      row_keys(keys, samples), model, params_of(state, "policy"), problems,
      contexts.append_reply(first, reply), samples=1, turns=turns[1:],
      first_turn=2, live=~reply.done, **options,
    )
    return rows._replace(parent=jnp.full_like(rows.parent, OFFLINE))

  return generate


def side_by_side(own: Callable, given: Callable) -> Callable:
  """The rows of both, those of a problem together."""

  def generate(keys, state, problems):
    parts = own(keys, state, problems), given(keys, state, problems)
    return contexts.side_by_side(parts, keys.shape[0])

  return generate


def group_rows(batch, together: int):
  """A batch [P G T] of G rows a problem, which stand one after the other."""
  return jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), batch)
