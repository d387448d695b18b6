"""Counts the programs that are compiled in this process."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# One event per program that reaches the backend, cached or not.
COMPILED = "/jax/core/compile/backend_compile_duration"


class Counter(NamedTuple):
  """How often something happened since it was opened."""

  count: Callable[[], int]
  close: Callable[[], None]


def counter() -> Counter:
  """Counts programs from now on.

  The cache size of a jitted function also grows when only the kind of an
  argument changes; this counts real compilations. Programs from the cache on
  disk count too, because they were traced and lowered again.
  """
  events = []

  def listen(event: str, duration: float, **_: Any) -> None:
    if event == COMPILED:
      events.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)

  def close() -> None:
    jax.monitoring.unregister_event_duration_listener(listen)

  return Counter(lambda: len(events), close)
