"""The flag --mesh of the mains that read a run of another machine.

  --mesh=data=2,tensor=4

Without it the mesh is that of the config if it fits the devices here. Else it
is a similar one that fits, and a warning names it.
"""

import logging
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from sitrain.runtime import machine, sharding
from sitrain.runtime.options import ConfigError, closest

_LOG = logging.getLogger("sitrain")


def define() -> flags.FlagHolder:
  """The flag --mesh."""
  return flags.DEFINE_list(
    "mesh", [], "Devices, as data=2,fsdp=1,tensor=4; data=-1, which is the"
    " default, takes the rest. Without the flag: config.mesh, where it fits.",
  )


def mesh_of(config: dict[str, Any], flag: Sequence[str]) -> Mesh:
  """The mesh of the flag; without it that of the config, or a similar one.

  Raises ConfigError for a flag that does not fit the devices.
  """
  mesh = sharding.make_mesh(*sizes_of(config, flag, jax.device_count()))
  machine.warn_of_unused(mesh)
  return mesh


def sizes_of(
  config: dict[str, Any], flag: Sequence[str], count: int
) -> tuple[int, ...]:
  """The sizes of `mesh_of`, for `count` devices."""
  if flag:
    try:
      return sharding.mesh_sizes(
        count, **_read(flag), field="--mesh=", separator=","
      )
    except ValueError as error:
      raise ConfigError(str(error)) from error
  sizes = sharding.sizes_that_fit(count, **config["mesh"])
  if _unlike(config["mesh"], sizes) and jax.process_index() == 0:
    here = ",".join(f"{n}={s}" for n, s in zip(sharding.AXES, sizes))
    trained = ",".join(f"{n}={s}" for n, s in config["mesh"].items())
    _LOG.warning(
      "config.mesh %s does not fit the %d device(s) here: --mesh=%s is used",
      trained, count, here,
    )
  return sizes


def _unlike(given: dict[str, int], sizes: tuple[int, ...]) -> bool:
  known = dict(zip(sharding.AXES, sizes))
  return any(size not in (sharding.REST, known[n]) for n, size in given.items())


def _read(flag: Sequence[str]) -> dict[str, int]:
  sizes = {}
  for item in flag:
    name, equals, size = item.partition("=")
    if not equals:
      raise ConfigError(f"--mesh={item}: give sizes by name, as data=2,fsdp=1")
    if name not in sharding.AXES:
      raise ConfigError(f"--mesh={item}: {closest(name, sharding.AXES)}")
    if not size.removeprefix("-").isdigit():
      raise ConfigError(f"--mesh={item}: give a number, as {name}=2")
    sizes[name] = int(size)
  return sizes
