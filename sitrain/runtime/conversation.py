"""What `sitrain talk` shows: in colours in a terminal, else as plain text."""

import contextlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sitrain.evaluate.dialogues import dialogue
from sitrain.runtime.page import symbols
from sitrain.runtime.page.changes import changes
from sitrain.types import Episodes, Task

HELP = (
  "Type a problem. An empty line: the next problem of the task, with verdicts."
  " :quit or Ctrl-D ends."
)
QUIT = (":quit", ":q", ":exit")
CUT = "\ufffd"  # what half of a character is decoded to
WIDTH = 13  # of a label in front of a text


class Screen(NamedTuple):
  """Where problems come from, and where dialogues are shown."""

  lines: Callable[[int], Iterator[str]]  # (problems to step through; 0: ask)
  #                                        -> problems; "": the task's next
  grow: Callable[[Task, Episodes], None]  # a row that goes on
  end: Callable[[Task, Episodes, Sequence[bool | None]], None]
  say: Callable[[str], None]  # a line
  asks: bool  # somebody sees what is said


def screen(config: dict, source: Any, target: Any) -> Screen:
  """A terminal, or two streams of plain text."""
  draw = symbols.drawing_of(evaluated(config))
  if source.isatty() and target.isatty():
    return terminal(
      Console(file=target), symbols.of_task(evaluated(config)), draw
    )
  return plain(source, lambda text: print(text, file=target, flush=True), draw)


def evaluated(config: dict) -> dict:
  """The config, whose task is that of the evaluation."""
  own = dict(config["task"]) | dict(config["evaluate"].get("task") or {})
  return {"task": own}


def plain(source: Any, say: Callable[[str], None], draw: Callable) -> Screen:
  """Every line of the input is a problem; nothing is shown before its end."""

  def lines(problems: int) -> Iterator[str]:
    if problems:
      yield from [""] * problems
      return
    for line in source:
      text = line.strip()
      if text in QUIT:
        return
      if text:
        yield text

  def end(task: Task, rows: Episodes, verdicts: Sequence[bool | None]) -> None:
    for name, text in texts_of(task, rows).items():
      verdict = verdict_of(name, verdicts)
      say(f"{label(name):{WIDTH}}{text}{verdict and f'  ({verdict})'}")
      if name == "problem" and (drawn := draw(text)):
        say(indented(drawn))
    say("")

  return Screen(lines, lambda task, rows: None, end, say, False)


def asked(
  console: Console, meanings: Sequence[tuple[str, str]],
  ask: Callable[[str], str], problems: int,
) -> Iterator[str]:
  """What somebody types; the first of `problems` is shown at once."""
  table = Table.grid(padding=(0, 2))
  for symbol, meaning in meanings:
    table.add_row(Text(symbol, "bold"), Text(meaning, "dim"))
  console.print(table)
  console.print(HELP, style="dim")
  with contextlib.suppress(ImportError):
    import readline  # noqa: F401  The keys of an editor, and a history.
  done = 0
  if problems:
    done += 1
    yield ""
  while not problems or done < problems:
    try:
      console.print()
      text = ask("problem> ").strip()  # readline has to know the prompt.
    except EOFError:
      console.print()
      return
    if text in QUIT:
      return
    if text in (":help", ":h"):
      console.print(HELP, style="dim")
      continue
    done += not text
    yield text


def terminal(
  console: Console, meanings: Sequence[tuple[str, str]], draw: Callable,
  ask: Callable[[str], str] = input,
) -> Screen:
  """Attempts as they are written; what the next one changes is marked.

  `ask` shows a prompt and returns a line; it raises EOFError at the end.
  """
  shown: dict[str, str] = {}  # of the current dialogue
  write = lambda text, style="": console.print(
    Text(text, style=style), end="", soft_wrap=True
  )

  def grow(task: Task, rows: Episodes) -> None:
    for name, text in texts_of(task, rows).items():
      whole, first = text.rstrip(CUT), name not in shown
      if first:
        write("\n" * bool(shown) + f"{label(name):{WIDTH}}", "bold")
      old = shown.setdefault(name, "")
      if whole.startswith(old) and len(whole) > len(old):
        write(whole[len(old) :], "" if name.startswith("attempt") else "dim")
        shown[name] = whole
      if first and name == "problem" and (drawn := draw(text)):
        write(f"\n{indented(drawn)}", "cyan")

  def end(task: Task, rows: Episodes, verdicts: Sequence[bool | None]) -> None:
    grow(task, rows)
    shown.clear()
    texts = texts_of(task, rows)
    attempts = [name for name in texts if name.startswith("attempt")]
    console.print()
    for before, after in zip(attempts, attempts[1:]):
      part = changed(texts[before], texts[after])
      if texts[before] == texts[after]:
        part = Text(f"nothing, {label(after)} is a copy", "dim")
      console.print(
        Text.assemble((f"{'changed':{WIDTH}}", "bold"), part), soft_wrap=True
      )
    for name in attempts:
      if verdict := verdict_of(name, verdicts):
        style = {"right": "green", "wrong": "red"}.get(verdict, "yellow")
        console.print(Text(f"{label(name):{WIDTH}}{verdict}", style))

  say = lambda text: console.print(Text(text))
  lines = partial(asked, console, meanings, ask)
  return Screen(lines, grow, end, say, True)


def texts_of(task: Task, rows: Episodes) -> dict[str, str]:
  """The texts of the only row by what they are, as a terminal may show them."""
  found = dialogue(task, np.asarray(rows.tokens[0]), np.asarray(rows.turn[0]))
  return {name: visible(text).strip() for name, text in found.items()}


def visible(text: str) -> str:
  """The text with signs for control characters, which would be obeyed."""
  sign = lambda c: chr(0x2400 + ord(c)) if ord(c) < 32 else CUT
  return "".join(
    sign(c) if unicodedata.category(c) == "Cc" and c not in "\n\t" else c
    for c in text
  )


def label(name: str) -> str:
  """attempt_2 as "attempt 2"."""
  return name.replace("_", " ")


def verdict_of(name: str, verdicts: Sequence[bool | None]) -> str:
  """What the verifier says of an attempt; "" of other texts and unjudged."""
  start, _, number = name.partition("_")
  if start != "attempt" or not verdicts:
    return ""
  right = verdicts[int(number) - 1]
  return "unknown" if right is None else "right" if right else "wrong"


def changed(before: str, after: str) -> Text:
  """The later text, with what is gone and what is new."""
  text, new = Text(), ""
  for part in changes(before, after):
    if part.before and part.after:
      text.append(new, "green underline").append(part.after)
      new = ""
    else:  # What is new stands behind all that it replaces.
      text.append(part.before, "red strike")
      new += part.after
  return text.append(new, "green underline")


def indented(text: str) -> str:
  """Lines that stand below a text with its label."""
  return "\n".join(" " * WIDTH + line for line in text.splitlines())


def score(counts: np.ndarray) -> str:
  """How many attempts were right, of counts [2 K] of right and judged ones."""
  each = [
    f"attempt {k} {right} of {judged}"
    for k, (right, judged) in enumerate(counts.T, start=1)
  ]
  return f"right: {', '.join(each)}"
