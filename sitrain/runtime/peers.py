"""What processes tell each other outside of their programs, and who is gone.

Each says every second or so that it is alive, through the store of the first
process. The first hears all of them and the others hear the first alone, so
that what the store has to do grows with their number and not with its square.
Where one is gone the others would wait in a collective for ever: they end
instead, and say which it was.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

from jax._src import distributed

from sitrain.runtime import signals
from sitrain.runtime.logs import copy_all, note

ALIVE, FAILED, LEFT, DONE = "alive", "failed", "left", "done"
_KEY = "sitrain/peers/"  # of the others' words
_FIRST = "sitrain/first/"  # of the first one's
_BUSY = 500  # processes from which on each speaks less than once a second
_TRIES = 3  # failures in a row before the coordinator counts as gone
_PATIENCE = 2.0  # seconds in which a process may find its own words
_COPYING = 5.0  # seconds that a log may take to reach its bucket


class _Heartbeat(NamedTuple):
  """What a process says."""

  count: int
  state: str
  code: int  # of the exit, where it has left
  why: str
  rounds: int = 0  # how often the first has heard all that are alive


class _Watch(NamedTuple):
  """What this process knows of the others."""

  lost: float  # seconds of silence after which a process is gone
  period: float
  last: list[_Heartbeat]  # what this process said last
  # The last heartbeat of the others, and when it changed.
  heard: dict[int, tuple[_Heartbeat, float]]
  failures: list[int]  # of the store, in a row
  over: threading.Event
  awaited: set[int]  # whom the first has not heard in this round


_WATCH: list[_Watch] = []  # of this process, once it has joined others
_LEAVING, _PUBLISHING = threading.Lock(), threading.Lock()


def watch(lost: float) -> None:
  """Begins to tell and to look; a process silent for `lost` seconds is gone."""
  _WATCH.append(_new(lost, distributed.global_state.num_processes))
  # Python's own handlers run in the main thread, which may never get there.
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = ctypes.c_int, type(_explain_abort)
  libc.signal(signal.SIGABRT, _explain_abort)
  # Two, for the store of a dead machine may not even refuse to answer.
  for work in (_publish_loop, _watch_loop):
    threading.Thread(target=work, args=_WATCH, daemon=True).start()


def _new(lost: float, count: int) -> _Watch:
  """What one of `count` processes knows at first."""
  start, now = _Heartbeat(0, ALIVE, 0, ""), time.monotonic()
  heard = {i: (start, now) for i in (range(1, count) if _me() == 0 else [0])}
  return _Watch(
    lost, _period(lost, count), [start], heard, [0], threading.Event(),
    set(heard),
  )


def _period(lost: float, count: int) -> float:
  """Seconds between two words: many of them to a limit, whatever the count."""
  return min(max(1.0, count / _BUSY), lost / 8)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _explain_abort(_: int) -> None:
  """Says that process 0 is gone, where JAX aborts the process because of it.

  It can be told of no other way. Other aborts go on when this returns.
  """
  host, _, port = distributed.global_state.coordinator_address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
  except OSError:
    leave(signals.RESTART, _gone(0))


def _store() -> Any:
  # The public API has no store; orbax takes it from here, too.
  return distributed.global_state.client


def _me() -> int:
  # Unlike jax.process_index() it does not wait for a backend.
  return distributed.global_state.process_id


def _publish(
  watch: _Watch, state: str = "", code: int = 0, why: str = ""
) -> None:
  """The next word: as the last one, where there is no new state."""
  with _PUBLISHING:
    last = watch.last[0]
    now = last if not state else _Heartbeat(0, state, code, why, last.rounds)
    watch.last[0] = now._replace(count=last.count + 1)
    text, folder = json.dumps(watch.last[0]), _KEY if _me() else _FIRST
    _store().key_value_set(f"{folder}{_me()}", text, allow_overwrite=True)


def _read(watch: _Watch) -> None:
  for key, text in _store().key_value_dir_get(_FIRST if _me() else _KEY):
    index, beat = int(key.rpartition("/")[2]), _Heartbeat(*json.loads(text))
    if index in watch.heard and watch.heard[index][0] != beat:
      watch.heard[index] = beat, time.monotonic()
      watch.awaited.discard(index)
  if _me() == 0:
    _count_round(watch)


def _count_round(watch: _Watch) -> None:
  """One more round, where all that are alive have spoken since the last one."""
  states = {index: beat.state for index, (beat, _) in watch.heard.items()}
  if LEFT in states.values():
    return  # This one is about to leave as well.
  if any(states[index] == ALIVE for index in watch.awaited):
    return
  watch.awaited.update(states)
  with _PUBLISHING:
    last = watch.last[0]
    watch.last[0] = last._replace(rounds=last.rounds + 1)


def _publish_loop(watch: _Watch) -> None:
  while not watch.over.wait(0.5 if watch.failures[0] else watch.period):
    try:
      _publish(watch)
      _read(watch)
      watch.failures[0] = 0
    except Exception:  # noqa: BLE001  Of the store; there are many types.
      watch.failures[0] += 1


def _watch_loop(watch: _Watch) -> None:
  while not watch.over.wait(watch.period):
    for index, (beat, since) in watch.heard.items():
      _judge(watch, index, beat, time.monotonic() - since)


def _judge(watch, index, beat, seconds) -> None:
  """Ends this process where another one is missing."""
  refused = index == 0 and watch.failures[0] >= _TRIES
  silent = refused or seconds > watch.lost
  # The first one passes on what it knows of another.
  passed_on = beat.why.startswith("process ")
  # Who left when asked to may have saved, and this one may be about to finish.
  ordered = beat.code == signals.RESTART and signals.in_training()
  patient = seconds < _PATIENCE or (ordered and not passed_on)
  if watch.over.is_set() or beat.state == DONE:
    return
  if beat.state == LEFT and (silent or not patient):
    left = "" if passed_on else f"process {index} has left: "
    leave(beat.code, left + beat.why)
  if silent:
    leave(signals.RESTART, _gone(index))


def _gone(index: int) -> str:
  return (
    f"process {index} is gone: it has not been heard of; finished checkpoints"
    " are kept, and the same command resumes"
  )


def failed() -> None:
  """To be called where something unexpected has happened to this process.

  It may be that another one is gone; then that is said, and the process ends.
  Returns when it is not so.
  """
  for watch in _WATCH:
    _try_publish(watch, FAILED)
    # A round that begins after this one has failed: nobody is gone then.
    enough = _rounds(watch) + 2
    wait = watch.lost + 6 * watch.period + 2 * _PATIENCE
    until = time.monotonic() + wait
    while time.monotonic() < until and _rounds(watch) < enough:
      if _me() and watch.heard[0][0].state == DONE:
        break
      time.sleep(watch.period / 4)


def _rounds(watch: _Watch) -> int:
  """How often the first process has heard all others, as far as is known."""
  return (watch.heard[0][0] if _me() else watch.last[0]).rounds


def done() -> None:
  """Says that nothing more is needed of this process, and looks no longer."""
  for watch in _WATCH:
    _try_publish(watch, DONE)
    watch.over.set()


def leave(code: int, why: str) -> None:
  """Ends the process at once; the others are told why."""
  with _LEAVING:  # for ever: the first one to come here ends the process
    try:
      _publish_end(code, why)
    finally:
      os._exit(code)


def _publish_end(code: int, why: str) -> None:
  with contextlib.suppress(OSError, ValueError):  # Its reader may be gone.
    if sys.stderr.isatty():
      sys.stderr.write("\x1b[?25h")  # A display may have hidden the cursor.
    print(f"error: {why}", file=sys.stderr, flush=True)
  note(f"exit code {code}: {why}")
  # In threads, for the store of a dead machine, or a bucket, may not answer.
  copying = threading.Thread(target=copy_all, daemon=True)
  copying.start()
  for watch in _WATCH:
    last = (watch, LEFT, code, why)
    telling = threading.Thread(target=_publish_last, args=last, daemon=True)
    telling.start()
    telling.join(_PATIENCE + 6 * watch.period)
  copying.join(_COPYING)
  sys.stdout.flush()
  sys.stderr.flush()


def several() -> bool:
  """Whether this process has joined others."""
  return bool(_WATCH)


def _publish_last(watch: _Watch, *beat: Any) -> None:
  """Tells the others; process 0 stays until they have heard it through it."""
  _try_publish(watch, *beat)
  if _me() != 0:
    return
  until = time.monotonic() + 4 * watch.period + _PATIENCE
  while time.monotonic() < until:
    if all(beat.state in (LEFT, DONE) for beat, _ in watch.heard.values()):
      break
    time.sleep(watch.period / 4)
    try:
      _read(watch)
    except Exception:  # noqa: BLE001  There is nobody left to tell.
      break


def _try_publish(watch: _Watch, *beat: Any) -> None:
  try:
    _publish(watch, *beat)
  except Exception as error:  # noqa: BLE001  It is told where it can be.
    note(f"the others could not be told: {error}")
