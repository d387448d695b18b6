"""What benchmarks.families stored: a line a seed, and means over the seeds.

`python -m benchmarks.family_results` prints the table of all families.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from benchmarks.intervals import interval

RESULTS = pathlib.Path(__file__).parent / "results" / "families"


class Compared(NamedTuple):
  """A family over its seeds; shares between 0 and 1, one for each seed."""

  seeds: list[int]
  metric: str  # "METRIC of STAGE"
  control_is: str
  result: list[float]
  control: list[float]
  others: dict[str, list[float]]  # stages that every seed has


def path_of(name: str) -> pathlib.Path:
  """The file of a family: a JSON object a line, one for each seed."""
  return RESULTS / f"{name}.jsonl"


def read(name: str) -> list[dict]:
  """The stored results of a family in the order of their seeds."""
  path = path_of(name)
  lines = path.read_text().splitlines() if path.exists() else []
  rows = [json.loads(line) for line in lines]
  seeds = [row["seed"] for row in rows]
  if len(set(seeds)) < len(seeds):
    raise ValueError(f"{path} has a seed twice, of {seeds}: remove one line")
  return sorted(rows, key=lambda row: row["seed"])


def add(row: dict) -> None:
  """Appends the result of one seed."""
  RESULTS.mkdir(parents=True, exist_ok=True)
  with open(path_of(row["name"]), "a") as file:
    file.write(json.dumps(row) + "\n")


def compared(rows: list[dict]) -> Compared:
  """The seeds of one family side by side; `rows` as `read` returns them."""
  shared = set.intersection(*(set(row.get("others", {})) for row in rows))
  in_order = [name for name in rows[0].get("others", {}) if name in shared]
  return Compared(
    seeds=[row["seed"] for row in rows],
    metric=rows[0]["metric"],
    control_is=rows[0]["control_is"],
    result=[row["result"] for row in rows],
    control=[row["control"] for row in rows],
    others={
      name: [row["others"][name] for row in rows] for name in in_order
    },
  )


def percent(values: list[float]) -> str:
  """Mean in percent and, of two seeds or more, its 95 % interval."""
  mean, low, high = (100 * x for x in interval(values))
  if len(values) < 2:
    return f"{mean:.1f}"
  return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def against(values: list[float], others: list[float]) -> str:
  """The mean difference in points; of each seed first, which share a base."""
  return percent(list(np.subtract(values, others)))


def sentence(rows: list[dict]) -> str:
  """Result, control and other stages of a family, with their differences."""
  found = compared(rows)
  seeds = ", ".join(map(str, found.seeds))
  texts = [
    f"{found.metric}: {percent(found.result)} %, after"
    f" {percent(found.control)} of {found.control_is}; difference"
    f" {against(found.result, found.control)} points"
  ]
  texts += [
    f"stage {name}: {percent(values)}, difference"
    f" {against(found.result, values)}"
    for name, values in found.others.items()
  ]
  kind = "seed" if len(found.seeds) == 1 else "seeds"
  return f"{'; '.join(texts)} ({kind} {seeds})"


def main() -> None:
  """Prints a sentence for every family that has a result."""
  for path in sorted(RESULTS.glob("*.jsonl")):
    print(f"{path.stem}: {sentence(read(path.stem))}")


if __name__ == "__main__":
  main()
