"""Checkpoints of a stage: the last ones and the best one.

A checkpoint is one folder, created atomically; see snapshot.py for its content.
Folders may be on a disk or on gs://.
"""

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
SMALL = 2**30  # bytes that are read in seconds, to see whether they are right
_LOOKS = 3  # attempts, because a running stage removes checkpoints
_UNUSABLE = ".unusable"  # suffix of a damaged checkpoint that was set aside


def _score(metrics: Any) -> float:
  """The score of a checkpoint; without one -inf, which is never the best."""
  value = (metrics or {}).get(_SCORE)
  return -math.inf if value is None else float(value)


def open_manager(
  folder: Any, *, keep: int = 2, best: int = 1
) -> ocp.CheckpointManager:
  """Opens (and makes) the checkpoint folder of one stage for writing.

  Keeps the last `keep` checkpoints and the `best` ones by score; the later one
  of equal scores. Unfinished checkpoints of a killed run are reported and
  removed.
  """
  folder = epath.Path(folder)
  logging.getLogger("absl").addFilter(_worth_logging)
  storage.log_no_further_errors()
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
  """Reports unfinished checkpoints; sets aside those that orbax cannot list."""
  first = jax.process_index() == 0
  finished = [str(step) for step in steps(folder)] if first else []
  for path in _inside(folder) if first else []:
    step = path.name.split(".orbax-checkpoint-tmp")[0]
    if step.isdigit() and path.name not in finished:
      _LOG.warning(
        "checkpoint %s of %s was never finished: it is removed, the one before"
        " it is used, if there is one",
        step,
        folder,
      )
    elif step.isdigit() and not _score_readable(path):
      _set_aside(path, "its score cannot be read")
  _meet("sitrain_checkpoint_tidy")


def steps(folder: Any) -> list[int]:
  """The steps of a stage's finished checkpoints, in order."""
  return sorted(ocp.utils.checkpoint_steps(folder))


def _inside(folder: epath.Path) -> list[epath.Path]:
  """The content of a folder; on gs:// an empty folder does not exist."""
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
    "checkpoint %s cannot be used: %s; the one before it is used, if there is"
    " one, and this one is kept as %s%s",
    path,
    reason,
    path.name,
    _UNUSABLE,
  )
  _TOLD.add(str(path.parent))
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

  `step` must grow from save to save; else nothing is written and the result is
  False. A `score` that is not finite ranks last. Raises OSError, which names
  the folder, if the disk is full or the bucket refuses, possibly only at the
  next `save` or at `finish`; finished checkpoints stay.
  """
  metrics = {_SCORE: float(score) if math.isfinite(score) else None}
  args = snapshot.save_args(state, progress, score)
  with storage.explaining(manager.directory):
    return manager.save(step, args=args, metrics=metrics)


def wait(manager: ocp.CheckpointManager) -> None:
  """Waits for the last save; raises its error."""
  with storage.explaining(manager.directory):
    manager.wait_until_finished()


def finish(manager: ocp.CheckpointManager) -> None:
  """Waits for the last save and closes; raises its error."""
  with storage.explaining(manager.directory):
    try:
      manager.wait_until_finished()
    finally:
      manager.close()  # It raises the same error again.


def _worth_logging(record: logging.LogRecord) -> bool:
  """False for tracebacks of orbax that the main reports in one line."""
  error = record.exc_info[1] if record.exc_info else None
  known = error and storage.meaning(error, "")
  return not (known or isinstance(error, KeyboardInterrupt))


def set_aside(folder: Any) -> list[int]:
  """The steps of a stage's damaged checkpoints that were set aside, in order.

  A run that goes on may have saved some of these steps again.
  """
  names = [path.name for path in _inside(epath.Path(folder))]
  found = [x.removesuffix(_UNUSABLE) for x in names if x.endswith(_UNUSABLE)]
  return sorted(int(step) for step in found if step.isdigit())


def lost(folder: Any) -> str:
  """Names the damaged checkpoints of a stage without a usable one, and the fix.

  "" where there is none at all.
  """
  damaged = [f"{step}{_UNUSABLE}" for step in set_aside(folder)]
  damaged += map(str, steps(folder))
  if not damaged:
    return ""
  return (
    f"all that it has is damaged ({', '.join(damaged)}): put back a copy, or"
    " remove that folder and train the stage anew, or give another workdir"
  )


def _none_usable(folder: Any) -> FileNotFoundError:
  why = lost(folder) or "train this stage first"
  return FileNotFoundError(f"no usable checkpoint in {folder}: {why}")


_TOLD: set[str] = set()  # folders of whose damage this process has told


def _tell(folder: Any, which: str, used: int) -> None:
  """Warns a reader, once, that a checkpoint it might want was set aside.

  The last one is not missed where the run has gone on beyond it.
  """
  if jax.process_index() != 0 or str(folder) in _TOLD:
    return
  found = set_aside(folder)
  older = max(found, default=-1) > used
  if older or (found and which == "best"):
    _TOLD.add(str(folder))
    _LOG.warning(
      "%s has damaged checkpoints, which were set aside: %s. The %s of the"
      " others is used, %d%s", folder,
      ", ".join(f"{step}{_UNUSABLE}" for step in found), which, used,
      ", which is older" if older else "",
    )


def check_fresh(manager: ocp.CheckpointManager) -> None:
  """Raises FileNotFoundError if all checkpoints of a stage were damaged.

  Starting from scratch would hide the loss.
  """
  folder = epath.Path(manager.directory)
  if any(path.name.endswith(_UNUSABLE) for path in _inside(folder)):
    raise _none_usable(folder)


def saved_steps(manager: ocp.CheckpointManager) -> list[int]:
  """The steps that a run can resume from, in order, as seen by process 0.

  All processes must call it.
  """
  return agree.from_first(lambda: sorted(manager.all_steps()))


def restore_last(
  manager: ocp.CheckpointManager, abstract_state: TrainState
) -> tuple[TrainState, Progress]:
  """The newest usable checkpoint, with the shardings of `abstract_state`.

  Args:
    manager: of the stage.
    abstract_state: ShapeDtypeStructs with shardings, of any device count.

  A damaged checkpoint is reported in one line and set aside. Raises
  FileNotFoundError if none is usable, and the errors of snapshot.read; then
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
  fit: Callable[..., dict[str, Any]] = snapshot.same_dtypes,
) -> tuple[Any, Progress]:
  """The "best" or the "last" checkpoint of a stage, for reading only.

  `abstract_state` may be a part of the saved TrainState: fields that are `()`
  are not read. `fit` is snapshot's `same_dtypes` or `cast_dtypes`. Raises like
  `restore_last`; a damaged checkpoint is reported and left in place. A running
  stage may remove a checkpoint while it is read: then this searches again.
  """
  for _ in range(_LOOKS):
    found, gone = _first_usable(folder, which, abstract_state, fit)
    if found:
      return found[0]
    if not gone:
      raise _none_usable(folder)
  raise FileNotFoundError(
    f"each checkpoint of {folder} was removed while it was read: start the same"
    " command again"
  )


def _first_usable(folder, which, abstract_state, fit) -> tuple[list, bool]:
  """The first usable checkpoint, and whether one vanished while it was read."""
  gone = False
  for path in _ranked(folder, which):
    found, reason = snapshot.read(path, abstract_state, fit=fit)
    if not reason:
      _tell(folder, which, int(path.name))
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


def damage(folder: Any) -> str:
  """What is wrong with the last checkpoint of a finished stage; "" for nothing.

  The arrays are only read where they are small, see SMALL.
  """
  paths = _ranked(folder, "last")
  if not paths:
    return f"there is no checkpoint in {folder}: {lost(folder)}".rstrip(": ")
  reason = snapshot.damage(paths[0], most=SMALL)
  return f"checkpoint {paths[0]} is damaged: {reason}" if reason else ""


def check(
  folder: Any, which: str, abstract_state: Any, *, fit: Callable[..., dict]
) -> None:
  """Raises the errors of `restore`, from the first readable record alone."""
  path, record = _first_record(folder, which)
  fit(path, record["arrays"], snapshot.by_path(abstract_state))


def roles(folder: Any, which: str, field: str = "params") -> set[str]:
  """The roles of a stage's "best" or "last" checkpoint.

  `field` is "params" for trained roles, "held" for the others.
  """
  names = _first_record(folder, which)[1]["arrays"]
  return {n.split(".")[1] for n in names if n.startswith(f"{field}.")}


def iterations(folder: Any, which: str) -> int:
  """The iterations of all stages up to a checkpoint of a stage."""
  progress = _first_record(folder, which)[1]["progress"]
  return progress["first"] + progress["step"]


def _first_record(folder: Any, which: str) -> tuple[epath.Path, dict]:
  """The first checkpoint with a readable record, and the record."""

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
  """The finished checkpoints of a stage, the best or the last one first."""
  found = agree.from_first(lambda: list(map(str, _sorted(folder, which))))
  return list(map(epath.Path, found))


def _sorted(folder: Any, which: str) -> list[epath.Path]:
  """`_ranked`, as seen by this process."""
  if which not in ("best", "last"):
    raise ValueError(f"checkpoint {which!r} of {folder}: say best or last")
  with storage.explaining(folder):
    paths = [epath.Path(folder) / str(step) for step in steps(folder)]
  if which == "best":
    paths.sort(key=snapshot.score_of)  # Stable: later ones win ties.
  return paths[::-1]
