"""The task's verifier as a judge, and the metrics of its verdicts.

NumPy arrays stay NumPy arrays: a judge on the host must not touch the device,
where every small operation would wait for the waves that are being sampled.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.judge.copies import copy_metrics
from sitrain.judge.groups import group_metrics, masked_mean
from sitrain.judge.roles import roles, truth_metrics
from sitrain.rollout import contexts, stops
from sitrain.types import (
  OFFLINE,
  Episodes,
  Metrics,
  Problems,
  Task,
  Verdict,
)


def verify(
  task: Task, problems: Problems, episodes: Episodes, turns: int
) -> Verdict:
  """One reward per turn of every episode, from the answer of its problem.

  A turn that was never written is not known, whatever the verifier returns for
  the empty text: its row ended before it.
  """
  verdict = task.verify(problems.answer[episodes.problem], episodes, turns)
  check_shapes(verdict, episodes.problem.shape[0], turns)
  return verdict._replace(known=verdict.known * written(episodes, turns))


def check_shapes(verdict: Verdict, rows: int, turns: int) -> None:
  """Raises ValueError where a task returns anything but one value a turn."""
  for name in ("reward", "known"):
    shape = getattr(verdict, name).shape
    if shape != (rows, turns):
      raise ValueError(
        f"task.verify(answer, episodes, turns={turns}) returned a {name} of "
        f"shape {shape} for {rows} rows: return one a turn, [rows, turns]"
      )


def charge_missing(
  task: Task, episodes: Episodes, verdict: Verdict, reward: float
) -> Verdict:
  """The verdict with another reward for turns without any answer.

  Where `task.final` finds none and the task pays nothing.
  """
  final = final_answers(task, episodes, verdict.reward.shape[1])
  where = verdict.reward.__array_namespace__().where
  none = (final < 0) & (verdict.reward <= 0)
  return verdict._replace(
    reward=where(none, np.float32(reward), verdict.reward)
  )


def last_reward(
  task: Task, problems: Problems, episodes: Episodes, turns: int, *,
  missing: float,
) -> Float[Array, " B"]:
  """The reward of the last of `turns` turns, as `charge_missing` has it.

  -inf where it is not known. For a choice between attempts, on the device.
  """
  verdict = verify(task, problems, episodes, turns)
  reward = charge_missing(task, episodes, verdict, missing).reward
  return jnp.where(verdict.known > 0, reward, -jnp.inf)[:, -1]


def verify_as_one_turn(
  task: Task, problems: Problems, episodes: Episodes
) -> tuple[Verdict, Metrics]:
  """Judges all tokens after the prompt as one attempt.

  For the nodes of a search tree, which have a step, the steps before it and a
  rollout after it. Not known where there are no tokens.
  """
  attempts = contexts.as_one_turn(episodes, problems)
  verdict = verify(task, problems, attempts, 1)
  return verdict, verdict_metrics(task, attempts, verdict)


def written(
  episodes: Episodes, turns: int
) -> Bool[Array | np.ndarray, "B K"]:
  """Whether the row has a token of each turn."""
  number = np.arange(1, turns + 1)[:, None]
  return (episodes.turn[:, None] == number).any(-1)


def truncated(
  episodes: Episodes, turns: int, eos: tuple[int, ...]
) -> Bool[Array | np.ndarray, "B K"]:
  """Turns that were cut at their limit: written, but without an end token."""
  inside = episodes.turn[:, None] == np.arange(1, turns + 1)[:, None]
  ends = (episodes.tokens[..., None] == np.array(eos, np.int32)).any(-1)
  return inside.any(-1) & ~(inside & ends[:, None]).any(-1)


def cut_turns(
  task: Task, episodes: Episodes, turns: int
) -> Bool[Array | np.ndarray, "B K"]:
  """`truncated`, without turns that a string of the environment ended."""
  cut = truncated(episodes, turns, task.eos)
  ends = getattr(task.reply, "stops", stops.NONE)
  if not len(ends.length):
    return cut
  tokens, turn = jnp.asarray(episodes.tokens), jnp.asarray(episodes.turn)
  return cut & ~stops.ended(ends, tokens, turn, turns)


def sampled(
  episodes: Episodes, turns: int
) -> Bool[Array | np.ndarray, "B K"]:
  """Written turns that the policy sampled: no offline first attempts."""
  first = np.arange(turns) == 0
  other = (episodes.parent == OFFLINE)[:, None] & first
  return written(episodes, turns) & ~other


def final_answers(
  task: Task, episodes: Episodes, turns: int
) -> Int[Array | np.ndarray, "B K"]:
  """`task.final` of all turns; ValueError where its shape is another."""
  final, rows = task.final(episodes, turns), episodes.problem.shape[0]
  if final.shape != (rows, turns):
    raise ValueError(
      f"task.final(episodes, turns={turns}) returned shape {final.shape} for "
      f"{rows} rows: return one id a turn, [rows, turns]"
    )
  return final


def samples_of(problems: Problems, episodes: Episodes) -> int:
  """Rows of every problem; they stand together.

  On the host a process may have the rows of a part of the problems alone.
  """
  rows, posed = episodes.problem.shape[0], problems.prompt.shape[0]
  if isinstance(episodes.problem, np.ndarray):
    posed = len(np.unique(episodes.problem))
  return rows // max(posed, 1)


def verdict_metrics(
  task: Task, episodes: Episodes, verdict: Verdict, *, samples: int = 1
) -> Metrics:
  """Per turn: rewards, cuts, texts without an answer, unknowns, and changes.

  With those of copies.copy_metrics, of roles.truth_metrics and, with `samples`
  rows of each problem, of groups.group_metrics. Changes are against the turn
  before, or where every second turn is a verdict the one before that.

  Only of turns that the policy sampled; judge/ended_k counts turns of rows that
  ended before. judge/unknown_k counts failures of the verifier, which are in no
  reward.
  """
  turns = verdict.reward.shape[1]
  final = final_answers(task, episodes, turns)
  own = sampled(episodes, turns)
  cut = cut_turns(task, episodes, turns)
  begun = written(episodes, turns)
  metrics, back = {}, roles(task)
  for k in range(turns):
    known, counted = verdict.known[:, k] * own[:, k], own[:, k]
    metrics[f"judge/reward_{k + 1}"] = masked_mean(verdict.reward[:, k], known)
    for name, part in verdict.parts.items():
      found = part.__array_namespace__().isfinite(part[:, k])
      metrics[f"judge/{name}_{k + 1}"] = masked_mean(part[:, k], known * found)
    metrics[f"generate/truncated_{k + 1}"] = masked_mean(cut[:, k], counted)
    metrics[f"judge/malformed_{k + 1}"] = masked_mean(final[:, k] < 0, counted)
    unknown = 1 - verdict.known[:, k]
    metrics[f"judge/unknown_{k + 1}"] = masked_mean(unknown, counted)
    length = (episodes.turn == k + 1).sum(axis=1)
    metrics[f"generate/length_{k + 1}"] = masked_mean(length, counted)
    if k:
      metrics[f"judge/ended_{k + 1}"] = masked_mean(~begun[:, k], begun[:, 0])
    if k >= back:
      changed = final[:, k] != final[:, k - back]
      metrics[f"judge/changed_{k + 1}"] = masked_mean(changed, counted)
      metrics |= _corrections(verdict, own, k, back)
  known = verdict.known * own
  metrics |= copy_metrics(episodes, verdict, own, samples, back=back)
  metrics |= truth_metrics(task, episodes, verdict, own)
  return metrics | group_metrics(verdict.reward, known, final, samples)


def _corrections(verdict: Verdict, own, k: int, back: int) -> Metrics:
  """Shares of rows that went from wrong to right, and from right to wrong."""
  both = verdict.known[:, k] * verdict.known[:, k - back] * own[:, k]
  was, now = verdict.reward[:, k - back], verdict.reward[:, k]
  return {
    f"judge/corrected_{k + 1}": masked_mean((1 - was) * now, both),
    f"judge/spoiled_{k + 1}": masked_mean(was * (1 - now), both),
  }


def judge_steps_with(task: Task, judge: Callable) -> Callable:
  """Lets `judge` judge rows["solve"], the verifier rows["step"] as one turn."""

  def both(key, state, problems, rows):
    solve, metrics = judge(key, state, problems, rows["solve"])
    step, _ = verify_as_one_turn(task, problems, rows["step"])
    return {"solve": solve, "step": step}, metrics

  return both


def step_names(task: Task) -> list[str]:
  """The rewards step_1, step_2, ... of a task; ValueError for one without."""
  steps = [name for name in task.rewards if name.startswith("step_")]
  names = [f"step_{k + 1}" for k in range(len(steps))]
  if not names or set(names) != set(steps):
    raise ValueError(
      "this task has no verdicts on steps, the rewards step_1, step_2, ..., but"
      f" {steps}: set config.task.steps=True where its task has that (chain)"
    )
  return names
