"""Error handling of the mains: one line with the fix, and an exit code."""

import contextlib
import logging
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from absl import app

from sitrain.runtime import (
  extras,
  overrides,
  peers,
  scratch,
  signals,
  storage,
)
from sitrain.runtime.compile import compiling_ahead
from sitrain.runtime.logs import copy_all, note
from sitrain.runtime.options import ConfigError


def run_main(
  main: Callable[[list[str]], None], *, takes_arguments: bool = False,
  argument: str = "",
) -> None:
  """Like absl's app.run, with errors in one line unless --traceback is given.

  Words that belong to no flag are an error, unless `takes_arguments`; one may
  be the value of the flag `argument`.
  Exit codes: 2 for a wrong command line or config, 130 for Ctrl-C, 75 after
  SIGTERM or the loss of a process (the same command resumes), else 1.
  """
  traceback_wanted = any(
    a in ("--traceback", "--traceback=true") for a in sys.argv
  )
  _show_warnings()
  signals.listen(peers.leave)
  try:
    arguments = _parsed(
      sys.argv, takes_arguments=takes_arguments, argument=argument
    )
  except Exception as error:
    _leave(error, traceback_wanted, 2)
  try:
    main(arguments)
  except KeyboardInterrupt as error:
    _leave(error, traceback_wanted, signals.INTERRUPTED)
  except SystemExit as error:
    flushed()
    # A Console of rich ends the process where its reader is gone.
    if not isinstance(error.__context__, BrokenPipeError):
      raise
  except BrokenPipeError as error:
    if flushed():  # It is of something else.
      _leave(error, traceback_wanted, code_of(error))
  except (ValueError, OSError) as error:
    _leave(error, traceback_wanted, code_of(error))
  except Exception as error:
    if isinstance(error, ImportError) and extras.line(error):
      _leave(error, traceback_wanted, 2)
    peers.failed()
    _leave(error, True, 1)
  peers.done()
  copy_all()
  _end(0)


def flushed() -> bool:
  """Writes what was printed; whether its reader took it.

  The reader of `sitrain train --list | head` ends first. What is printed after
  that goes nowhere, and is no error: all that is kept is in files.
  """
  try:
    sys.stdout.flush()
    gone = _has_hung_up(sys.stdout)
  except BrokenPipeError:
    gone = True
  if gone:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return not gone


def _has_hung_up(stream: Any) -> bool:
  """Whether nobody reads from a pipe any more."""
  poll = select.poll()
  try:
    poll.register(stream.fileno(), 0)
  except (OSError, ValueError):  # It is no file.
    return False
  return any(event & select.POLLERR for _, event in poll.poll(0))


_BEGUN = threading.Event()


def begun() -> None:
  """Call it when the command line and the config are checked and work starts.

  From then on only ConfigError means that the command line or the config is
  wrong, and other ValueErrors do not.
  """
  _BEGUN.set()


def code_of(error: Exception) -> int:
  """The exit code of an error that is shown in one line; not of `Stopped`."""
  if isinstance(error, ConfigError):
    return 2
  return 2 if isinstance(error, ValueError) and not _BEGUN.is_set() else 1


def _show_warnings() -> None:
  """Prints warnings of this package as "warning: ..." lines."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("warning: %(message)s"))
  handler.setLevel(logging.WARNING)
  log = logging.getLogger("sitrain")
  log.addHandler(handler)
  log.propagate = False
  sys.unraisablehook = _show_unraisable


def _show_unraisable(found: Any) -> None:
  """Shows unraisable exceptions, except one of Tensorstore.

  After a failed save its other writes report to an event loop that is closed.
  """
  if str(found.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(found)


def _parsed(arguments: list[str], **options: Any) -> list[str]:
  app.define_help_flags()
  try:
    return overrides.parse(arguments, **options)
  except BrokenPipeError:
    flushed()
    sys.exit(0)
  except SystemExit as error:  # absl's --help ends with 1
    flushed()
    helped = any(a.lstrip("-").startswith("help") for a in arguments[1:])
    sys.exit(0 if helped and error.code == 1 else error.code)


def _leave(error: BaseException, traceback_wanted: bool, code: int) -> None:
  line = one_line(error)
  if isinstance(error, signals.Stopped):
    code = error.code
  elif signals.stop_requested():
    # Whatever error followed, the last checkpoint is complete.
    code = signals.code_of(signals.stop_requested())
  elif traceback_wanted:
    traceback.print_exception(error)
  if code == 1:
    note("".join(traceback.format_exception(error)))
  if storage.takes_no_more(error) or peers.several():
    # Exit at once: writers of other libraries would fail again at exit, each
    # with a traceback, and JAX would wait for the other processes, which wait
    # for this one.
    peers.leave(code, line)
  with contextlib.suppress(BrokenPipeError):
    print(f"error: {line}", file=sys.stderr, flush=True)
  note(f"exit code {code}: {line}")
  copy_all()
  _end(code, at_once=isinstance(error, KeyboardInterrupt))


def _end(code: int, *, at_once: bool = False) -> None:
  """Ends the process; with `at_once`, without waiting for threads.

  A save interrupted by Ctrl-C would fail with a traceback while the interpreter
  shuts down; the next start removes the unfinished checkpoint.
  """
  if at_once or compiling_ahead():
    flushed()
    sys.stderr.flush()
    scratch.remove()
    os._exit(code)
  signals.ignore()
  flushed()
  sys.exit(code)


def one_line(error: BaseException) -> str:
  """The message of an error, without line breaks."""
  text = str(error).strip()
  if isinstance(error, KeyboardInterrupt):
    return text or (
      "interrupted; finished checkpoints are kept, the same command resumes"
    )
  if isinstance(error, ImportError):
    text = extras.line(error) or text
  if storage.is_of_bucket(error):
    text = storage.meaning(error, "the bucket") or text
  start, found, trace = text.partition("Traceback (most recent call last):")
  if found:  # An error in a config file, forwarded by ml_collections.
    where = start.partition(": ")[0].removeprefix("flag ")
    text = f"{where}: {trace.splitlines()[-1].partition(': ')[2]}"
  number = storage.takes_no_more(error)
  if number and storage.AGAIN not in text:
    text += f": {storage.FIXES[number]}"
  return " ".join(text.split()) or type(error).__name__
