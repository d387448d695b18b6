"""A few rows of a step as text, with rewards, verdicts and advantages.

The rows are those that the step has sampled anyway: `curate` hands a few of
them on beside its metrics, so they cost no decoding and no program of their
own. The host keeps those of every n-th step.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sitrain.evaluate.dialogues import dialogue
from sitrain.judge.verifier import cut_turns, written
from sitrain.runtime.metrics import Record, finite
from sitrain.types import (
  PAD,
  ActorCriticTargets,
  Batch,
  Episodes,
  ImitatedTargets,
  Method,
  Metrics,
  PolicyTargets,
  Stage,
  Verdict,
)

NAME = "samples"  # among the metrics of a call
EACH = 2  # rows of a problem that are shown: what they are compared with


class Shown(NamedTuple):
  """The chosen rows of a kind, on the device."""

  rows: Episodes  # [n T]
  verdict: Verdict  # [n K]
  advantage: Array  # [n K] mean over the turn's tokens; NaN where it has none


def showing(method: Method, count: int, columns: Any) -> Method:
  """The method, whose `curate` hands on `count` rows of each kind.

  `columns` are the tokens of a row of each kind: what a bucket has cut off is
  filled with padding, so that all buckets return the same shapes.
  """

  def curate(key, state, problems, rows, verdicts):
    batch, metrics = method.curate(key, state, problems, rows, verdicts)
    posed = problems.prompt.shape[0]
    named = isinstance(rows, dict)
    kinds = rows if named else {"": rows}
    judged = verdicts if named else {"": verdicts}
    shown = {}
    for name, kind in kinds.items():
      at = chosen(posed, kind.problem.shape[0], count)
      own = jax.tree.map(lambda x, at=at: x[at], (kind, judged[name]))
      gain = advantage_of(batch, *own, at)
      shown[name] = Shown(widen(own[0], columns[name]), own[1], gain)
    return batch, metrics | {NAME: shown}

  return method._replace(curate=curate)


def columns_of(rows: Any) -> dict[str, int]:
  """The tokens of a row of each kind, from their shapes."""
  kinds = rows if isinstance(rows, dict) else {"": rows}
  return {name: kind.tokens.shape[1] for name, kind in kinds.items()}


def chosen(problems: int, rows: int, count: int) -> np.ndarray:
  """Numbers of at most `count` rows: the first EACH of the first problems."""
  each = rows // problems
  shown = min(EACH, each)
  first = np.arange(min(-(-count // shown), problems))[:, None] * each
  return (first + np.arange(shown)).reshape(-1)[:count]


def widen(rows: Episodes, columns: int) -> Episodes:
  """The rows with padding up to `columns`."""
  fill = lambda x, value: jnp.pad(
    x, ((0, 0), (0, columns - x.shape[1])), constant_values=value
  )
  return rows._replace(
    tokens=fill(rows.tokens, PAD), turn=fill(rows.turn, PAD),
    logprob=fill(rows.logprob, 0), path=fill(rows.path, 0),
  )


def advantage_of(
  batch: Batch, rows: Episodes, verdict: Verdict, at: np.ndarray
) -> Array:
  """The advantage of each turn [n K], the mean of its trained tokens.

  NaN where a turn is not trained, where the loss has no advantages, and where
  row i of the batch is not row i of the episodes, as in batches of pairs.
  """
  turns = verdict.reward.shape[1]
  targets = batch.targets
  if isinstance(targets, ActorCriticTargets | ImitatedTargets):
    targets = targets.policy
  flat = lambda x: x.reshape(-1, x.shape[-1])
  if not isinstance(targets, PolicyTargets) or flat(batch.tokens).shape[0] <= (
    at.max(initial=0)
  ):
    return jnp.full((len(at), turns), jnp.nan)
  width = min(batch.tokens.shape[-1], rows.tokens.shape[1])
  own = lambda x: flat(x)[at, :width]
  same = jnp.all(own(batch.tokens) == rows.tokens[:, :width], axis=1)
  number = jnp.arange(1, turns + 1)[:, None]
  inside = own(batch.turn)[:, None] == number
  inside &= (own(batch.mask) > 0)[:, None] & same[:, None, None]
  count = jnp.sum(inside, axis=2)
  total = jnp.sum(jnp.where(inside, own(targets.advantage)[:, None], 0), axis=2)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def taken(measured: dict[str, Any]) -> tuple[Metrics, Any]:
  """The metrics of a call without the samples, and the samples [steps n]."""
  rest = {name: x for name, x in measured.items() if name != NAME}
  return rest, measured.get(NAME, {})


def records(
  stage: Stage, shown: Any, first: int, every: int
) -> Iterator[tuple[int, list[Record]]]:
  """(step, its samples as text) of every `every`-th step of a call.

  `first` is the step before the call.
  """
  steps = jax.tree.leaves(shown)[0].shape[0] if shown else 0
  for i in range(steps):
    if (first + i + 1) % every == 0:
      found = []
      for name, kind in shown.items():
        one = jax.tree.map(lambda x, i=i: np.asarray(x[i]), kind)
        found += _texts(stage.task, name, one)
      yield first + i + 1, found


def _texts(task: Any, kind: str, shown: Shown) -> list[Record]:
  rows, verdict = shown.rows, shown.verdict
  turns = verdict.reward.shape[1]
  begun = written(rows, turns)
  cut = cut_turns(task, rows, turns)
  found = []
  for b in range(len(rows.problem)):
    texts = dialogue(task, rows.tokens[b], rows.turn[b])
    parts = {"reward": verdict.reward} | verdict.parts
    found.append({
      "kind": kind, "row": b, "prompt": texts["problem"],
      "turns": [
        {
          "given": texts.get(_before(k), ""),
          "text": texts[f"attempt_{k + 1}"],
          "rewards": {n: finite(_number(x[b, k])) for n, x in parts.items()},
          "known": bool(verdict.known[b, k] > 0),
          "advantage": finite(_number(shown.advantage[b, k])),
          "cut": bool(cut[b, k]),
        }
        for k in range(turns) if begun[b, k]
      ],
    })
  return found


def _before(k: int) -> str:
  """The name of what a row reads before turn k + 1, in `dialogue`."""
  return "instruction" if k == 1 else f"instruction_{k}"


def _number(x: Any) -> float:
  value = float(x)
  return round(value, 4) if math.isfinite(value) else math.nan
