"""One checkpoint: its arrays by path, its record, and checks of both.

The record has dtype, shape and a fingerprint of every array. Orbax itself does
not notice when bytes of an array change on the disk.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32

from sitrain.runtime import agree, storage
from sitrain.types import Progress

LAYOUT = 2  # of a checkpoint; records without a number have layout 1
_FIELDS = ("progress", "score", "arrays")
_ARRAYS, _RECORD = "arrays", "record"
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}
_FINITE = ("params.", "opt_state.", "held.")  # these have to be finite
_PRIMES = (1, 7919, 104729, 1299709, 15485863, 32452843, 49979687, 67867967)


class NotFinite(ValueError):
  """Parameters are infinite or NaN."""


def by_path(tree: Any) -> dict[str, Any]:
  """The arrays of a tree by their path, joined by "."."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in leaves
  }


def fingerprint(x: Array) -> UInt32[Array, ""]:
  """A number that changes with any bit, and is the same for any sharding.

  sum_i mix(bits_i ^ place_i) modulo 2^32, where place_i = 1 + 2 p . i with a
  prime p per dimension, and mix is the finalizer of MurmurHash3. It is a
  bijection, so one changed element always shows; integers add up exactly in
  any order.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(
    x, _UNSIGNED.get(x.dtype.itemsize, jnp.uint32)
  ).astype(jnp.uint32)
  place = jnp.uint32(1)
  for dim in range(bits.ndim):
    index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim)
    place = place + 2 * index * jnp.uint32(_PRIMES[dim % len(_PRIMES)])
  return jnp.sum(_mix(bits ^ place), dtype=jnp.uint32)


def _mix(h: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


@jax.jit
def _measured(arrays: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
  """The fingerprint of every array, and whether all of it is finite."""
  return {
    name: (fingerprint(jnp.asarray(x)), jnp.all(jnp.isfinite(x)))
    for name, x in arrays.items()
  }


def lower(stage: str) -> str:
  """What to do about a stage whose numbers are not finite."""
  return (
    f"lower config.stage.{stage}.optimizer.learning_rate, and remove the folder"
    f" {stage} of the workdir, for a stage that has begun keeps its own"
  )


def check_finite(tree: Any, what: str, fix: str) -> None:
  """Raises NotFinite if a TrainState has NaN or infinite parameters.

  `what` starts the line, as in "step 3 has", and `fix` ends it. Trained
  parameters, optimizer state and held parameters are checked.
  """
  _check_finite(jax.device_get(_measured(by_path(tree))), what, fix)


def _check_finite(found: dict[str, Any], what: str, fix: str) -> None:
  bad = [
    name for name, (_, finite) in found.items()
    if not finite and name.startswith(_FINITE)
  ]
  if bad:
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise NotFinite(
      f"{what} numbers that are not finite in {bad[0]}{more}: {fix}"
    )


def _described(arrays: dict[str, Any], found: dict[str, Any]) -> dict:
  """Dtype, shape and fingerprint of every array, as JSON."""
  return {
    name: [str(jnp.asarray(x).dtype), list(jnp.shape(x)), int(found[name][0])]
    for name, x in arrays.items()
  }


def save_args(
  tree: Any, progress: Progress, score: float
) -> ocp.args.Composite:
  """The arguments with which orbax writes one checkpoint.

  Raises NotFinite for NaN or infinite parameters: those are never saved.
  """
  arrays = by_path(tree)
  found = jax.device_get(_measured(arrays))
  _check_finite(
    found, f"step {progress.step} of {progress.stage} is not saved, it has",
    f"{lower(progress.stage)}; the last checkpoint is from before that",
  )
  number = score if math.isfinite(score) else None  # JSON knows no NaN
  window = {
    name: [x if math.isfinite(x) else None for x in values]
    for name, values in progress.window.items()
  }
  best = progress.best if math.isfinite(progress.best) else None
  record = {
    "layout": LAYOUT,
    "progress": progress._replace(window=window, best=best)._asdict(),
    "score": number,
    "arrays": _described(arrays, found),
  }
  return ocp.args.Composite(
    **{
      _ARRAYS: ocp.args.PyTreeSave(arrays),
      _RECORD: ocp.args.JsonSave(record),
    }
  )


def read_record(path: Any) -> dict[str, Any]:
  """The record of the checkpoint at `path`."""
  return json.loads((path / _RECORD / "metadata").read_text())


def known_record(path: Any) -> dict[str, Any]:
  """The record of a checkpoint, {} if it is damaged; raises like `read`."""
  record, damage = _tried(lambda: read_record(path), path, "record")
  return record if not damage and isinstance(record, dict) else {}


def score_of(path: Any) -> float:
  """The score of the checkpoint at `path`; -inf if it has none.

  Raises like `read`, so that the best checkpoint is not skipped silently.
  """
  value = known_record(path).get("score")
  return -math.inf if value is None else float(value)


def _progress(fields: dict[str, Any]) -> Progress:
  """The Progress of a record; null becomes NaN (-inf for `best`)."""
  nan = float("nan")
  window = {
    name: [nan if x is None else x for x in values]
    for name, values in fields["window"].items()
  }
  best = -math.inf if fields["best"] is None else fields["best"]
  return Progress(**{**fields, "window": window, "best": best})


def same_dtypes(path: Any, saved: dict, wanted: dict) -> dict[str, Any]:
  """The arrays to read: `wanted`, if shapes and dtypes are those saved.

  Raises ValueError if the run needs other arrays.
  """
  for name, x in wanted.items():
    want = f"{x.dtype}{list(x.shape)}"
    have = f"{saved[name][0]}{saved[name][1]}" if name in saved else "nothing"
    if want != have:
      raise ValueError(
        f"checkpoint {path} has {have} for {name}, this run needs {want}: use"
        " the config that it was trained with, or another workdir"
      )
  return wanted


def cast_dtypes(path: Any, saved: dict, wanted: dict) -> dict[str, Any]:
  """As `same_dtypes`, but floats may have been saved in another float dtype."""
  read = dict(wanted)
  for name, x in wanted.items():
    dtype = jnp.dtype(saved[name][0]) if name in saved else x.dtype
    if all(jnp.issubdtype(d, jnp.floating) for d in (dtype, x.dtype)):
      read[name] = jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
  return same_dtypes(path, saved, read)


def check_layout(path: Any, record: Any) -> None:
  """Raises ValueError for a record of another version."""
  whole = isinstance(record, dict) and all(f in record for f in _FIELDS)
  layout = record.get("layout", 1) if isinstance(record, dict) else 0
  if layout != LAYOUT:
    has = f"layout {layout}"
  elif not whole or set(record["progress"]) != set(Progress._fields):
    has = "an older layout"
  else:
    return
  raise ValueError(
    f"checkpoint {path} has {has}, this version of sitrain reads {LAYOUT}: go"
    " on with the version that wrote it, or use another workdir"
  )


def _read_arrays(path: Any, wanted: dict[str, Any]) -> dict[str, Any]:
  """Reads this process's part; unlike a Checkpointer, without a barrier."""
  storage.log_no_further_errors()
  folder = path / _ARRAYS
  if not folder.exists():
    raise FileNotFoundError(f"there is no {folder}")
  handler = ocp.PyTreeCheckpointHandler()
  try:
    return handler.restore(
      folder,
      args=ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
      ),
    )
  finally:
    handler.close()


def read(
  path: Any, abstract: Any, *, fit: Callable[..., dict[str, Any]] = same_dtypes
) -> tuple[Any, str]:
  """((tree, Progress), ""), or ((), reason) for a damaged checkpoint.

  All processes return the same result. Only proven damage counts (see
  storage.is_damage); other errors may be temporary and are raised.

  Args:
    path: the folder of one checkpoint.
    abstract: ShapeDtypeStructs with shardings; a part of what was saved.
    fit: what may differ, `same_dtypes` or `cast_dtypes`.

  Raises ValueError for other arrays or another layout, NotFinite for NaN or
  infinite parameters, and StorageError, which names the checkpoint, if it
  cannot be read.
  """
  wanted = by_path(abstract)
  record, reason = agree.from_first(
    lambda: _tried(lambda: read_record(path), path, "record")
  )
  if reason:
    return (), reason
  check_layout(path, record)
  saved = record["arrays"]
  found = fit(path, saved, wanted)
  arrays, reason = _tried_by_all(lambda: _read_arrays(path, found), path)
  if reason:
    return (), reason
  measured, _ = _tried_by_all(lambda: jax.device_get(_measured(arrays)), path)
  bad = [name for name in arrays if int(measured[name][0]) != saved[name][2]]
  if bad:
    return (), f"the numbers of {bad[0]} have changed since they were saved"
  _check_finite(
    measured, f"checkpoint {path} holds",
    "the run that saved it had diverged: delete it to use the one before it",
  )
  leaves = [arrays.pop(name).astype(x.dtype) for name, x in wanted.items()]
  tree = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
  return (tree, _progress(record["progress"])), ""


def damage(path: Any, *, most: int) -> str:
  """What is wrong with the checkpoint at `path`, as far as it shows; or "".

  Arrays of up to `most` bytes in all are read and compared with the record, on
  one device; of larger ones only their folder is looked for. All processes must
  call it. Raises like `read`.
  """
  record, reason = agree.from_first(
    lambda: _tried(lambda: read_record(path), path, "record")
  )
  if reason:
    return reason
  check_layout(path, record)
  device = jax.local_devices()[0]
  here = jax.sharding.SingleDeviceSharding(device)
  arrays = {
    name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=here)
    for name, (dtype, shape, _) in record["arrays"].items()
  }
  if sum(x.size * x.dtype.itemsize for x in arrays.values()) <= most:
    with jax.set_mesh(jax.sharding.Mesh([device], ("here",))):  # Not the run's.
      return read(path, arrays)[1]
  there = agree.from_first((path / _ARRAYS / "_METADATA").exists)
  return "" if there else "its arrays are not there"


def _tried(make: Callable[[], Any], path: Any, what: str) -> tuple[Any, str]:
  """(make(), ""), or ((), the damage); raises other errors."""
  try:
    return make(), ""
  except Exception as error:
    if not storage.is_damage(error, path):
      raise storage.unreadable(error, path) from error
    return (), f"its {what} cannot be read: {storage.in_words(error, path)}"


def _tried_by_all(make: Callable[[], Any], path: Any) -> tuple[Any, str]:
  """Like `_tried`, for arrays, of which every process reads its own part."""
  value, reason, error = (), "", None
  try:
    value, reason = _tried(make, path, "arrays")
  except storage.StorageError as failed:
    error = failed
  level, words = agree.worst(
    2 if error else int(bool(reason)), str(error) if error else reason
  )
  if error:
    raise error
  if level == 2:
    raise storage.StorageError(words)
  return value, words if level else ""
