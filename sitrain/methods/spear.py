"""SPEAR's self-imitation: replay of good rows of earlier rounds.

arXiv:2509.22601 (2025): rows with an advantage above 0 go to a buffer; their
advantage is recomputed as reward minus the median of recent group means, and
those still above 0 are trained on, with a weight that rises by a cosine. Here
replayed rows join the batch of every round until they are too old; in the paper
a full buffer gets its own step and is emptied. Tool reward, filters of rows
and groups, dual clip and covariance clipping are left out.
"""

import jax.numpy as jnp

from sitrain.curate import buffer as buffers
from sitrain.curate.advantage import group_mean
from sitrain.curate.policy import append_rows
from sitrain.methods import reinforce, verbs
from sitrain.rollout.play import columns_of
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "kl", "estimate", "offline", "share_prompts"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  problems: int, capacity: int = 256, age: int = 5, history: int = 1024,
  warmup: int = 100, clip: float = 0.2, clip_high: float = 0.28, **options,
) -> Method:
  """Keeps `capacity` rows for `age` iterations; `history` group means.

  `warmup` is the iterations until replayed rows have their full weight.
  """
  method = reinforce.make(
    models, task, optimizer, turns=turns, problems=problems,
    shape=lambda reward: reward, kl_weights=(0.0,) * len(turns), kl="none",
    estimate="group_mean", clip=clip, clip_high=clip_high, **options,
  )

  def refresh(state, problems, rows, verdict):
    reward, known = verdict.reward[:, -1], verdict.known[:, -1]
    good = group_mean(reward, rows.problem, known) > 0
    memory = buffers.push(state.memory, rows, reward, good, state.step)
    groups = rows.problem, problems.prompt.shape[0]
    memory = buffers.remember_means(memory, reward, known, *groups)
    return state._replace(memory=memory)

  def curate(key, state, problems, rows, verdict):
    batch, metrics = method.curate(key, state, problems, rows, verdict)
    gain, replayed = buffers.advantages(state.memory, state.step, age)
    done = (state.step - state.frozen.get("first", 0)) / warmup
    gain *= 0.5 * (1 - jnp.cos(jnp.pi * jnp.minimum(done, 1.0)))
    batch = append_rows(batch, state.memory.rows, gain, replayed, len(turns))
    return batch, metrics | {"curate/replayed": verbs.share(replayed)}

  slots, rest = columns_of(task, turns)
  return method._replace(
    refresh=refresh, curate=curate,
    memory=lambda key: buffers.empty(capacity, slots + rest, history),
    wanted=(),  # The history has the means of all groups.
  )
