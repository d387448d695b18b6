"""Makes a CPU a mesh of its cores."""

import functools
import glob
import importlib.util
import mmap
import os
from importlib import metadata
from pathlib import Path

import jax
from jax._src import hardware_utils

MAX_DEVICES = 8  # with more, each has too few rows
# On CPUs XLA aborts the process if a device waits 40 s in a collective. Devices
# whose texts end early wait for the longest text, which may take hours. The
# watchdog of logs.py reports real hangs.
COLLECTIVE_TIMEOUTS = {
  "xla_cpu_collective_call_warn_stuck_timeout_seconds": 3600,
  "xla_cpu_collective_call_terminate_timeout_seconds": 24 * 3600,
  "xla_cpu_collective_timeout_seconds": 24 * 3600,  # between processes
}


def use_cores(*, share: int = 1) -> None:
  """Makes a device of every core, if JAX runs on the CPU only.

  XLA reads the KV cache with one core per device, so rollouts scale with the
  devices. Their number is a power of two, so that rows divide by it. Values set
  by the user (JAX_NUM_CPU_DEVICES or XLA_FLAGS) are kept. `share` processes of
  one machine split its cores. Call it before JAX looks for devices.
  """
  allow_slow_collectives()
  leave_out_tpu()
  given = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if not given and jax.config.jax_num_cpu_devices < 0:
    mine = max(1, cores() // share)
    devices = min(MAX_DEVICES, 1 << (mine.bit_length() - 1))
    jax.config.update("jax_num_cpu_devices", devices)


def allow_slow_collectives() -> None:
  """Raises the timeouts of collectives between CPU devices.

  Sets XLA_FLAGS, which XLA reads when its first backend starts; flags set by
  the user are kept. Sets nothing on TPU hosts, because libtpu reads XLA_FLAGS
  too.
  """
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  if chips and os.environ.get("JAX_PLATFORMS") != "cpu":
    return
  given = os.environ.get("XLA_FLAGS", "")
  ours = [
    f"--{name}={seconds}" for name, seconds in COLLECTIVE_TIMEOUTS.items()
    if name not in given and xla_has_flag(name)
  ]
  os.environ["XLA_FLAGS"] = " ".join([*ours, given]).strip()


@functools.cache
def xla_has_flag(name: str) -> bool:
  """Whether jaxlib contains a flag; XLA aborts at a flag that it lacks.

  A flag's name ends with a zero byte there. The names of flags that there were
  once are kept too, among the reserved names of a protocol buffer, without one.
  """
  folder = Path(importlib.util.find_spec("jaxlib").origin).parent
  for path in [*folder.glob("libjax*"), *folder.glob("xla_extension*")]:
    with path.open("rb") as file:
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(name.encode() + b"\0") >= 0:
          return True
  return False


def leave_out_tpu() -> None:
  """Stops JAX from looking for TPUs if libtpu is installed but no TPU exists.

  libtpu would print pages of errors about missing hosts and its lock file. Does
  nothing if there are signs of another accelerator.
  """
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  devices = [*glob.glob("/dev/accel*"), *glob.glob("/dev/vfio/[0-9]*")]
  hints = ("JAX_FORCE_TPU_INIT", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR")
  there = chips or devices or any(name in os.environ for name in hints)
  others = metadata.entry_points(group="jax_plugins")
  others = others or importlib.util.find_spec("jax_plugins")
  if not (there or others or jax.config.jax_platforms):
    if importlib.util.find_spec("libtpu"):
      jax.config.update("jax_platforms", "cpu")


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
