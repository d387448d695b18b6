"""Compilation and profiling: the cache, threads, a trace window."""

import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
from etils import epath

from sitrain.runtime.storage import is_remote, takes_no_more

_LOG = logging.getLogger("sitrain")
_AHEAD = "compiles ahead"


def cache_folder() -> epath.Path:
  """$SITRAIN_CACHE, on a disk or on gs://, or ~/.cache/sitrain/xla."""
  chosen = os.environ.get("SITRAIN_CACHE", "") or "~/.cache/sitrain/xla"
  return epath.Path(chosen).expanduser()


def use_cache() -> None:
  """Turns on the persistent compilation cache, where its folder can be written.

  It stores all programs, however small, because a toy run has many small ones.
  Call it before the first compilation. Programs with host callbacks are not
  stored. On a full disk the programs that are there are still used.
  """
  folder = cache_folder()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not is_remote(folder):
      with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2**16))
  except Exception as error:  # noqa: BLE001  Buckets raise many types.
    if not takes_no_more(error):
      _LOG.warning(
        "every start compiles anew, for SITRAIN_CACHE=%s cannot be written"
        " (%s): set it to a folder that can", folder, error,
      )
      return
    _tell_of_cache("writing", str(error))
  if not getattr(warnings.showwarning, "knows_the_cache", False):
    warnings.showwarning = _without_cache(warnings.showwarning)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_OF_CACHE = re.compile(
  "Error (reading|writing) persistent compilation cache entry for .*?: (.*)",
  re.DOTALL,
)
_TOLD: set[str] = set()  # what failed, "reading" or "writing", and is told


def _without_cache(show: Callable[..., None]) -> Callable[..., None]:
  """`warnings.showwarning`, which tells of the cache once in a line.

  JAX warns of every program, and goes on without it.
  """

  def shown(message: Any, *where: Any) -> None:
    if found := _OF_CACHE.match(str(message)):
      _tell_of_cache(*found.groups())
    else:
      show(message, *where)

  shown.knows_the_cache = True
  return shown


def _tell_of_cache(doing: str, why: str) -> None:
  if doing in _TOLD:
    return
  _TOLD.add(doing)
  why = " ".join(why.split())
  why = why if len(why) < 200 else f"{why[:200]} ..."
  if doing == "writing":
    _LOG.warning(
      "SITRAIN_CACHE=%s takes no more programs (%s), so that every start"
      " compiles them anew: free some space, or set it to another folder",
      cache_folder(), why,
    )
  else:
    _LOG.warning(
      "SITRAIN_CACHE=%s has programs that cannot be read (%s), so that every"
      " start compiles them anew: empty it", cache_folder(), why,
    )


def ahead(make: Callable[[], Any]) -> Future:
  """Starts `make` in a daemon thread.

  The future's result raises the error of `make`. A daemon thread ends with the
  process; the workers of an executor would be waited for, even at Ctrl-C.
  """
  future = Future()

  def work():
    try:
      future.set_result(make())
    except BaseException as error:  # noqa: BLE001  `result` raises it.
      future.set_exception(error)

  threading.Thread(target=work, name=_AHEAD, daemon=True).start()
  return future


def compiling_ahead() -> bool:
  """Whether a thread of `ahead` is running.

  Then Python cannot shut down cleanly: interrupting the compiler crashes.
  """
  return any(thread.name == _AHEAD for thread in threading.enumerate())


class Profiler(NamedTuple):
  """Profiles some fused calls; call `before` and `after` around every one."""

  before: Callable[[int], None]  # the step that the call starts with
  after: Callable[[int], None]  # the step that comes next
  close: Callable[[], None]


def profile_steps(
  workdir: Any, start: int, stop: int, *, wait: Callable[[], Any]
) -> Profiler:
  """Traces the fused calls that start in [start, stop) to workdir/profile.

  Args:
    workdir: of the run.
    start: the first step of the window.
    stop: the step after it; start == stop: no trace.
    wait: blocks until all dispatched work is done, so that the trace has it,
      as `lambda: jax.block_until_ready(state)`.
  """
  state = {"running": False}
  folder = epath.Path(workdir) / "profile"

  def before(step: int) -> None:
    if start <= step < stop and not state["running"]:
      jax.profiler.start_trace(str(folder))
      state["running"] = True

  def close() -> None:
    if state["running"]:
      wait()
      jax.profiler.stop_trace()
      state["running"] = False

  def after(step: int) -> None:
    if step >= stop:
      close()

  return Profiler(before, after, close)
