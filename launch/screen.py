"""Output of the launcher on the terminal."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from . import machine
from .jobs import Worker
from .machine import Runner


def make_runner(*, poll: float, tries: int, backoff: float) -> Runner:
  """The runner of real commands, with the clock and the terminal.

  Lines of the launcher go to the standard error, the job's log to the
  standard output.
  """
  console = Console(stderr=True, highlight=False)

  def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

  return Runner(
    machine.execute, time.sleep, lambda text: console.print(
      f"[bold cyan]launch[/] {_plain(text)}", soft_wrap=True
    ), show, poll, tries, backoff,
  )


def _plain(text: str) -> str:
  return text.replace("[", "\\[")


def prefixed(runner: Runner, name: str) -> Runner:
  """A runner that writes a VM's name before every line of a job's log."""

  def show(text: str) -> None:
    runner.show("".join(f"{name}: {line}\n" for line in text.splitlines()))

  return runner._replace(show=show)


def print_commands(
  commands: Sequence[list[str]], write: Callable[[str], None]
) -> None:
  """Writes commands so that they can be pasted into a shell."""
  for words in commands:
    write(shlex.join(words) + "\n")


def workers_table(name: str, workers: Sequence[Worker]) -> Table:
  """A row per worker."""
  table = Table(title=name)
  for title in ("worker", "state", "exit code", "log", "revision"):
    table.add_column(title, justify="right" if title == "log" else "left")
  for row in workers:
    code = "-" if row.code < 0 else str(row.code)
    table.add_row(
      str(row.worker), row.state, code, f"{row.size:,} B", row.revision[:12]
    )
  return table


def ends_table(rows: Sequence[tuple[str, str, str]]) -> Table:
  """How the points of a sweep ended: job, workdir, end."""
  table = Table(title="sweep")
  for title in ("job", "workdir", "end"):
    table.add_column(title, overflow="fold")
  for row in rows:
    table.add_row(*(_plain(text) for text in row))
  return table
