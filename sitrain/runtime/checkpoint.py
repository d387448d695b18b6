"""Checkpoints of a stage: the last ones and the best one, each of them whole.

A checkpoint is one folder that appears at once; see snapshot.py for what is
in it. Folders may lie on a disk or on gs://.
"""

import errno
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  BestN,
  LatestN,
)

from sitrain.runtime import agree, snapshot, storage
from sitrain.types import Progress, TrainState

_LOG = logging.getLogger("sitrain")
_SCORE = "score"
_LOOKS = 3  # at folders whose checkpoints come and go
_UNUSABLE = ".unusable"  # the ending of a damaged checkpoint that was set aside


def _score(metrics: Any) -> float:
  """The score of a checkpoint; one without a number is never the best."""
  value = (metrics or {}).get(_SCORE)
  return -math.inf if value is None else float(value)


def open_manager(
  folder: Any, *, keep: int = 2, best: int = 1
) -> ocp.CheckpointManager:
  """Opens (and makes) the checkpoint folder of one stage for writing.

  Keeps the last `keep` checkpoints and the `best` ones by score; of equal
  scores the later. What a killed run left half-written is reported and
  removed.
  """
  folder = epath.Path(folder)
  logging.getLogger("absl").addFilter(_worth_logging)
  policy = AnyPreservationPolicy(
    [LatestN(keep), BestN(get_metric_fn=_score, n=best)]
  )
  options = ocp.CheckpointManagerOptions(
    preservation_policy=policy,
    best_fn=_score,  # Without it orbax writes no metrics.
    cleanup_tmp_directories=True,
    save_root_metadata=False,
  )
  with storage.explaining(folder):
    _tidy(folder)
    return ocp.CheckpointManager(folder, options=options)


def _tidy(folder: epath.Path) -> None:
  """Reports half-written checkpoints; sets aside what orbax cannot list."""
  first = jax.process_index() == 0
  finished = [str(step) for step in steps(folder)] if first else []
  for path in _inside(folder) if first else []:
    step = path.name.split(".orbax-checkpoint-tmp")[0]
    if step.isdigit() and path.name not in finished:
      _LOG.warning(
        "checkpoint %s of %s was never finished: it is removed, the one before"
        " it is used",
        step,
        folder,
      )
    elif step.isdigit() and not _score_readable(path):
      _set_aside(path, "its score cannot be read")
  _meet("sitrain_checkpoint_tidy")


def steps(folder: Any) -> list[int]:
  """The steps of which a stage has finished checkpoints, in order."""
  return sorted(ocp.utils.checkpoint_steps(folder))


def _inside(folder: epath.Path) -> list[epath.Path]:
  """What is in a folder; on gs:// an empty one does not exist."""
  return list(folder.iterdir()) if folder.exists() else []


def _meet(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _score_readable(path: epath.Path) -> bool:
  file = path / "metrics" / "metrics"
  try:
    return not file.exists() or isinstance(json.loads(file.read_text()), dict)
  except ValueError:
    return False


def _set_aside(path: epath.Path, reason: str) -> None:
  """Renames a damaged checkpoint, so that its step can be saved again."""
  _LOG.warning(
    "checkpoint %s cannot be used: %s; the one before it is used, and this one"
    " is kept as %s%s",
    path,
    reason,
    path.name,
    _UNUSABLE,
  )
  if jax.process_index() == 0:
    target = path.parent / (path.name + _UNUSABLE)
    if target.exists():
      target.rmtree()
    path.rename(target)


def save(
  manager: ocp.CheckpointManager,
  step: int,
  state: TrainState,
  progress: Progress,
  score: float,
) -> bool:
  """Saves in the background; the state may be donated when this returns.

  `step` grows from save to save; False where it does not, and nothing is
  written. A `score` that is not a finite number ranks last. Raises OSError,
  naming the folder, where the disk is full or the bucket refuses, possibly at
  the next `save` or at `finish`; finished checkpoints stay.
  """
  metrics = {_SCORE: float(score) if math.isfinite(score) else None}
  args = snapshot.save_args(state, progress, score)
  with storage.explaining(manager.directory):
    return manager.save(step, args=args, metrics=metrics)


def wait(manager: ocp.CheckpointManager) -> None:
  """Waits for the last save; raises what went wrong in it."""
  with storage.explaining(manager.directory):
    manager.wait_until_finished()


def finish(manager: ocp.CheckpointManager) -> None:
  """Waits for the last save and closes; raises what went wrong in it."""
  with storage.explaining(manager.directory):
    try:
      manager.wait_until_finished()
    finally:
      manager.close()  # It raises the same once more.


def _worth_logging(record: logging.LogRecord) -> bool:
  """False for tracebacks of orbax about what the main says in one line."""
  error = record.exc_info[1] if record.exc_info else None
  known = error and storage.meaning(error, "")
  return not (known or isinstance(error, KeyboardInterrupt))


def _none_usable(folder: Any) -> FileNotFoundError:
  return FileNotFoundError(
    errno.ENOENT,
    f"no usable checkpoint in {folder}: train this stage first, or start it"
    " anew by deleting the folder or by another workdir",
  )


def check_fresh(manager: ocp.CheckpointManager) -> None:
  """Raises FileNotFoundError where all checkpoints of a stage were damaged.

  Starting it anew would hide that something was lost.
  """
  folder = epath.Path(manager.directory)
  if any(path.name.endswith(_UNUSABLE) for path in _inside(folder)):
    raise _none_usable(folder)


def saved_steps(manager: ocp.CheckpointManager) -> list[int]:
  """The steps that there are to go on from, in order, as process 0 sees them.

  All processes have to ask.
  """
  return agree.from_first(lambda: sorted(manager.all_steps()))


def restore_last(
  manager: ocp.CheckpointManager, abstract_state: TrainState
) -> tuple[TrainState, Progress]:
  """The newest usable checkpoint, placed as `abstract_state` says.

  Args:
    manager: of the stage.
    abstract_state: ShapeDtypeStructs with shardings, of any device count.

  A damaged one is reported in one line and set aside. Raises
  FileNotFoundError where none is usable, and as snapshot.read does: then
  nothing is set aside.
  """
  for step in reversed(saved_steps(manager)):
    path = manager.directory / str(step)
    found, reason = snapshot.read(path, abstract_state)
    if not reason:
      return found
    _set_aside(path, reason)
    _meet("sitrain_checkpoint_set_aside")
    manager.reload()
  raise _none_usable(manager.directory)


def restore(
  folder: Any,
  which: str,
  abstract_state: Any,
  *,
  fit: Callable[..., dict[str, Any]] = snapshot.exactly,
) -> tuple[Any, Progress]:
  """The "best" or the "last" checkpoint of a stage, for reading only.

  `abstract_state` may be a part of the TrainState that was saved: fields that
  are `()` are not read. `fit` is snapshot's `exactly` or `in_any_dtype`. Raises
  as `restore_last` does; a damaged checkpoint is reported and left where it is.
  A run that goes on meanwhile may remove what is being read: then it is looked
  for again.
  """
  for _ in range(_LOOKS):
    found, gone = _first_usable(folder, which, abstract_state, fit)
    if found:
      return found[0]
    if not gone:
      break
  raise _none_usable(folder)


def _first_usable(folder, which, abstract_state, fit) -> tuple[list, bool]:
  """What is found, and whether something has vanished meanwhile."""
  gone = False
  for path in _ranked(folder, which):
    found, reason = snapshot.read(path, abstract_state, fit=fit)
    if not reason:
      return [found], False
    gone = not agree.from_first(path.exists)
    if gone:
      break
    _LOG.warning(
      "checkpoint %s cannot be used: %s; the next %s one is used",
      path,
      reason,
      which,
    )
  return [], gone


def check(
  folder: Any, which: str, abstract_state: Any, *, fit: Callable[..., dict]
) -> None:
  """Raises as `restore` does, by the first record that can be read."""
  path, record = _first_record(folder, which)
  fit(path, record["arrays"], snapshot.by_path(abstract_state))


def roles(folder: Any, which: str, field: str = "params") -> set[str]:
  """The roles of a stage's "best" or "last" checkpoint.

  `field` is "params" for those that are trained, "held" for the others.
  """
  names = _first_record(folder, which)[1]["arrays"]
  return {n.split(".")[1] for n in names if n.startswith(f"{field}.")}


def iterations(folder: Any, which: str) -> int:
  """Iterations of all stages up to a checkpoint of a stage."""
  progress = _first_record(folder, which)[1]["progress"]
  return progress["first"] + progress["step"]


def _first_record(folder: Any, which: str) -> tuple[epath.Path, dict]:
  """The first checkpoint whose record can be read, and the record."""

  def look():
    for _ in range(_LOOKS):  # As in `restore`.
      for path in _sorted(folder, which):
        if record := snapshot.known_record(path):
          return str(path), record
    raise _none_usable(folder)

  path, record = agree.from_first(look)
  snapshot.check_layout(path, record)
  return epath.Path(path), record


def _ranked(folder: Any, which: str) -> list[epath.Path]:
  """The finished checkpoints of a stage, those first that are wanted."""
  found = agree.from_first(lambda: list(map(str, _sorted(folder, which))))
  return list(map(epath.Path, found))


def _sorted(folder: Any, which: str) -> list[epath.Path]:
  """`_ranked`, as this process sees it."""
  if which not in ("best", "last"):
    raise ValueError(f"checkpoint {which!r} of {folder}: say best or last")
  with storage.explaining(folder):
    paths = [epath.Path(folder) / str(step) for step in steps(folder)]
  if which == "best":
    paths.sort(key=snapshot.score_of)  # Stable: of equal scores the later.
  return paths[::-1]
