"""A grid over fields of a config, as one job per point."""

import itertools
import re

from sitrain.runtime.options import ConfigError

from .gcloud import Vm
from .jobs import Job


def split_outside_brackets(text: str, separator: str) -> list[str]:
  """Splits at a separator, but not inside brackets or quotes."""
  parts, quote, depth = [""], "", 0
  for letter in text:
    if quote:
      quote = "" if letter == quote else quote
    elif letter in "'\"":
      quote = letter
    else:
      depth += (letter in "([{") - (letter in ")]}")
    if letter == separator and not quote and depth == 0:
      parts.append("")
    else:
      parts[-1] += letter
  return parts


def read_grid(grid: str) -> dict[str, list[str]]:
  """Values by field, of 'config.seed=0,1;config.stage.rl.steps=10,20'.

  Raises ConfigError for what is not of this form.
  """
  fields = {}
  for part in split_outside_brackets(grid, ";"):
    field, equals, values = part.strip().partition("=")
    field = field.removeprefix("--")
    if not equals or not field.startswith("config.") or not values:
      raise ConfigError(
        f"--grid: {part!r} is not config.FIELD=VALUE,VALUE: see --help"
      )
    if field in fields:
      raise ConfigError(f"--grid: {field} is there twice: join its values")
    parts = split_outside_brackets(values, ",")
    fields[field] = [value.strip() for value in parts]
  return fields


def grid_points(grid: str) -> list[dict[str, str]]:
  """Every combination of values, the last field changing fastest."""
  fields = read_grid(grid)
  return [
    dict(zip(fields, values)) for values in itertools.product(*fields.values())
  ]


def label(point: dict[str, str]) -> str:
  """A name for a folder, as seed=0_bonus=10; fields by their last word.

  Where two fields end in the same word they are written out.
  """
  last = [field.rpartition(".")[2] for field in point]
  short = len(set(last)) == len(last)
  names = last if short else [f.removeprefix("config.") for f in point]
  text = "_".join(f"{n}={v}" for n, v in zip(names, point.values()))
  return re.sub(r"[^\w.=+-]", "-", text)


def jobs_of(job: Job, grid: str) -> list[Job]:
  """A job per point, each with a name and a workdir of its own.

  Raises ConfigError where two points would share a workdir.
  """
  found = [
    job._replace(
      name=f"{job.name}-{i}",
      workdir=f"{job.workdir}/{label(point)}",
      flags=(*job.flags, *(f"--{f}={v}" for f, v in point.items())),
    )
    for i, point in enumerate(grid_points(grid))
  ]
  if len({each.workdir for each in found}) < len(found):
    raise ConfigError("--grid: two points have the same values: leave one out")
  return found


def assign(
  vm: Vm, jobs: list[Job], together: int
) -> list[tuple[Vm, list[Job]]]:
  """Which VM runs which jobs, one after the other: `together` VMs or fewer."""
  count = min(together, len(jobs))
  return [
    (vm._replace(name=f"{vm.name}-{i}"), jobs[i::count]) for i in range(count)
  ]
