"""Several processes: how they find each other, and whether they agree.

On TPU pods and in steps of Slurm JAX finds out by itself. Elsewhere each
process is told, by flags or by the environment:

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

from sitrain.runtime import packages, peers, signals
from sitrain.runtime.cores import use_cores
from sitrain.runtime.options import ConfigError
from sitrain.runtime.workdir import config_hash

flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0.")
flags.DEFINE_integer("processes", None, "How many there are.", lower_bound=1)
flags.DEFINE_integer("process", None, "Which of them this is.", lower_bound=0)
flags.DEFINE_float(
  "join_seconds", 300.0, "How long to wait for the other processes.",
  lower_bound=1.0,
)
flags.DEFINE_float(
  "lost_seconds", 40.0, "Of silence, after which a process is taken for dead.",
  lower_bound=2.0,
)
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_A_DAY = 24 * 3600 * 1000  # in milliseconds; who is lost ends the wait
_PACKAGE = Path(__file__).parent.parent


class Place(NamedTuple):
  """Which process of how many this is."""

  coordinator: str  # host:port
  processes: int
  process: int


def start() -> None:
  """Joins the other processes, where there are any; a CPU becomes its cores.

  To be called before JAX looks for devices. Raises ConfigError for flags that
  do not fit together.
  """
  given = flags.FLAGS
  place = _told(given)
  alone = not place or place[0].processes == 1
  here = place and place[0].coordinator.rpartition(":")[0] in _LOCAL
  use_cores(share=1 if alone or not here else place[0].processes)
  if not alone:
    _join(given, place[0]._asdict())
  elif not place and (_in_slurm() or _on_tpu()):
    _join(given, {})


def _told(given: Any) -> list[Place]:
  """What flags and environment say, or nothing."""
  known = os.environ.get
  said = {
    "--coordinator": given.coordinator or known("JAX_COORDINATOR_ADDRESS"),
    "--processes": given.processes or known("JAX_NUM_PROCESSES"),
    "--process": (
      known("JAX_PROCESS_ID") if given.process is None else given.process
    ),
  }
  missing = [name for name, value in said.items() if value in (None, "")]
  if len(missing) == len(said):
    return []
  if missing:
    raise ConfigError(
      f"{missing[0]} is missing: several processes need {', '.join(said)}"
    )
  try:
    place = Place(str(said["--coordinator"]), *map(int, [*said.values()][1:]))
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
  """Whether this is a host of TPUs that knows about its neighbours.

  Its chips are looked for first, for JAX asks a server of the cloud.
  """
  wanted = os.environ.get("JAX_PLATFORMS") or "tpu"
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
  alone = "TPU_SKIP_MDS_QUERY" in os.environ and len(hosts) < 2
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  return "tpu" in wanted and not alone and chips > 0


def _join(given: Any, place: dict[str, Any]) -> None:
  """Meets the others, and begins to look after them."""
  # Orders to stop are ours, see signals.py; JAX would take SIGTERM for itself.
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
  told = {
    "coordinator_address": place["coordinator"],
    "num_processes": place["processes"],
    "process_id": place["process"],
    "cluster_detection_method": "deactivate",
  } if place else {}  # fmt: skip
  try:
    # JAX's own limits would end the process with a stack of C++.
    jax.distributed.initialize(
      **told, heartbeat_timeout_seconds=int(3 * given.lost_seconds),
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
  """What the launcher or git calls this code, and a hash of its source."""
  root, found = _PACKAGE.parent, ""
  if (root / "REVISION").exists():
    found = (root / "REVISION").read_text().strip()
  elif (root / ".git").exists() and shutil.which("git"):
    asked = subprocess.run(
      ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True,
      check=False,
    )
    found = asked.stdout.strip()[:12]
  digest = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    digest.update(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes())
  return f"{found or 'no revision'} ({digest.hexdigest()[:12]})"


def stop_agreed() -> bool:
  """Whether any process was asked to stop: the same answer in all of them.

  All have to ask at the same place, between two calls of their programs.
  """
  if jax.process_count() == 1:
    return signals.asked()
  return bool(np.any(multihost_utils.process_allgather(signals.asked())))


def meet(name: str) -> None:
  """Waits for all processes, however long, once for a name.

  Before the first call of a program, whose compilation takes some longer than
  others: collectives of CPUs give up on who is 30 seconds late.
  """
  state = jax_distributed.global_state
  if state.num_processes > 1:
    state.client.wait_at_barrier(f"sitrain/{name}", _A_DAY)


def check_agreement(config: Any, **told: str) -> dict[str, str]:
  """What this process is; raises ConfigError where another one differs.

  `config` and what else it has been `told` count as well. To be called before
  anything is written.
  """
  facts = told | {
    "jax": jax.__version__,
    "code": code_revision(),
    "config": config_hash({"config": config}, ignore=()),
  }
  _compare("run", facts)
  if jax_distributed.global_state.num_processes > 1:
    _compare("packages", packages.installed())
  # Only now: devices are looked for by all processes together.
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
  mine = json.dumps([socket.gethostname(), facts])
  state.client.key_value_set(f"sitrain/{name}/{state.process_id}", mine)
  wait = int(flags.FLAGS.join_seconds * 1000)
  said = (
    state.client.blocking_key_value_get(f"sitrain/{name}/{i}", wait)
    for i in range(state.num_processes)
  )
  if different := first_difference(map(json.loads, said)):
    raise ConfigError(different)


def first_difference(said: Iterable[tuple[str, dict[str, str]]]) -> str:
  """What sets a process apart from the first, or "".

  `said` are (host, facts) of all processes.
  """
  (host, first), *others = said
  for i, (other, facts) in enumerate(others, start=1):
    for name, value in facts.items():
      said_first = first.get(name, "none")
      if value != said_first:
        return (
          f"process {i} ({other}) has {name} {value}, process 0 ({host}) has"
          f" {said_first}: start all with the same code, command and machines"
        )
  return ""
