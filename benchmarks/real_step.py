"""A supervised step of a real model: sitrain, its adapters, transformers.

  python -m benchmarks.real_step --folder=FOLDER --transformers=PYTHON
  python -m benchmarks.real_step --folder=FOLDER --rank=16

One step of AdamW on the mean negative log-likelihood of `--rows` rows of
`--columns` tokens, the gradient clipped to norm 1. FOLDER is a checkpoint of
the Hugging Face hub. PYTHON is an interpreter that has torch and transformers;
without it they are left out. With `--dtype=bfloat16` parameters and optimizer
stay in float32, in both (transformers then runs under torch's autocast). With
`--rank` sitrain also trains adapters of that rank beside the frozen model.

In every round each contestant gets its own process, one after the other, as
two of them may not fit into memory. Prints the median seconds of a step with
the seconds of all cores, which tell more on a machine that others use too, the
peak of resident memory, and how many times faster sitrain is.
"""

import json
import pathlib
import statistics

from absl import app, flags

from benchmarks.rounds import (
  PREPARE_SECONDS,
  compare,
  format_ratio,
  modules,
  request,
  workers,
)

RUN_SECONDS = 1800.0  # for a step of a model of 0.5 B parameters on busy cores
FOLDER = flags.DEFINE_string("folder", "", "The checkpoint.")
PYTHON = flags.DEFINE_string("transformers", "", "Interpreter that has it.")
ROWS = flags.DEFINE_integer("rows", 16, "Rows of a step.", 1)
COLUMNS = flags.DEFINE_integer("columns", 210, "Tokens of a row.", 2)
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Of the computation."
)
RANK = flags.DEFINE_integer("rank", 0, "Of adapters; 0: none are trained.", 0)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each.", 1)
STEPS = flags.DEFINE_integer("steps", 2, "Timed steps of a process.", 1)
WARM_UP = flags.DEFINE_integer("warm_up", 1, "Steps before those.", 0)
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")


def contestants(case: dict, python: str) -> dict[str, tuple[list[str], dict]]:
  """The command and the case of each; sitrain first."""
  commands = modules("real_step", {"transformers": python})
  found = {"sitrain": (commands["sitrain"], case | {"rank": 0})}
  if case["rank"]:
    found["adapters"] = commands["sitrain"], case
  if python:
    found["transformers"] = commands["transformers"], case | {"rank": 0}
  return found


def one_process(
  name: str, command: list[str], case: dict, steps: int, warm_up: int
) -> dict:
  """Its facts, and the answers of the timed steps after those that are not."""
  with workers({name: command}) as started:
    ask = lambda **words: request(started[name], RUN_SECONDS, **words)
    facts = request(
      started[name], PREPARE_SECONDS, action="prepare", case=case
    )
    runs = [ask(action="run") for _ in range(warm_up + steps)]
    return {"facts": facts, "runs": runs[warm_up:]}


def measure(
  case: dict, python: str, rounds: int, steps: int, warm_up: int
) -> dict:
  """Seconds, seconds of the cores, and memory of every contestant by round."""
  racing = contestants(case, python)
  found = {name: [] for name in racing}
  for number in range(rounds):
    for name in list(racing)[:: -1 if number % 2 else 1]:
      found[name].append(one_process(name, *racing[name], steps, warm_up))
      show(name, found[name][-1:])
  return found


def values(processes: list[dict], field: str) -> list[float]:
  """The median of a field over the steps of every process."""
  return [
    statistics.median(run[field] for run in one["runs"]) for one in processes
  ]


def show(name: str, processes: list[dict]) -> None:
  """Prints a row about one contestant."""
  seconds, cpu, peak = (
    statistics.median(values(processes, field))
    for field in ("seconds", "cpu", "peak")
  )
  print(f"{name:13} {seconds:7.2f} s a step, {cpu:7.2f} s of cores,"
        f" {peak / 2**30:5.2f} GiB at the peak"
        f"  [{processes[-1]['facts']['settings']}]", flush=True)


def report(found: dict[str, list[dict]]) -> dict:
  """Prints medians and ratios, and returns them."""
  result = {name: {"processes": each} for name, each in found.items()}
  for name, each in found.items():
    show(name, each)
    if name == "sitrain":
      continue
    for field in ("seconds", "cpu"):
      ratio = compare(
        values(each, field), values(found["sitrain"], field)
      )
      result[name][f"{field}_ratio"] = ratio
      what = "times as fast" if field == "seconds" else "by seconds of cores"
      print(f"  sitrain against {name}: {format_ratio(ratio)} {what}")
  return result


def main(argv: list[str]) -> None:
  """Checks the flags and measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  if not (pathlib.Path(FOLDER.value) / "config.json").exists():
    raise app.UsageError(f"--folder={FOLDER.value!r} has no config.json")
  case = {
    "folder": str(pathlib.Path(FOLDER.value).resolve()), "rows": ROWS.value,
    "columns": COLUMNS.value, "rank": RANK.value,
    "dtype": DTYPE.value,
  }
  found = report(measure(
    case, PYTHON.value, ROUNDS.value, STEPS.value, WARM_UP.value
  ))
  if OUTPUT.value:
    case["folder"] = pathlib.Path(case["folder"]).name
    text = json.dumps({"case": case} | found, indent=1)
    pathlib.Path(OUTPUT.value).write_text(text + "\n")


if __name__ == "__main__":
  app.run(main)
