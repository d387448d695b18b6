"""The progress display of a run, and the table at its end."""

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
)
from rich.table import Table
from rich.text import Text

from sitrain.runtime import activity

_REWARDS = (("reward 1", "judge/reward_1"), ("reward 2", "judge/reward_2"))

# Columns of the summary behind the accuracies: title, key in a stage's row.
COLUMNS = (
  ("gain", "gain"),
  ("i->c", "incorrect_to_correct"),
  ("c->i", "correct_to_incorrect"),
)


class Display(NamedTuple):
  """Shows the progress of a run."""

  update: Callable[..., None]  # (stage, step, steps, record, tokens_per_second)
  say: Callable[[str], None]  # a line
  close: Callable[[], None]


def duration(seconds: float) -> str:
  """A duration as h:mm:ss; "?" if not known."""
  if not math.isfinite(seconds):
    return "?"
  minutes, second = divmod(round(max(seconds, 0.0)), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def time_left(first: int, step: int, steps: int, elapsed: float) -> float:
  """Seconds until `steps`, given `elapsed` since `first`; NaN at `first`."""
  if step <= first:
    return math.nan
  return (steps - step) * elapsed / (step - first)


def number(value: Any, digits: int = 3) -> str:
  """A formatted number; "-" if it is missing or not finite."""
  known = isinstance(value, (int, float)) and math.isfinite(value)
  return f"{value:.{digits}f}" if known else "-"


def status(record: dict[str, Any], rate: float, left: float) -> str:
  """Rewards of both turns, tokens per second and time left, in one line."""
  rewards = [f"{t} {number(record[k])}" for t, k in _REWARDS if k in record]
  speed = [f"{rate:,.0f} tokens/s"] if math.isfinite(rate) else []
  return "  ".join([*rewards, *speed, f"{duration(left)} left"])


def display(*, every: float = 30.0) -> Display:
  """A live bar on a terminal, else a plain line every `every` seconds.

  Both show the current activity, see activity.py. All processes but the first
  print nothing.
  """
  if jax.process_index() != 0:
    activity.follow("screen", activity.IDLE)
    return Display(lambda *args: None, lambda text: None, lambda: None)
  if sys.stderr.isatty():
    return live(Console(stderr=True))
  return plain(_print, every)


def _print(text: str) -> None:
  """Prints to stderr. A run goes on where no one reads that any more."""
  with contextlib.suppress(BrokenPipeError):
    print(text, file=sys.stderr, flush=True)


def _clock() -> Callable[[str, int, int], float]:
  """Time left of a stage, measured from its first update."""
  began: dict[str, tuple[float, int]] = {}

  def left(stage: str, step: int, steps: int) -> float:
    start, first = began.setdefault(stage, (time.monotonic(), step))
    return time_left(first, step, steps, time.monotonic() - start)

  return left


def of_problems(
  programs: int,
) -> Callable[[Callable[[str], None], int, int], None]:
  """(say, problems done, problems in all) -> None, which says it.

  The first part of each of `programs` passes over the problems is compiled
  first, and that takes longer than the problems themselves.
  """
  left = iter(range(programs))

  def tell(say: Callable[[str], None], done: int, total: int) -> None:
    compiles = done == 0 and next(left, None) is not None
    say(f"{'compiling, ' * compiles}{done} of {total} problems")

  return tell


SOON = 2.0  # seconds; shorter activities get no line


def plain(say: Callable[[str], None], every: float) -> Display:
  """A line at the start and the end of a stage, and every `every` seconds.

  An activity gets a line after SOON seconds, every `every` seconds while it
  lasts, and at its end; a `seldom` one only every `every` seconds. Updates that
  come more often put these lines off: their own follow soon.
  """
  left, now = _clock(), time.monotonic()
  last = {"stage": "", "time": now, "update": now, "call": now, "shown": ()}

  def show(text: str) -> None:
    last["time"] = time.monotonic()
    say(text)

  def update(
    stage: str, step: int, steps: int, record: dict, rate: float
  ) -> None:
    remaining, last["call"] = left(stage, step, steps), time.monotonic()
    # Lines of what goes on meanwhile do not put it off.
    due = time.monotonic() - last["update"] >= every
    if due or stage != last["stage"] or step >= steps:
      show(f"{stage} {step}/{steps}  {status(record, rate, remaining)}")
      last.update(stage=stage, update=last["time"])

  def at(now: list[activity.Activity]) -> None:
    for one in now:
      seconds, new = activity.seconds(one), last["shown"] != one.began
      if new and not one.seldom and seconds >= SOON:
        show(f"{one.what} ...")
        last["shown"] = one.began
      elif time.monotonic() - max(last["time"], last["call"]) >= every:
        show(f"{one.what}: {duration(seconds)} so far")

  def did(one: activity.Activity) -> None:
    if not one.seldom and activity.seconds(one) >= SOON:
      show(f"{one.what}: {activity.seconds(one):.1f} s")

  activity.follow("screen", activity.Follower(at, did, show))
  return Display(update, show, functools.partial(activity.leave, "screen"))


def live(console: Console) -> Display:
  """A bar per stage, and below them the current activity."""
  left, bars = _clock(), {}
  bar = Progress(
    TextColumn("[bold]{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[status]}"),
    console=console,
  )
  line = Text("", style="dim")
  screen = Live(Group(bar, line), console=console, refresh_per_second=4)
  screen.start()

  def update(
    stage: str, step: int, steps: int, record: dict, rate: float
  ) -> None:
    if stage not in bars:
      bars[stage] = bar.add_task(stage, total=steps, status="")
    text = status(record, rate, left(stage, step, steps))
    bar.update(bars[stage], completed=step, total=steps, status=text)

  def at(now: list[activity.Activity]) -> None:
    line.plain = "".join(
      f"{one.what}  {duration(activity.seconds(one))}" for one in now
    )

  def did(one: activity.Activity) -> None:
    at(activity.now())
    if not one.seldom and activity.seconds(one) >= SOON:
      say(f"{one.what}: {activity.seconds(one):.1f} s")

  def close() -> None:
    activity.leave("screen")
    line.plain = ""
    screen.stop()

  say = functools.partial(console.print, markup=False, highlight=False)
  activity.follow("screen", activity.Follower(at, did, say))
  return Display(update, say, close)


def cell(row: dict[str, Any], key: str) -> str:
  """'value [low, high]' in percent; just the value if it has no interval."""
  value = row.get(key)
  if not isinstance(value, (int, float)) or not math.isfinite(value):
    return "-"
  low, high = (row.get("intervals") or {}).get(key) or (None, None)
  text = f"{100 * value:.1f}"
  if low is None or high is None:
    return text
  return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def last_attempt(stages: Sequence[dict[str, Any]]) -> int:
  """The number of the last evaluated attempt; 0 without any.

  A turn that is a verdict of the policy is no attempt, and has no accuracy.
  """
  numbers = [
    int(key.removeprefix("accuracy_")) for stage in stages for key in stage
    if key.startswith("accuracy_") and key.removeprefix("accuracy_").isdigit()
    and number(stage[key]) != "-"
  ]
  return max(numbers, default=0)


def summary_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
  """The summary as text: a title row, then a row per stage.

  The last attempt beside the first, and beside an independent one. Mean rewards
  are included if some are partial, which no accuracy shows.
  """
  last = max(last_attempt(rows), 2)
  ends = [(f"accuracy@{k}", f"accuracy_{k}") for k in (1, last)]
  columns = (*ends, *COLUMNS)
  titles = ["stage", *(title for title, _ in columns), f"resample@{last}"]
  body = [
    [str(row.get("name", "-")), *(cell(row, k) for _, k in columns)]
    + [cell(row.get("resample") or {}, f"accuracy_{last}")]
    for row in rows
  ]
  for key in ("reward_1", f"reward_{last}"):
    if any(key in row for row in rows):
      titles.append(f"mean reward@{key.removeprefix('reward_')}")
      for line, row in zip(body, rows):
        line.append(number(row.get(key)))
  return [titles, *body]


def summary_table(rows: Sequence[dict[str, Any]]) -> Table:
  """The stages of summary.json as a rich table; numbers in percent."""
  titles, *body = summary_rows(rows)
  table = Table(title="accuracy in %, [95 % interval]")
  for i, title in enumerate(titles):
    table.add_column(title, justify="left" if i == 0 else "right")
  for row in body:
    # The interval goes below its value; brackets are escaped for rich.
    table.add_row(*(text.replace(" [", "\n\\[") for text in row))
  return table


def show_summary(summary: dict[str, Any], *, dialogues: int = 4) -> None:
  """Prints the table of a finished run and a few of its dialogues."""
  console = Console(width=None if sys.stdout.isatty() else 140)
  console.print(summary_table(summary.get("stages", [])))
  for talk in of_every_kind(summary.get("dialogues", []))[:dialogues]:
    console.print(dialogue_text(talk), markup=False, highlight=False)
  seconds = duration(float(summary.get("seconds", math.nan)))
  console.print(f"{seconds} on {summary.get('device', '?')}", highlight=False)


def of_every_kind(
  talks: Sequence[dict[str, Any]], each: int = 2
) -> list[dict[str, Any]]:
  """The first `each` dialogues of every kind, in their order."""
  kinds = [talk.get("kind", "") for talk in talks]
  return [
    talk for i, talk in enumerate(talks) if kinds[:i].count(kinds[i]) < each
  ]


def turn_name(talk: dict[str, Any], k: int) -> str:
  """Turn k of a dialogue as "attempt k", or as "verdict k" where it is one."""
  return f"{'verdict' if k in talk.get('verdicts', ()) else 'attempt'} {k}"


def dialogue_text(talk: dict[str, Any]) -> str:
  """The problem and all turns of one episode, a line each.

  What the policy reads between two turns is left out where it is empty.
  """
  lines, k = [f"problem      {talk['problem']}"], 1
  while f"attempt_{k}" in talk:
    right = "right" if talk[f"right_{k}"] else "wrong"
    lines.append(f"{turn_name(talk, k)}    {talk[f'attempt_{k}']}  ({right})")
    between = talk.get("instruction" if k == 1 else f"instruction_{k}")
    lines += [f"instruction  {between}"] * bool(between)
    k += 1
  return "\n".join([*lines, ""])
