"""Alarms: what is wrong with a run, what it means, and which field to change.

Each is a pure condition on the metrics of the last SPAN steps, so a resumed run
finds the same ones.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from sitrain.runtime.stopping import Window

_LOG = logging.getLogger("sitrain")
SPAN = 10  # steps; fewer say little
EVERY = 100  # steps of a stage between two lines on the same alarm
FULL = 0.95  # a mean reward above it is no reason to worry


class Alarm(NamedTuple):
  """One row of the table below; {stage} in `fix` is the stage's name."""

  name: str
  sounds: Callable[[Window], bool]
  means: str
  fix: str


def _lists(window: Window, start: str) -> dict[str, np.ndarray]:
  """The known numbers of the last SPAN steps, by what follows `start`.

  Only metrics of which at least half of that many steps are known.
  """
  found = {}
  for name, values in window.items():
    last = np.asarray(values[-SPAN:], np.float64)
    known = last[~np.isnan(last)]
    if name.startswith(start) and len(last) == SPAN and 2 * len(known) >= SPAN:
      found[name.removeprefix(start)] = known
  return found


def _least(start: str, bound: float) -> Callable[[Window], bool]:
  """Whether a metric that begins like this was never below the bound."""
  return lambda window: any(
    np.all(x >= bound) for x in _lists(window, start).values()
  )


def rewards_equal(window: Window) -> bool:
  """Whether all attempts of all steps have had one reward, the same."""
  rewards = _lists(window, "judge/reward_").values()
  flat = _lists(window, "judge/no_signal_").values()
  same = all(np.ptp(x) < 1e-6 for x in rewards)
  return bool(rewards and flat) and same and all(np.all(x == 1) for x in flat)


def no_signal(window: Window) -> bool:
  """Whether the rewards of no problem differed, but those of problems did."""
  flat = _lists(window, "judge/no_signal_").values()
  quiet = bool(flat) and all(np.all(x >= 1 - 1e-6) for x in flat)
  return quiet and not rewards_equal(window)


def entropy_gone(window: Window) -> bool:
  """Whether a turn is all but certain, and its reward is not near 1."""
  reward = _lists(window, "judge/reward_")
  return any(
    np.all(x < 0.01) and np.mean(reward.get(turn, 0.0)) < FULL
    for turn, x in _lists(window, "learn/entropy_").items()
  )


def gradient_zero(window: Window) -> bool:
  """Whether no step has changed anything."""
  norms = _lists(window, "learn/gradient_norm").values()
  return any(np.all(x == 0) for x in norms)


METHOD = "config.stage.{stage}.method"
ALARMS = (
  Alarm(
    "rewards_equal", rewards_equal,
    "all attempts got the same reward, so there is nothing to prefer",
    "look at the texts with config.run.samples_every; at the lowest reward make"
    " config.task easier or start from a better policy, at the highest end the"
    " stage by config.stage.{stage}.until",
  ),
  Alarm(
    "no_signal", no_signal,
    "the attempts at each problem got the same reward: problems are either"
    " solved or out of reach",
    f"raise {METHOD}.samples or {METHOD}.temperature, draw again with"
    " config.stage.{stage}.rounds, or mix the difficulties of config.task",
  ),
  Alarm(
    "all_truncated", _least("generate/truncated_", 0.9),
    "nearly all attempts at a turn were cut at its token limit",
    f"raise {METHOD}.turns; if longer ones are cut too, the policy does not"
    " write the end token: imitate solutions first, or see the chat template",
  ),
  Alarm(
    "nothing_parsed", _least("judge/malformed_", 0.95),
    "in nearly no attempt at a turn was an answer found",
    "compare the texts (config.run.samples_every) with what config.task asks"
    " for; imitate solutions first, or choose another config.task.verifier",
  ),
  Alarm(
    "verifier_fails", _least("judge/unknown_", 0.5),
    "the verifier failed on at least half of the attempts, which are left out",
    "raise config.task.seconds or config.task.memory, or mend the verifier or"
    " the reward",
  ),
  Alarm(
    "entropy_gone", entropy_gone,
    "the policy is all but deterministic before its rewards are high: samples"
    " of a problem are copies of each other",
    f"raise {METHOD}.beta, beta1 or clip_high, whichever it has, or lower"
    " config.stage.{stage}.optimizer.learning_rate; start from an earlier"
    " checkpoint",
  ),
  Alarm(
    "sampler_gap", _least("generate/sampler_gap", 0.02),
    "the sampler's log-probabilities are not the trainer's, so ratios are wrong"
    " before the first update",
    f"set {METHOD}.sampler_ratio=2, or config.model.dtype=float32",
  ),
  Alarm(
    "clipped", _least("learn/clip_fraction", 0.5),
    "half of the tokens with an advantage or more are clipped: the update goes"
    " too far from the policy that has sampled",
    "lower config.stage.{stage}.epochs, minibatches or optimizer.learning_rate",
  ),
  Alarm(
    "copies", _least("judge/copied_", 0.9),
    "nearly all wrong attempts are repeated token for token, so there is no"
    " correction that could be rewarded",
    f"raise {METHOD}.temperature; train with a bonus for progress (score), or"
    " begin with offline first attempts or a corpus of corrections",
  ),
  Alarm(
    "gradient_zero", gradient_zero,
    "no step changed the parameters",
    "see whether any rewards differ (judge/), or lower"
    " config.stage.{stage}.optimizer.learning_rate if parameters have grown",
  ),
)  # fmt: skip
_SAID: dict[tuple[str, str], int] = {}  # (stage, alarm) -> the step of its line


def sounding(window: Window) -> list[Alarm]:
  """The alarms that the window gives cause for."""
  return [alarm for alarm in ALARMS if alarm.sounds(window)]


def line(alarm: Alarm, stage: str, step: int) -> str:
  """An alarm in one line."""
  fix = alarm.fix.format(stage=stage)
  return (
    f"alarm {alarm.name} in the {SPAN} steps of {stage} up to {step}: "
    f"{alarm.means}: {fix}"
  )


def tell(stage: str, step: int, window: Window) -> None:
  """Logs a line on each alarm that sounds, and again after EVERY steps."""
  if jax.process_index() != 0:
    return
  for alarm in sounding(window):
    last = _SAID.get((stage, alarm.name), -EVERY)
    if step < last or step - last >= EVERY:
      _SAID[stage, alarm.name] = step
      _LOG.warning("%s", line(alarm, stage, step))


def history(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
  """Of each alarm that the records of a stage give cause for, by name:

  the `first` and the `last` step at which it did, and at how many `steps`.
  """
  window: Window = {}
  found: dict[str, dict[str, int]] = {}
  for record in records:
    for name, value in record.items():
      if "/" in name:
        number = np.nan if value is None else float(value)
        window.setdefault(name, []).append(number)
        del window[name][:-SPAN]
    for alarm in sounding(window):
      step = int(record["step"])
      seen = found.setdefault(alarm.name, {"first": step, "steps": 0})
      seen.update(last=step, steps=seen["steps"] + 1)
  return found


def described(name: str, stage: str, seen: dict[str, int]) -> str:
  """An alarm of the summary in one line."""
  alarm = next(one for one in ALARMS if one.name == name)
  return (
    f"{stage}: {name} at {seen['steps']} steps, from {seen['first']} to "
    f"{seen['last']}: {alarm.means}: {alarm.fix.format(stage=stage)}"
  )
