"""Heartbeats between processes, and the end of all when one is lost.

Every process publishes a heartbeat about once a second in the key-value store
of process 0. Process 0 reads all of them, and the others read only process 0,
so the load of the store is linear in the number of processes. When a process is
lost, the others would wait in a collective forever. Instead they exit and name
it.
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

from sitrain.runtime import scratch, signals
from sitrain.runtime.logs import copy_all, note

ALIVE, FAILED, LEFT, DONE = "alive", "failed", "left", "done"
_KEY = "sitrain/peers/"  # heartbeats of the others
_FIRST = "sitrain/first/"  # the heartbeat of process 0
_BUSY = 500  # heartbeats per second that the store should take at most
_TRIES = 3  # failures in a row before the coordinator counts as lost
_PATIENCE = 2.0  # seconds that a process gets to report its own error first
_COPYING = 5.0  # seconds that copying a log to its bucket may take


class _Heartbeat(NamedTuple):
  """The published state of a process."""

  count: int
  state: str
  code: int  # the exit code, where state is LEFT
  why: str
  rounds: int = 0  # how often process 0 has heard from all that are alive


class _Watch(NamedTuple):
  """What this process knows about the others."""

  lost: float  # seconds of silence after which a process is lost
  period: float  # seconds between heartbeats
  last: list[_Heartbeat]  # the last one of this process
  # The last one of every other process, and when it changed.
  heard: dict[int, tuple[_Heartbeat, float]]
  failures: list[int]  # how many calls of the store have failed in a row
  over: threading.Event
  awaited: set[int]  # processes that process 0 awaits in this round


_WATCH: list[_Watch] = []  # one, once this process has joined others
_LEAVING, _PUBLISHING = threading.Lock(), threading.Lock()


def watch(lost: float) -> None:
  """Starts heartbeats; a process without one for `lost` seconds is lost."""
  _WATCH.append(_new(lost, distributed.global_state.num_processes))
  # Python's own handlers run in the main thread, which may never get there.
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = ctypes.c_int, type(_explain_abort)
  libc.signal(signal.SIGABRT, _explain_abort)
  # Two threads, because a call to the store of a dead machine may hang.
  for work in (_publish_loop, _watch_loop):
    threading.Thread(target=work, args=_WATCH, daemon=True).start()


def _new(lost: float, count: int) -> _Watch:
  """The initial _Watch of one of `count` processes."""
  start, now = _Heartbeat(0, ALIVE, 0, ""), time.monotonic()
  heard = {i: (start, now) for i in (range(1, count) if _me() == 0 else [0])}
  return _Watch(
    lost, _period(lost, count), [start], heard, [0], threading.Event(),
    set(heard),
  )


def _period(lost: float, count: int) -> float:
  """Seconds between heartbeats: several within `lost`, whatever the count."""
  return min(max(1.0, count / _BUSY), lost / 8)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _explain_abort(_: int) -> None:
  """Reports the loss of process 0 when JAX aborts because of it.

  There is no other way to detect that. Other aborts continue on return.
  """
  host, _, port = distributed.global_state.coordinator_address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
  except OSError:
    leave(signals.RESTART, _gone(0))


def _store() -> Any:
  # The public API has no store; orbax uses this one too.
  return distributed.global_state.client


def _me() -> int:
  # Unlike jax.process_index(), it does not initialize a backend.
  return distributed.global_state.process_id


def _publish(
  watch: _Watch, state: str = "", code: int = 0, why: str = ""
) -> None:
  """Publishes the next heartbeat; without a `state`, the last one again."""
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
  """Counts a round when all that are alive have sent since the last round."""
  states = {index: beat.state for index, (beat, _) in watch.heard.items()}
  if LEFT in states.values():
    return  # This process is about to leave as well.
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
    except Exception:  # noqa: BLE001  The store raises many types.
      watch.failures[0] += 1


def _watch_loop(watch: _Watch) -> None:
  while not watch.over.wait(watch.period):
    for index, (beat, since) in watch.heard.items():
      _judge(watch, index, beat, time.monotonic() - since)


def _judge(watch, index, beat, seconds) -> None:
  """Ends this process if process `index` has left or is lost."""
  refused = index == 0 and watch.failures[0] >= _TRIES
  silent = refused or seconds > watch.lost
  # Process 0 forwards the end of another process.
  passed_on = beat.why.startswith("process ")
  # A process that left on a signal may have saved; this one may be about to.
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
  """Call it after an unexpected error in this process.

  If the cause is the loss of another process, reports that and exits. Returns
  if all others are alive.
  """
  for watch in _WATCH:
    _try_publish(watch, FAILED)
    # After a round that began after the failure, all others are alive.
    enough = _rounds(watch) + 2
    wait = watch.lost + 6 * watch.period + 2 * _PATIENCE
    until = time.monotonic() + wait
    while time.monotonic() < until and _rounds(watch) < enough:
      if _me() and watch.heard[0][0].state == DONE:
        break
      time.sleep(watch.period / 4)


def _rounds(watch: _Watch) -> int:
  """How often process 0 has heard from all others, as far as is known."""
  return (watch.heard[0][0] if _me() else watch.last[0]).rounds


def done() -> None:
  """Publishes that this process has finished, and stops watching."""
  for watch in _WATCH:
    _try_publish(watch, DONE)
    watch.over.set()


def leave(code: int, why: str) -> None:
  """Ends the process at once, and publishes why."""
  with _LEAVING:  # Never released: the first caller ends the process.
    try:
      _publish_end(code, why)
    finally:
      scratch.remove()
      os._exit(code)


def _publish_end(code: int, why: str) -> None:
  """Reports the end of this process on stderr, in the log and to the others."""
  with contextlib.suppress(OSError, ValueError):  # Its reader may be gone.
    if sys.stderr.isatty():
      sys.stderr.write("\x1b[?25h")  # A display may have hidden the cursor.
    print(f"error: {why}", file=sys.stderr, flush=True)
  note(f"exit code {code}: {why}")
  # In threads, because the store or a bucket may hang.
  copying = threading.Thread(target=copy_all, daemon=True)
  copying.start()
  for watch in _WATCH:
    last = (watch, LEFT, code, why)
    publishing = threading.Thread(target=_publish_last, args=last, daemon=True)
    publishing.start()
    publishing.join(_PATIENCE + 6 * watch.period)
  copying.join(_COPYING)
  sys.stdout.flush()
  sys.stderr.flush()


def several() -> bool:
  """Whether this process has joined others."""
  return bool(_WATCH)


def _publish_last(watch: _Watch, *beat: Any) -> None:
  """Publishes the end; process 0, which has the store, waits for the others."""
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
    except Exception:  # noqa: BLE001  The store is gone.
      break


def _try_publish(watch: _Watch, *beat: Any) -> None:
  try:
    _publish(watch, *beat)
  except Exception as error:  # noqa: BLE001  Best effort.
    note(f"the others could not be told: {error}")
