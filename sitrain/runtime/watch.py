"""What is looked at while a stage trains: evaluations, and samples as text.

Neither changes a sample or an update: an evaluation has keys of its own, and
samples are rows that the step has made anyway.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sitrain.evaluate import brief
from sitrain.evaluate.player import Player
from sitrain.models.roles import params_of
from sitrain.runtime import activity
from sitrain.runtime.agree import from_first
from sitrain.types import Stage, Task, TrainState

PREFIX, SECONDS = brief.PREFIX, "run/evaluation_seconds"
# Options of config.evaluate for evaluations while a stage trains.
OPTIONS = {
  "every": 0, "every_problems": 512, "every_sampled": False,
  "every_behaviours": False,
}


def no_evaluation(params: Any, say: Callable[[str], None]) -> dict[str, float]:
  """Measures nothing."""
  del params, say
  return {}


class Watch(NamedTuple):
  """When to look, and at what; the default is never."""

  every: int = 0  # steps between evaluations; 0: none
  evaluate: Callable[..., dict[str, float]] = no_evaluation  # (params, say)
  samples_every: int = 0  # steps between samples; 0: none
  samples: int = 0  # rows of each kind


def make(config: dict, player: Player, task: Task) -> Watch:
  """The Watch of a config; `player` plays the problems of its evaluation.

  It is the player of the evaluation after a stage, so with the same batch the
  program is compiled once for both.
  """
  options, run = OPTIONS | config["evaluate"], config["run"]
  key = jax.random.key(options["seed"], impl="threefry2x32")

  def evaluate(params, say):
    progress = lambda done, total: say(f"{done} of {total} problems")
    return brief.brief(
      player, params, key, problems=options["every_problems"],
      batch=options.get("batch", 512), sampled=options["every_sampled"],
      temperature=options["temperature"] or 1.0, on_progress=progress,
      behaviours=(task.tokenizer.decode,) * options["every_behaviours"],
    )

  return Watch(
    options["every"], evaluate, run.get("samples_every", 0),
    run.get("samples", 4),
  )


def names(evaluate: dict) -> list[str]:
  """The metrics of evaluations with these options of config.evaluate."""
  options = OPTIONS | evaluate
  if not options["every"]:
    return []
  own = brief.names(
    len(options["turns"]), sampled=options["every_sampled"],
    behaviours=options["every_behaviours"],
  )
  return [f"{PREFIX}{name}" for name in own]


def due(watch: Watch, stage: Stage, step: int) -> bool:
  """Whether the policy is evaluated after `step`, the last of a call.

  After the first call that reaches a multiple of `every`: from the number of
  the step alone, so a resumed run does it at the same steps.
  """
  if not watch.every or "policy" not in stage.trained:
    return False
  return step // watch.every > (step - stage.steps_per_call) // watch.every


_ENDED: dict[str, float] = {}  # stage -> when its last evaluation ended


def evaluated(
  watch: Watch, stage: Stage, step: int, state: TrainState
) -> dict[str, float]:
  """The numbers of an evaluation by name, with its seconds; {} if none is due.

  They are those of process 0 in all processes, since a run may stop by them.
  All processes must call it. Says the numbers, and what they have cost.
  """
  if not due(watch, stage, step):
    return {}
  began = time.monotonic()
  what = f"evaluating {stage.name} after step {step}"
  with activity.during(what, seldom=True) as say:
    found = watch.evaluate(params_of(state, "policy"), say)
  found = from_first(lambda: found)
  now = time.monotonic()
  took, last = now - began, _ENDED.get(stage.name)
  _ENDED[stage.name] = now
  activity.say(line(stage.name, step, found, took, now - (last or now)))
  return found | {SECONDS: took}


def line(
  stage: str, step: int, found: dict[str, float], took: float, since: float
) -> str:
  """An evaluation in words; `since` are the seconds since the last one, or 0.

  The first one of a process compiles its program, or waits for it.
  """
  shown = [
    f"{name.removeprefix(PREFIX).replace('accuracy_', 'accuracy@')} "
    f"{100 * x:.1f} %"
    for name, x in found.items() if "accuracy_" in name
  ]
  share = f"{100 * took / since:.0f} % of the time" if since else "the first"
  return f"{stage} {step}: {', '.join(shown)} ({took:.1f} s, {share})"
