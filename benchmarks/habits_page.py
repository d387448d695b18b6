"""The page of benchmarks.habits: tables, criteria and pictures."""

import pathlib
from collections.abc import Callable

import matplotlib.figure
import numpy as np

from benchmarks.intervals import interval
from sitrain.configs import backtracking, four_habits

HABITS = {"backtracking", "backtracking_verification", "all", "no_positive"}
HEAD = """# Habits of search on Countdown

```
python -m benchmarks.habits --system=four_habits --seeds=0,1,2
python -m benchmarks.habits --system=backtracking --seeds=0,1,2
python -m benchmarks.habits --page
```

Three numbers of 1 to 15 and a target of 10 to 99; a turn has 64 tokens.
Percent, means over seeds with 95 % t-intervals where there are several; 32
samples at temperature 1 of each of 256 boards that no run has seen.
"""
FOUR = """
## Four Habits

A base that writes random lines (10 % of them right) is primed with {steps}
steps of {tokens} trained tokens; {rl} steps of GRPO with {rows} episodes
follow. `none` is not primed, `empty` is with answers alone, `dots` with a dot
for each token of `all`; `no_positive` has the habits of `all`, and wrong
answers alone. Counts are those of a turn: backtracks, verdicts, subgoals, steps
from the target. Before -> after RL.
"""
SEARCH = """
## To Backtrack or Not

Both models are trained from scratch on {seen} rows of the same boards: `search`
on serialised searches, `direct` on a right answer. `_rl` is {rl} steps of GRPO
with {rows} episodes, `spared_rl` Clip-Cov in its place. Likeness: the Jaccard
similarity of the steps of a turn and of the solver's search. Operations are
those of generation: 2 for each parameter and token, and attention.
"""


def sizes() -> dict[str, int]:
  """The numbers of the texts above, as the configs have them."""
  stage = backtracking.get_config().stage
  method = stage.search_rl.method
  return {
    "steps": four_habits.STEPS, "tokens": four_habits.TOKENS,
    "rl": stage.search_rl.steps, "rows": method.problems * method.samples,
    "seen": stage.search.steps * stage.search.method.problems,
  }


Rows = list[dict]


def write(folder: pathlib.Path, four: Rows, search: Rows) -> pathlib.Path:
  """README.md and the pictures in the folder of the results; its path."""
  text, given = [HEAD], sizes()
  if four:
    text += [FOUR.format(**given), *four_table(four), ""]
    text += four_criteria(four)
    save(folder / "four_habits.png", curves(four))
    text += ["", "![Rewards of GRPO by arm](four_habits.png)"]
  if search:
    text += [SEARCH.format(**given), *search_table(search), ""]
    text += [*matched(search), ""]
    text += search_criteria(search)
    save(folder / "backtracking.png", frontier(search))
    text += ["", "![Accuracy over operations](backtracking.png)"]
  path = folder / "README.md"
  path.write_text("\n".join(text) + "\n")
  return path


def save(path: pathlib.Path, figure: matplotlib.figure.Figure) -> None:
  """Writes a picture."""
  figure.savefig(path, dpi=110)


def cell(values: list[float], scale: float = 100.0) -> str:
  """'52.1 [49.0, 55.2]', without an interval for one seed."""
  if np.isnan(values).any():
    return "-"
  mean, low, high = (scale * x for x in interval(values))
  digits = 1 if scale > 1 else 2
  mean, low, high = (rounded(x, digits) for x in (mean, low, high))
  text = f"{mean:.{digits}f}"
  if len(values) < 2:
    return text
  return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def rounded(x: float, digits: int) -> float:
  """`x` to so many digits, and 0 for what would be written as -0."""
  return round(x, digits) + 0.0


def line(cells: list[str]) -> str:
  """A line of a table."""
  return "| " + " | ".join(cells) + " |"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
  """The lines of a table."""
  return [line(heads), line(["---"] * len(heads)), *map(line, rows)]


def arms(rows: Rows) -> dict[str, Rows]:
  """The rows of each arm, in the order in which they stand."""
  names = dict.fromkeys(row["arm"] for row in rows)
  return {name: [r for r in rows if r["arm"] == name] for name in names}


def before(row: dict) -> dict:
  """What a run began its RL with."""
  stages = row["stages"]
  return stages["prime" if "prime" in stages else "base"]


def pair(
  each: Rows, read: Callable[[dict], float], scale: float = 100.0
) -> str:
  """The numbers of the stages before and after RL."""
  first = cell([read(before(r)) for r in each], scale)
  return f"{first} -> {cell([read(r['stages']['rl']) for r in each], scale)}"


def four_table(rows: Rows) -> list[str]:
  """A line for each arm."""
  counts = ("backtracking", "verification", "subgoals", "backward_chaining")
  heads = ["arm", "seeds", "accuracy", "pass@32", "tokens"]
  heads += ["backtracks", "verdicts", "subgoals", "backward", "s of a core"]
  lines = []
  for arm, each in arms(rows).items():
    cells = [f"`{arm}`", str(len(each))]
    cells += [pair(each, lambda s: s["accuracy"])]
    cells += [pair(each, lambda s: s["pass"]["32"])]
    cells += [pair(each, lambda s: s["tokens"], 1.0)]
    cells += [
      pair(each, lambda s, n=name: s["habits"][n], 1.0) for name in counts
    ]
    cells.append(f"{np.mean([r['seconds_of_core'] for r in each]):.0f}")
    lines.append(cells)
  return table(heads, lines)


def said(text: str, met: bool) -> str:
  """A criterion and whether it is met."""
  return f"* {text}: **{'met' if met else 'missed'}**."


def four_criteria(rows: Rows) -> list[str]:
  """The pass criteria of the claim, by means over the seeds."""
  found = arms(rows)
  end = lambda arm: np.mean([
    r["stages"]["rl"]["accuracy"] for r in found[arm]
  ])
  more = lambda arm: np.mean([
    r["stages"]["rl"]["habits"]["backtracking"]
    - before(r)["habits"]["backtracking"] for r in found[arm]
  ])
  habits = [arm for arm in found if arm in HABITS - {"no_positive"}]
  controls = [arm for arm in found if arm not in HABITS]
  lines = []
  if habits and controls:
    worst, best = min(habits, key=end), max(controls, key=end)
    gap = 100 * (end(worst) - end(best))
    lines.append(said(
      f"habit arms end above controls by more than 10 points: the lowest, "
      f"`{worst}`, {gap:+.1f} against the highest, `{best}`", gap > 10,
    ))
    rises = ", ".join(
      f"`{arm}` {rounded(more(arm), 2):+.2f}" for arm in found
    )
    met = all(more(a) > 0 for a in habits) and all(
      more(a) <= 0 for a in controls
    )
    lines.append(said(f"backtracks rise in habit arms alone: {rises}", met))
  if {"all", "no_positive"} <= set(found):
    gap = 100 * (end("no_positive") - end("all"))
    lines.append(said(
      f"wrong traces prime as well, `no_positive` within 3 points of `all`: "
      f"{gap:+.1f}", abs(gap) <= 3,
    ))
  return lines


def of_stage(rows: Rows, stage: str, read: Callable) -> list[float]:
  """A number of a stage, of every seed."""
  return [read(row["stages"][stage]) for row in rows]


def search_table(rows: Rows) -> list[str]:
  """A line for each stage."""
  heads = ["stage", "seeds", *(f"pass@{k}" for k in (1, 2, 4, 8, 16, 32))]
  heads += ["tokens", "distinct turns of 32", "likeness"]
  lines = []
  for stage in rows[0]["stages"]:
    cells = [f"`{stage}`", str(len(rows))]
    cells += [
      cell(of_stage(rows, stage, lambda s, k=k: s["pass"][str(k)]))
      for k in (1, 2, 4, 8, 16, 32)
    ]
    cells.append(cell(of_stage(rows, stage, lambda s: s["tokens"]), 1.0))
    for name in ("distinct", "likeness"):
      cells.append(cell(of_stage(rows, stage, lambda s, n=name: s[n])))
    lines.append(cells)
  return table(heads, lines)


def direct_at(stage: dict, flops: float) -> float:
  """Best of n of a stage at as many operations, between its points.

  NaN below the cost of one sample.
  """
  x = [row["flops"] for row in stage["samples"]]
  y = [row["accuracy"] for row in stage["samples"]]
  return float(np.interp(flops, x, y, left=np.nan))


def matched(rows: Rows) -> list[str]:
  """Search by budget against best of n of direct models at its operations.

  Of at most 32 samples.
  """
  heads = ["budget, tokens", "Mflop", "search", "direct, best of n"]
  heads += ["Mflop after RL", "search_rl", "direct_rl", "spared_rl"]
  lines = []
  for i, row in enumerate(rows[0]["stages"]["search"]["budgets"]):
    cells = [f"{row['budget']:.0f}"]
    for stage, others in (
      ("search", ("direct",)), ("search_rl", ("direct_rl", "spared_rl")),
    ):
      at = lambda r, s=stage, i=i: r["stages"][s]["budgets"][i]
      cells.append(cell([at(r)["flops"] / 1e6 for r in rows], 1.0))
      cells.append(cell([at(r)["accuracy"] for r in rows]))
      cells += [
        cell([direct_at(r["stages"][o], at(r)["flops"]) for r in rows])
        for o in others
      ]
    lines.append(cells)
  return table(heads, lines)


def search_criteria(rows: Rows) -> list[str]:
  """The pass criteria of the claim, by means over the seeds."""
  passed = lambda stage, k: 100 * np.mean(
    of_stage(rows, stage, lambda s: s["pass"][str(k)])
  )
  first = passed("direct_rl", 1) - passed("direct", 1)
  most = passed("direct_rl", 32) - passed("direct", 32)
  spared = passed("spared_rl", 32) - passed("direct_rl", 32)
  rise = [
    100 * np.mean([
      r["stages"]["search_rl"]["budgets"][i]["accuracy"]
      - r["stages"]["search"]["budgets"][i]["accuracy"] for r in rows
    ]) for i in range(len(rows[0]["stages"]["search"]["budgets"]))
  ]
  rises = ", ".join(f"{x:+.1f}" for x in rise)
  return [
    said(f"GRPO raises the direct model's pass@1 ({first:+.1f}) and lowers its "
         f"pass@32 ({most:+.1f})", first > 0 > most),
    said(f"it raises the search at every budget ({rises})", min(rise) > 0),
    said(f"Clip-Cov keeps pass@32 ({spared:+.1f} against GRPO, pass@1 "
         f"{passed('spared_rl', 1) - passed('direct_rl', 1):+.1f})",
         spared > 0),
  ]


def curves(rows: Rows) -> matplotlib.figure.Figure:
  """The mean reward of every arm while it is trained by RL."""
  figure = matplotlib.figure.Figure((6.5, 4), layout="constrained")
  panel = figure.subplots()
  for arm, each in arms(rows).items():
    values = np.mean([r["curves"]["rl"] for r in each], axis=0)
    steps = 10 * (1 + np.arange(len(values))) - 5
    style = "-" if arm in HABITS else "--"
    panel.plot(steps, 100 * values, style, label=arm)
  panel.set_xlabel("steps of GRPO")
  panel.set_ylabel("reward, %")
  panel.grid(alpha=0.3)
  panel.legend(fontsize=8)
  return figure


def frontier(rows: Rows) -> matplotlib.figure.Figure:
  """Accuracy over the operations of generation, before and after RL."""
  figure = matplotlib.figure.Figure((10, 4), layout="constrained")
  panels = figure.subplots(1, 2, sharey=True)
  sides = ((panels[0], ("search", "direct"), "imitation"),
           (panels[1], ("search_rl", "direct_rl", "spared_rl"), "after RL"))
  for panel, stages, title in sides:
    for stage in stages:
      by = "budgets" if stage.startswith("search") else "samples"
      points = [[(p["flops"], p["accuracy"]) for p in r["stages"][stage][by]]
                for r in rows]
      x, y = np.mean(points, axis=0).T
      how = "tokens" if by == "budgets" else "best of n"
      panel.plot(x / 1e6, 100 * y, "o-", label=f"{stage}, by {how}")
    panel.set_xscale("log")
    panel.set_title(title)
    panel.set_xlabel("operations to answer a board, Mflop")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
  panels[0].set_ylabel("accuracy, %")
  return figure
