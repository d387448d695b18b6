"""Joins several processes, and checks that they agree.

On TPU pods and in Slurm steps JAX finds the processes itself. Elsewhere flags
or environment variables name them:

  --coordinator=HOST:PORT --processes=N --process=I
  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax._src import distributed as jax_distributed
from jax._src import hardware_utils
from jax.experimental import multihost_utils

from sitrain.runtime import agree, packages, peers, signals
from sitrain.runtime.cores import leave_out_tpu, use_cores
from sitrain.runtime.options import ConfigError
from sitrain.runtime.workdir import config_hash

flags.DEFINE_string(
  "coordinator", "", "HOST:PORT of process 0 of a job of several."
)
flags.DEFINE_integer(
  "processes", None, "Number of processes of the job.", lower_bound=1
)
flags.DEFINE_integer(
  "process", None, "Number of this process, from 0.", lower_bound=0
)
flags.DEFINE_float(
  "join_seconds", 300.0, "How long to wait for the other processes to join.",
  lower_bound=1.0,
)
flags.DEFINE_float(
  "lost_seconds", 40.0, "Silence after which another process is taken for"
  " dead.",
  lower_bound=2.0,
)
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_PACKAGE = Path(__file__).parent.parent


class Place(NamedTuple):
  """The rank of this process among how many."""

  coordinator: str  # host:port
  processes: int
  process: int


def start(*, by_core: bool = True) -> None:
  """Joins the other processes, if any; makes a device of every CPU core.

  With by_core=False the CPU stays one device, which avoids copies of replicated
  arrays. Call it before JAX looks for devices. Raises ConfigError for flags
  that do not fit together.
  """
  given = flags.FLAGS
  place = _place_from_flags(given)
  alone = not place or place[0].processes == 1
  here = place and place[0].coordinator.rpartition(":")[0] in _LOCAL
  if by_core:
    use_cores(share=1 if alone or not here else place[0].processes)
  else:
    leave_out_tpu()
  if not alone:
    _join(given, place[0]._asdict())
  elif not place and (_in_slurm() or _on_tpu()):
    _join(given, {})


def _place_from_flags(given: Any) -> list[Place]:
  """The Place that flags and environment name, or []."""
  known = os.environ.get
  values = {
    "--coordinator": given.coordinator or known("JAX_COORDINATOR_ADDRESS"),
    "--processes": given.processes or known("JAX_NUM_PROCESSES"),
    "--process": (
      known("JAX_PROCESS_ID") if given.process is None else given.process
    ),
  }
  missing = [name for name, value in values.items() if value in (None, "")]
  if len(missing) == len(values):
    return []
  if missing:
    raise ConfigError(
      f"{missing[0]} is missing: several processes need {', '.join(values)}"
    )
  try:
    place = Place(
      str(values["--coordinator"]), *map(int, [*values.values()][1:])
    )
  except ValueError as error:
    raise ConfigError(f"how many processes, and which: {error}") from error
  if ":" not in place.coordinator or not 0 <= place.process < place.processes:
    raise ConfigError(
      f"--coordinator={place.coordinator} --processes={place.processes}"
      f" --process={place.process}: give HOST:PORT, and a process from 0 to"
      f" {place.processes - 1}"
    )
  return [place]


def _in_slurm() -> bool:
  """Whether srun has started several of this process."""
  return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _on_tpu() -> bool:
  """Whether this is a TPU host that knows its slice.

  Checks for chips first, because JAX would query the cloud's metadata server.
  """
  wanted = os.environ.get("JAX_PLATFORMS") or "tpu"
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
  alone = "TPU_SKIP_MDS_QUERY" in os.environ and len(hosts) < 2
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  return "tpu" in wanted and not alone and chips > 0


def _join(given: Any, place: dict[str, Any]) -> None:
  """Joins the other processes, and starts watching them."""
  # signals.py handles SIGTERM; JAX would install its own handler.
  jax.config.update("jax_enable_preemption_service", False)
  where = place.get("coordinator", "the host of process 0")
  late = threading.Timer(
    given.join_seconds, peers.leave, (
      signals.RESTART,
      f"not all processes came to {where} in {given.join_seconds:.0f} s: start"
      f" all {place.get('processes', 'of them')} with the same --coordinator",
    ),
  )  # fmt: skip
  late.daemon = True
  late.start()
  options = {
    "coordinator_address": place["coordinator"],
    "num_processes": place["processes"],
    "process_id": place["process"],
    "cluster_detection_method": "deactivate",
  } if place else {}  # fmt: skip
  try:
    # On its own timeouts JAX aborts with a C++ stack trace: ours come first.
    jax.distributed.initialize(
      **options, heartbeat_timeout_seconds=int(3 * given.lost_seconds),
      initialization_timeout=int(2 * given.join_seconds),
    )  # fmt: skip
  except (RuntimeError, ValueError, OSError) as error:
    advice = "" if place else (
      "; set TPU_SKIP_MDS_QUERY=1 if this host is alone, or give"
      " --coordinator, --processes and --process"
    )
    raise ConfigError(
      f"no process was met at {where}: {error}{advice}"
    ) from error
  late.cancel()
  peers.watch(given.lost_seconds)


def code_revision() -> str:
  """The revision from the launcher or git, and a hash of the source."""
  root, found = _PACKAGE.parent, ""
  if (root / "REVISION").exists():
    found = (root / "REVISION").read_text().strip()
  elif (root / ".git").exists() and shutil.which("git"):
    result = subprocess.run(
      ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True,
      check=False,
    )
    found = result.stdout.strip()[:12]
  digest = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    digest.update(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes())
  return f"{found or 'no revision'} ({digest.hexdigest()[:12]})"


def stop_agreed() -> int:
  """The signal that any process received, or 0; the same in all processes.

  All processes must call it at the same point, between two program calls.
  """
  signal = signals.stop_requested()
  if jax.process_count() == 1:
    return signal
  return int(np.max(multihost_utils.process_allgather(np.int32(signal))))


def meet(name: str) -> None:
  """A barrier of all processes, without a timeout; use each name once.

  For use before the first call of a program: compilation times differ, and CPU
  collectives abort if a process is 30 seconds late.
  """
  state = jax_distributed.global_state
  if state.num_processes > 1:
    state.client.wait_at_barrier(f"sitrain/{name}", agree.DAY)


def check_agreement(config: Any, **facts: str) -> dict[str, str]:
  """The facts of this process; raises ConfigError where another one differs.

  The given `facts` and the hash of `config` are compared too. Call it before
  anything is written.
  """
  facts |= {
    "jax": jax.__version__,
    "code": code_revision(),
    "config": config_hash({"config": config}, ignore=()),
  }
  _compare("run", facts)
  if jax_distributed.global_state.num_processes > 1:
    _compare("packages", packages.installed())
  # Only now, because all processes initialize their backends together.
  kinds = [device.device_kind for device in jax.local_devices()]
  facts |= {
    "devices": f"{len(kinds)} x {', '.join(sorted(set(kinds)))}",
    "processes": str(jax.process_count()),
  }
  _compare("devices", facts)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("sitrain_agreed")
  return facts


def _compare(name: str, facts: dict[str, str]) -> None:
  state = jax_distributed.global_state
  if state.num_processes == 1:
    return
  own = json.dumps([socket.gethostname(), facts])
  state.client.key_value_set(f"sitrain/{name}/{state.process_id}", own)
  wait = int(flags.FLAGS.join_seconds * 1000)
  facts_by_host = (
    state.client.blocking_key_value_get(f"sitrain/{name}/{i}", wait)
    for i in range(state.num_processes)
  )
  if different := first_difference(map(json.loads, facts_by_host)):
    raise ConfigError(different)


def first_difference(
  facts_by_host: Iterable[tuple[str, dict[str, str]]]
) -> str:
  """How a process differs from the first, or "".

  `facts_by_host` are the (host, facts) of all processes.
  """
  (host, first), *others = facts_by_host
  for i, (other, facts) in enumerate(others, start=1):
    for name, value in facts.items():
      expected = first.get(name, "none")
      if value != expected:
        return (
          f"process {i} ({other}) has {name} {value}, process 0 ({host}) has"
          f" {expected}: start all with the same code, command and machines"
        )
  return ""
