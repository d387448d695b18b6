"""The tables of a report, and its headline."""

import html
import math
from collections.abc import Sequence
from typing import Any

from sitrain.runtime.page.curves import Records, is_number
from sitrain.runtime.progress import duration, last_attempt

ORDINALS = ("first", "second", "third", "fourth", "fifth")

# Of an attempt and the next one: title, and how it is made of three shares.
TRANSITIONS = (
  ("right → right", lambda right, fixed, spoiled: right - spoiled),
  ("wrong → right", lambda right, fixed, spoiled: fixed),
  ("right → wrong", lambda right, fixed, spoiled: spoiled),
  ("wrong → wrong", lambda right, fixed, spoiled: 1 - right - fixed),
)


def table(rows: Sequence[Sequence[str]], *, style: str = "") -> str:
  """Rows of text as an HTML table in a box that scrolls; the first has titles.

  What stands in brackets at the end of a cell, an interval, is a second line.
  """
  head, *body = rows
  lines = ["<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in head)]
  for row in body:
    lines.append("<tr>" + "".join(f"<td>{_cell(c)}</td>" for c in row))
  rows_of = "</tr>\n".join(lines)
  return (
    f'<div class="scroll"><table class="{style}">{rows_of}</tr></table></div>'
  )


def _cell(text: str) -> str:
  value, bracket, interval = text.partition(" [")
  if not bracket or not interval.endswith("]"):
    return html.escape(text)
  return f"{html.escape(value)}<small>[{html.escape(interval)}</small>"


def percent(value: Any) -> str:
  """A share in percent; "-" where there is none."""
  return f"{100 * value:.1f}" if is_number(value) else "-"


def cell(row: dict[str, Any], key: str) -> str:
  """A share in percent with its interval."""
  ends = row.get("intervals") or {}
  return percent(row.get(key)) + _interval(ends.get(key))


def evaluated(stages: Records) -> list[dict[str, Any]]:
  """The stages with a number for the last attempt."""
  key = f"accuracy_{last_attempt(stages)}"
  return [stage for stage in stages if is_number(stage.get(key))]


def is_judged(stages: Records) -> bool:
  """Whether every second turn is a verdict of the policy on its attempt."""
  return any("verdict_accuracy" in stage for stage in stages)


def ordinal(number: int, stages: Records) -> str:
  """The second of 2, and of 3 where verdicts stand between attempts."""
  if is_judged(stages):
    number = (number + 1) // 2
  if number <= len(ORDINALS):
    return ORDINALS[number - 1]
  return f"{number}th"


def headline(stages: Records) -> str:
  """What the run has achieved, in a sentence."""
  found, last = evaluated(stages), last_attempt(stages)
  if not found:
    return "No stage of this run has been evaluated yet"
  key = f"accuracy_{last}"
  rounded = lambda stage: f"{100 * stage[key]:.0f}"
  attempt = f"the {ordinal(last, stages)} attempt"
  if len(found) == 1:
    return f"{rounded(found[0])} % right on {attempt}, after {_name(found[0])}"
  first, final = found[0], found[-1]
  return (
    f"From {rounded(first)} % to {rounded(final)} % right on {attempt}, from"
    f" {_name(first)} to {_name(final)}"
  )


def below(stages: Records) -> str:
  """What is to be known about the headline, in one or two sentences."""
  found, last = evaluated(stages), last_attempt(stages)
  if not found:
    return ""
  words, final, key = [], found[-1], f"accuracy_{last}"
  if len(found) > 1 and _overlap(found[0], final, key):
    words.append("The 95 % intervals of both overlap: it may be chance.")
  if last > 1 and is_number(final.get("accuracy_1")):
    gain = final[key] - final["accuracy_1"]
    words.append(
      f"After {_name(final)} the first attempt is right in"
      f" {percent(final['accuracy_1'])} % and the {ordinal(last, stages)} in"
      f" {percent(final[key])} %: {100 * gain:+.1f} points."
    )
  resample = final.get("resample") or {}
  if is_number(resample.get(key)):
    better = final[key] > resample[key]
    words.append(
      f"A fresh second sample would be right in {percent(resample[key])} %,"
      + (" so this is more than another try: it corrects."
         if better and final.get("corrects") else
         " and that it corrects more than another try would is not shown."
         if better else " which is no less: another try would do as well.")
    )
  if is_number(final.get("problems")):
    words.append(f"On {final['problems']:,} problems.")
  return " ".join(words)


def _overlap(one, two, key) -> bool:
  ends = [(stage.get("intervals") or {}).get(key) for stage in (one, two)]
  if not all(end and all(map(is_number, end)) for end in ends):
    return False
  return max(end[0] for end in ends) <= min(end[1] for end in ends)


def _name(stage) -> str:
  return str(stage.get("name", "?"))


def transitions(stages: Records) -> str:
  """What becomes of an attempt in the next one, beside the resample control."""
  rows = [["in %", *(title for title, _ in TRANSITIONS)]]
  for stage in stages:
    for title, row in (
      (_name(stage), stage), ("· fresh sample", stage.get("resample") or {}),
    ):
      shares = [
        row.get("accuracy_1", row.get("accuracy")),
        row.get("incorrect_to_correct"), row.get("correct_to_incorrect"),
      ]
      if all(map(is_number, shares)):
        ends = row.get("intervals") or {}
        own = (None, "incorrect_to_correct", "correct_to_incorrect", None)
        rows.append([title, *(
          percent(make(*shares)) + _interval(ends.get(name))
          for (_, make), name in zip(TRANSITIONS, own)
        )])
  return table(rows, style="pairs") if len(rows) > 1 else ""


def _interval(ends: Any) -> str:
  if not ends or not all(map(is_number, ends)):
    return ""
  return f" [{percent(ends[0])}, {percent(ends[1])}]"


LEVELS = ("accuracy_1", "gain", "incorrect_to_correct", "correct_to_incorrect")


def by_level(stages: Records) -> str:
  """The last evaluated stage by difficulty; "" where there is only one."""
  found = evaluated(stages)
  levels = (found[-1].get("by_level") or {}) if found else {}
  if len(levels) < 2:
    return ""
  key = f"accuracy_{last_attempt(stages)}"
  keys = list(dict.fromkeys(("accuracy_1", key, *LEVELS[1:])))
  titles = {
    "accuracy_1": "first attempt", "gain": "gain",
    "incorrect_to_correct": "wrong to right",
    "correct_to_incorrect": "right to wrong",
  } | {key: f"{ordinal(last_attempt(stages), stages)} attempt"}
  rows = [[f"{_name(found[-1])}, in %", *(titles[k] for k in keys)]]
  for name, row in levels.items():
    rows.append([name, *(cell(row, k) for k in keys)])
  return table(rows)


SPENT = ("training", "evaluating while training", "between calls", "rest")


def times(records: Records, stages: Records) -> dict[str, list[float]]:
  """stage -> its seconds by SPENT.

  The rest, of stages that have ended, is preparing, compiling, the evaluation
  after the stage, and its last checkpoint.
  """
  found: dict[str, list[float]] = {}
  for record in records:
    row = found.setdefault(str(record.get("stage", "")), [0.0] * 4)
    own = [record.get(f"run/{name}", 0.0) for name in (
      "seconds", "evaluation_seconds", "host_seconds",
    )]
    for i, value in enumerate(own):
      row[i] += value if is_number(value) else 0.0
  for row in found.values():  # An evaluation is part of what follows a call.
    row[2] = max(row[2] - row[1], 0.0)
  for stage in stages:
    row = found.setdefault(_name(stage), [0.0] * 4)
    if is_number(stage.get("seconds")):
      row[3] = max(stage["seconds"] - sum(row[:3]), 0.0)
  return found


def time_table(records: Records, stages: Records) -> str:
  """Where the time went, and how many tokens a second were written."""
  found = times(records, stages)
  most = max(map(sum, found.values()), default=0.0)
  if not most:
    return ""
  kinds = [i for i in range(len(SPENT)) if any(r[i] for r in found.values())]
  rates = [rate_of(records, name) for name in found]
  rated = any(rate != "-" for rate in rates)
  titles = ["stage", "in all", *(SPENT[i] for i in kinds), "tokens/s"]
  rows, bars = [titles if rated else titles[:-1]], []
  for (name, row), rate in zip(found.items(), rates):
    each = [duration(row[i]) for i in kinds]
    rows.append([name, duration(sum(row)), *each, *([rate] if rated else [])])
    parts = "".join(
      f'<i class="b{i}" style="width:{100 * row[i] / most:.2f}%"></i>'
      for i in kinds
    )
    bars.append(
      f'<div class="bar"><span>{html.escape(name)}</span><div>{parts}</div>'
      "</div>"
    )
  legend = "".join(
    f'<li><i class="b{i}"></i>{SPENT[i]}</li>' for i in kinds
  )
  note = (
    '<p class="note">Rest: preparing, compiling, the evaluation after the'
    " stage, checkpoints. Times of a stage that was resumed are those of its"
    " steps, and of its last process.</p>"
  )
  return (
    f'<div class="bars">{"".join(bars)}<ul class="legend">{legend}</ul></div>'
    + table(rows) + note
  )


def rate_of(records: Records, stage: str) -> str:
  """Tokens a second that a stage wrote: the median of its calls."""
  found = sorted(
    record["run/tokens_per_second"] for record in records
    if str(record.get("stage", "")) == stage
    and is_number(record.get("run/tokens_per_second"))
  )
  return f"{found[len(found) // 2]:,.0f}" if found else "-"


def facts(summary: dict[str, Any]) -> list[str]:
  """What the run was made with."""
  found = [
    f"{name.replace('_', ' ')} {summary[key]}" for name, key in (
      ("on", "device"), ("jax", "jax"), ("seed", "seed"),
      ("config", "config_hash"),
    ) if key in summary
  ]
  if is_number(summary.get("seconds")):
    found.append(f"{duration(summary['seconds'])} in all")
  first = (summary.get("start") or {}).get("seconds", math.nan)
  if is_number(first):
    found.append(f"first steps after {first:.0f} s")
  return found


def accuracies(stages: Records) -> str:
  """A row for each stage: accuracies, gain, and the resample control.

  Stages with other numbers of attempts are shown with the last one of each.
  """
  lasts = {last_attempt([stage]) for stage in stages} - {0}
  which = ordinal(*lasts, stages) if len(lasts) == 1 else "last"
  last = f"{which} attempt"
  several = max(lasts, default=0) > 1
  titles = ["first attempt", *[last, "gain", "fresh second sample"] * several]
  rewards = any(is_number(stage.get("reward_1")) for stage in stages)
  rows = [["right, in %", *titles, *["mean rewards"] * rewards]]
  for stage in stages:
    key = f"accuracy_{last_attempt([stage])}"
    cells = [cell(stage, "accuracy_1")]
    if several:
      cells += [cell(stage, key), cell(stage, "gain")]
      cells.append(cell(stage.get("resample") or {}, key))
    paid = [
      f"{stage[name]:.3f}" for name in
      dict.fromkeys(("reward_1", key.replace("accuracy", "reward")))
      if is_number(stage.get(name))
    ]
    rows.append([
      _name(stage), *cells, *[", ".join(paid) or "-"] * rewards
    ])
  return table(rows)
