"""The flags of `infer`, checked and combined with the config into plans.

What a strategy may cost is known before anything is sampled. With a budget the
option that it grows by is the largest that fits, unless a flag gives it: then a
plan that may take more than the budget is refused.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sitrain.runtime import requested_policy
from sitrain.runtime.options import ConfigError, accepted, closest, makers
from sitrain.runtime.task import options_of as task_options
from sitrain.runtime.workdir import absolute
from sitrain.strategies import needs
from sitrain.strategies.strategy import Strategy
from sitrain.tasks import own_functions
from sitrain.types import PAD, Problems, Task

OPTIONS = ("samples", "rounds", "keep", "distil")  # flags that strategies take
MEASURES = ("total", "sequential")
MOST = 1024  # to which a budget raises an option
# Fields that change no answer.
FREE = ("output", "workdir", "batch", "draws", "mesh")
_LOG = logging.getLogger("sitrain")


class Plan(NamedTuple):
  """The values of the flags, with config.evaluate for those not given."""

  output: str  # "": none
  workdir: str  # "": a model without a run
  stage: str
  which: str
  temperature: float
  top_k: int
  top_p: float
  turns: tuple[int, ...]  # token limits
  problems: int
  batch: int
  seed: int
  draws: int
  mesh: tuple[str, ...]


class Chosen(NamedTuple):
  """A strategy with its options."""

  label: str  # its name, with the budget where there are several
  name: str
  options: dict[str, Any]
  budget: int  # 0: none
  strategy: Strategy
  cost: Any  # Cost of the longest prompt


def plan_from(config: dict, given: Any) -> Plan:
  """Raises ConfigError for flags that do not fit each other; `given`: FLAGS."""
  temperature, seed, batch = requested_policy.drawing(
    config, given, "temperature", "seed", "batch"
  )
  if given.output:
    requested_policy.check_output(given.output)
  stage = requested_policy.stage_of(config, given)
  return Plan(
    output=absolute(given.output), workdir=absolute(given.workdir),
    stage=stage, which=given.which, temperature=temperature,
    top_k=given.top_k, top_p=given.top_p,
    turns=tuple(config["evaluate"]["turns"]), problems=given.problems,
    batch=batch, seed=seed, draws=given.draws, mesh=tuple(given.mesh),
  )  # fmt: skip


def strategies_from(
  config: dict, plan: Plan, given: Any, *, play: Any, task: Task,
  posed: Problems,
) -> list[Chosen]:
  """All strategies of --strategy, at all budgets of --tokens.

  Raises ConfigError for an unknown one, for one that the task does not allow,
  for flags that none of them reads, and for a budget that does not suffice.
  """
  names = list(dict.fromkeys(given.strategy))
  if not names:
    raise ConfigError(
      f"--strategy is missing: {closest('', makers('strategies'))}, or several"
    )
  makes = {name: _maker(name) for name in names}
  options = {
    name: getattr(given, name) for name in OPTIONS
    if getattr(given, name) is not None
  }
  for name in options:
    if not any(name in accepted(make) for make in makes.values()):
      raise ConfigError(
        f"--{name} is not read by {', '.join(names)}: leave it out"
      )
  budgets = [_whole(word) for word in given.tokens] or [0]
  prompt = int(np.sum(np.asarray(posed.prompt) != PAD, axis=1).max())
  feedback = task_options(config, "evaluate").get("feedback", "none") != "none"
  kind, found = needs.kind_of_reply(task, posed), []
  for name, make in makes.items():
    own = {k: v for k, v in options.items() if k in accepted(make)}
    build = lambda own, make=make, name=name: _made(
      make, name, play, task, plan.turns, own
    )
    _check_task(name, build(own), task, kind, feedback)
    fits = _fits(build, name, own, budgets, given.measure, prompt)
    for budget, fit in fits.items():
      label = f"{name}@{budget}" if len(budgets) > 1 else name
      strategy = build(fit)
      _check_temperature(name, strategy, plan)
      _warn(label, strategy, plan)
      found.append(Chosen(
        label, name, settings(make, fit), budget, strategy,
        strategy.cost(prompt),
      ))
  return found


def _fits(build, name, own, budgets, measure, prompt) -> dict[int, dict]:
  """budget -> options; without budgets that allow no more than smaller ones.

  Raises ConfigError where no budget suffices.
  """
  found, refused = {}, ConfigError("")
  for budget in sorted(budgets):
    try:
      fit = fitted(build, name, own, budget, measure, prompt)
    except ConfigError as error:
      refused = error
      continue
    if fit not in found.values():
      found[budget] = fit
  if not found:
    raise refused
  if refused.args[0]:
    _LOG.warning("left out: %s", refused)
  return found


def _warn(label, strategy, plan) -> None:
  if strategy.context > max(len(plan.turns), 1):
    _LOG.warning(
      "%s has up to %d turns in a context, and config.evaluate.turns are %d: "
      "what a policy was not trained on may come out worse",
      label, strategy.context, len(plan.turns),
    )


# Systems that are trained, and the strategy that plays their runs.
PLAYED = {
  "rise": "sequential", "pag": "verify_and_revise", "spoc": "verify_and_revise",
}


def _maker(name: str) -> Callable[..., Strategy]:
  if name.startswith("file:"):
    try:
      return own_functions.load(name, "make")
    except ValueError as error:
      raise ConfigError(f"--strategy={name}: {error}") from error
  known = makers("strategies")
  if name not in known:
    hint = closest(name, known)
    if name in PLAYED:
      hint = f"runs of {name} are played by --strategy={PLAYED[name]}; {hint}"
    raise ConfigError(f"--strategy={name}: {hint}")
  return known[name]


def _whole(word: str) -> int:
  if not word.isdigit() or int(word) < 1:
    raise ConfigError(f"--tokens={word}: give a number of tokens, as 200")
  return int(word)


def _made(make, name, play, task, turns, options) -> Strategy:
  try:
    return make(play, task, turns=turns, **options)
  except ValueError as error:
    raise ConfigError(f"--strategy={name}: --{error}") from error


def settings(make: Callable, given: dict[str, Any]) -> dict[str, Any]:
  """All options of a strategy, those not given with their defaults."""
  found = {
    name: parameter.default for name, parameter in accepted(make).items()
    if name != "turns" and parameter.default is not inspect.Parameter.empty
  }
  return found | given


def fitted(
  build: Callable[[dict], Strategy], name: str, given: dict[str, Any],
  budget: int, measure: str, prompt: int,
) -> dict[str, Any]:
  """The options of a strategy within a budget of tokens a problem; 0: no limit.

  The option that it grows by is the largest that fits in the worst case, a
  prompt of `prompt` tokens and all turns at their limits. Where it is given, or
  does not change the measured cost, it stays. Raises ConfigError where the
  budget does not suffice, which says what would.
  """
  cost = lambda options: getattr(build(options).cost(prompt), measure)
  grows = build(given).grows
  if not budget:
    return given
  if not grows or grows in given:
    if (least := cost(given)) > budget:
      raise ConfigError(_too_dear(name, given, least, budget, measure))
    return given
  least, best = 0, 0
  for number in range(1, MOST + 1):
    try:
      tokens = cost(given | {grows: number})
    except ConfigError:  # fewer than it needs
      continue
    if tokens == least <= budget:  # It does not depend on the number.
      return given
    least = least or tokens
    if tokens > budget:
      break
    best = number
  if not best:
    raise ConfigError(_too_dear(name, given, least, budget, measure))
  return given | {grows: best}


def _too_dear(name, given, least, budget, measure) -> str:
  how = "".join(f" --{k}={v}" for k, v in given.items())
  return (
    f"--strategy={name}{how} may take {least} {measure} tokens a problem, and "
    f"--tokens={budget}: give {least} or more, or less work"
  )


def _check_task(name, strategy, task, kind, feedback) -> None:
  try:
    needs.check(name, strategy.needs, task, kind, feedback=feedback)
  except ValueError as error:
    raise ConfigError(f"--strategy={error}") from error


def _check_temperature(name, strategy, plan) -> None:
  if plan.temperature == 0 and strategy.varied:
    raise ConfigError(
      f"--strategy={name} of --temperature=0 would repeat one attempt: give a "
      "temperature above 0, or --samples=1"
    )


def options_of(config: dict, plan: Plan, chosen: Chosen) -> dict[str, Any]:
  """Everything that the answers depend on."""
  return requested_policy.depends_on(config, plan, FREE) | {
    "strategy": chosen.name, "options": chosen.options
  }
