"""What a user sees when something goes wrong: one line, and how to mend it."""

import sys
import traceback
from collections.abc import Callable

from absl import app, flags


def run_main(main: Callable[[list[str]], None]) -> None:
  """absl's app.run with errors in one line, unless --traceback is given.

  Exit codes: 2 for a wrong command line or config, 130 for Ctrl-C, 1 else.
  """
  asked = any(a in ("--traceback", "--traceback=true") for a in sys.argv)
  try:
    arguments = _parsed(sys.argv)
  except Exception as error:
    _leave(error, asked, 2)
  try:
    main(arguments)
  except KeyboardInterrupt as error:
    _leave(error, asked, 130)
  except (ValueError, OSError) as error:
    _leave(error, asked, 2 if isinstance(error, ValueError) else 1)


def _parsed(arguments: list[str]) -> list[str]:
  app.define_help_flags()
  return flags.FLAGS(arguments)


def _leave(error: BaseException, asked: bool, code: int) -> None:
  if asked:
    traceback.print_exception(error)
  print(f"error: {one_line(error)}", file=sys.stderr)
  sys.exit(code)


def one_line(error: BaseException) -> str:
  """The message of an error, without line breaks."""
  if isinstance(error, KeyboardInterrupt):
    return (
      "interrupted; finished checkpoints are kept, the same command resumes"
    )
  text = " ".join(str(error).split())
  return text or type(error).__name__
