"""The page of benchmarks.self_correction: tables, and CL beside CS."""

import math
import pathlib

import matplotlib
import matplotlib.figure

from benchmarks.intervals import interval
from benchmarks.self_correction_arms import ARMS, TASKS

Found = dict[str, list[dict]]  # arm -> results, one a seed
FINDINGS = pathlib.Path(__file__).parent / "self_correction_findings.md"
HEAD = """# Systems of self-correction

```
python -m benchmarks.self_correction --seeds=3 --workers=2
```

Percent, means over seeds with 95 % t-intervals where there are several; sampled
at temperature 1 on 2,048 problems. The learning rate of an arm is the best of
three or four on another seed and other problems. `i->c` and `c->i` are the
changes from the first to the last attempt. "less direct RL's" is the last
attempt's accuracy less that of direct RL of the same form, seed by seed: RL on
both attempts, with verdicts between them where the arm has them. CS: of wrong
first attempts, those that the last one mends; CL: of right ones, those that
stay right. "beyond resampling" is CS or CL less that of an independent second
attempt of the same policy, which does not see the first: problems differ in
difficulty, so a second attempt that ignores the first has a CL above its
accuracy and a CS below it. A system corrects where that of CS lies above 0.
Tokens are those of an episode, with the prompt.
"""
COLUMNS = (
  ("accuracy@1", "first"), ("last attempt", "last"),
  ("less direct RL's", "over_direct"), ("gain", "gain"),
  ("i->c", "incorrect_to_correct"), ("c->i", "correct_to_incorrect"),
  ("CS", "cs"), ("CS beyond resampling", "cs_over_resample"),
  ("CL", "cl"), ("CL beyond resampling", "cl_over_resample"),
  ("verdicts right", "verdict_accuracy"), ("wrong caught", "verdict_recall"),
  ("right accepted", "verdict_cleared"),
)


def write(folder: pathlib.Path, found: dict[str, Found]) -> pathlib.Path:
  """README.md and the picture in the folder of the results; its path."""
  text = [HEAD]
  if found:
    text += [FINDINGS.read_text(), "![CL and CS of every arm](frontier.png)\n"]
  for task, each in found.items():
    sizes = TASKS[task]
    text += [
      f"## {task}", "", f"`{sizes.name}` with {sizes.options}: {sizes.steps}"
      f" gradient steps and {sizes.attempts:,} sampled attempts an arm.", "",
      *table(each), "",
    ]
  if found:
    picture(found).savefig(folder / "frontier.png", dpi=110)
  path = folder / "README.md"
  path.write_text("\n".join(text).rstrip() + "\n")
  return path


def table(found: Found) -> list[str]:
  """A line for each arm."""
  heads = ["arm", "", "rate", "seeds", *(title for title, _ in COLUMNS)]
  heads += ["tokens", "s of a core"]
  lines = [_line(heads), _line(["---"] * len(heads))]
  for arm, each in found.items():
    each = _beside_direct(each, found.get(_direct(arm), []))
    each = [r | accepted(r) for r in each]
    rate = each[0]["rate"]
    cells = [f"`{arm}`", ARMS[arm].description, f"{rate:g}" if rate else "-"]
    cells += [str(len(each)), *(cell(each, key) for _, key in COLUMNS)]
    for key in ("tokens", "seconds_of_core"):
      cells.append(f"{sum(r[key] for r in each) / len(each):.0f}")
    lines.append(_line(cells))
  return lines


def _direct(arm: str) -> str:
  """The arm of direct RL with, or without, verdicts."""
  return "direct_judged" if ARMS[arm].judged else "multi_turn"


def _beside_direct(each: list[dict], direct: list[dict]) -> list[dict]:
  """Results with the difference to direct RL on the same seed, if stored."""
  last = {result["seed"]: result["last"] for result in direct}
  return [
    r | {"over_direct": r["last"] - last[r["seed"]]}
    if r["seed"] in last else r for r in each
  ]


def accepted(result: dict) -> dict[str, float]:
  """The share of right first attempts that the policy's verdicts accept.

  From first * accepted + (1 - first) * caught = verdicts right, as each first
  attempt has one verdict; {} where there are none.
  """
  names = ("first", "verdict_accuracy", "verdict_recall")
  first, true, caught = (result.get(name, math.nan) for name in names)
  share = (true - (1.0 - first) * caught) / first if first else math.nan
  return {"verdict_cleared": share} if math.isfinite(share) else {}


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
  arm: upwards it mends more, to the right it spoils less. Squares have verdicts
  between attempts.
  """
  figure = matplotlib.figure.Figure(
    (4.8 * len(found) + 2.2, 5.5), layout="constrained"
  )
  panels = figure.subplots(1, len(found), squeeze=False)[0]
  colors, marks = matplotlib.colormaps["tab20"].colors, {}
  for panel, (task, each) in zip(panels, found.items()):
    for arm, results in each.items():
      color = colors[list(ARMS).index(arm) % len(colors)]
      mark = _point(panel, results, color, "s" if ARMS[arm].judged else "o")
      marks |= {arm: mark} if mark else {}
    panel.set_title(task)
    panel.set_xlabel("CL: right first attempts that stay right, %")
    panel.grid(alpha=0.3)
  panels[0].set_ylabel("CS: wrong first attempts that are mended, %")
  if marks:
    figure.legend(
      marks.values(), marks, loc="outside right upper", fontsize=8
    )
  return figure


def _point(panel, results, color, marker):
  """The mark of an arm; None where no first attempt was right, or wrong."""
  of = lambda key, read: interval([100 * read(r)[key] for r in results])
  own, other = lambda result: result, lambda result: result["resample"]
  if not all(math.isfinite(read(r)[k]) for r in results
             for k in ("cl", "cs") for read in (own, other)):
    return None
  (x, *wide), (y, *tall) = of("cl", own), of("cs", own)
  start = of("cl", other)[0], of("cs", other)[0]
  panel.plot([start[0], x], [start[1], y], color=color, lw=1)
  panel.plot(*start, marker, color=color, mfc="none")
  within = lambda ends: [min(max(end, 0.0), 100.0) for end in ends]
  panel.plot(within(wide), [y, y], color=color, lw=0.6)
  panel.plot([x, x], within(tall), color=color, lw=0.6)
  return panel.plot(x, y, marker, color=color)[0]
