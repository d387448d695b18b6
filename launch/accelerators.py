"""TPU types: their names, their sizes and the software that they want."""

from typing import NamedTuple

from sitrain.runtime.options import ConfigError, closest


class Family(NamedTuple):
  """Types that differ in size alone, as v4-8 and v4-64."""

  sizes: tuple[int, ...]  # after the dash: cores up to v5p, else chips
  software: str  # for JAX, cloud.google.com/tpu/docs/runtimes
  cores: int = 1  # of the size that are one device of JAX


_SMALL = (1, 4, 8, 16, 32, 64, 128, 256)
_BASE = "tpu-ubuntu2204-base"
FAMILIES = {
  "v2": Family((8, 32, 128, 256, 512), _BASE),
  "v3": Family((8, 32, 64, 128, 256, 512, 1024, 2048), _BASE),
  "v4": Family(tuple(range(8, 8193, 8)), _BASE, 2),
  "v5litepod": Family(_SMALL, "v2-alpha-tpuv5-lite"),
  "v5p": Family(tuple(range(8, 12289, 8)), "v2-alpha-tpuv5", 2),
  "v6e": Family(_SMALL, "v2-alpha-tpuv6e"),
}
_OTHER_NAMES = {"v5e": "v5litepod", "v5lite": "v5litepod", "v6": "v6e"}


HOST = 8  # the largest size on one host, in every family


def is_multi_host(kind: str) -> bool:
  """Whether a slice of a type that `software_of` knows has several hosts."""
  return int(kind.partition("-")[2]) > HOST


def devices_of(kind: str) -> int:
  """The devices that JAX has on a slice of a type that `software_of` knows."""
  name, _, size = kind.partition("-")
  return int(size) // FAMILIES[name].cores


def software_of(kind: str) -> str:
  """The software version that a TPU type is created with.

  Raises ConfigError, which names the closest type, for an unknown one.
  """
  name, _, size = kind.lower().partition("-")
  if name.startswith(("tpu7", "v7")):
    raise ConfigError(
      f"--type={kind}: such TPUs exist on GKE only: use launch/xpk.sh"
    )
  if name in _OTHER_NAMES:
    raise ConfigError(
      f"--type={kind}: gcloud calls it {_OTHER_NAMES[name]}-{size}"
    )
  if kind != kind.lower() or name not in FAMILIES:
    raise ConfigError(f"--type={kind}: unknown; {closest(name, FAMILIES)}")
  family = FAMILIES[name]
  if not size.isdigit() or int(size) not in family.sizes:
    number = int(size) if size.isdigit() else 0
    nearest = min(family.sizes, key=lambda known: abs(known - number))
    raise ConfigError(
      f"--type={kind}: no such size; did you mean {name}-{nearest}?"
    )
  return family.software
