"""Fields that follow from those given on the command line.

A user who names another data set or a smaller batch should not have to change
every field that depends on it. Given fields are never changed.
"""

from collections.abc import Sequence
from typing import Any

from sitrain.models.huggingface import families
from sitrain.runtime.options import find
from sitrain.tasks.tables import FILES

# Parts that `quick` must not change if one of these fields is given.
KEEP = {"task": ("config.task.source",), "model": ("config.model.path",)}


def keep(spec: str, given: Sequence[str]) -> str:
  """FILE:quick,... with the arguments that keep the given fields."""
  file, _, argument = spec.partition(":")
  words = argument.split(",")
  if "quick" not in words:
    return spec
  words += [
    word for word, names in KEEP.items()
    if set(names) & set(given) and word not in words
  ]
  return f"{file}:{','.join(words)}"


def settle(config: Any, default: Any, given: Sequence[str]) -> None:
  """Sets the fields of a ConfigDict that follow from the given ones.

  `default` is the config of the file alone. The evaluation reads the data set
  of the task if it did before. Another task has options of its own. A file has
  no splits. A checkpoint decides the shape of a model. A batch of another size
  keeps the size of its parts.
  """
  # A config without these is refused later, with the field that it lacks.
  if "task" in config and "evaluate" in config:
    _settle_task(config, default, given)
  if "model" in config:
    _settle_model(config, default, given)
  for name, stage in default.get("stage", {}).items():
    _settle_parts(config.stage[name], stage, f"config.stage.{name}", given)


def _settle_task(config: Any, default: Any, given: Sequence[str]) -> None:
  own, test = config.task, config.evaluate.get("task", {})
  _drop_options(own, default.task, test, given)
  source, tested = "config.task.source", "config.evaluate.task.source"
  if source in given and tested not in given:
    same = default.evaluate.get("task", {}).get("source", "")
    if same and same == default.task.get("source", ""):
      test.source = own.source
  if _splits_files(own.get("name", "")):
    return
  for part, field in ((own, "config.task"), (test, "config.evaluate.task")):
    path = part.get("source", own.get("source", ""))
    changed = {source, f"{field}.source"} & set(given)
    if changed and str(path).endswith(FILES) and "split" in part:
      if f"{field}.split" not in given:
        part.split = ""


def _drop_options(
  own: Any, default: Any, test: Any, given: Sequence[str]
) -> None:
  """Removes the options of another task if the name of one is given."""
  if own.get("name", "") == default.get("name", ""):
    return
  for part, field in ((own, "config.task"), (test, "config.evaluate.task")):
    for name in list(part):
      if name != "name" and f"{field}.{name}" not in given:
        del part[name]


def _settle_model(config: Any, default: Any, given: Sequence[str]) -> None:
  """Removes the shapes of a newly initialized model if a path is given."""
  model = config.model
  if "config.model.path" in given and not default.model.get("path", ""):
    for name in list(model):
      known = (*families.EXECUTION, "path", "lora")
      if name not in known and f"config.model.{name}" not in given:
        del model[name]


def _splits_files(name: str) -> bool:
  """Whether a task finds its splits inside a file itself."""
  try:
    maker = find("tasks", name, "task.name")
  except ValueError:  # It is refused later, with its field.
    return False
  return hasattr(maker, "splits_files")


def _settle_parts(
  stage: Any, default: Any, field: str, given: Sequence[str]
) -> None:
  """Keeps the problems per wave and the rows per microbatch."""
  old, new = (
    [one.method.get(n, 1) for n in ("problems", "samples")]
    for one in (default, stage)
  )
  if not all(isinstance(n, int) and n > 0 for n in (*old, *new)) or old == new:
    return
  for name, factor in (
    ("waves", new[0] / old[0]),
    ("microbatches", new[0] * new[1] / (old[0] * old[1])),
  ):
    if f"{field}.{name}" not in given and default.get(name, 1) > 1:
      stage[name] = max(1, round(default[name] * factor))
