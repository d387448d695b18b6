"""What a user sees when something goes wrong: one line, and how to mend it."""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from absl import app

from sitrain.runtime import overrides, peers, signals, storage
from sitrain.runtime.compile import compiling_ahead
from sitrain.runtime.logs import copy_all, note
from sitrain.runtime.options import ConfigError


def run_main(main: Callable[[list[str]], None]) -> None:
  """absl's app.run with errors in one line, unless --traceback is given.

  Exit codes: 2 for a wrong command line or config, 130 for Ctrl-C, 75 where the
  same command resumes, after SIGTERM or the loss of a process; 1 else.
  """
  asked = any(a in ("--traceback", "--traceback=true") for a in sys.argv)
  _show_warnings()
  signals.listen(peers.leave)
  try:
    arguments = _parsed(sys.argv)
  except Exception as error:
    _leave(error, asked, 2)
  try:
    main(arguments)
  except KeyboardInterrupt as error:
    _leave(error, asked, signals.INTERRUPTED)
  except (ValueError, OSError) as error:
    _leave(error, asked, code_of(error))
  except Exception as error:
    peers.failed()
    _leave(error, True, 1)
  peers.done()
  copy_all()
  _end(0)


_BEGUN = threading.Event()


def begun() -> None:
  """To be called when the work begins, and all that was asked for is checked.

  From then on a ValueError says no more that the command line or the config
  is wrong, but for a ConfigError.
  """
  _BEGUN.set()


def code_of(error: Exception) -> int:
  """The exit code of an error that is told in a line, but for `Stopped`."""
  if isinstance(error, ConfigError):
    return 2
  return 2 if isinstance(error, ValueError) and not _BEGUN.is_set() else 1


def _show_warnings() -> None:
  """Warnings of this package as lines of their own, like errors."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("warning: %(message)s"))
  handler.setLevel(logging.WARNING)
  log = logging.getLogger("sitrain")
  log.addHandler(handler)
  log.propagate = False
  sys.unraisablehook = _show_unraisable


def _show_unraisable(found: Any) -> None:
  """Shows what cannot be raised, but for what is of no use to anybody.

  Once a save has failed, Tensorstore tells the end of its other writes to a
  loop that is closed.
  """
  if str(found.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(found)


def _parsed(arguments: list[str]) -> list[str]:
  app.define_help_flags()
  return overrides.parse(arguments)


def _leave(error: BaseException, asked: bool, code: int) -> None:
  line = one_line(error)
  if signals.asked() or isinstance(error, signals.Stopped):
    # Whatever else came of it, the last checkpoint is whole.
    code = signals.RESTART
  elif asked:
    traceback.print_exception(error)
  if code == 1:
    note("".join(traceback.format_exception(error)))
  if _disk_full(error) or peers.several():
    # Writers of other libraries would fail once more at exit, each with a
    # traceback; what could be saved has been. And JAX would wait for the other
    # processes, which wait for this one.
    peers.leave(code, line)
  print(f"error: {line}", file=sys.stderr, flush=True)
  note(f"exit code {code}: {line}")
  copy_all()
  _end(code, at_once=isinstance(error, KeyboardInterrupt))


def _end(code: int, *, at_once: bool = False) -> None:
  """Ends the process, without waiting for what others do in threads.

  A save that Ctrl-C has cut off would fail while the interpreter shuts down,
  with a traceback; the next start removes it.
  """
  if at_once or compiling_ahead():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)


def _disk_full(error: BaseException) -> bool:
  return "no space left" in str(error).lower()


def one_line(error: BaseException) -> str:
  """The message of an error, without line breaks."""
  if isinstance(error, KeyboardInterrupt):
    return (
      "interrupted; finished checkpoints are kept, the same command resumes"
    )
  text = str(error).strip()
  if storage.is_of_bucket(error):
    text = storage.meaning(error, "the bucket") or text
  start, found, trace = text.partition("Traceback (most recent call last):")
  if found:  # An error of a config file, as ml_collections passes it on.
    where = start.partition(": ")[0].removeprefix("flag ")
    text = f"{where}: {trace.splitlines()[-1].partition(': ')[2]}"
  if _disk_full(error) and "free some space" not in text:
    text += (
      ": free some space and start the same command again; finished"
      " checkpoints are intact"
    )
  return " ".join(text.split()) or type(error).__name__
