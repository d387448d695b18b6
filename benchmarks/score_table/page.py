"""The page of the table: the runs, their results and the findings."""

import pathlib
from collections.abc import Sequence

import numpy as np

from benchmarks.intervals import interval
from benchmarks.score_table import grid, picture, pieces, table
from benchmarks.score_table.arms import ARMS, tuning

FINDINGS = pathlib.Path(__file__).parent / "findings.md"
COLUMNS = (
  ("accuracy@1", "accuracy_1"), ("accuracy@2", "accuracy_2"),
  ("gain", "gain"), ("i->c", "incorrect_to_correct"),
  ("c->i", "correct_to_incorrect"), ("changed", "changed"), ("CS", "cs"),
  ("CS minus a resample's", "over_resample"),
)
HEAD = """# SCoRe's table

```
python -m benchmarks.score_table --workers=2
```

writes this page; `--task=maze --arm=score --seed=203` runs one row, with the
runs that it starts from. Every arm takes {steps} gradient steps of {rows} fresh
episodes (with stage I), from the same base models, on the same seeds. Learning
rate and KL ({settings} settings; imitation has {rates} rates) were chosen for
each arm separately on seeds {tuning} and on other problems; SCoRe's variants
take SCoRe's. The bonus of 2, the rule that ends stage I and the baseline within
equal outcomes are the quickstart's, which were tuned on seeds 0-4 of the maze;
no baseline method was tuned that way. In percent: means over seeds with 95 %
t-intervals; sampled at temperature 1 on 2,048 problems. CS is the share of
wrong first attempts that the second corrects; a resample is an independent
second attempt, which does not see the first. `arms.py` defines the arms.
"""


def write(tasks: Sequence[str]) -> pathlib.Path:
  """README.md and pictures in the folder of the results; its path."""
  folder = pieces.RESULTS
  letters = {task: known_settings(task) for task in tasks}
  found = {task: table.results(task, letters[task]) for task in tasks}
  found = {task: each for task, each in found.items() if each}
  text = [HEAD.format(
    steps=grid.STEPS, rows=grid.PROBLEMS * grid.SAMPLES,
    settings=len(grid.SETTINGS), rates=len(grid.RATES),
    tuning=", ".join(map(str, grid.TUNING)),
  )]
  if FINDINGS.exists():
    text.append(FINDINGS.read_text())
  for task, each in found.items():
    text += section(task, each, letters[task])
  folder.mkdir(parents=True, exist_ok=True)
  for name in picture.save_all(folder, found):
    text.append(f"![{name}]({name})")
  path = folder / "README.md"
  path.write_text("\n".join(text) + "\n")
  return path


def known_settings(task: str) -> dict[str, str]:
  """The chosen settings of the arms that have been tuned on all seeds."""
  wanted = tuning(task)
  short = {p.arm for p in wanted if not pieces.read(p)}
  return table.chosen(task, [p for p in wanted if p.arm not in short])


def section(task: str, found: dict, letters: dict[str, str]) -> list[str]:
  """The tables of a task."""
  text = [f"## {task}", ""]
  text += results_table(task, found, letters)
  text += ["", effort(task, found), ""]
  text += claims_table(found)
  text += ["", *levels_table(found), "", *studies_table(found), ""]
  return text


def effort(task: str, found: dict) -> str:
  """The number of runs, and their core hours."""
  reported = [result for each in found.values() for result in each]
  tuned = [result for result in map(pieces.read, tuning(task)) if result]
  hours = [
    sum(result.get("seconds", 0.0) for result in each) / 3600
    for each in (reported, tuned)
  ]
  return (
    f"{len(reported)} reported runs, {hours[0]:.1f} core hours; "
    f"{len(tuned)} runs of tuning, {hours[1]:.1f}."
  )


def results_table(
  task: str, found: dict, letters: dict[str, str]
) -> list[str]:
  """A row for each arm, by means and intervals."""
  heads = [
    "arm", "", "setting", "seeds", *(head for head, _ in COLUMNS),
    "+- of a gain, 2,048 problems", "300",
  ]
  lines = [_line(heads), _line(["---"] * len(heads))]
  for name, each in found.items():
    row = table.row_of(each)
    failed = table.failures(task, name, letters)
    seeds = f"{row['seeds']}" + (f", {failed} failed" if failed else "")
    cells = [name, ARMS[name].description, letters[ARMS[name].chosen], seeds]
    cells += [percent(row[number]) for _, number in COLUMNS]
    cells += [f"{100 * row[n]:.1f}" for n in ("half_width", "half_width_300")]
    lines.append(_line(cells))
  return lines


def claims_table(found: dict) -> list[str]:
  """The paper's claims and the results here."""
  heads = ["claim", "paper, points", "here, points", "seeds", "sign"]
  lines = [_line(heads), _line(["---"] * len(heads))]
  for claim in table.CLAIMS:
    mean, low, high, seeds = table.estimate_claim(found, claim)
    if seeds:
      lines.append(_line([
        claim.description, claim.paper, percent((mean, low, high)), seeds,
        table.sign(low, high),
      ]))
  return lines


def levels_table(found: dict) -> list[str]:
  """Both attempts by difficulty, means over seeds."""
  levels = list(found["base"][0]["row"]["by_level"]) if "base" in found else []
  lines = [_line(["arm", *levels]), _line(["---"] * (len(levels) + 1))]
  for name, each in found.items():
    cells = [name]
    for level in levels:
      rows = [r["row"]["by_level"][level] for r in each]
      means = [100 * np.mean([r[n] for r in rows])
               for n in ("accuracy_1", "accuracy_2")]
      cells.append("{:.1f} -> {:.1f}".format(*means))
    lines.append(_line(cells))
  return lines if levels else []


def studies_table(found: dict) -> list[str]:
  """Greedy attempts of every arm, and Self-Refine."""
  lines = [_line(["greedy", "accuracy@1", "accuracy@2"]), _line(["---"] * 3)]
  for name, each in found.items():
    rows = [r["studies"]["greedy"] for r in each if r["studies"]]
    if rows:
      lines.append(_line([name] + [
        percent(interval([row[n] for row in rows]))
        for n in ("accuracy_1", "accuracy_2")
      ]))
  refined = [r["studies"]["self_refine"] for r in found.get("base", [])
             if "self_refine" in r["studies"]]
  if refined:
    first, last = (
      percent(interval([row[n] for row in refined]))
      for n in ("accuracy_1", "accuracy_3")
    )
    lines += ["", "Self-Refine (base, sampled; with no words for feedback in "
              f"these tasks, it is a third attempt): {first} -> {last}."]
  return lines


def percent(numbers: tuple[float, float, float]) -> str:
  """mean [low, high], in percent."""
  return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in numbers))


def _line(cells: Sequence) -> str:
  return "| " + " | ".join(str(cell) for cell in cells) + " |"
