"""What follows a call: checks, records, an evaluation, and the progress."""

import math
from typing import Any

import numpy as np

from sitrain.runtime import alarms, metrics, samples, stopping, watch
from sitrain.runtime.optimizer import one_of
from sitrain.runtime.snapshot import NotFinite, lower
from sitrain.runtime.staged import GAP
from sitrain.runtime.start import Run
from sitrain.types import Mean, Progress, Stage, TrainState


def record(
  run: Run, stage: Stage, progress: Progress, measured: dict[str, Any],
  spent: dict[str, float], state: TrainState,
) -> Progress:
  """Writes records and samples of a call, shows their mean, and goes on.

  `spent` has the seconds of the call, and those of the host before it. `state`
  is what the call returned, with `measured`: its metrics, and its samples if
  they are on. The numbers of an evaluation are in the record of the last step.
  """
  measured, shown = samples.taken(measured)
  rows = metrics.records(measured)
  check_numbers(stage.name, progress.step, measured, run.max_gap)
  rate = tokens_written(measured) / spent["run/seconds"]
  spent = {name: value / len(rows) for name, value in spent.items()}
  if math.isfinite(rate):  # Not of stages that only read.
    spent["run/tokens_per_second"] = rate
  step = progress.step + len(rows)
  found = watch.evaluated(run.watch, stage, step, state)
  texts = samples.records(stage, shown, progress.step, run.watch.samples_every)
  texts = dict(texts)
  for i, row in enumerate(rows, start=progress.step + 1):
    at = {"step": i, "iteration": progress.first + i}
    more = spent | found if i == step else spent
    at = {"stage": stage.name} | at
    run.sink.write(at | row | more)
    if i in texts:
      run.sink.samples([at | one for one in texts[i]])
  means = {
    name: stopping.mean_of_known([row[name] for row in rows])
    for name in rows[0]
  }
  show = {name: x for name, x in means.items() if not math.isnan(x)}
  run.show(stage.name, step, stage.steps, show, rate)
  window = stopping.extend(progress.window, rows, stage.window)
  window = stopping.add_evaluation(window, found, step, stage.window)
  alarms.tell(stage.name, step, window)
  if stage.best and not stage.best.startswith(stopping.EVAL):
    one_of(f"config.stage.{stage.name}.best", stage.best, rows[0])
  score = best_score(stage, window, step)
  done = step >= stage.steps or stage.until(window)
  return progress._replace(
    step=step, window=window, best=score, done=bool(done)
  )


def best_score(
  stage: Stage, window: dict[str, list[float]], step: int
) -> float:
  """The score of a checkpoint: the mean of `best` over the last steps.

  A mean over BEST_SPAN steps: one is noisy. -inf before there are so many steps
  (or all steps of a shorter stage). Without a metric the score is the step. A
  metric of evaluations ranks only what was evaluated, by that number alone.
  """
  if not stage.best:
    return float(step)
  if stage.best.startswith(stopping.EVAL):
    found = window.get(stage.best, [math.nan])[-1]
    ranked = ranked_now(stage, window, step) and not math.isnan(found)
    return float(found) if ranked else -math.inf
  one_of(f"config.stage.{stage.name}.best", stage.best, window)
  span = min(stopping.BEST_SPAN, stage.steps)
  values = np.array(window[stage.best][-span:])
  known = values[~np.isnan(values)]
  enough = len(values) == span and len(known) > 0
  return float(known.mean()) if enough else -math.inf


def ranked_now(
  stage: Stage, window: dict[str, list[float]], step: int
) -> bool:
  """Whether checkpoints are ranked by evaluations, and `step` had one."""
  if not stage.best.startswith(stopping.EVAL):
    return False
  return window.get(stopping.EVALUATED, [-1])[-1] == step


def check_numbers(
  stage: str, step: int, measured: dict[str, Mean], most: float
) -> None:
  """Raises NotFinite for metrics that are not finite, ValueError for the gap.

  `measured` are the means [steps] of the steps after `step`, which are not
  saved yet. The gap is between the log-probabilities of sampler and trainer; at
  most `most` nat in the mean are allowed.
  """
  i, name, value = metrics.not_finite(measured)
  if name:
    what = {
      "learn/gradient_norm": "the norm of the gradient",
      "learn/parameter_norm": "the norm of the parameters",
    }.get(name, name)
    fix = (
      "it comes from the rewards that the task gives, which have to be finite"
      if name.startswith("judge/") else lower(stage)
    )
    raise NotFinite(
      f"step {step + i + 1} of {stage}: {what} is {value}: {fix}; the last "
      "checkpoint is from before it"
    )
  gap = measured.get(GAP, Mean(np.zeros(1), np.ones(1)))
  widest = float(np.fmax.reduce(metrics.divide(gap)))  # NaN without counts
  if widest > most:
    raise ValueError(
      f"generate/sampler_gap: the sampler's log-probabilities are {widest:.3g} "
      f"nat from the trainer's in the mean, and config.run.max_sampler_gap="
      f"{most}: use float32, or raise it if that is what you expect"
    )


def tokens_written(measured: dict[str, Mean]) -> float:
  """Tokens that the policy generated in a call, all turns; NaN if unknown."""
  names = [name for name in measured if name.startswith("generate/length_")]
  total = sum(float(np.sum(measured[name].total)) for name in names)
  return total if names else math.nan
