"""What this process is at: for its screen, its log and its heartbeat.

  with activity.during("reading weights"):

Whoever shows it is a follower, by name; it is told once a second what goes on,
and of every end.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Activity(NamedTuple):
  """What goes on."""

  what: str
  began: float  # on the monotonic clock
  seldom: bool  # one of many, of which not each is worth a line


class Follower(NamedTuple):
  """Who shows what goes on."""

  at: Callable[[list[Activity]], None]  # the innermost, or nothing
  did: Callable[[Activity], None]  # an end
  say: Callable[[str], None]  # a line


def _nothing(_: Any) -> None:
  """Of what a follower does not show."""


IDLE = Follower(_nothing, _nothing, _nothing)
_FOLLOWERS: dict[str, Follower] = {}
_NOW: list[Activity] = []  # of the main thread; the last is the innermost
_TICKING: list[threading.Thread] = []


def follow(name: str, follower: Follower) -> None:
  """The follower of this name from now on."""
  _FOLLOWERS[name] = follower
  if not _TICKING:
    _TICKING.append(threading.Thread(target=_tick, daemon=True))
    _TICKING[0].start()


def leave(name: str) -> None:
  """Whoever follows by this name is told nothing more."""
  _FOLLOWERS.pop(name, None)


def seconds(one: Activity) -> float:
  """Since it began."""
  return time.monotonic() - one.began


def now() -> list[Activity]:
  """The innermost activity, or nothing."""
  return _NOW[-1:]


@contextlib.contextmanager
def during(
  what: str, *, seldom: bool = False
) -> Iterator[Callable[[str], None]]:
  """Inside, the process is at `what`; the value adds to it how far it is."""
  place, one = len(_NOW), Activity(what, time.monotonic(), seldom)
  _NOW.append(one)

  def add(more: str) -> None:
    _NOW[place] = one._replace(what=f"{what}: {more}")

  try:
    yield add
  finally:
    del _NOW[place:]
  _tell("did", one)


def say(text: str) -> None:
  """A line to all followers, and to stderr where no screen is among them."""
  if "screen" not in _FOLLOWERS:
    print(text, file=sys.stderr, flush=True)
  _tell("say", text)


def _tell(what: str, value: Any) -> None:
  for follower in list(_FOLLOWERS.values()):
    with contextlib.suppress(OSError, ValueError):  # Its reader may be gone.
      getattr(follower, what)(value)


def _tick() -> None:
  while True:
    time.sleep(1.0)
    _tell("at", now())
