"""A CPU as a mesh of its cores."""

import glob
import importlib.util
import os
from importlib import metadata

import jax
from jax._src import hardware_utils

MAX_DEVICES = 8  # beyond it rows get too few for each
# Where a device waits for others in a collective XLA's limit for CPUs is 40 s;
# then it aborts the process. A group of devices whose texts end early waits for
# as long as the longest text of the others takes, which may be hours. What
# hangs for ever is shown by the watchdog, see logs.py.
COLLECTIVE_TIMEOUTS = {
  "xla_cpu_collective_call_warn_stuck_timeout_seconds": 3600,
  "xla_cpu_collective_call_terminate_timeout_seconds": 24 * 3600,
  "xla_cpu_collective_timeout_seconds": 24 * 3600,  # between processes
}


def use_cores(*, share: int = 1) -> None:
  """Makes a device of every core, where jax runs on the CPU alone.

  XLA reads a cache of keys and values with one core a device, so rollouts are
  that much faster. A power of two, so that rows divide by it. What the user has
  set, by JAX_NUM_CPU_DEVICES or XLA_FLAGS, stays. Of a machine that `share`
  processes have together each takes its part. Call it before jax has looked for
  devices.
  """
  allow_slow_collectives()
  leave_out_tpu()
  given = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if not given and jax.config.jax_num_cpu_devices < 0:
    mine = max(1, cores() // share)
    devices = min(MAX_DEVICES, 1 << (mine.bit_length() - 1))
    jax.config.update("jax_num_cpu_devices", devices)


def allow_slow_collectives() -> None:
  """Lets devices of a CPU wait for each other, however long.

  By XLA_FLAGS, which XLA reads when its first backend starts; what the user has
  set there stays. On a host of TPUs nothing is set: libtpu reads the flags too.
  """
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  if chips and os.environ.get("JAX_PLATFORMS") != "cpu":
    return
  given = os.environ.get("XLA_FLAGS", "")
  ours = [
    f"--{n}={s}" for n, s in COLLECTIVE_TIMEOUTS.items() if n not in given
  ]
  os.environ["XLA_FLAGS"] = " ".join([*ours, given]).strip()


def leave_out_tpu() -> None:
  """Has jax not look for TPUs where libtpu is installed and none is there.

  It would write pages of errors about hosts, and about the lock of whoever else
  looks. Only where nothing speaks of another accelerator.
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
