"""The current activity of this process, for the screen, the log and heartbeat.

  with activity.during("reading weights"):

Followers, registered by name, get the running activity once a second, and every
activity that ends.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Activity(NamedTuple):
  """Something that takes time."""

  what: str
  began: float  # on the monotonic clock
  seldom: bool  # one of many: show it only if it takes long


class Follower(NamedTuple):
  """Callbacks that show activities."""

  at: Callable[[list[Activity]], None]  # once a second: the innermost, or []
  did: Callable[[Activity], None]  # an activity that ended
  say: Callable[[str], None]  # a line of text


def _nothing(_: Any) -> None:
  """Ignores an event."""


IDLE = Follower(_nothing, _nothing, _nothing)
_FOLLOWERS: dict[str, Follower] = {}
_NOW: list[Activity] = []  # of the main thread; the last is the innermost
_TICKING: list[threading.Thread] = []


def follow(name: str, follower: Follower) -> None:
  """Registers a follower, or replaces the one of that name."""
  _FOLLOWERS[name] = follower
  if not _TICKING:
    _TICKING.append(threading.Thread(target=_tick, daemon=True))
    _TICKING[0].start()


def leave(name: str) -> None:
  """Removes the follower of this name."""
  _FOLLOWERS.pop(name, None)


def seconds(one: Activity) -> float:
  """Seconds since it began."""
  return time.monotonic() - one.began


def now() -> list[Activity]:
  """The innermost activity, or []."""
  return _NOW[-1:]


@contextlib.contextmanager
def during(
  what: str, *, seldom: bool = False
) -> Iterator[Callable[[str], None]]:
  """Inside, the activity is `what`; the value is a function to add progress."""
  place, one = len(_NOW), Activity(what, time.monotonic(), seldom)
  _NOW.append(one)

  def add(more: str) -> None:
    _NOW[place] = one._replace(what=f"{what}: {more}")

  try:
    yield add
  finally:
    del _NOW[place:]
  _notify("did", one)


def say(text: str) -> None:
  """Sends a line to all followers, and to stderr if none is the screen."""
  if "screen" not in _FOLLOWERS:
    print(text, file=sys.stderr, flush=True)
  _notify("say", text)


def _notify(what: str, value: Any) -> None:
  for follower in list(_FOLLOWERS.values()):
    with contextlib.suppress(OSError, ValueError):  # Its reader may be gone.
      getattr(follower, what)(value)


def _tick() -> None:
  while True:
    time.sleep(1.0)
    _notify("at", now())
