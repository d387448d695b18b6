"""Values that all processes must agree on: broadcast, or the worst of all.

Files on a shared disk may look different to each process for a while, and an
error may occur in only one. Nothing here waits in a collective before all
processes have arrived, because collectives time out.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils

from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import StorageError

DAY = 24 * 3600 * 1000  # ms; peers.py ends the wait if a process is lost
_COUNT = itertools.count()  # All processes call in the same order.
_ERRORS = {
  "ConfigError": ConfigError, "FileNotFoundError": FileNotFoundError,
  "ValueError": ValueError, "OSError": StorageError,
}  # fmt: skip


def from_first(look: Callable[[], Any]) -> Any:
  """The result of look() in process 0, for all processes; it passes as JSON.

  All processes must call it, in the same order and from the main thread. An
  error of `look` is raised in all of them.
  """
  if jax.process_count() == 1:
    return look()
  client = jax_distributed.global_state.client
  key = f"sitrain/agree/first/{next(_COUNT)}"
  if jax.process_index() != 0:
    reply = json.loads(client.blocking_key_value_get(key, DAY))
    if "error" in reply:
      raise _ERRORS.get(reply["kind"], RuntimeError)(reply["error"])
    return reply["value"]
  try:
    value = look()
  except Exception as error:
    reply = {"kind": _kind(error), "error": str(error)}
    client.key_value_set(key, json.dumps(reply))
    raise
  client.key_value_set(key, json.dumps({"value": value}))
  return value


def _kind(error: Exception) -> str:
  known = (n for n, kind in _ERRORS.items() if isinstance(error, kind))
  fallback = "OSError" if isinstance(error, OSError) else ""
  return next(known, fallback)


def worst(level: int, words: str) -> tuple[int, str]:
  """The highest level of all processes, and the message of the first with it.

  Level 0 is good. All processes must call it, as in `from_first`.
  """
  if jax.process_count() == 1:
    return level, words
  client, number = jax_distributed.global_state.client, next(_COUNT)
  key = f"sitrain/agree/worst/{number}"
  if level:
    client.key_value_set(f"{key}/{jax.process_index()}", words)
  client.wait_at_barrier(f"{key}/met", DAY)
  levels = multihost_utils.process_allgather(np.array(level)).ravel()
  most = int(levels.max())
  first = int(levels.argmax())
  if not most or first == jax.process_index():
    return most, words
  words = client.blocking_key_value_get(f"{key}/{first}", DAY)
  return most, f"process {first}: {words}"
