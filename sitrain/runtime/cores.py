"""A CPU as a mesh of its cores."""

import os

import jax

MOST = 8  # beyond it rows get too few for each


def use_cores(*, share: int = 1) -> None:
  """Makes a device of every core, where jax runs on the CPU alone.

  XLA reads a cache of keys and values with one core a device, so rollouts are
  that much faster. A power of two, so that rows divide by it. What the user has
  set, by JAX_NUM_CPU_DEVICES or XLA_FLAGS, stays. Of a machine that `share`
  processes have together each takes its part. Call it before jax has looked for
  devices.
  """
  given = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if not given and jax.config.jax_num_cpu_devices < 0:
    mine = max(1, cores() // share)
    devices = min(MOST, 1 << (mine.bit_length() - 1))
    jax.config.update("jax_num_cpu_devices", devices)


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
