"""The task's own verifier as a judge, with what it says put into numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from sitrain.types import Episodes, Mean, Metrics, Problems, Task, Verdict


def verify(
  task: Task, problems: Problems, episodes: Episodes, turns: int
) -> Verdict:
  """One reward per turn of every episode, from the answer of its problem."""
  answer, problem = problems.answer, episodes.problem
  if task.on_host and not isinstance(problem, jax.core.Tracer):
    # On the device this would wait for the waves that are being sampled.
    answer, problem = np.asarray(answer), np.asarray(problem)
  return task.verify(answer[problem], episodes, turns)


def truncated(
  episodes: Episodes, turns: int, eos: tuple[int, ...]
) -> Bool[Array, "B K"]:
  """Turns that were cut at their limit: written, but without an end token."""
  ends = jnp.isin(episodes.tokens, jnp.asarray(eos, jnp.int32))
  cut = []
  for turn in range(1, turns + 1):
    inside = episodes.turn == turn
    cut.append(jnp.any(inside, 1) & ~jnp.any(inside & ends, 1))
  return jnp.stack(cut, axis=1)


def verdict_metrics(
  task: Task, episodes: Episodes, verdict: Verdict
) -> Metrics:
  """Per turn: rewards, cuts, texts without an answer, unknowns, and changes.

  unknown counts what the verifier failed on; it is no part of any reward.
  """
  turns = verdict.reward.shape[1]
  final = [task.final(episodes, k + 1) for k in range(turns)]
  rows = jnp.ones(verdict.reward.shape[0])
  cut = truncated(episodes, turns, task.eos)
  right = jnp.where(verdict.known > 0, verdict.reward, 0.0)
  metrics = {}
  for k in range(turns):
    known = verdict.known[:, k]
    metrics[f"judge/reward_{k + 1}"] = _mean(right[:, k], known)
    metrics[f"generate/truncated_{k + 1}"] = _mean(cut[:, k] * rows, rows)
    metrics[f"judge/malformed_{k + 1}"] = _mean(final[k] < 0, rows)
    metrics[f"judge/unknown_{k + 1}"] = _mean(1.0 - known, rows)
    length = jnp.sum(episodes.turn == k + 1, axis=1).astype(jnp.float32)
    metrics[f"generate/length_{k + 1}"] = _mean(length, rows)
    if k:
      both = known * verdict.known[:, k - 1]
      was, now = right[:, k - 1], right[:, k]
      metrics[f"judge/corrected_{k + 1}"] = _mean((1 - was) * now, both)
      metrics[f"judge/spoiled_{k + 1}"] = _mean(was * (1 - now), both)
      metrics[f"judge/changed_{k + 1}"] = _mean(final[k] != final[k - 1], rows)
  return metrics


def _mean(x, mask) -> Mean:
  return Mean(jnp.sum(x * mask), jnp.sum(mask))
