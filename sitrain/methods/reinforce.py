"""REINFORCE per turn with a leave-one-out baseline: what RL recipes share.

Kumar et al. 2024, Eq. 2, and Ahmadian et al. 2024 for the estimator. SCoRe and
its baselines differ in `shape`, `kl_weights` and `turns` alone.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sitrain.curate.advantage import BASELINES
from sitrain.curate.policy_batch import baselined, own_turns, policy_batch
from sitrain.losses.regularizers import k1
from sitrain.methods import verbs
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import anchor, policy
from sitrain.rollout.contexts import append_reply, stack
from sitrain.rollout.play import columns_of, play, play_on, row_keys
from sitrain.types import OFFLINE, Method, Task

OFFLINE_STREAM = 2**31  # number of a sample that no other row has

def make(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], shape: Callable, kl_weights: tuple[float, ...],
  temperature: float = 1.0, kl: str = "exact",
  baseline: str = "leave_one_out", clip: float = math.inf, offline: int = 0,
  slots: int = 0, share_prompts: bool = False,
) -> Method:
  """REINFORCE on every turn, each credited with its own value alone.

  Args:
    models: the decoder as "policy".
    task: what is posed and how it is verified.
    optimizer: not used; every method takes it.
    problems: problems of an iteration.
    samples: episodes of each, at least 2.
    turns: token limit of each turn.
    shape: reward [B K] -> value [B K].
    kl_weights: beta of each turn, on the sum of its tokens' KL (nat).
    temperature: of the sampler, and of all log-probabilities.
    kl: exact, k1 (in the reward), k2, k3, or none.
    baseline: leave_one_out, same_outcome or batch_outcome; curate/advantage.py.
    clip: of the importance ratio; inf: none.
    offline: more episodes a problem, whose first attempt the reference wrote.
      With samples=0 they are all there is: turn 1 is not trained then.
    slots: rows that are decoded at a time; 0: all. See rollout/refill.py.
    share_prompts: whether the update reads the prompt of a problem once for all
      its rows, where they are short (models/reading.py); a part of a batch then
      is whole problems.

  Raises ValueError for a choice that is not known, for turns that are too short
  for the task, for a lone sample, for offline attempts with one turn, and for
  slots below 0.
  """
  verbs.check_turns(task, turns)
  verbs.check_choice("kl", kl, verbs.KL_ESTIMATORS)
  verbs.check_choice("baseline", baseline, BASELINES)
  if samples == 1 or samples + offline < 2:
    raise ValueError(f"samples={samples}: leave-one-out needs at least 2")
  if offline and len(turns) < 2:
    raise ValueError(f"offline={offline} needs a second turn: set it to 0")
  model = models["policy"]
  options = dict(turns=turns, temperature=temperature, slots=slots)
  generate = verbs.play_with(model, task, samples=samples, **options)
  if offline:
    given = play_offline(model, task, offline, **options)
    generate = both(generate, given) if samples else given
  together, shared = 1, ()
  if share_prompts:
    together, shared = math.gcd(samples, offline), columns_of(task, turns)
  read = dict(temperature=temperature, together=together, shared=shared)
  curate = curate_with(model, shape, kl_weights, kl, baseline, read)
  return Method(
    pose=verbs.pose_from(task, problems),
    generate=generate,
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.keep_state,
    curate=by_problem(curate, together) if share_prompts else curate,
    loss=verbs.policy_loss(
      model, turns=len(turns), temperature=temperature, clip=clip, kl=kl,
      shared=shared,
    ),
  )


def play_offline(
  model, task, samples, *, turns, temperature, slots
) -> Callable:
  """Samples episodes whose first attempt the reference wrote."""

  options = dict(
    reply=task.reply, eos=task.eos, temperature=temperature, slots=slots
  )

  def generate(keys, state, problems):
    fold = jax.vmap(jax.random.fold_in, (0, None))
    keys = fold(keys, OFFLINE_STREAM)
    first = play(
      keys, model, anchor(state), problems, samples=samples, turns=turns[:1],
      **options,
    )
    reply = task.reply(
      problems.answer[first.problem], first, jnp.ones_like(first.problem)
    )
    rows = play_on(
      row_keys(keys, samples), model, policy(state), problems,
      append_reply(first, reply), samples=1, turns=turns[1:], first_turn=2,
      live=~reply.done, **options,
    )
    return rows._replace(parent=jnp.full_like(rows.parent, OFFLINE))

  return generate


def both(own: Callable, given: Callable) -> Callable:
  """The rows of one after those of the other."""
  return lambda *posed: stack(own(*posed), given(*posed))


def curate_with(model, shape, kl_weights, kl, baseline, read):
  """Shaped rewards, a baseline per turn, and what the KL needs.

  `read` holds the options of `score_rows`.
  """

  def curate(key, state, problems, episodes, verdict):
    trained = own_turns(episodes, verdict.known)
    value = shape(verdict.reward)
    reference = jnp.zeros_like(episodes.logprob)
    if kl in ("k1", "k2", "k3"):
      reference = score_rows(model, anchor(state), episodes, **read).logprob
    if kl == "k1":
      gap = k1(episodes.logprob, reference)
      value -= _per_turn(gap, episodes.turn, kl_weights)
    group = BASELINES[baseline](episodes.problem, verdict.reward)
    advantage = baselined(value, group, trained)
    batch = policy_batch(episodes, advantage, kl_weights, trained, reference)
    return batch, {}

  return curate


def by_problem(curate: Callable, rows: int) -> Callable:
  """Batches [P G T] of G rows a problem, which stand one after the other."""

  def curate_by_problem(*given):
    batch, metrics = curate(*given)
    apart = lambda x: x.reshape(-1, rows, *x.shape[1:])
    return jax.tree.map(apart, batch), metrics

  return curate_by_problem


def _per_turn(gap, turn, weights):
  """Sequence sums per turn, weighted: [B T] -> [B K]."""
  turns = jnp.arange(1, len(weights) + 1)
  at = turn[:, :, None] == turns
  return jnp.sum(jnp.where(at, gap[:, :, None], 0.0), 1) * jnp.asarray(weights)
