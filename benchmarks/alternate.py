"""Contestants that take turns as processes, for models that fill the memory.

In every round each one gets its own process, one after the other. Seconds of
all cores tell more than those of the clock on a machine that others use too.
"""

import statistics

from benchmarks.rounds import (
  PREPARE_SECONDS,
  compare,
  format_ratio,
  request,
  workers,
)

RUN_SECONDS = 1800.0  # of a run, for models of 0.5 B parameters on busy cores
Racing = dict[str, tuple[list[str], dict]]  # name -> (command, case)


def one_process(
  name: str, command: list[str], case: dict, runs: int, warm_up: int
) -> dict:
  """Its facts, and the answers of the timed runs after those that are not."""
  with workers({name: command}) as started:
    ask = lambda **words: request(started[name], RUN_SECONDS, **words)
    facts = request(
      started[name], PREPARE_SECONDS, action="prepare", case=case
    )
    answers = [ask(action="run") for _ in range(warm_up + runs)]
    return {"facts": facts, "runs": answers[warm_up:]}


def measure(
  racing: Racing, rounds: int, runs: int, warm_up: int
) -> dict[str, list[dict]]:
  """The processes of every contestant; the order is reversed every round."""
  found = {name: [] for name in racing}
  for number in range(rounds):
    for name in list(racing)[:: -1 if number % 2 else 1]:
      found[name].append(one_process(name, *racing[name], runs, warm_up))
      show(name, found[name][-1:])
  return found


def values(processes: list[dict], field: str) -> list[float]:
  """The median of a field over the runs of every process."""
  return [
    statistics.median(run[field] for run in one["runs"]) for one in processes
  ]


def show(name: str, processes: list[dict]) -> None:
  """Prints a row about one contestant."""
  seconds, cpu, peak = (
    statistics.median(values(processes, field))
    for field in ("seconds", "cpu", "peak")
  )
  print(f"{name:13} {seconds:7.2f} s a run, {cpu:7.2f} s of cores,"
        f" {peak / 2**30:5.2f} GiB at the peak"
        f"  [{processes[-1]['facts']['settings']}]", flush=True)


def report(found: dict[str, list[dict]]) -> dict:
  """Prints medians, and ratios to the first contestant; returns them."""
  result = {name: {"processes": each} for name, each in found.items()}
  first = next(iter(found))
  for name, each in found.items():
    show(name, each)
    if name == first:
      continue
    for field, what in (
      ("seconds", "times as fast"), ("cpu", "by seconds of cores")
    ):
      ratio = compare(values(each, field), values(found[first], field))
      result[name][f"{field}_ratio"] = ratio
      print(f"  {first} against {name}: {format_ratio(ratio)} {what}")
  return result
