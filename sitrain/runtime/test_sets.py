"""The test set of a config: its task, under one or several verifiers."""

from collections.abc import Callable
from typing import Any

from sitrain.runtime import build
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError, accepted, closest, find
from sitrain.runtime.task import options_of
from sitrain.types import Task

OTHER = {"strict": "lenient", "lenient": "strict"}
# Options of the config's task that another task keeps.
SHARED = (
  "verifier", "workers", "seconds", "memory", "run_programs_without_sandbox",
  "run_tests_where_programs_can_forge_a_pass",
)


def retasked(
  config: dict, *, name: str = "", source: str = "", split: Any = None
) -> dict:
  """The config with another test set: another task, a source, or both.

  Another task gets default options, except those in SHARED. `split` belongs to
  `source`; None keeps it.
  """
  old = options_of(config, "evaluate")
  new = old
  if name and name != old["name"]:
    known = accepted(_task(name))
    shared = {n: old[n] for n in SHARED if n in old and n in known}
    new = {"name": name} | shared
  for flag, value in (("source", source), ("split", split)):
    if value and flag not in accepted(_task(new["name"])):
      raise ConfigError(
        f"--{flag}={value}: the task {new['name']} takes none: leave it out, or"
        " name another task, as --task=gsm8k"
      )
  if source:  # Of other rows none are held out.
    kept = {n: v for n, v in new.items() if n not in ("part", "held_out")}
    new = kept | {"source": source}
  new = new | ({"split": split} if split is not None else {})
  evaluate = config["evaluate"] | {"task": {}}
  return config | {"task": new, "evaluate": evaluate}


def _task(name: str) -> Callable:
  """The maker of a task; ConfigError that names --task."""
  try:
    return find("tasks", name, "task.name")
  except ConfigError as error:
    field, flag = f"config.task.name={name!r}", f"--task={name}"
    raise ConfigError(str(error).replace(field, flag, 1)) from error


def tasks_of(
  config: dict, workdir: str, *, verifiers: tuple[str, ...] = ()
) -> dict[str, Task]:
  """verifier -> the test set with that verifier.

  `verifiers` default to that of the config and, for strict and lenient, the
  other one too. A task with only one verifier has the task's name as key. Of a
  task whose option is `reward` they are rewards, as in that option. Raises
  ConfigError for verifiers that the task lacks.
  """
  options = options_of(config, "evaluate")
  maker = find("tasks", options["name"], "task.name")
  known = accepted(maker)
  if "verifier" not in known:
    if verifiers and "reward" in known:
      return {
        name: _judged_by(config, workdir, reward=name, device_reward="")
        for name in verifiers
      }
    if verifiers:
      raise ConfigError(
        f"--verifiers: the task {options['name']} has only one: leave it out"
      )
    task = build.task_from(config, workdir, part="evaluate")
    return {options["name"]: on_host(task)}
  own = options.get("verifier", known["verifier"].default)
  # Texts are judged on the host, where "device" means "strict".
  own = "strict" if own == "device" else own
  names = verifiers or (own, *([OTHER[own]] if own in OTHER else []))
  for name in names:
    if name not in (own, *OTHER):
      raise ConfigError(f"--verifiers={name}: {closest(name, OTHER)}")
  return {name: _judged_by(config, workdir, verifier=name) for name in names}


def _judged_by(config: dict, workdir: str, **how: str) -> Task:
  options = config["evaluate"].get("task", {}) | how
  chosen = config | {"evaluate": config["evaluate"] | {"task": options}}
  task = build.task_from(chosen, workdir, part="evaluate")
  return on_host(task)
