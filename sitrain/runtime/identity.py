"""The identity of a run: the config changes with which it may be resumed.

Fields that change samples or updates of a stage that has begun are fixed: task,
model, methods, optimizers, seed. A stage has begun when it has a checkpoint or
rows. Other changes are applied and reported.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from sitrain.runtime import checkpoint, fields
from sitrain.runtime.options import ConfigError

NOT_SET = "(not set)"
# Fields that change samples and updates at most by rounding.
FREE = (
  "run", "mesh", "evaluate",
  "(task|stage.*.task).(workers|pool)",
  "model.(scan|remat|residual|attention)",
  "stage.*.(waves|microbatches|buckets)",
  "stage.*.method.slots",
)


class Change(NamedTuple):
  """A field that differs, its values as JSON."""

  field: str
  was: str
  now: str


class Begun(NamedTuple):
  """The stages of a workdir that have begun."""

  stages: tuple[str, ...]  # in order
  roles: frozenset[str]  # the roles that they train or hold


def begun_in(workdir: Any, config: dict) -> Begun:
  """The stages of a config that have a checkpoint or rows in the workdir.

  Also those whose checkpoints are all damaged: they are not begun anew.
  """
  found = [
    name for name in config.get("stages", ())
    if checkpoint.steps(epath.Path(workdir) / name)
    or checkpoint.set_aside(epath.Path(workdir) / name)
    or _has_rows(epath.Path(workdir) / name)
  ]
  roles = set()
  for name in found:
    options = fields.STAGE | config["stage"].get(name, {})
    roles |= {*options["trained"], *options["held"]}
  return Begun(tuple(found), frozenset(roles))


def _has_rows(folder: epath.Path) -> bool:
  path = folder / "rows.jsonl"
  return path.exists() or epath.Path(f"{path}.parts").exists()


def is_free(field: str) -> bool:
  """Whether a field changes no sample and no update."""
  parts = field.split(".")
  heads = [".".join(parts[: i + 1]) for i in range(len(parts))]
  return any(fields.matches(h, p) for h in heads for p in FREE)


def check_changes(
  workdir: Any, begun: Begun, changes: Sequence[Change]
) -> list[str]:
  """A line for each change with which the run can be resumed.

  Raises ConfigError for the first change with which it cannot.
  """
  lines = []
  for change in changes:
    field, was, now = change
    if is_free(field) or not _concerns(field, begun):
      pass
    elif field == "stages":
      _check_order(workdir, begun, change)
    elif _grows(field) and now != NOT_SET and was != NOT_SET:
      _check_steps(workdir, begun, change)
    else:
      fix = f", or --config.{field}={was.strip(chr(34))}"
      raise ConfigError(
        f"{workdir} holds a run with config.{field}={was}, this one has {now}:"
        f" give another --workdir{'' if was == NOT_SET else fix}"
        f"{_anew(workdir, field, begun)}"
      )
    lines.append(f"config.{field}: {was} -> {now}")
  return lines


def _anew(workdir: Any, field: str, begun: Begun) -> str:
  """How the last stage that has begun can have another value of a field."""
  for name in begun.stages[-1:]:
    if field.startswith(f"stage.{name}."):
      return f", or remove {workdir}/{name} to train that stage anew"
  return ""


def anew(
  rows: Sequence[str], begun: Begun, changes: Sequence[Change]
) -> list[str]:
  """Stages with `rows` in the summary that have not begun, and have changed.

  Their folders were removed, to train them anew.
  """
  return [
    name for name in rows if name not in begun.stages and any(
      change.field.startswith(f"stage.{name}.")
      or not change.field.startswith("stage")
      for change in changes if not is_free(change.field)
    )
  ]


def grown(changes: Sequence[Change], begun: Begun) -> list[str]:
  """The stages that have begun and get more steps."""
  names = [c.field.split(".")[1] for c in changes if _grows(c.field)]
  return [name for name in names if name in begun.stages]


def bent(config: dict, grown: Sequence[str]) -> list[str]:
  """Lines on stages whose learning rate is another one with more steps."""
  lines = []
  for name in grown:
    given = config["stage"][name].get("optimizer", {})
    schedule = given.get("schedule", "constant")
    if schedule != "constant" and "steps" not in given:
      lines.append(
        f"config.stage.{name}.optimizer.schedule={schedule}, which ends at the"
        " new last step from here on: a run that is begun with as many steps"
        " gets other parameters"
      )
  return lines


def _concerns(field: str, begun: Begun) -> bool:
  """Whether a stage that has begun depends on a field."""
  first, *rest = field.split(".")
  if first == "stage" and rest:
    return rest[0] in begun.stages
  if first == "roles" and rest:
    return rest[0] in begun.roles
  return bool(begun.stages)


def _grows(field: str) -> bool:
  return fields.matches(field, "stage.*.steps")


def _check_order(workdir: Any, begun: Begun, change: Change) -> None:
  """Raises ConfigError unless the stages that have begun still come first."""
  count = len(begun.stages)
  names = [text.strip('" ') for text in change.now.strip("[]").split(",")]
  if tuple(names[:count]) != begun.stages:
    raise ConfigError(
      f"{workdir} has begun the stages {', '.join(begun.stages)}, and"
      f" config.stages={change.now} does not begin with them: name them first,"
      " or give another --workdir"
    )


def _check_steps(workdir: Any, begun: Begun, change: Change) -> None:
  """Raises ConfigError for fewer steps, and if a later stage has begun."""
  name, last = change.field.split(".")[1], begun.stages[-1]
  if int(change.now) < int(change.was):
    raise ConfigError(
      f"{workdir} holds a run with config.{change.field}={change.was}, this one"
      f" has {change.now}: a stage that has begun may get more steps, not fewer"
      f": give another --workdir, or --config.{change.field}={change.was}"
    )
  if name != last:
    raise ConfigError(
      f"{workdir} holds a run with config.{change.field}={change.was}, this one"
      f" has {change.now}: stage {last} has begun after it, and would have"
      " begun from another policy: give another --workdir, or"
      f" --config.{change.field}={change.was}"
    )
