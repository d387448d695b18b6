"""Whether the sandbox runs what it should: the references of MBPP, HumanEval.

python -m benchmarks.programs --data=FOLDER

FOLDER has mbpp.jsonl and HumanEval.jsonl.gz. Runs every reference program with
its tests, as programs of a model are run, and prints each that does not pass,
also those that are left out because their tests cannot run in a separate
process. Then runs trivial programs, which show the cost of a run itself. Prints
a table; --output writes it as JSON.
"""

import collections
import gzip
import json
import pathlib
import statistics
import time

from absl import app, flags

from sitrain.tasks.verifiers import programs, sandbox

DATA = flags.DEFINE_string("data", None, "Folder of the sets.", required=True)
WORKERS = flags.DEFINE_integer("workers", 2, "Programs at a time.", 1)
SECONDS = flags.DEFINE_float("seconds", 30.0, "Time limit of a program.")
MEMORY = flags.DEFINE_integer("memory", 2**29, "Bytes of a process.", 1)
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")


def references(folder: pathlib.Path) -> dict[str, list]:
  """(name of the problem, its program) for every problem of every set."""
  with open(folder / "mbpp.jsonl") as file:
    mbpp = [json.loads(line) for line in file]
  with gzip.open(folder / "HumanEval.jsonl.gz", "rt") as file:
    humaneval = [json.loads(line) for line in file]
  every = ("test_list", "challenge_test_list")
  found = {
    "MBPP": [
      (f"MBPP/{row['task_id']}", programs.mbpp_program(row, row["code"]))
      for row in mbpp
    ],
    "MBPP, challenge tests too": [
      (f"MBPP/{row['task_id']}",
       programs.mbpp_program(row, row["code"], tests=every))
      for row in mbpp if row["challenge_test_list"]
    ],
    "HumanEval": [
      (row["task_id"],
       programs.humaneval_program(row, row["canonical_solution"]))
      for row in humaneval
    ],
  }
  trivial = sandbox.Program("x = 1", "assert x == 1")
  return found | {"trivial": [("trivial", trivial)] * 200}


def measure(name: str, given: list) -> dict:
  """Runs one set."""
  began = time.perf_counter()
  outcomes = sandbox.run(
    [program for _, program in given],
    seconds=SECONDS.value, memory=MEMORY.value, workers=WORKERS.value,
  )
  wall = time.perf_counter() - began
  times = sorted(outcome.seconds for outcome in outcomes)
  return {
    "set": name,
    "programs": len(given),
    "outcomes": collections.Counter(outcome.status for outcome in outcomes),
    "per_second": len(given) / wall,
    "median_ms": 1e3 * statistics.median(times),
    "slowest_s": times[-1],
    "not_passed": [
      {"problem": problem, "status": o.status, "message": o.message}
      for (problem, _), o in zip(given, outcomes) if o.status != "pass"
    ],
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  sandbox.check()
  found = []
  print("| set | programs | pass | left out | programs/s | median ms | "
        "slowest s |")
  print("|---|---|---|---|---|---|---|")
  for name, given in references(pathlib.Path(DATA.value)).items():
    one = measure(name, given)
    found.append(one)
    print(
      f"| {name} | {one['programs']} | {one['outcomes']['pass']} | "
      f"{one['outcomes']['left_out']} | "
      f"{one['per_second']:.1f} | {one['median_ms']:.1f} | "
      f"{one['slowest_s']:.2f} |", flush=True,
    )
  for one in found:
    for failed in one["not_passed"]:
      print("{problem}: {status}, {message}".format(**failed))
  if OUTPUT.value:
    record = {"workers": WORKERS.value, "seconds": SECONDS.value,
              "memory": MEMORY.value, "sets": found}
    pathlib.Path(OUTPUT.value).write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
  app.run(main)
