"""Runs of a benchmark as processes side by side, each on one core."""

import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

ONE_CORE = (
  "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
  "--xla_force_host_platform_device_count=1"
)


def begin(
  module: str, arguments: Sequence[str], log: pathlib.Path
) -> subprocess.Popen:
  """`python -m module arguments` on one core, its output added to `log`."""
  log.parent.mkdir(parents=True, exist_ok=True)
  with open(log, "a") as out:
    return subprocess.Popen(
      [sys.executable, "-m", module, *arguments], stdout=out, stderr=out,
      env=os.environ | {"XLA_FLAGS": ONE_CORE},
    )


def pin(process: subprocess.Popen, slot: int) -> None:
  """Pins a process to one core, where the system can.

  Call it before the process loads XLA, which counts the cores once.
  """
  if hasattr(os, "sched_setaffinity") and process.poll() is None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid, {cores[slot % len(cores)]})


def run_all(
  waiting: Sequence, start: Callable[..., subprocess.Popen],
  ended: Callable[..., None], *, workers: int,
  may_start: Callable[..., bool] = lambda one: True, until: float = math.inf,
) -> None:
  """Starts the waiting runs in order, `workers` at a time, none after `until`.

  Each is pinned to its own core: XLA starts a thread for every core that it may
  use, whatever its flags are, and the threads of two runs compete. A run that
  `may_start` refuses waits for others to end. `ended(one, code)` is called for
  each; code as of Popen. Returns when nothing runs and nothing more may start.
  """
  waiting, running, slots = list(waiting), {}, {}
  while True:
    ready = [one for one in waiting if may_start(one)]
    while ready and len(running) < workers and time.time() < until:
      one = ready.pop(0)
      waiting.remove(one)
      running[one] = start(one)
      slots[one] = min(set(range(workers)) - set(slots.values()))
      pin(running[one], slots[one])
    if not running:
      return
    time.sleep(1.0)
    for one, process in list(running.items()):
      if process.poll() is not None:
        del running[one], slots[one]
        ended(one, process.returncode)
