"""A lock on a workdir, so that only one run writes there.

WORKDIR/lock.json names the process that trains there. It is rewritten every few
seconds, and removed when the run ends. On a disk the kernel locks the file, and
releases it however the process ends. On gs://, and on disks without locks, the
lock expires when the file has not changed for a while. The waiting process
measures that time itself, so clocks need not agree. A dead process of the same
machine is detected at once.

Reading a workdir needs no lock.
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
from sitrain.runtime.storage import (
  explained,
  explaining,
  is_remote,
  takes_no_more,
)

NAME = "lock.json"
BEAT = 10.0  # seconds between two heartbeats
SILENCE = 60.0  # seconds without a heartbeat until the lock expires
SERVER = 120.0  # seconds until a file server releases a dead machine's locks
LOOK = 1.0  # seconds between two attempts
_SIZE = 1024  # bytes of the file; fixed, so that rewriting it is one write
_LOG = logging.getLogger("sitrain")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_WRITING = (
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR,
)


class Holder(NamedTuple):
  """The process that holds a lock."""

  token: str  # unique for each run
  host: str
  machine: str  # the boot and PID namespace in which `process` is valid
  process: int  # PID
  started: str  # start time, to detect a reused PID
  since: str  # start time, readable
  beat: int  # counts heartbeats


class Place(NamedTuple):
  """A lock file, and the operations on it."""

  read: Callable[[], list[Holder]]  # the holder, or []
  take: Callable[[Holder], bool]  # whether the lock is ours now
  write: Callable[[Holder], None]  # a heartbeat of the holder
  release: Callable[[], None]
  exact: bool  # whether `take` itself detects a dead holder


@contextlib.contextmanager
def held(what: str, path: Any) -> Iterator[None]:
  """Holds the lock `path` for this run; process 0 takes it for all processes.

  `what` is the flag of the locked path, for messages. Raises ConfigError, in
  all processes, if another run holds the lock.
  """
  token = from_first(lambda: _hold(what, path))
  try:
    yield
  finally:
    if jax.process_index() == 0:
      _HELD.pop(token)()


_HELD: dict[str, Callable[[], None]] = {}  # token -> release


def _hold(what: str, path: Any) -> str:
  """Takes the lock and starts its heartbeat; returns its token in _HELD."""
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
    if not keeper.is_alive():  # Else it is still writing.
      with contextlib.suppress(Exception):  # Else the lock just expires.
        place.release()
    _unmake(made)

  _HELD[mine.token] = release
  return mine.token


def acquire(
  what: str, place: Place, mine: Holder, *,
  clock: Callable[[], float] = time.monotonic,
  sleep: Callable[[float], None] = time.sleep,
) -> None:
  """Waits until the lock is ours, which may need its expiry.

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
  holder = _name(found[0]) if found else "another process"
  flag = what.partition("=")[0]
  return (
    f"{what} is in use by {holder}: wait for it, stop it, or give another"
    f" {flag}"
  )


def _name(holder: Holder) -> str:
  return (
    f"process {holder.process} of {holder.host}, which runs since"
    f" {holder.since}"
  )


def _keep(
  what: str, place: Place, mine: Holder, over: threading.Event
) -> None:
  """Writes heartbeats; ends this process if another run has taken the lock."""
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
    except Exception as error:  # noqa: BLE001  Storage raises many types.
      note(f"the lock of {what} is not written: {error!r}")


# Identity and liveness of processes.


def _this_process() -> Holder:
  process = os.getpid()
  return Holder(
    token=uuid.uuid4().hex, host=socket.gethostname(), machine=_machine(),
    process=process, started=_started(process),
    since=f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}", beat=0,
  )


def _machine() -> str:
  """Identifies the machine, its boot and the PID namespace."""
  words = [socket.gethostname()]
  with contextlib.suppress(OSError):
    words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    words.append(os.readlink("/proc/self/ns/pid"))
  return " ".join(words)


def _started(process: int) -> str:
  """The start time of a process of this machine; "" if it is dead."""
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
  """Whether it is known to be alive: a process of this machine that runs."""
  here = holder.machine == _machine()
  return here and _started(holder.process) == holder.started


def _is_dead(holder: Holder) -> bool:
  """Whether it is known to be dead: a process of this machine that ended."""
  here = holder.machine == _machine()
  return here and _started(holder.process) != holder.started


# The two kinds of lock files.


def locked(path: epath.Path) -> Place:
  """A file that the kernel locks for this process.

  `take` raises OSError if the disk does not support locks.
  """
  held: list[int] = []

  def take(mine: Holder) -> bool:
    with explaining(path.parent):
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # A holder that released it meanwhile has removed the opened file.
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
    with contextlib.suppress(OSError):  # A full disk is reported elsewhere.
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
  """A lock file that expires without heartbeats."""

  def write(mine: Holder) -> None:
    workdirs.write_json(path, mine._asdict())

  def take(mine: Holder) -> bool:
    write(mine)
    time.sleep(LOOK)  # Of two concurrent writers, the last one wins.
    return [x.token for x in _read(path)] == [mine.token]

  def release() -> None:
    path.unlink()

  return Place(lambda: _read(path), take, write, release, exact=False)


def _read(path: epath.Path) -> list[Holder]:
  """The holder, or []; [] also while the file is being written."""
  try:
    with explaining(path):
      return [Holder(**json.loads(path.read_text()))]
  except (FileNotFoundError, ValueError, TypeError):
    return []


def _make(what: str, folder: str) -> list[str]:
  """Makes a folder; returns the folders that were missing, innermost first."""
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
      if takes_no_more(error):
        raise explained(error, folder) from error
      raise ConfigError(f"{what} cannot be made: {error.strerror}") from error
  return missing


def _unmake(folders: list[str]) -> None:
  """Removes the folders from `_make` that are still empty."""
  with contextlib.suppress(OSError):
    for folder in folders:
      os.rmdir(folder)
