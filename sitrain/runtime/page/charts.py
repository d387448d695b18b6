"""The charts of a run: which metrics stand in one picture, in which order."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sitrain.runtime import glossary
from sitrain.runtime.page import curves, svg, tables
from sitrain.runtime.page.curves import Records, is_number
from sitrain.runtime.page.svg import Axes, Line, Point

TURN = re.compile(r".*_(\d+)")


class Group(NamedTuple):
  """Metrics of one picture."""

  title: str
  pattern: str  # of their names


GROUPS = (
  Group("Problems without a signal", r"judge/no_signal_\d+"),
  Group("What the next attempt does", r"judge/(changed|corrected|spoiled)_\d+"),
  Group("Entropy", r"learn/entropy(_\d+)?"),
  Group("KL to the reference", r"learn/kl_\d+"),
  Group("Negative log-likelihood", r"learn/nll(_chosen|_rejected)?"),
  Group("Preference loss", r"learn/preference"),
  Group("Tokens written", r"generate/length_\d+"),
  Group("Cut or unreadable", r"generate/truncated_\d+|judge/malformed_\d+"),
  Group("Gradient norm", r"learn/gradient_norm"),
  Group("Tokens per second", r"run/tokens_per_second"),
)
# In the first picture, or in the table of times.
ELSEWHERE = r"judge/reward_\d+|eval/.*|run/.*"
SHARE = glossary.SHARE
NOT_METRICS = ("stage", "step", "iteration")


def attempts(
  records: Records, stages: Sequence[dict[str, Any]], config: dict[str, Any]
) -> str:
  """Reward and accuracy of every attempt over the run, in one picture."""
  rewards = curves.names_of(records, r"judge/reward_\d+")
  briefs = curves.names_of(records, r"eval/accuracy_\d+")
  partial = any("reward_1" in stage for stage in stages)
  found = "reward" if partial else "accuracy"
  keys = sorted({
    key for stage in stages for key in stage
    if re.fullmatch(rf"{found}_\d+", key) and is_number(stage[key])
  })
  placed, lines = curves.place(records), []
  turn = lambda name: (
    "verdict" if tables.is_judged(stages) and turn_of(name) % 2 == 0 else
    "attempt"
  ) + f" {turn_of(name)}"
  problems = (config.get("evaluate") or {}).get("every_problems", 0)
  for name in rewards:
    lines.append(curves.curve(
      placed, name, label=f"{turn(name)}, reward while training",
      color=_color(name),
    )._replace(faint=bool(briefs)))
  for name in briefs:
    lines.append(curves.measured(
      placed, name, problems=problems if is_number(problems) else 0,
      label=f"{turn(name)}, greedy while training",
      color=_color(name),
    ))
  for key in keys:
    lines.append(curves.ends_of(
      stages, key, label=f"attempt {turn_of(key)}, {found} after a stage",
      color=_color(key),
    ))
  lines = [line for line in lines if line.pieces]
  axes = Axes(
    placed.borders, curves.gaps(placed, rewards), percent=not partial,
    bottom=0.0,
  )
  note = "Dots: the evaluation after each stage, with its 95 % interval."
  if rewards:
    note += (
      " Curves: the mean reward of the training batches, with the 95 % interval"
      " of each mean; a stage that imitates has none."
    )
  return svg.chart("Every attempt over the run", lines, axes, note)


def grouped(records: Records) -> str:
  """The pictures of GROUPS whose metrics were measured."""
  return "".join(
    picture(group.title, curves.names_of(records, group.pattern), records)
    for group in GROUPS
  )


def others(records: Records) -> str:
  """A picture for each other family of metrics."""
  known = "|".join(group.pattern for group in GROUPS)
  families: dict[str, list[str]] = {}
  for name in curves.names_of(records, r".+"):
    if name in NOT_METRICS or re.fullmatch(f"{known}|{ELSEWHERE}", name):
      continue
    stem = name.rpartition("_")[0] if TURN.fullmatch(name) else name
    families.setdefault(stem, []).append(name)
  return "".join(
    picture(title_of(stem), names, records)
    for stem, names in sorted(families.items())
  )


def picture(title: str, names: Sequence[str], records: Records) -> str:
  """The metrics over the stages that have them; "" if there are none."""
  names = [n for n in names if any(is_number(r.get(n)) for r in records)]
  if not names:
    return ""
  placed = curves.with_metrics(records, names)
  short = short_labels(names)
  lines = [
    curves.curve(
      placed, name, label=short(name), color=i % 8,
      share=unit_of([name]) == SHARE,
    )
    for i, name in enumerate(names)
  ]
  gaps = curves.gaps(placed, names)
  axes = axes_of(names)._replace(borders=placed.borders, gaps=gaps)
  return svg.chart(title, lines, axes, note_of(names, len(gaps)))


def axes_of(names: Sequence[str]) -> Axes:
  """Those of shares are in percent, and start at 0."""
  share = unit_of(names) == SHARE
  return Axes(percent=share, bottom=0.0 if share else math.nan)


def note_of(names: Sequence[str], gaps: int) -> str:
  """What the metrics are, in which unit, and what is healthy."""
  entries = dict.fromkeys(filter(None, map(glossary.find, names)))
  several = len(entries) > 1
  words = []
  for entry in entries:
    own = f"{title_of(entry.name)}: "
    formula, healthy = _formula(entry), _plain(entry.healthy, entry)
    if unit_of(names) == SHARE:
      healthy = _in_percent(healthy)
    unit = "" if entry.unit == SHARE else f" ({entry.unit})"
    words.append(f"{own * several}{formula}{unit}. Healthy: {healthy}.")
  if gaps:
    words.append("Hatched: steps without a value, where nothing was counted.")
  return _sentence(" ".join(words))


# Formulas in words: with r = 0 or 1 they are the same.
WORDS = {
  "mean of (1 - r of the attempt before) r of an attempt":
    "right attempts after a wrong one, as a share of all attempts",
  "mean of r of the attempt before (1 - r of an attempt)":
    "wrong attempts after a right one, as a share of all attempts",
}


def _formula(entry: glossary.Entry) -> str:
  """What a metric is, in words."""
  text = _plain(entry.formula, entry)
  for formula, words in WORDS.items():
    text = text.replace(formula, words)
  return re.sub(r" / ([a-z]+)(?=$|:)", r", as a share of all \1", text)


def _in_percent(text: str) -> str:
  """Shares as the axis has them: "below 10 %" for "below 0.1"."""
  share = lambda found: f"{100 * float(found[0]):g} %"
  return re.sub(r"(?<![\w@.])(0\.\d+|1)(?![\w.]| /)", share, text)


def _plain(text: str, entry: glossary.Entry) -> str:
  """A line of the glossary without K and without names of metrics."""
  verb = entry.name.partition("/")[0]
  text = text.replace("turn K - 1", "the attempt before")
  text = text.replace("turn K - 2", "the attempt two turns before")
  text = text.replace("attempts K - 1", "attempts before it")
  text = re.sub(r"\b(turn|attempt) K\b", "an attempt", text).replace("`", "")
  name = lambda found: f"“{glossary.label(f'{verb}/{found[0]}')}”"
  return re.sub(r"\b[a-z_]+_K\b", name, text)


def short_labels(names: Sequence[str]) -> Callable[[str], str]:
  """Labels without what all of them share, which the title says."""
  stems = {name.rpartition("_")[0] for name in names}
  if len(names) == 1:
    return lambda name: ""
  if len(stems) == 1 and all(TURN.fullmatch(name) for name in names):
    return lambda name: f"attempt {turn_of(name)}"
  return glossary.label


def turn_of(name: str) -> int:
  """The number at the end of a name."""
  return int(TURN.fullmatch(name)[1])


def _color(name: str) -> int:
  return (turn_of(name) - 1) % 8


def unit_of(names: Sequence[str]) -> str:
  """The unit that all of the metrics have, or ""."""
  units = {entry.unit for entry in map(glossary.find, names) if entry}
  return units.pop() if len(units) == 1 else ""


def title_of(name: str) -> str:
  """A metric as the title of a picture."""
  return _sentence(glossary.label(name))


def _sentence(text: str) -> str:
  return text[:1].upper() + text[1:]


def edits(rows: dict[str, dict[str, Any]]) -> str:
  """A histogram for each stage: how much of an attempt the last one changes."""
  found = []
  for i, (name, row) in enumerate(rows.items()):
    density = (row.get("edits") or {}).get("density") or []
    if not density or not all(map(is_number, density)) or not any(density):
      continue
    copied = row["edits"].get("copied")
    note = f"{100 * copied:.1f} % are copies." if is_number(copied) else ""
    shares = [x / len(density) for x in density]
    found.append(svg.bars(
      f"{name}: what the last attempt changes", shares,
      ("the same", "half", "all new"), i % 8,
      "Problems by the edit distance from the first attempt to the last, as a"
      f" share of their length. {note}",
    ))
  return "".join(found)


ARMS = (
  ("parallel", "first attempts, majority"),
  ("sequential", "corrections, majority"),
  ("sequential_all", "both, majority"),
  ("pass", "any first attempt right"),
)


def studies(stages: dict[str, dict[str, Any]], turns_of_run: int = 0) -> str:
  """Pictures of evaluation.json: accuracy by turn, and by budget.

  `turns_of_run`: how many the run evaluates; 0 where that is not known.
  """
  turns, found = [], []
  for i, (name, study) in enumerate(stages.items()):
    many = study.get("many_turns") or {}
    if points := _points(many, "turns", "accuracy"):
      turns.append(Line(name, [points], i % 8))
    budgets = study.get("scaling") or {}
    arms = [
      Line(label, [_logarithmic(points)], k, dashed=arm == "pass")
      for k, (arm, label) in enumerate(ARMS)
      if (points := _points(budgets, "budget", arm))
    ]
    ticks = [(math.log2(n), str(n)) for n in budgets.get("budget") or []]
    found.append(svg.chart(
      f"{name}: accuracy at a matched budget", arms,
      Axes(percent=True, across="attempts a problem", ticks=ticks),
      "The same number of attempts, spent on first attempts side by side, or on"
      " attempts with their corrections; a problem is right where its most"
      " frequent answer is.",
    ))
  axes = Axes(percent=True, across="attempt")
  note = (
    f"The run itself has {turns_of_run} attempts: later ones were not trained."
    if turns_of_run else ""
  )
  return svg.chart("Accuracy by attempt", turns, axes, note) + "".join(found)


def _logarithmic(points: list[Point]) -> list[Point]:
  return [point._replace(x=math.log2(point.x)) for point in points]


def _points(study, across: str, up: str) -> list[Point]:
  found = []
  at, values = study.get(across) or [], study.get(up) or []
  ends = (study.get("intervals") or {}).get(up) or [(None, None)] * len(at)
  for x, y, two in zip(at, values, ends):
    if is_number(y):
      known = all(map(is_number, two))
      found.append(Point(float(x), y, *(two if known else ())))
  return found
