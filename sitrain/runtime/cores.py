"""A CPU as a mesh of its cores."""

import os

import jax
from jax._src import hardware_utils

MOST = 8  # beyond it rows get too few for each
# Where a device waits for others in a collective XLA's limit for CPUs is 40 s;
# then it aborts the process. A group of devices whose texts end early waits for
# as long as the longest text of the others takes, which may be hours. What
# hangs for ever is shown by the watchdog, see logs.py.
PATIENCE = {
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
  be_patient()
  given = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if not given and jax.config.jax_num_cpu_devices < 0:
    mine = max(1, cores() // share)
    devices = min(MOST, 1 << (mine.bit_length() - 1))
    jax.config.update("jax_num_cpu_devices", devices)


def be_patient() -> None:
  """Lets devices of a CPU wait for each other, however long.

  By XLA_FLAGS, which XLA reads when its first backend starts; what the user has
  set there stays. On a host of TPUs nothing is set: libtpu reads the flags too.
  """
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  if chips and os.environ.get("JAX_PLATFORMS") != "cpu":
    return
  given = os.environ.get("XLA_FLAGS", "")
  ours = [f"--{n}={s}" for n, s in PATIENCE.items() if n not in given]
  os.environ["XLA_FLAGS"] = " ".join([*ours, given]).strip()


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
