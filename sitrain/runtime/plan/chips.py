"""Specifications of chips, topologies, and the devices to compile for.

Figures are per chip, from the pages "TPU v4", "v5e", "v5p" and "v6e" of Google
Cloud's documentation (docs.cloud.google.com/tpu/docs), "interchip interconnect"
in one direction, and from NVIDIA's data sheets of the A100 80 GB, H100 SXM and
H200. For a CPU core 50 GFLOP/s and 10 GB/s are assumed. The memory of a TPU is
what its compiler reports as available, which is less than the pages say.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from sitrain.runtime.options import ConfigError, closest

LOCAL = "local"


class Chip(NamedTuple):
  """The specification of one device."""

  name: str
  memory: float  # bytes that a program may use
  flops: float  # per second, matrix products in bfloat16
  bandwidth: float  # bytes per second of its memory
  links: float  # bytes per second to other chips, all links, one direction
  host: int  # the most chips of a host


class Target(NamedTuple):
  """The devices that programs are compiled for."""

  name: str
  chip: Chip
  devices: Sequence[Any]


_TPUS = {
  "v4": Chip("v4", 30.75 * 2**30, 275e12, 1228e9, 300e9, 4),
  "v5e": Chip("v5e", 15.75 * 2**30, 197e12, 819e9, 200e9, 8),
  "v5p": Chip("v5p", 95.74 * 2**30, 459e12, 2765e9, 600e9, 4),
  "v6e": Chip("v6e", 31.25 * 2**30, 918e12, 1600e9, 400e9, 8),
}
_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16".split()
_DEEP = (
  "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16"
).split()
_SLICES = {"v4": _DEEP, "v5e": _FLAT, "v5p": _DEEP, "v6e": _FLAT}
_GPUS = {
  "A100": Chip("A100", 80 * 2**30, 312e12, 2039e9, 300e9, 8),
  "H100": Chip("H100", 80 * 2**30, 989e12, 3350e9, 450e9, 8),
  "H200": Chip("H200", 141e9, 989e12, 4800e9, 450e9, 8),
}


def check_topology(name: str) -> tuple[str, int]:
  """(kind of chip, number) of a topology such as "v5e:2x4"; ("local", 0).

  Raises ConfigError for an unknown name, with the closest one.
  """
  known = [f"{c}:{s}" for c, slices in _SLICES.items() for s in slices]
  if name == LOCAL:
    return LOCAL, 0
  if name not in known:
    chip = name.partition(":")[0]
    same = [n for n in known if n.startswith(f"{chip}:")]
    raise ConfigError(
      f"--topology={name} is no slice: {closest(name, same or known)}, or local"
    )
  chip, sizes = name.split(":")
  return chip, math.prod(int(n) for n in sizes.split("x"))


def target_of(name: str) -> Target:
  """The devices of a topology, without hardware, or of this machine.

  Call it before JAX looks for devices. Raises ConfigError for an unknown name,
  and if the TPU compiler is not installed.
  """
  chip, _ = check_topology(name)
  if chip == LOCAL:
    return Target(name, _local(jax.devices()), jax.devices())
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError(
      f"--topology={name} needs the compiler for TPUs: pip install "
      "'sitrain[tpu]', which runs on any Linux machine"
    )
  # Only the compiler is needed: it must not query the metadata server, nor wait
  # for a process that uses a TPU here.
  for variable, value in {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
  }.items():
    os.environ.setdefault(variable, value)
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies

  # Both cores of a v4 are one device, as on a real slice.
  more = {"chip_config_name": "megacore"} if chip == "v4" else {}
  found = topologies.get_topology_desc(
    platform="tpu", topology_name=name, **more
  )
  return Target(name, _TPUS[chip], found.devices)


def _local(devices) -> Chip:
  """The first device of this machine."""
  kind, first = devices[0].device_kind, devices[0]
  limit = (first.memory_stats() or {}).get("bytes_limit")
  for name, chip in _GPUS.items():
    if re.search(name, kind):
      return chip._replace(memory=limit or chip.memory)
  pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return Chip(kind, limit or pages / len(devices), 50e9, 10e9, 10e9, 8)
