"""Figures of an evaluation: plain data in, matplotlib figures out."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure  # Without pyplot it draws by Agg.
from matplotlib.ticker import ScalarFormatter

ARMS = (
  ("parallel", "first attempts, majority", "o-"),
  ("sequential", "corrections, majority", "s-"),
  ("sequential_all", "both, majority", "^--"),
  ("pass", "any first attempt right", ":"),
)

Rows = dict[str, dict[str, Any]]  # by stage


def _axes(title: str, across: str, up: str):
  figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
  axes = figure.subplots()
  axes.set_title(title, fontsize=11)
  axes.set_xlabel(across)
  axes.set_ylabel(up)
  axes.grid(alpha=0.25)
  return figure, axes


def _band(axes, line, at, ends) -> None:
  """The intervals around a line, in its colour."""
  low, high = np.array(ends, float).T
  color = line.get_color()
  axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def accuracy_by_turn(studies: Rows) -> Figure:
  """A line per stage from what `many_turns` found, with its intervals."""
  figure, axes = _axes("accuracy by turn", "turn", "accuracy")
  for name, study in studies.items():
    at = study["turns"]
    (line,) = axes.plot(at, study["accuracy"], "o-", label=name, markersize=3)
    _band(axes, line, at, study["intervals"]["accuracy"])
  axes.legend(fontsize=8, frameon=False)
  return figure


def inference_scaling(name: str, study: dict[str, Any]) -> Figure:
  """A line per arm over the budget, for one stage."""
  title = f"{name}: accuracy at a matched budget"
  figure, axes = _axes(title, "attempts a problem", "accuracy")
  at = study["budget"]
  axes.set_xscale("log", base=2)
  axes.set_xticks(at, [str(b) for b in at])
  for arm, label, style in ARMS:
    (line,) = axes.plot(at, study[arm], style, label=label, markersize=4)
    _band(axes, line, at, study["intervals"][arm])
  axes.legend(fontsize=8, frameon=False)
  return figure


def edit_distances(rows: Rows) -> Figure:
  """Edit ratios from the first to the last attempt, a histogram per stage."""
  title = "edits from the first to the last attempt"
  across = "edit distance over the length of both"
  figure, axes = _axes(title, across, "density")
  for name, row in rows.items():
    edits = row["edits"]
    axes.stairs(
      edits["density"], edits["edges"], label=name, fill=True, alpha=0.35
    )
  axes.legend(fontsize=8, frameon=False)
  return figure


def by_difficulty(rows: Rows) -> Figure:
  """Corrected and spoiled answers of each level, a group of bars per level."""
  figure, axes = _axes("by difficulty", "", "share of problems")
  seen = [level for row in rows.values() for level in row["by_level"]]
  levels = list(dict.fromkeys(seen))
  width = 0.8 / max(2 * len(rows), 1)
  for i, (name, row) in enumerate(rows.items()):
    for j, (key, label) in enumerate(
      (("incorrect_to_correct", "i->c"), ("correct_to_incorrect", "c->i"))
    ):
      found = [row["by_level"].get(level, {}) for level in levels]
      height = np.array([part.get(key, np.nan) for part in found], float)
      none = [np.nan, np.nan]
      ends = [part.get("intervals", {}).get(key, none) for part in found]
      low, high = np.array(ends, float).T
      error = np.maximum([height - low, high - height], 0.0)
      at = np.arange(len(levels)) + (2 * i + j + 0.5) * width - 0.4
      axes.bar(
        at, height, width, yerr=error, label=f"{name} {label}",
        color=f"C{i}", alpha=(0.9, 0.4)[j], error_kw={"linewidth": 0.8},
      )  # fmt: skip
  axes.set_xticks(np.arange(len(levels)), levels)
  axes.legend(fontsize=7, frameon=False, ncols=2)
  return figure


def accuracy_over_tokens(rows: Rows) -> Figure:
  """A point per strategy and budget, over both of its costs.

  `rows` are those of answers.summarize by label, with `strategy`; those of one
  strategy are joined by a line.
  """
  figure = Figure(figsize=(9.6, 4.0), dpi=120, layout="constrained")
  both = figure.subplots(1, 2, sharey=True)
  for axes, cost in zip(both, ("sequential", "total")):
    axes.set_xlabel(f"{cost} tokens a problem")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.25)
    names = dict.fromkeys(row["strategy"] for row in rows.values())
    for name in names:
      own = [row for row in rows.values() if row["strategy"] == name]
      own = sorted(own, key=lambda row: row[cost])
      at = np.array([row[cost] for row in own])
      up = np.array([row["accuracy"] for row in own])
      ends = np.array([row["intervals"]["accuracy"] for row in own], float)
      axes.errorbar(
        at, up, yerr=np.maximum([up - ends[:, 0], ends[:, 1] - up], 0.0),
        fmt="o:" if own[0]["oracle"] else "o-", markersize=4, capsize=2,
        label=f"{name} (oracle)" if own[0]["oracle"] else name,
      )  # fmt: skip
  both[0].set_ylabel("accuracy")
  both[1].legend(fontsize=8, frameon=False)
  return figure


def pictures(stages: Rows) -> dict[str, Figure]:
  """All figures by file name; those without results are left out.

  `stages` holds `summary` for each stage, and `many_turns` and `scaling` where
  these studies were run.
  """
  rows = {name: found["summary"] for name, found in stages.items()}
  long = {n: f for n, f in stages.items() if "many_turns" in f}
  turns = {name: found["many_turns"] for name, found in long.items()}
  figures = {"edits": edit_distances(rows), "difficulty": by_difficulty(rows)}
  if turns:
    figures["turns"] = accuracy_by_turn(turns)
  for name, found in stages.items():
    if "scaling" in found:
      figures[f"scaling_{name}"] = inference_scaling(name, found["scaling"])
  return figures
