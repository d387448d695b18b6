"""Compiles every program of a stage for a target and says what it needs."""

import math
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from sitrain.methods.verbs import frozen_of
from sitrain.runtime import build, sharding
from sitrain.runtime.host import on_host
from sitrain.runtime.plan import hlo, models
from sitrain.runtime.plan.chips import Target
from sitrain.runtime.plan.cost import cost_of, largest, works
from sitrain.runtime.stage import lower_stage
from sitrain.runtime.start import Run, keys_of, layout, order_key
from sitrain.runtime.task import reply_width
from sitrain.types import Stage

BUFFERS = 5  # of the largest that are named
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Planned(NamedTuple):
  """A stage of a config on a target, before anything is lowered."""

  run: Run
  stage: Stage
  abstract: Any  # the shapes of its state, and where they are to live
  known: dict[str, Any]


def planned(config: dict, folder: Any, target: Target, name: str) -> Planned:
  """A stage on a target. Nothing of its state is ever made.

  `folder` is for what stands in for files. Raises ConfigError for what a run
  would refuse too.
  """
  task = on_host(models.task_of(config, folder))
  model = build.model_from(config, task)
  mesh = sharding.make_mesh(**config["mesh"], devices=target.devices)
  stages = build.stages_from(config, task, model, mesh)
  stage = next(stage for stage in stages if stage.name == name)
  # Of what a run has, its programs depend on these alone.
  run = Run(*[()] * len(Run._fields))._replace(
    mesh=mesh, model=model, seed=config["seed"],
    origin=build.origin_from(config, model),
    table=frozen_of(task, order_key(config["seed"])),
  )
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    abstract = layout(run, stage)
  given = config["stage"][name]
  return Planned(run, stage, abstract, {
    "stage": name, "mesh": dict(mesh.shape), "chips": mesh.size,
    "parameters": _count(abstract.params), "state_bytes": held(abstract),
    "steps": _steps(given["method"], task), "runs": _runs(stage),
    "problems": given["method"]["problems"], "rows": _rows(given),
    "microbatches": stage.parts["microbatches"],
    "tokens": _rows(given) * _steps(given["method"], task),
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


def held(abstract: Any) -> int:
  """Bytes of a tree of shapes on one chip, by their shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(abstract)
  )


def overfull(plan: Planned, target: Target) -> dict[str, Any]:
  """What does not fit where the state alone is too large, without compiling.

  The row of a program that would need nothing else; its largest buffers are
  the largest arrays of the state.
  """
  leaves = jax.tree_util.tree_leaves_with_path(plan.abstract)
  named = sorted(
    ((held(x), sharding.path_name(path), x) for path, x in leaves),
    key=lambda one: -one[0],
  )
  total = plan.known["state_bytes"]
  return {
    "stage": plan.known["stage"], "program": "state", "arguments": total,
    "total": total, "fits": False, "compile_seconds": 0.0, "largest": [
      {"bytes": size, "shape": f"{x.dtype}{list(x.shape)} split as "
       f"{x.sharding.spec}"[:120], "source": name}
      for size, name, x in named[:BUFFERS]
    ],
    "reason": (
      f"parameters, optimizer and reference alone take {total / 2**30:.1f} GiB"
      f" of {target.chip.memory / 2**30:.2f} GiB; split them over more chips by"
      " config.mesh.fsdp"
    ),
  }


def _rows(stage: dict) -> int:
  method = stage["method"]
  return method["problems"] * (
    method.get("samples", 1) + method.get("offline", 0)
  )


def _steps(method: dict, task) -> int:
  """Steps of the decoding loops of a rollout: all turns at their limits."""
  turns = method.get("turns", ())
  steps = sum(turns) + max(len(turns) - 1, 0) * reply_width(task)
  if method.get("offline", 0):
    steps += sum(turns)
  return steps


def _runs(stage: Stage) -> dict[str, float]:
  """How often each program runs in an iteration."""
  return {
    "loop": 1 / stage.steps_per_call, "pose": 1.0, "learn": 1.0,
    "generate": float(stage.parts["waves"]),
  }


def compiled(name: str, program: Any, known: dict, target: Target) -> dict:
  """What a program needs and costs on one chip; `known` is by `lowered`.

  Raises ValueError where the compiler fails for another reason than memory.
  """
  began = time.monotonic()
  row = {"stage": known["stage"], "program": name}
  try:
    made = program.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise ValueError(
        f"{known['stage']}/{name} does not compile for {target.name}: {error}"
      ) from error
    return row | refused(str(error), target) | {
      "compile_seconds": time.monotonic() - began
    }
  seconds = time.monotonic() - began
  done = works(hlo.parse(made.as_text()), known["steps"])
  cost = cost_of(done, target.chip)
  memory = _memory(made, known["state_bytes"])
  runs = known["runs"][name]
  return row | memory | {
    "fits": memory["total"] <= target.chip.memory,
    "compile_seconds": seconds, "flops": cost.flops, "bytes": cost.bytes,
    "sent": cost.sent, "collectives": cost.collectives, "runs": runs,
    "seconds": cost.compute_seconds + cost.sent_seconds,
    "sent_seconds": cost.sent_seconds,
    "step_seconds": runs * (cost.compute_seconds + cost.sent_seconds),
    "largest": largest(done, BUFFERS), "reason": "",
  }


def _memory(made, state_bytes) -> dict[str, int]:
  """Bytes on one chip.

  A program may leave a part of the state unread; it is held all the same.
  """
  sizes = made.memory_analysis()
  arguments = sizes.argument_size_in_bytes
  outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  found = {
    "arguments": arguments, "temporaries": sizes.temp_size_in_bytes,
    "outputs": max(outputs, 0), "held": max(state_bytes - arguments, 0),
    "code": sizes.generated_code_size_in_bytes,
  }
  return found | {"total": sum(found.values())}


def refused(message: str, target: Target) -> dict[str, Any]:
  """What the compiler says where a program does not fit."""
  number = r"([\d.]+)([KMGT]?)"
  used = re.search(rf"Used {number} of {number} hbm", message) or re.search(
    rf"\({number}\) exceeds available HBM \({number}\)", message
  )
  wanted, most = (
    (float(used[1]) * _UNITS[used[2]], float(used[3]) * _UNITS[used[4]])
    if used else (math.nan, target.chip.memory)
  )
  largest = [
    {
      "bytes": float(one[1]) * _UNITS[one[2]], "shape": one[4][:120],
      "source": (one[3] or "")[-160:],
    }
    for one in re.finditer(
      rf"Size: {number}(?:B)?\s+(?:Operator: op_name=\"([^\"]*)\"[^\n]*\s+)?"
      r"Shape: ([^\n]+)", message,
    )
  ]
  reason = message.split("\n")[0]
  if used:
    reason = f"needs {wanted / 2**30:.1f} GiB of {most / 2**30:.2f} GiB"
  return {"fits": False, "total": wanted, "largest": largest[:BUFFERS],
          "reason": reason}


def largest_batch(
  small: list[dict], big: list[dict], problems: tuple[int, int], unit: int,
  target: Target,
) -> int:
  """The most problems that fit, by a line through two compiles.

  `small` and `big` are programs of the same stage at `problems`; the answer is
  a multiple of `unit`, 0 where none fits.
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


def unit_of(stage: dict, mesh: Any) -> int:
  """The fewest problems that waves, mesh and microbatches divide."""
  options = build.STAGE | stage
  per_problem = _rows(stage) // stage["method"]["problems"]
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
