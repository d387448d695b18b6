"""Interleaved timing of contestants, in this process or in worker processes.

All contestants of a comparison run one after the other within each round, so
other load on the machine affects all of them, and ratios are computed within
rounds.
"""

import contextlib
import functools
import json
import pathlib
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).parent.parent
PREPARE_SECONDS, RUN_SECONDS = 900.0, 600.0
# An idle OpenMP thread that spins takes a core from the others.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}


class Worker(NamedTuple):
  """A contestant in its own process; see peers/protocol.py."""

  name: str
  process: subprocess.Popen
  answers: queue.Queue  # its lines; an empty one once it has ended
  log: IO[str]  # its standard error


class WorkerError(RuntimeError):
  """A worker that failed, timed out or sent no JSON object."""


def start(
  name: str, command: list[str], folder: pathlib.Path = ROOT,
  **environment: str,
) -> Worker:
  """Starts a worker in a folder, by default the root of the project."""
  log, environment = tempfile.TemporaryFile("w+"), ENVIRONMENT | environment
  process = subprocess.Popen(
    ["env", *(f"{k}={v}" for k, v in environment.items()), *command],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
    cwd=folder,
  )
  answers = queue.Queue()

  def listen():
    for line in process.stdout:
      answers.put(line)
    answers.put("")

  threading.Thread(target=listen, daemon=True).start()
  return Worker(name, process, answers, log)


def request(worker: Worker, seconds: float, **message: Any) -> dict:
  """The worker's answer to one message.

  Raises WorkerError, with the end of its log, where none comes within `seconds`
  or where it is an error or no JSON object.
  """
  with contextlib.suppress(BrokenPipeError):
    print(json.dumps(message), file=worker.process.stdin, flush=True)
  try:
    line = worker.answers.get(timeout=seconds)
  except queue.Empty:
    raise _failed(worker, f"gave no answer in {seconds:g} s") from None
  if not line:
    worker.answers.put("")  # for the next request
    raise _failed(worker, f"ended with status {worker.process.wait()}")
  try:
    answer = dict(json.loads(line))
  except (TypeError, ValueError):
    raise _failed(worker, f"answered {line.strip()!r}") from None
  if "error" in answer:
    raise _failed(worker, answer["error"])
  return answer


def _failed(worker, what):
  worker.log.seek(0)
  tail = worker.log.read()[-3000:]
  return WorkerError(f"{worker.name}: {what}; the end of its log:\n{tail}")


def stop(worker: Worker) -> None:
  """Ends a worker: by a message, then by a kill."""
  with contextlib.suppress(BrokenPipeError, ValueError):
    print('{"action": "quit"}', file=worker.process.stdin, flush=True)
    worker.process.stdin.close()
  try:
    worker.process.wait(timeout=3)
  except subprocess.TimeoutExpired:
    worker.process.kill()
    worker.process.wait()
  worker.log.close()


@contextlib.contextmanager
def workers(commands: dict[str, list[str]]) -> Iterator[dict[str, Worker]]:
  """Workers by name, which end with the block."""
  with contextlib.ExitStack() as stack:
    started = {}
    for name, command in commands.items():
      started[name] = start(name, command)
      stack.callback(stop, started[name])
    yield started


def modules(kind: str, pythons: dict[str, str]) -> dict[str, list[str]]:
  """Commands of the workers `peers/<name>_<kind>.py`, sitrain's own first.

  `pythons` maps names of peers to the interpreters of their environments; peers
  whose interpreter is empty are left out.
  """
  pythons = {"sitrain": sys.executable} | pythons
  return {
    name: [python, "-m", f"benchmarks.peers.{name}_{kind}"]
    for name, python in pythons.items() if python
  }


def timed(function: Callable, *args: Any) -> Callable[[], float]:
  """A contestant of this process: seconds of `function(*args)`, all done."""
  import jax

  def contestant():
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - began

  return contestant


def interleaved(
  contestants: dict[str, Callable[[], float]], rounds: int, first: int = 0,
  report: Callable[[str], None] = lambda line: None,
) -> dict[str, list[float]]:
  """Seconds of every contestant in the rounds from `first` on.

  The order is reversed in every second round. `report` gets a line a round.
  """
  seconds = {name: [] for name in contestants}
  for number in range(first, first + rounds):
    order = list(contestants)[:: -1 if number % 2 else 1]
    for name in order:
      seconds[name].append(contestants[name]())
    took = ", ".join(f"{name} {s[-1]:.2f} s" for name, s in seconds.items())
    report(f"round {number + 1}: {took}")
  return seconds


def medians(
  contestants: dict[Any, Callable[[], float]], rounds: int
) -> dict[Any, float]:
  """Median seconds of every contestant after a first call, which compiles."""
  for contestant in contestants.values():
    contestant()
  seconds = interleaved(contestants, rounds)
  return {name: statistics.median(s) for name, s in seconds.items()}


def compare(a: list[float], b: list[float]) -> dict:
  """The ratio a / b, paired by round: how many times faster b is than a.

  Returns the median with its 95 % bootstrap interval (percentile; "low",
  "high") and the range ("least", "most"). One round has no interval: nan.
  """
  ratio = np.asarray(a) / np.asarray(b)
  low = high = np.nan
  if len(ratio) > 1:
    found = stats.bootstrap(
      (ratio,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = found.low, found.high
  return {
    "median": float(np.median(ratio)), "low": float(low), "high": float(high),
    "least": float(ratio.min()), "most": float(ratio.max()),
  }


def race(started: dict[str, Worker], case: dict, rounds: int) -> dict:
  """Prepares all workers for one case and times them side by side.

  Returns the "facts" of each worker, the answer of its "last" run, "seconds" of
  the rounds and their "medians", and the "ratios" of the others to the first:
  above 1 the first is faster. Raises ValueError where their models differ in
  size.
  """
  facts = {
    name: request(worker, PREPARE_SECONDS, action="prepare", case=case)
    for name, worker in started.items()
  }
  sizes = {name: fact["parameters"] for name, fact in facts.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f"models of different sizes are no comparison: {sizes}")
  last = {}

  def run(name):
    last[name] = request(started[name], RUN_SECONDS, action="run")
    return last[name]["seconds"]

  runs = {name: functools.partial(run, name) for name in started}
  seconds = interleaved(runs, rounds)
  first = next(iter(seconds))
  return {
    "facts": facts,
    "last": last,
    "seconds": seconds,
    "medians": {n: statistics.median(s) for n, s in seconds.items()},
    "ratios": {
      n: compare(s, seconds[first]) for n, s in seconds.items() if n != first
    },
  }


def format_ratio(ratio: dict) -> str:
  """A ratio as text: median (interval)."""
  return "{median:.2f} ({low:.2f}-{high:.2f})".format(**ratio)
