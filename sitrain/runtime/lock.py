"""One process at a time that writes in a place: a lock that no dead one holds.

WORKDIR/lock.json says which process trains there; it is written anew every few
seconds, and is gone when the run ends. On a disk the kernel locks the file, and
lets go of it however the process ends. On gs://, and on disks that know no
locks, a process counts as dead whose file does not change for a while: whoever
looks counts the seconds, so clocks need not agree. That a process of the same
machine is dead is known at once.

Who only reads a workdir needs no lock.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath

from sitrain.runtime import peers
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.agree import from_first
from sitrain.runtime.logs import note
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import explaining, is_remote

NAME = "lock.json"
BEAT = 10.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one, after which the holder is dead
SERVER = 120.0  # in which a file server lets go of a dead machine's locks
LOOK = 1.0  # seconds between two looks
_SIZE = 1024  # bytes of the file, so that writing it anew is one write
_LOG = logging.getLogger("sitrain")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_WRITING = (
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR,
)


class Holder(NamedTuple):
  """The process that holds a lock."""

  token: str  # of this one run
  host: str
  machine: str  # where its number means something
  process: int  # its number there
  started: str  # tells it from a later one of the same number
  since: str  # for people
  beat: int  # grows while it is alive


class Place(NamedTuple):
  """A file that says who holds a lock."""

  read: Callable[[], list[Holder]]  # nobody, or one
  take: Callable[[Holder], bool]  # whether it is ours now
  write: Callable[[Holder], None]  # once it is ours
  release: Callable[[], None]
  exact: bool  # whether `take` itself knows if the holder is alive


@contextlib.contextmanager
def held(what: str, path: Any) -> Iterator[None]:
  """Within it this run holds the lock `path`; of several processes the first.

  `what` is the flag that the lock is for, as a user gives it. Raises
  ConfigError, in all processes, where another run holds it.
  """
  token = from_first(lambda: _hold(what, path))
  try:
    yield
  finally:
    if jax.process_index() == 0:
      _HELD.pop(token)()


_HELD: dict[str, Callable[[], None]] = {}  # by token, how to let go of it


def _hold(what: str, path: Any) -> str:
  """Takes the lock and begins to keep it; returns its name in _HELD."""
  if not is_remote(path):
    path = os.path.abspath(path)
  made = [] if is_remote(path) else _make(what, os.path.dirname(path))
  path, mine = epath.Path(path), _this_process()
  try:
    place = leased(path) if is_remote(path) else locked(path)
    try:
      acquire(what, place, mine)
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      place = leased(path)
      acquire(what, place, mine)
  except BaseException as error:
    _unmake(made)
    if isinstance(error, OSError) and error.errno in _NO_WRITING:
      line = f"{what} cannot be written: {error.strerror}"
      raise ConfigError(line) from error
    raise
  over = threading.Event()
  keeper = threading.Thread(
    target=_keep, args=(what, place, mine, over), name="lock", daemon=True
  )
  keeper.start()

  def release() -> None:
    over.set()
    keeper.join(BEAT)
    if not keeper.is_alive():  # Else it is in the middle of writing.
      with contextlib.suppress(Exception):  # It would only be waited for.
        place.release()
    _unmake(made)

  _HELD[mine.token] = release
  return mine.token


def acquire(
  what: str, place: Place, mine: Holder, *,
  clock: Callable[[], float] = time.monotonic,
  sleep: Callable[[float], None] = time.sleep,
) -> None:
  """Returns when the place is ours, which takes a while after some deaths.

  Raises ConfigError as soon as its holder is known to be alive.
  """
  began, seen = clock(), []
  limit = SERVER if place.exact else SILENCE
  while True:
    found, waited = place.read(), clock() - began
    free = place.exact or not found or _is_dead(found[0]) or waited > limit
    if free and place.take(mine):
      return
    found = place.read() or found
    changed = seen and found and found[0] != seen[0]
    if changed or waited > limit or (found and _is_alive(found[0])):
      raise ConfigError(_in_use(what, *found))
    if found and not seen:
      seen = found
      _LOG.warning(
        "%s was in use by %s: if that is gone, this run goes on within %.0f s",
        what, _name(found[0]), limit,
      )
    sleep(LOOK)


def _in_use(what: str, *found: Holder) -> str:
  who = _name(found[0]) if found else "another process"
  flag = what.partition("=")[0]
  return (
    f"{what} is in use by {who}: wait for it, stop it, or give another {flag}"
  )


def _name(holder: Holder) -> str:
  return (
    f"process {holder.process} of {holder.host}, which runs since"
    f" {holder.since}"
  )


def _keep(
  what: str, place: Place, mine: Holder, over: threading.Event
) -> None:
  """Says that this process is alive; ends it where another has taken over."""
  while not over.wait(BEAT):
    try:
      found = place.read()
      if found and found[0].token != mine.token and not over.is_set():
        peers.leave(
          1, f"{what} was taken over by {_name(found[0])}, for this process was"
          f" not heard of for {SILENCE:.0f} s",
        )
      mine = mine._replace(beat=mine.beat + 1)
      if not over.is_set():
        place.write(mine)
    except Exception as error:  # noqa: BLE001  Of disks and stores.
      note(f"the lock of {what} is not written: {error!r}")


# Who is who.


def _this_process() -> Holder:
  process = os.getpid()
  return Holder(
    token=uuid.uuid4().hex, host=socket.gethostname(), machine=_machine(),
    process=process, started=_started(process),
    since=f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}", beat=0,
  )


def _machine() -> str:
  """Names the machine since it was booted, and its container's processes."""
  words = [socket.gethostname()]
  with contextlib.suppress(OSError):
    words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    words.append(os.readlink("/proc/self/ns/pid"))
  return " ".join(words)


def _started(process: int) -> str:
  """When a process of this machine was started; "" where it is dead."""
  try:
    text = Path(f"/proc/{process}/stat").read_text()
  except OSError:
    return "" if Path("/proc/self").exists() else _answers(process)
  state, *fields = text.rpartition(")")[2].split()
  return "" if state in "ZX" else fields[18]


def _answers(process: int) -> str:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return ""
  except OSError:
    pass
  return "unknown"


def _is_alive(holder: Holder) -> bool:
  """Whether it is known to be: it is a process of this machine."""
  here = holder.machine == _machine()
  return here and _started(holder.process) == holder.started


def _is_dead(holder: Holder) -> bool:
  """Whether it is known to be."""
  here = holder.machine == _machine()
  return here and _started(holder.process) != holder.started


# Where it is written.


def locked(path: epath.Path) -> Place:
  """A file that the kernel locks for this process.

  `take` raises OSError where the disk knows no locks.
  """
  held: list[int] = []

  def take(mine: Holder) -> bool:
    with explaining(path.parent):
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Who let go of it meanwhile has removed what was opened.
      ours = os.fstat(descriptor).st_ino == os.stat(path).st_ino
    except (BlockingIOError, FileNotFoundError):
      ours = False
    except OSError:
      os.close(descriptor)
      raise
    if not ours:
      os.close(descriptor)
      return False
    held.append(descriptor)
    with contextlib.suppress(OSError):  # A full disk is found out elsewhere.
      write(mine)
    return True

  def write(mine: Holder) -> None:
    text = json.dumps(mine._asdict())
    os.pwrite(held[0], text.encode().ljust(_SIZE), 0)

  def release() -> None:
    os.unlink(path)
    os.close(held.pop())

  return Place(lambda: _read(path), take, write, release, exact=True)


def leased(path: epath.Path) -> Place:
  """A file that whoever sees no life in it may write."""

  def write(mine: Holder) -> None:
    workdirs.write_json(path, mine._asdict())

  def take(mine: Holder) -> bool:
    write(mine)
    time.sleep(LOOK)  # Of two who come at once, the last to write has it.
    return [x.token for x in _read(path)] == [mine.token]

  def release() -> None:
    path.unlink()

  return Place(lambda: _read(path), take, write, release, exact=False)


def _read(path: epath.Path) -> list[Holder]:
  """Who holds it; nobody, too, where it is being written."""
  try:
    with explaining(path):
      return [Holder(**json.loads(path.read_text()))]
  except (FileNotFoundError, ValueError, TypeError):
    return []


def _make(what: str, folder: str) -> list[str]:
  """Makes a folder; returns what was not there, the innermost first."""
  missing = []
  while not os.path.exists(folder):
    missing.append(folder)
    folder = os.path.dirname(folder)
  if not os.path.isdir(folder):
    raise ConfigError(f"{what}: {folder} is no folder")
  for path in reversed(missing):
    try:
      os.mkdir(path)
    except FileExistsError:
      continue
    except OSError as error:
      raise ConfigError(f"{what} cannot be made: {error.strerror}") from error
  return missing


def _unmake(folders: list[str]) -> None:
  """Removes what was made, where it is still empty."""
  with contextlib.suppress(OSError):
    for folder in folders:
      os.rmdir(folder)
