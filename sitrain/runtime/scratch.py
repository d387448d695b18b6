"""Temporary folders of this process, removed when it ends.

Also when it ends by os._exit, which runs no cleanup: who calls that calls
`remove` first.
"""

import atexit
import shutil
import tempfile

_MADE: list[str] = []


def folder(purpose: str) -> str:
  """A new folder on this machine's disk."""
  if not _MADE:
    atexit.register(remove)
  _MADE.append(tempfile.mkdtemp(prefix=f"sitrain_{purpose}_"))
  return _MADE[-1]


def remove() -> None:
  """Removes all of them."""
  while _MADE:
    shutil.rmtree(_MADE.pop(), ignore_errors=True)
