"""Whether this checkout is as fast as another one, such as an older commit.

  git worktree add /tmp/before COMMIT
  python -m benchmarks.before_after --before=/tmp/before

Both checkouts run small cases of the benchmarks in processes of their own, one
after the other within each round, for several pairs of processes, since two
processes of the same program may differ by some percent. Prints how many times
faster this checkout is: the median over all rounds and its 95 % bootstrap
interval, by processor time, by the clock, and by processor time for each pair.
Where the machine does other work, only the processor time means something, and
differences below the spread of the pairs mean nothing.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile

from absl import app, flags

from benchmarks.decode import SIZES, parse
from benchmarks.rounds import (
  PREPARE_SECONDS,
  ROOT,
  RUN_SECONDS,
  Worker,
  compare,
  format_ratio,
  request,
  start,
  stop,
)

WORKER = pathlib.Path(__file__).parent / "peers" / "checkout.py"
CASES = {
  "decode": {"kind": "decode", **parse("16x64x64")},
  "step": {"kind": "step", "model": SIZES, "problems": 4, "samples": 8,
           "prompt": 32, "new": 16, "beta": 0.04},
  "phases": {"kind": "phases", "rows": 32, "prompt": 16, "new": 16},
  "refill": {"kind": "refill", "prompts": 128, "mean": 16, "limit": 64},
  "cursor": {"kind": "turns", "name": "cursor",
             "sizes": {"batch": 32, "new": 64, "mean": 16}},
  "group": {"kind": "turns", "name": "group",
            "sizes": {"batch": 32, "prompt": 64, "new": 32}},
}


def started(folders: dict[str, pathlib.Path], cache: str) -> dict[str, Worker]:
  """A worker for each checkout, which keeps its programs in `cache`."""
  return {
    name: start(
      name, [sys.executable, str(WORKER)], folder, PYTHONPATH=str(folder),
      JAX_COMPILATION_CACHE_DIR=cache,
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
      JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    for name, folder in folders.items()
  }


def one_pair(workers: dict[str, Worker], case: dict, rounds: int) -> list[dict]:
  """The answers of both workers, by name, in each round."""
  for worker in workers.values():
    request(worker, PREPARE_SECONDS, action="prepare", case=case)
  answers = []
  for number in range(rounds):
    order = list(workers)[:: -1 if number % 2 else 1]
    answers.append({
      name: request(workers[name], RUN_SECONDS, action="run") for name in order
    })
  return answers


def ratios(pairs: list[list[dict]]) -> dict:
  """How many times faster "after" is, of the answers of pairs of workers."""

  def ratio(rounds, what):
    both = ([one[name][what] for one in rounds] for name in ("before", "after"))
    return compare(*both)

  rounds = [one for pair in pairs for one in pair]
  return {
    "processor": ratio(rounds, "processor"), "clock": ratio(rounds, "seconds"),
    "pairs": [ratio(pair, "processor")["median"] for pair in pairs],
    "milliseconds": {
      name: 1e3 * statistics.median(one[name]["processor"] for one in rounds)
      for name in ("before", "after")
    },
  }


def measure(
  before: pathlib.Path, cases: list[str], pairs: int, rounds: int, cache: str
) -> dict:
  """The `ratios` of every case; the pairs change who starts first."""
  found = {}
  for name in cases:
    answers = []
    for number in range(pairs):
      folders = {"before": before, "after": ROOT}
      if number % 2:
        folders = dict(reversed(folders.items()))
      workers = started(folders, cache)
      try:
        answers.append(one_pair(workers, CASES[name], rounds))
      finally:
        for worker in workers.values():
          stop(worker)
      one = found[name] = ratios(answers)
      print(
        f"{name:8} pair {number + 1}: {one['pairs'][-1]:.3f} by processor time",
        flush=True,
      )
    show(name, one)
  return found


def show(name: str, one: dict) -> None:
  """Prints the results of a case."""
  took = one["milliseconds"]
  print(
    f"{name:8} {format_ratio(one['processor'])} times as fast by processor "
    f"time ({took['before']:.0f} and {took['after']:.0f} ms), "
    f"{format_ratio(one['clock'])} by the clock", flush=True,
  )


def main(argv: list[str]) -> None:
  """Measures, prints and writes the results."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  before = pathlib.Path(BEFORE.value).resolve()
  if not BEFORE.value or not (before / "benchmarks" / "peers").is_dir():
    raise app.UsageError("--before: give the folder of another checkout")
  if unknown := set(NAMES.value) - set(CASES):
    raise app.UsageError(f"--cases: {sorted(unknown)} not in {list(CASES)}")
  with tempfile.TemporaryDirectory() as cache:
    found = measure(
      before, NAMES.value, PAIRS.value, ROUNDS.value,
      os.path.join(cache, "programs"),
    )
  if OUTPUT.value:
    pathlib.Path(OUTPUT.value).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
  BEFORE = flags.DEFINE_string("before", "", "Folder of another checkout.")
  NAMES = flags.DEFINE_list("cases", list(CASES), "Which to compare.")
  PAIRS = flags.DEFINE_integer("pairs", 3, "Pairs of processes.", 1)
  ROUNDS = flags.DEFINE_integer("rounds", 6, "Interleaved rounds.", 1)
  OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
  app.run(main)
