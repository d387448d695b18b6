"""Whether a model and what belongs to it fit, before weights are read.

Only what is sure to be held at the same time is counted: to sample, parameters,
their copy in the dtype of the computation, and keys and values; to train, the
state and gradients. A machine that has less than this fails for certain, on
Linux by being killed without a word.
"""

import math
import os
import pathlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sitrain.models.decoder import Decoder
from sitrain.runtime.options import ConfigError
from sitrain.runtime.sharding import groups
from sitrain.runtime.start import Run, layout
from sitrain.types import Stage

_GIB = 2**30
_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")
_FREE = pathlib.Path("/proc/meminfo")


def free() -> float | int:
  """Bytes for the devices of this process together; inf where not known."""
  devices = jax.local_devices()
  if devices[0].platform != "cpu":
    stats = [device.memory_stats() or {} for device in devices]
    if not all("bytes_limit" in one for one in stats):
      return math.inf
    each = [x["bytes_limit"] - x.get("bytes_in_use", 0) for x in stats]
    return min(each) * len(each)
  return min(_free_of_host(), _limit_of_container())


def _free_of_host() -> float | int:
  if not _FREE.exists():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  lines = (line.split() for line in _FREE.read_text().splitlines())
  known = {words[0]: int(words[1]) * 1024 for words in lines}
  return known.get("MemAvailable:", math.inf) + known.get("SwapFree:", 0)


def _limit_of_container() -> float:
  text = _LIMIT.read_text().strip() if _LIMIT.exists() else "max"
  return float(text) if text.isdigit() else math.inf


def of_parameters(shapes: Any, mesh: Mesh, dtype: Any) -> float | int:
  """Bytes on one device of parameters, placed as their shardings say.

  With the copy that a program makes of them where the model computes in another
  dtype, and where they are split over fsdp: a group of devices gathers them.
  """
  leaves, held = jax.tree.leaves(shapes), _held(shapes)
  size = jnp.dtype(dtype).itemsize
  if size == leaves[0].dtype.itemsize and mesh.shape["fsdp"] == 1:
    return held
  return held + sum(x.size for x in leaves) * size / mesh.shape["tensor"]


def _held(shapes: Any) -> int:
  """Bytes on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(shapes)
  )


def together(shapes: Any, mesh: Mesh, dtype: Any, devices: int) -> float | int:
  """Bytes of parameters on `devices` devices.

  CPUs share what all of them have (policy.unstacked), but for copies.
  """
  alone, held = of_parameters(shapes, mesh, dtype), _held(shapes)
  if mesh.local_devices[0].platform != "cpu" or mesh.size > mesh.shape["data"]:
    return alone * devices
  return held + (alone - held) * devices


def of_row(model: Decoder, columns: float | int) -> float | int:
  """Bytes of the keys and values of a row."""
  numbers = 2 * model.layers * model.kv_heads * model.head_size
  return numbers * columns * jnp.dtype(model.dtype).itemsize


class Sampled(NamedTuple):
  """The rows that are sampled at the same time."""

  rows: int  # played at a time, the samples of a problem together
  samples: int  # of a problem
  prompt: int  # tokens
  written: int  # columns after the prompt
  slots: int  # rows decoded at a time by a group of devices; 0: all


def check(
  model: Decoder, shapes: Any, mesh: Mesh, sampled: Sampled, *, what: str,
  memory: float | int,
) -> None:
  """Raises ConfigError where `memory` bytes do not hold what sampling needs.

  `shapes` are the parameters as they will be placed, `what` says where they
  come from, and `memory` is that of all devices of this process. The line says
  what would fit.
  """
  devices, samples = len(mesh.local_devices), sampled.samples
  slots = sampled.slots * groups(mesh)
  # Samples share what is kept of their prompt, unless they wait for slots.
  shared = not 0 < slots < sampled.rows
  rows = sampled.rows if shared else slots
  columns = sampled.prompt / (samples if shared else 1) + sampled.written
  weights = partial(together, shapes, mesh, model.dtype)
  row = of_row(model, columns) * devices / mesh.size
  if weights(devices) + rows * row <= memory:
    return
  needs = (
    f"{what}: its parameters take"
    f" {weights(devices) / _GIB:.1f} GiB on {devices}"
    f" device{'s' * (devices > 1)}, the keys and values of {rows} rows"
    f" {rows * row / _GIB:.1f} GiB, and {memory / _GIB:.1f} GiB are free: "
  )
  room = lambda devices: int((memory - weights(devices)) / row)
  if fitting := max(room(devices), 0) // samples * samples:
    raise ConfigError(f"{needs}set --batch={fitting} or less")
  if devices > 1 and room(1) >= samples:
    cpu = mesh.local_devices[0].platform == "cpu"
    raise ConfigError(needs + (
      "set JAX_NUM_CPU_DEVICES=1, so that there is one copy of them" if cpu
      else f"split them with --mesh=data=1,tensor={mesh.size}"
    ))
  raise ConfigError(
    f"{needs}take a smaller model, or a machine with"
    f" {(weights(1) + samples * row) / _GIB:.1f} GiB or more"
  )


def check_stage(run: Run, stage: Stage, memory: float | int) -> None:
  """Raises ConfigError where `memory` bytes do not hold a stage's state.

  With the gradients of a stage that trains. `memory` is that of all devices of
  this process; the line says what would fit.
  """
  state, devices = layout(run, stage), len(run.mesh.local_devices)
  trained = 0 if stage.writes else _held(state.params)
  alone = _held(state) + trained
  if alone * devices <= memory:
    return
  needs = (
    f"config.stage.{stage.name}: parameters, optimizer, gradients and what is"
    f" held take {alone * devices / _GIB:.1f} GiB on {devices}"
    f" device{'s' * (devices > 1)}, and {memory / _GIB:.1f} GiB are free: "
  )
  cpu = run.mesh.local_devices[0].platform == "cpu"
  if cpu and devices > 1 and alone <= memory:
    raise ConfigError(f"{needs}set JAX_NUM_CPU_DEVICES=1, for one copy of them")
  ways = []
  if run.origin.base == ():
    ways.append("train adapters alone with config.model.lora.rank=16")
  if run.mesh.size > 1 and run.mesh.shape["fsdp"] == 1:
    ways.append("split them with config.mesh.data=1 and config.mesh.fsdp=-1")
  ways.append(f"take a machine with {alone * devices / _GIB:.1f} GiB or more")
  raise ConfigError(needs + ", or ".join(ways))
