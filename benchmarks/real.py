"""Flags and output of the benchmarks of checkpoints."""

import json
import pathlib

from absl import app, flags

from benchmarks import alternate

FOLDER = flags.DEFINE_string("folder", "", "The checkpoint.")
PYTHON = flags.DEFINE_string(
  "transformers", "", "Interpreter that has torch and transformers."
)
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Of the computation."
)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each.", 1)
RUNS = flags.DEFINE_integer("runs", 2, "Timed runs of a process.", 1)
WARM_UP = flags.DEFINE_integer("warm_up", 1, "Runs before those.", 0)
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")


def case_of(**sizes: int) -> dict:
  """The case of the flags; raises UsageError where there is no checkpoint."""
  folder = pathlib.Path(FOLDER.value)
  if not (folder / "config.json").exists():
    raise app.UsageError(f"--folder={FOLDER.value!r} has no config.json")
  return {"folder": str(folder.resolve()), "dtype": DTYPE.value} | sizes


def run(racing: alternate.Racing, case: dict) -> None:
  """Measures and reports as the flags say, and writes --output."""
  found = alternate.report(alternate.measure(
    racing, ROUNDS.value, RUNS.value, WARM_UP.value
  ))
  if OUTPUT.value:
    case = case | {"folder": pathlib.Path(case["folder"]).name}
    text = json.dumps({"case": case} | found, indent=1)
    pathlib.Path(OUTPUT.value).write_text(text + "\n")
