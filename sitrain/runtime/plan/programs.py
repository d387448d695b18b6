"""Compiles every program of a stage for a target; reports memory and cost."""

import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sitrain.models import parameters
from sitrain.rollout.refill import SHARE
from sitrain.runtime import build, machine, sharding
from sitrain.runtime.batches import Counts
from sitrain.runtime.host import on_host
from sitrain.runtime.plan import hlo, models
from sitrain.runtime.plan.chips import Target
from sitrain.runtime.plan.cost import cost_of, largest, works
from sitrain.runtime.plan.refusals import BUFFERS, refused, state_bytes
from sitrain.runtime.stage import lower_stage
from sitrain.runtime.staged import NAMES as STAGED
from sitrain.runtime.start import Run, keys_of, layout
from sitrain.types import Stage

# A fused stage has the first, a staged one the others; see runtime/stage.py.
NAMES = ("loop", *STAGED)


class Planned(NamedTuple):
  """A stage of a config on a target, before anything is lowered."""

  run: Run
  stage: Stage
  abstract: Any  # shapes and shardings of its state
  counts: Counts
  known: dict[str, Any]


def planned(config: dict, folder: Any, target: Target, name: str) -> Planned:
  """A stage on a target. Its state has only shapes.

  `folder` has stand-ins for files. Raises ConfigError like a run.
  """
  task = on_host(models.task_of(config, folder))
  mesh = sharding.make_mesh(**config["mesh"], devices=target.devices)
  model = machine.suited(build.model_from(config, task), mesh)
  run = build.run_from(config, task, model, mesh)
  stages = build.stages_from(config, task, run, str(folder))
  stage = next(stage for stage in stages if stage.name == name)
  counts = build.count_rows(f"stage.{name}", run, stage)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    abstract = layout(run, stage)
  given = config["stage"][name]
  return Planned(run, stage, abstract, counts, {
    "stage": name, "mesh": dict(mesh.shape), "chips": mesh.size,
    "parameters": _count(abstract.params),
    "active_parameters": _active(run, abstract.params),
    "state_bytes": state_bytes(abstract),
    "steps": counts.columns, "runs": _runs(stage),
    **_refills(given, counts, mesh),
    "problems": counts.problems, "rows": counts.rows,
    "per_problem": max(counts.units // counts.problems, 1),
    "microbatches": stage.parts["microbatches"],
    "tokens": counts.rows * counts.columns,
  })


def lowered(plan: Planned) -> dict[str, Any]:
  """The programs of a stage by name, lowered for the devices of its mesh."""
  mesh = plan.run.mesh
  key = jax.eval_shape(lambda: keys_of(plan.run)[1])
  key = sharding.abstract(key, sharding.replicated(mesh))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    return lower_stage(plan.run, plan.stage, plan.abstract, key)


def _count(tree) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _active(run: Run, trained: dict[str, Any]) -> int:
  """Parameters that a token needs: of experts only those that it takes."""
  models = {name: role.model for name, role in run.roles.items()}
  return sum(
    parameters.active(models.get(name, run.model), tree)
    for name, tree in trained.items()
  )


def _refills(stage: dict, counts: Counts, mesh: Any) -> dict[str, int]:
  """How often slots are decoded to their end, and prompts are read for them.

  All rows are assumed to take all steps, so a group's slots end together.
  """
  groups = sharding.groups(mesh) * stage.get("waves", 1)
  slots = stage["method"].get("slots", 0)
  rows, problems = -(-counts.rows // groups), -(-counts.problems // groups)
  if not 0 < slots < rows:
    return {"rounds": 1, "refills": 1}
  batch = min(max(1, slots // SHARE), problems)
  return {"rounds": -(-rows // slots), "refills": -(-problems // batch)}


def _runs(stage: Stage) -> dict[str, float]:
  """The most runs of each program in an iteration."""
  rounds = float(stage.rounds)
  turns = getattr(stage.method.generate, "by_turn", None)
  waves = rounds * stage.parts["waves"]
  return {
    "loop": 1 / stage.steps_per_call, "pose": rounds, "learn": 1.0,
    "generate": waves, "join": rounds, "wanted": 1.0,
    "begin": waves, "go_on": waves * (turns.count - 1 if turns else 0),
    "merge": rounds - 1,
  }


def names_of(stage: Stage) -> tuple[str, ...]:
  """Names of the programs of a stage, as `lowered` has them."""
  if stage.fused and not stage.writes:
    return NAMES[:1]
  by_turn = hasattr(stage.method.generate, "by_turn")
  sampling = ("begin", "go_on") if by_turn else ("generate",)
  if stage.writes:
    return ("pose", *sampling)
  again = () if stage.rounds == 1 else ("wanted", "merge")
  known = ("pose", *sampling, "join", "learn", *again)
  return tuple(name for name in STAGED if name in known)


def _worked() -> float:
  """CPU seconds of this process and its finished child processes."""
  return sum(os.times()[:4])


def compiled(
  name: str, make: Callable[[], Any], known: dict, target: Target
) -> dict:
  """Memory and cost of a program on one chip; `known` is that of `planned`.

  `make` compiles it and returns a subprocess_compile.Compiled. Raises
  ValueError if the compiler fails for another reason than memory.
  """
  began, worked = time.monotonic(), _worked()
  row = {"stage": known["stage"], "program": name}
  spent = lambda: {
    "compile_seconds": time.monotonic() - began,
    "compile_core_seconds": _worked() - worked,
  }
  try:
    made = make()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise ValueError(
        f"{known['stage']}/{name} does not compile for {target.name}: {error}"
      ) from error
    return row | refused(str(error), target) | spent()
  row |= spent()
  done = works(
    hlo.parse(made.text), known["steps"], rounds=known["rounds"],
    refills=known["refills"],
  )
  cost = cost_of(done, target.chip)
  # State that the program does not read still takes memory.
  rest = max(known["state_bytes"] - made.memory["arguments"], 0)
  memory = made.memory | {"held": rest}
  total, runs = sum(memory.values()), known["runs"][name]
  return row | memory | {
    "total": total, "fits": total <= target.chip.memory, "flops": cost.flops,
    "bytes": cost.bytes, "sent": cost.sent, "collectives": cost.collectives,
    "runs": runs, "seconds": cost.compute_seconds + cost.sent_seconds,
    "sent_seconds": cost.sent_seconds,
    "step_seconds": runs * (cost.compute_seconds + cost.sent_seconds),
    "largest": largest(done, BUFFERS), "reason": "",
  }


def largest_batch(
  small: list[dict], big: list[dict], problems: tuple[int, int], unit: int,
  target: Target,
) -> int:
  """The most problems that fit, linearly extrapolated from two batches.

  `small` and `big` are programs of the same stage for the two `problems`. The
  result is a multiple of `unit`; 0 if none fits, -1 if not known.
  """
  most = math.inf
  for one, two in zip(small, big):
    if np.isfinite(one["total"]) and np.isfinite(two["total"]):
      slope = (two["total"] - one["total"]) / (problems[1] - problems[0])
      room = target.chip.memory - one["total"]
      if slope > 0:
        most = min(most, problems[0] + room / slope)
      elif room < 0:
        most = 0
  return int(max(most, 0) // unit) * unit if np.isfinite(most) else -1


def unit_of(stage: dict, per_problem: int, mesh: Any) -> int:
  """The fewest problems that waves, mesh and microbatches divide.

  `per_problem` is the number of batch units per problem.
  """
  options = build.STAGE | stage
  groups = sharding.groups(mesh)
  parts = options["minibatches"] * options["microbatches"] * groups
  by_rows = parts // math.gcd(parts, per_problem)
  return math.lcm(options["waves"] * groups, by_rows)


def with_problems(config: dict, name: str, problems: int) -> dict:
  """The config with another number of problems in one stage."""
  stage = config["stage"][name]
  method = stage["method"] | {"problems": problems}
  stage = stage | {"method": method}
  return config | {"stage": config["stage"] | {name: stage}}
