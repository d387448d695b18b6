"""Plans whole stages: every program, the largest batch, other meshes."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sitrain.runtime import sharding
from sitrain.runtime.options import ConfigError, closest
from sitrain.runtime.plan import programs, refusals, subprocess_compile
from sitrain.runtime.plan.chips import LOCAL, Target

MICRO = (8, 2)  # rows per group of devices in a microbatch

Report = Callable[[str], Any]


def check_programs(names: Sequence[str]) -> None:
  """Raises ConfigError for the name of a program that no stage has."""
  for name in names:
    if name not in programs.NAMES:
      raise ConfigError(f"--programs={name}: {closest(name, programs.NAMES)}")


def check_stage(config: dict, name: str) -> list[str]:
  """The stages to plan; ConfigError for one that is not in the config."""
  names = list(config["stages"])
  if name and name not in names:
    raise ConfigError(
      f"--stage={name} is not in the config: {closest(name, names)}"
    )
  return [name] if name else names


def plan_stage(
  config: dict, folder: Any, target: Target, name: str, *,
  only: Sequence[str], report: Report, code: bool = False,
) -> dict[str, Any]:
  """Memory and cost of the programs of a stage, and the time of an iteration.

  `only` names the programs to compile; empty: all. `report` gets lines of
  progress. With `code` the machine code for a TPU is generated too, which takes
  far longer.
  """
  plan = programs.planned(config, folder, target, name)
  if plan.known["state_bytes"] > target.chip.memory:
    rows = [refusals.overfull(plan.abstract, plan.known, target)]
  else:
    make = _compiler(config, folder, plan, target, code)
    rows = _programs(plan, target, only, report, make)
  fits = all(row["fits"] for row in rows)
  known = {n: v for n, v in plan.known.items() if n != "runs"}
  return known | {
    "fits": fits, "programs": rows,
    "step_seconds": sum(row.get("step_seconds", math.nan) for row in rows),
  }


def _compiler(
  config, folder, plan, target, code
) -> Callable[[str], subprocess_compile.Compiled]:
  """name -> Compiled of a program of the stage."""
  if target.name != LOCAL and not code:
    name = plan.known["stage"]
    return lambda program: subprocess_compile.compile_in_subprocess(
      config, folder, target, name, program
    )
  lowered = programs.lowered(plan)
  compile_one = (
    subprocess_compile.compile_here if target.name == LOCAL
    else subprocess_compile.compile_completely
  )
  return lambda program: compile_one(lowered[program])


def _programs(plan, target, only, report, make) -> list[dict]:
  name, names = plan.known["stage"], programs.names_of(plan.stage)
  if only and not set(only) & set(names):
    raise ConfigError(
      f"--programs={','.join(only)}: stage {name} has"
      f" {', '.join(names)}: choose of these"
    )
  rows = []
  for program in names:
    if not only or program in only:
      report(f"{name}: compiling {program}")
      made = functools.partial(make, program)
      rows.append(programs.compiled(program, made, plan.known, target))
  return rows


def largest_batch(
  config: dict, folder: Any, target: Target, found: dict, *,
  only: Sequence[str], report: Report, code: bool = False,
) -> int:
  """The most problems of a stage that fit, by compiling it once more.

  An estimate: memory is assumed to be linear in the batch. -1 where it is not
  known.
  """
  name, count = found["stage"], found["problems"]
  if found["programs"][0]["program"] == "state":
    return 0
  mesh = sharding.make_mesh(**config["mesh"], devices=target.devices)
  unit = programs.unit_of(config["stage"][name], found["per_problem"], mesh)
  other = count // 2 if count // 2 % unit == 0 and count > 1 else 2 * count
  report(f"{name}: once more with {other} problems, for the largest batch")
  again = plan_stage(
    programs.with_problems(config, name, other), folder, target, name,
    only=only, report=report, code=code,
  )
  pair = sorted([found, again], key=lambda one: one["problems"])
  return programs.largest_batch(
    pair[0]["programs"], pair[1]["programs"],
    (pair[0]["problems"], pair[1]["problems"]), unit, target,
  )


def meshes(count: int, host: int) -> Iterator[dict[str, int]]:
  """All ways to split devices over the axes, the most data first.

  `tensor` stays within a host, which has `host` devices.
  """
  divisors = [n for n in range(1, count + 1) if count % n == 0]
  for tensor, fsdp in itertools.product(divisors, divisors):
    if tensor <= host and count % (tensor * fsdp) == 0:
      yield {"data": count // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}


def candidates(
  config: dict, folder: Any, target: Target, name: str
) -> list[dict]:
  """Configs of a stage that may fit: other meshes, batches, microbatches.

  A batch is the smallest that divides over the mesh and is at least that of the
  config. Meshes whose state alone fills the memory are left out. The most
  promising come first: small `tensor` and `fsdp` gather little, and large
  microbatches gather less often.
  """
  found = []
  alone = {"mesh": {"data": 1, "fsdp": 1, "tensor": 1}}
  counts = programs.planned(
    config | alone, folder, target._replace(devices=target.devices[:1]), name
  ).counts
  for mesh in meshes(len(target.devices), target.chip.host):
    ways = [_changed(config, name, counts, mesh, micro) for micro in MICRO]
    try:
      plan = programs.planned(ways[0], folder, target, name)
    except ValueError:  # Heads or widths do not divide.
      continue
    if plan.known["state_bytes"] < target.chip.memory:
      found += [way for i, way in enumerate(ways) if way not in ways[:i]]
  order = lambda c: (
    c["mesh"]["tensor"], c["mesh"]["fsdp"],
    c["stage"][name]["method"]["problems"],
    c["stage"][name]["microbatches"],
  )
  return sorted(found, key=order)


def _changed(config, name, counts, mesh, micro) -> dict:
  stage = config["stage"][name]
  each = max(counts.units // counts.problems, 1)
  groups, waves = mesh["data"] * mesh["fsdp"], stage.get("waves", 1)
  count = stage.get("minibatches", 1)
  unit = math.lcm(waves * groups, groups * count // math.gcd(
    groups * count, each
  ))
  problems = -(-counts.problems // unit) * unit
  units = problems * each // (groups * count)  # of a group, per update
  # The fewest parts of at most `micro` rows, or of one unit with more rows.
  rows = counts.rows // counts.problems
  fewest = min(-(-units * rows // each // micro), units)
  parts = next(n for n in range(fewest, units + 1) if units % n == 0)
  changed = programs.with_problems(config, name, problems)
  stage = changed["stage"][name] | {"microbatches": parts}
  return changed | {
    "mesh": mesh, "stage": changed["stage"] | {name: stage}
  }


def search(
  config: dict, folder: Any, target: Target, name: str, *, tries: int,
  only: Sequence[str], report: Report, code: bool = False,
) -> list[dict]:
  """Plans of the first `tries` candidates, the best first.

  The best fits and takes the fewest seconds per row. Raises ConfigError where
  the state fits on no mesh.
  """
  ways = candidates(config, folder, target, name)
  if not ways:
    raise ConfigError(
      f"--search: on no mesh of {target.name} do the parameters and optimizer "
      f"of stage {name} fit, however they are split: take more chips or a "
      "smaller model, or config.model.lora.rank"
    )
  found = []
  for number, way in enumerate(ways[:tries], 1):
    report(f"mesh {number} of {min(tries, len(ways))}: {way['mesh']}")
    try:
      found.append(
        plan_stage(
          way, folder, target, name, only=only, report=report, code=code
        )
      )
    except ConfigError:
      raise
    except ValueError as error:
      report(f"it does not compile: {error}")
  if not found:
    raise ConfigError(
      f"--search: none of the {min(tries, len(ways))} candidates that were "
      f"tried for stage {name} compiles: raise --tries"
    )
  return rank(found)


def rank(found: Sequence[dict]) -> list[dict]:
  """Plans that fit come first; then by seconds per row."""
  return sorted(found, key=lambda one: (
    not one["fits"], math.isnan(one["step_seconds"]),
    one["step_seconds"] / one["rows"],
  ))
