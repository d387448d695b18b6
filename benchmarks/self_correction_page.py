"""The page of benchmarks.self_correction: tables, and CL beside CS."""

import math
import pathlib

import matplotlib.figure

from benchmarks.intervals import interval

Found = dict[str, list[dict]]  # arm -> results, one a seed
HEAD = """# Systems of self-correction

```
python -m benchmarks.self_correction --seeds=5 --workers=2
```

Percent, means over seeds with 95 % t-intervals where there are several; sampled
at temperature 1 on 2,048 problems. `i->c` and `c->i` are the changes from the
first to the last attempt. CS: of wrong first attempts, those that the last one
mends; CL: of right ones, those that stay right. "beyond resampling" is CS or CL
less that of an independent second attempt of the same policy, which does not
see the first: problems differ in difficulty, so a second attempt that ignores
the first has a CL above its accuracy and a CS below it. A system corrects where
that of CS lies above 0. Tokens are those of an episode, with the prompt.
"""
COLUMNS = (
  ("accuracy@1", "first"), ("last attempt", "last"), ("gain", "gain"),
  ("i->c", "incorrect_to_correct"), ("c->i", "correct_to_incorrect"),
  ("CS", "cs"), ("CS beyond resampling", "cs_over_resample"),
  ("CL", "cl"), ("CL beyond resampling", "cl_over_resample"),
  ("verdicts right", "verdict_accuracy"), ("wrong caught", "verdict_recall"),
)


def write(
  folder: pathlib.Path, found: dict[str, Found], about: dict[str, str]
) -> pathlib.Path:
  """README.md and the picture in the folder of the results; its path."""
  text = [HEAD]
  for task, each in found.items():
    text += [f"## {task}", "", *table(each, about), ""]
  if found:
    picture(found).savefig(folder / "frontier.png", dpi=110)
    text.append("![CL and CS of every arm](frontier.png)")
  path = folder / "README.md"
  path.write_text("\n".join(text) + "\n")
  return path


def table(found: Found, about: dict[str, str]) -> list[str]:
  """A line for each arm."""
  heads = ["arm", "", "rate", "seeds", *(title for title, _ in COLUMNS)]
  heads += ["tokens", "s of a core"]
  lines = [_line(heads), _line(["---"] * len(heads))]
  for arm, each in found.items():
    rate = each[0]["rate"]
    cells = [f"`{arm}`", about[arm], f"{rate:g}" if rate else "-"]
    cells += [str(len(each)), *(cell(each, key) for _, key in COLUMNS)]
    for key in ("tokens", "seconds_of_core"):
      cells.append(f"{sum(r[key] for r in each) / len(each):.0f}")
    lines.append(_line(cells))
  return lines


def cell(each: list[dict], key: str) -> str:
  """'52.1 [49.0, 55.2]' in percent; "-" where an arm has no such number."""
  values = [r.get(key) for r in each]
  if any(x is None or not math.isfinite(x) for x in values):
    return "-"
  mean, low, high = (100 * x for x in interval(values))
  text = f"{mean:.1f}"
  return text if math.isnan(low) else f"{text} [{low:.1f}, {high:.1f}]"


def _line(cells: list[str]) -> str:
  return "| " + " | ".join(cells) + " |"


def picture(found: dict[str, Found]) -> matplotlib.figure.Figure:
  """CL against CS, a panel a task.

  A hollow mark is an independent second attempt, a line leads from it to the
  arm: upwards it mends more, to the right it spoils less.
  """
  figure = matplotlib.figure.Figure(
    (5.5 * len(found), 5.5), layout="constrained"
  )
  panels = figure.subplots(1, len(found), squeeze=False)[0]
  names = list(dict.fromkeys(arm for each in found.values() for arm in each))
  for panel, (task, each) in zip(panels, found.items()):
    for arm, results in each.items():
      _point(panel, results, arm, f"C{names.index(arm) % 10}")
    panel.set_title(task)
    panel.set_xlabel("CL: right first attempts that stay right, %")
    panel.set_ylabel("CS: wrong first attempts that are mended, %")
    panel.grid(alpha=0.3)
    if panel.get_legend_handles_labels()[0]:
      panel.legend(fontsize=7)
  return figure


def _point(panel, results, arm, color) -> None:
  of = lambda key, read: interval([100 * read(r)[key] for r in results])
  own, other = lambda result: result, lambda result: result["resample"]
  if not all(math.isfinite(read(r)[k]) for r in results
             for k in ("cl", "cs") for read in (own, other)):
    return  # No first attempt was right, or none was wrong.
  (x, *wide), (y, *tall) = of("cl", own), of("cs", own)
  start = of("cl", other)[0], of("cs", other)[0]
  panel.plot([start[0], x], [start[1], y], color=color, lw=1)
  panel.plot(*start, "o", color=color, mfc="none")
  panel.plot(wide, [y, y], color=color, lw=0.6)
  panel.plot([x, x], tall, color=color, lw=0.6)
  panel.plot(x, y, "o", color=color, label=arm)
