"""The test set of a config: its task, under one or several verifiers."""

from typing import Any

from sitrain.runtime import build
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError, accepted, closest, find
from sitrain.runtime.task import options_of
from sitrain.types import Task

OTHER = {"strict": "lenient", "lenient": "strict"}
# What a config says of these holds for another task as well.
SHARED = (
  "verifier", "workers", "seconds", "memory", "run_programs_without_sandbox",
  "run_tests_where_programs_can_forge_a_pass",
)


def retasked(
  config: dict, *, name: str = "", source: str = "", split: Any = None
) -> dict:
  """The config with another test set: a task of its own, a source, or both.

  Another task has its default options, but for those in SHARED. `split` is of
  `source`; None leaves it as it is.
  """
  old = options_of(config, "evaluate")
  new = old
  if name and name != old["name"]:
    known = accepted(find("tasks", name, "task.name"))
    shared = {n: old[n] for n in SHARED if n in old and n in known}
    new = {"name": name} | shared
  new = new | ({"source": source} if source else {})
  new = new | ({"split": split} if split is not None else {})
  evaluate = config["evaluate"] | {"task": {}}
  return config | {"task": new, "evaluate": evaluate}


def tasks_of(
  config: dict, workdir: str, *, verifiers: tuple[str, ...] = ()
) -> dict[str, Task]:
  """The test set by the names of its verifiers.

  `verifiers` default to the config's own and, of strict and lenient, the other
  one. A task that has only one goes by its own name. Raises ConfigError for
  verifiers that the task lacks.
  """
  options = options_of(config, "evaluate")
  maker = find("tasks", options["name"], "task.name")
  known = accepted(maker)
  if "verifier" not in known:
    if verifiers:
      raise ConfigError(
        f"--verifiers: the task {options['name']} has only one: leave it out"
      )
    task = build.task_from(config, workdir, part="evaluate")
    return {options["name"]: on_host(task)}
  own = options.get("verifier", known["verifier"].default)
  # Texts are judged on the host, where "device" is "strict".
  own = "strict" if own == "device" else own
  names = verifiers or (own, *([OTHER[own]] if own in OTHER else []))
  for name in names:
    if name not in (own, *OTHER):
      raise ConfigError(f"--verifiers={name}: {closest(name, OTHER)}")
  return {name: _judged_by(config, workdir, name) for name in names}


def _judged_by(config, workdir, name) -> Task:
  options = config["evaluate"].get("task", {}) | {"verifier": name}
  chosen = config | {"evaluate": config["evaluate"] | {"task": options}}
  task = build.task_from(chosen, workdir, part="evaluate")
  return on_host(task)
