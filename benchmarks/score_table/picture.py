"""The table as pictures: accuracies by arm, curves along training, scaling."""

import io
import pathlib
from collections.abc import Callable

import matplotlib.figure
import numpy as np
from PIL import Image

from benchmarks.intervals import interval
from benchmarks.score_table.arms import ARMS, MAIN
from benchmarks.score_table.pieces import CURVE, STUDIED

Found = dict[str, list[dict]]
TURNS = (("accuracy_1", "attempt 1", "C0"), ("accuracy_2", "attempt 2", "C3"))
SHOWN = (
  ("judge/reward_1", "accuracy@1"), ("judge/reward_2", "accuracy@2"),
  ("judge/changed_2", "answers changed"), ("learn/kl_1", "KL of turn 1, nat"),
  ("learn/kl_2", "KL of turn 2, nat"),
  ("learn/entropy_1", "entropy of turn 1, nat"),
  ("learn/entropy_2", "entropy of turn 2, nat"),
)


def save_all(folder: pathlib.Path, found: dict[str, Found]) -> list[str]:
  """All pictures as PNG files; their names."""
  figures = {"arms": arms(found)} if found else {}
  for task, each in found.items():
    figures[f"{task}_curves"] = curves(each)
    figures[f"{task}_edits"] = edits(each)
    figures[f"{task}_budgets"] = budgets(each)
  for name, figure in figures.items():
    save(figure, folder / f"{name}.png")
  return [f"{name}.png" for name in figures]


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
  """Writes a PNG of 64 colours, a quarter of the bytes of one of all."""
  buffer = io.BytesIO()
  figure.savefig(buffer, dpi=110)
  image = Image.open(buffer).convert("RGB")
  few = image.quantize(64, kmeans=4, dither=Image.Dither.NONE)
  few.save(path, optimize=True)


def _panels(rows: int, columns: int, width: float, height: float):
  figure = matplotlib.figure.Figure(
    (width, height), layout="constrained"
  )
  return figure, figure.subplots(rows, columns, squeeze=False)


def arms(found: dict[str, Found]) -> matplotlib.figure.Figure:
  """Both attempts of every arm with intervals over seeds, a panel a task."""
  figure, panels = _panels(1, len(found), 5.5 * len(found), 7)
  for panel, (task, each) in zip(panels[0], found.items()):
    names = [name for name in ARMS if name in each][::-1]
    for number, label, color in TURNS:
      for place, name in enumerate(names):
        rows = [result["row"][number] for result in each[name]]
        mean, low, high = (100 * x for x in interval(rows))
        panel.plot([low, high], [place, place], color=color, lw=2)
        panel.plot(
          mean, place, "o", color=color, label=label if not place else None
        )
    panel.set_yticks(range(len(names)), names)
    panel.set_xlabel("right, % (mean and 95 % interval over seeds)")
    panel.set_title(task)
    panel.grid(axis="x", alpha=0.3)
  labelled = panels[0][0].get_legend_handles_labels()
  figure.legend(*labelled, loc="outside lower center", ncols=2)
  return figure


def curves(found: Found) -> matplotlib.figure.Figure:
  """Metrics during training of the main arms, with stage I."""
  figure, panels = _panels(2, 4, 16, 7)
  for panel, (metric, title) in zip(panels.ravel(), SHOWN):
    for number, name in enumerate(MAIN):
      each = [_curve(found, r, metric) for r in found.get(name, [])]
      _draw(panel, [c for c in each if c], name, f"C{number}")
    panel.set_title(title)
    panel.set_xlabel("gradient steps")
    panel.grid(alpha=0.3)
  panels[-1][-1].axis("off")
  panels[-1][-1].legend(
    *panels[0][0].get_legend_handles_labels(), loc="center",
    title="mean over seeds; thin: each seed",
  )
  return figure


def _legend(panel) -> None:
  """A legend, where there are labels."""
  if panel.get_legend_handles_labels()[0]:
    panel.legend(fontsize=7)


def _curve(found: Found, result: dict, metric: str) -> list[float]:
  """A run's values, after those of the stage I that it starts from."""
  own = result["curves"].get(metric, [])
  if ARMS[result["arm"]].start != "stage1":
    return own
  first = [r for r in found.get("stage1", []) if r["seed"] == result["seed"]]
  return (first[0]["curves"].get(metric, []) if first else []) + own


def _draw(panel, each, name, color) -> None:
  """A line for the mean of as many steps as all have, thin ones for seeds."""
  places = lambda values: CURVE * (np.arange(len(values)) + 0.5)
  for values in each:
    panel.plot(places(values), values, color=color, lw=0.6, alpha=0.2)
  if each:
    mean = np.mean([v[: min(map(len, each))] for v in each], axis=0)
    panel.plot(places(mean), mean, color=color, lw=2, label=name)


def edits(found: Found) -> matplotlib.figure.Figure:
  """Edit ratios between the attempts, of the main arms and the base."""
  names = [name for name in ("base", *MAIN) if name in found]
  figure, panels = _panels(1, max(len(names), 1), 2.4 * len(names) + 1, 3)
  for panel, name in zip(panels[0], names):
    rows = [result["row"]["edits"] for result in found[name]]
    edges = rows[0]["edges"]
    density = np.mean([row["density"] for row in rows], axis=0)
    panel.stairs(density, edges, fill=True)
    panel.set_title(name, fontsize=8)
    panel.set_xlabel("edit ratio of attempt 2 to 1")
  panels[0][0].set_ylabel("density")
  return figure


def budgets(found: Found) -> matplotlib.figure.Figure:
  """Ten attempts in a row; samples side by side or corrected."""
  figure, panels = _panels(1, 2, 11, 4)
  left, right = panels[0]
  for number, name in enumerate(STUDIED):
    color = f"C{number}"
    each = [r["studies"] for r in found.get(name, []) if r["studies"]]
    if not each:
      continue
    _mean_line(left, each, _turns_of, color, name, "-")
    _mean_line(right, each, _budget_of("parallel"), color, name, "--")
    _mean_line(right, each, _budget_of("sequential"), color, None, "-")
  left.set_xlabel("attempt in a row")
  right.set_xlabel("attempts a problem (dashed: all first ones)")
  right.set_xscale("log", base=2)
  for panel in (left, right):
    panel.set_ylabel("right")
    panel.grid(alpha=0.3)
  _legend(left)
  return figure


def _mean_line(panel, each, read: Callable, color, label, style) -> None:
  places, values = zip(*[read(studies) for studies in each])
  panel.plot(
    places[0], np.mean(values, axis=0), style, color=color, label=label
  )


def _turns_of(studies: dict) -> tuple[list, list]:
  many = studies["many_turns"]
  return many["turns"], many["accuracy"]


def _budget_of(kind: str) -> Callable:
  def read(studies):
    scaling = studies["scaling"]
    return scaling["budget"], scaling[kind]

  return read
