"""Tables of an evaluation for the terminal."""

import math
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table


def percent(value: Any, ends: Any = (), *, between: str = " ") -> str:
  """'52.1 [49.0, 55.2]' from shares; "-" where there is no number."""
  numbers = [value, *ends]
  if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
    return "-"
  text = f"{100 * value:.1f}"
  # A bracket would be read as markup.
  low_high = ", ".join(f"{100 * x:.1f}" for x in ends)
  return rf"{text}{between}\[{low_high}]" if low_high else text


def decimal(value: Any) -> str:
  """'0.521' for a mean reward; "-" where there is no number."""
  known = isinstance(value, (int, float)) and math.isfinite(value)
  return f"{value:.3f}" if known else "-"


def _table(title: str, titles: Iterable[str]) -> Table:
  table = Table(title=title, box=box.SIMPLE_HEAD)
  for i, name in enumerate(titles):
    table.add_column(
      name, justify="left" if i == 0 else "right", no_wrap=True
    )
  return table


def _cell(row: dict[str, Any], key: str) -> str:
  """The interval stands below its number, for narrow terminals."""
  ends = row.get("intervals", {}).get(key, ())
  return percent(row.get(key), ends, between="\n")


def correction_table(rows: dict[str, dict[str, Any]]) -> Table:
  """A line per stage, and below it one per difficulty."""
  last = _last(rows)
  keys = {
    "acc@1": "accuracy_1",
    f"acc@{last}": f"accuracy_{last}",
    "gain": "gain",
    "i->c": "incorrect_to_correct",
    "c->i": "correct_to_incorrect",
  }
  table = _table("accuracy in %, [95 % interval]", ["stage", *keys])
  for name, row in rows.items():
    table.add_row(name, *(_cell(row, key) for key in keys.values()))
    for level, part in row.get("by_level", {}).items():
      cells = (_cell(part, key) for key in keys.values())
      table.add_row(f"  {level}", *cells, style="dim")
  return table


def rewards_table(rows: dict[str, dict[str, Any]]) -> Table:
  """Mean rewards by attempt, of rows that have partial ones."""
  keys = [k for row in rows.values() for k in row if k.startswith("reward_")]
  keys = sorted(set(keys), key=lambda key: int(key.removeprefix("reward_")))
  titles = [key.replace("reward_", "reward@") for key in keys]
  table = _table("mean reward", ["stage", *titles])
  table.caption = "accuracies above count full rewards alone"
  for name, row in rows.items():
    table.add_row(name, *(decimal(row.get(key)) for key in keys))
  return table


def attempts_table(rows: dict[str, dict[str, Any]]) -> Table:
  """Shares of attempts that changed, have no answer or were cut."""
  last = _last(rows)
  keys = {
    "changed": "changed",
    "rss": "rss",
    "no answer@1": "malformed_1",
    f"@{last}": f"malformed_{last}",
    "repaired": "format_repaired",
    "cut@1": "truncated_1",
    f"cut@{last}": f"truncated_{last}",
  }
  table = _table("attempts, in %", ["stage", *keys])
  for name, row in rows.items():
    table.add_row(name, *(percent(row.get(key)) for key in keys.values()))
  return table


def _last(rows: dict[str, dict[str, Any]]) -> int:
  names = [k for row in rows.values() for k in row if k.startswith("accuracy_")]
  return max((int(name.removeprefix("accuracy_")) for name in names), default=1)


def control_table(rows: dict[str, dict[str, Any]]) -> Table:
  """CS and CL beside those of a second attempt that ignores the first."""
  titles = ("stage", "score", "observed", "resample", "difference", "beyond it")
  table = _table("correction beyond resampling, in %", titles)
  for name, row in rows.items():
    for score, claim in (("cs", "corrects"), ("cl", "confident")):
      table.add_row(
        name if score == "cs" else "",
        score.upper(),
        _cell(row, score),
        _cell(row["resample"], score),
        _cell(row, f"{score}_over_resample"),
        "yes" if row[claim] else "no",
      )
  return table


VOTES = (  # beside the accuracy of each turn
  ("majority so far", "majority"), ("some right so far", "ever"),
  ("as many firsts", "parallel"),
)


def turns_table(studies: dict[str, dict[str, Any]]) -> Table:
  """Accuracy of every turn, a line per stage."""
  longest = max((study["turns"] for study in studies.values()), key=len)
  titles = ["stage", *map(str, longest)]
  table = _table("accuracy by turn, in %", titles)
  for name, study in studies.items():
    table.add_row(name, *(percent(x) for x in study["accuracy"]))
    for title, key in VOTES:
      if key in study:
        table.add_row(f"  {title}", *map(percent, study[key]))
    if "reward" in study:
      table.add_row("  mean reward", *map(decimal, study["reward"]))
  return table


def scaling_table(studies: dict[str, dict[str, Any]]) -> Table:
  """Accuracy of every arm, a line per stage and budget.

  The difference is sequential minus parallel.
  """
  arms = ("parallel", "sequential", "sequential_all", "pass")
  names = ("parallel", "sequential", "all vote", "pass", "difference")
  title = "majority vote at a matched budget, in %"
  table = _table(title, ["stage", "budget", *names])
  for name, study in studies.items():
    for i, budget in enumerate(study["budget"]):
      cells = [percent(study[arm][i]) for arm in arms]
      ends = study["intervals"]["difference"][i]
      cells.append(percent(study["difference"][i], ends))
      table.add_row(name if i == 0 else "", str(budget), *cells)
  return table


def calibration_table(studies: dict[str, dict[str, Any]]) -> Table:
  """How sure the policy is of its attempts, and how often right; a line each.

  See docs/metrics.md.
  """
  names = ("accuracy", "confidence", "ece", "rms", "brier", "auroc", "sure")
  table = _table("P(True): is it right as often as it says", ["stage", *names])
  for name, study in studies.items():
    table.add_row(name, *(decimal(study[key]) for key in names))
  return table


def samples_tables(summary: dict[str, Any]) -> list[Table]:
  """The summary of a test set, a column for each verifier and attempt."""
  found = summary["verifiers"]
  rows = {
    (name, k): row
    for name, one in found.items()
    for k, row in zip(summary["turns"], one["attempts"])
  }
  many = any(k > 1 for _, k in rows)
  titles = [f"{name}@{k}" if many else name for name, k in rows]
  temperature, n = summary["temperature"], summary["samples"]
  how = f"Avg@{n} at temperature {temperature:g}" if temperature else "greedy"
  title = f"{summary['task']}: {summary['problems']} problems, {how}"
  table = _table(title, ["", *titles])
  table.caption = "in %, with 95 % intervals"
  kinds = dict.fromkeys(key for row in rows.values() for key in row)
  for kind in (x for x in kinds if x not in _HIDDEN):
    cells = (_line(row, kind) for row in rows.values())
    table.add_row(_TITLES.get(kind, kind), *cells)
  for level in next(iter(found.values()))["by_level"]:
    cells = (
      _line(row, "accuracy")
      for one in found.values() for row in one["by_level"][level]
    )
    table.add_row(f"  {level}", *cells, style="dim")
  return [
    table, *_verdicts({summary["task"]: summary}), *_disagreement(summary),
    *_monitors(summary),
  ]


def answers_tables(
  title: str, rows: dict[str, dict[str, Any]]
) -> list[Table]:
  """A line per strategy: accuracy and the tokens of an answer.

  And where policies judge themselves, how good their verdicts are.
  """
  titles = [
    "strategy", "accuracy", "less the first", "any right", "attempts",
    "sequential", "total", "at most",
  ]
  table = _table(title, titles)
  table.caption = (
    "accuracies in %, with 95 % intervals; tokens a problem: mean, and the most"
    " in total"
  )
  for name, row in rows.items():
    how = "".join(f"\n  {key}={x}" for key, x in row["options"].items())
    difference = "-" if row["is_first"] else _cell(row, "difference")
    table.add_row(
      name + " (oracle)" * row["oracle"] + how,
      _cell(row, "accuracy"), difference, percent(row["any_right"]),
      *(f"{row[key]:.1f}" for key in ("attempts", "sequential", "total")),
      str(row["at_most"]["total"]),
    )
  return [table, *_verdicts(rows)]


def _verdicts(rows: dict[str, dict[str, Any]]) -> list[Table]:
  keys = {"accuracy": "accuracy", "wrong attempts called wrong": "recall"}
  table = _table("the policy's own verdicts, in %", ["", *keys])
  for name, row in rows.items():
    if "verdict_accuracy" in row:
      cells = (percent(row[f"verdict_{key}"]) for key in keys.values())
      table.add_row(name, *cells)
  return [table] if table.row_count else []


_TITLES = {
  "malformed": "no answer", "truncated": "cut", "incorrect_to_correct": "i->c",
  "correct_to_incorrect": "c->i", "mean_reward": "mean reward, no %",
  "cl": "CL", "cs": "CS", "cl_over_resample": "CL beyond resampling",
  "cs_over_resample": "CS beyond resampling",
}

# pass@1 and maj@1 equal the accuracy.
_HIDDEN = ("judged", "intervals", "pass@1", "maj@1")


def _line(row: dict[str, Any], key: str) -> str:
  if key == "mean_reward":
    return decimal(row.get(key))
  return percent(row.get(key), row.get("intervals", {}).get(key, ()))


def _disagreement(summary: dict[str, Any]) -> list[Table]:
  if not summary["disagreement"]:
    return []
  first = next(iter(summary["disagreement"].values()))
  keys = [key for key in first if key != "intervals"]
  titles = [key.replace("_", " ") for key in keys]
  table = _table("judged differently, in %", ["verifiers", *titles])
  for name, row in summary["disagreement"].items():
    table.add_row(name, *(_line(row, key) for key in keys))
  return [table]


def _monitors(summary: dict[str, Any]) -> list[Table]:
  """A line for each monitor, a column for each attempt; NaN is "-"."""
  rows = [
    {name: x for name, x in row.items() if not isinstance(x, dict)}
    | {f"votes: {name}": row["calibration"][name]
       for name in ("ece", "brier", "auroc") if "calibration" in row}
    | {f"{name.replace('_', ' ')}, a text": x
       for name, x in row["behaviours"].items()}
    for row in summary.get("monitors", ())
  ]
  if not rows:
    return []
  titles = [f"attempt {k}" for k in summary["turns"]]
  table = _table("monitors, see docs/metrics.md", ["", *titles])
  for name in dict.fromkeys(name for row in rows for name in row):
    table.add_row(name, *(decimal(row.get(name)) for row in rows))
  return [table]
