"""One checkpoint: its arrays by path, its record, and whether both are whole.

Of every array the record holds dtype, shape and a fingerprint. Orbax itself
does not notice when bytes of an array change on the disk.
"""

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32

from sitrain.runtime import storage
from sitrain.types import Progress

LAYOUT = 2  # of a checkpoint; records without a number have the first
_FIELDS = ("progress", "score", "arrays")
_ARRAYS, _RECORD = "arrays", "record"
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}
_PRIMES = (1, 7919, 104729, 1299709, 15485863, 32452843, 49979687, 67867967)


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
def _fingerprints(arrays: dict[str, Any]) -> dict[str, Any]:
  return {name: fingerprint(jnp.asarray(x)) for name, x in arrays.items()}


def describe(arrays: dict[str, Any]) -> dict[str, list]:
  """Of every array: dtype, shape and fingerprint, as JSON."""
  numbers = jax.device_get(_fingerprints(arrays))
  return {
    name: [str(jnp.asarray(x).dtype), list(jnp.shape(x)), int(numbers[name])]
    for name, x in arrays.items()
  }


def save_args(
  tree: Any, progress: Progress, score: float
) -> ocp.args.Composite:
  """What orbax is to write for one checkpoint."""
  arrays = by_path(tree)
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
    "arrays": describe(arrays),
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


def has_record(path: Any) -> bool:
  """Whether the record of a checkpoint can be read."""
  try:
    return bool(read_record(path))
  except (FileNotFoundError, ValueError):
    return False


def score_of(path: Any) -> float:
  """The score of the checkpoint at `path`; -inf where it has none."""
  try:
    value = read_record(path)["score"]
  except (OSError, ValueError, KeyError):
    return -math.inf
  return -math.inf if value is None else float(value)


def _progress(fields: dict[str, Any]) -> Progress:
  """The Progress of a record; null stands for what was no number."""
  nan = float("nan")
  window = {
    name: [nan if x is None else x for x in values]
    for name, values in fields["window"].items()
  }
  best = -math.inf if fields["best"] is None else fields["best"]
  return Progress(**{**fields, "window": window, "best": best})


def exactly(path: Any, saved: dict, wanted: dict) -> dict[str, Any]:
  """What to read: `wanted`, if it is what was saved.

  Raises ValueError where the run wants other arrays.
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


def in_any_dtype(path: Any, saved: dict, wanted: dict) -> dict[str, Any]:
  """As `exactly`, but floating point numbers may have been saved in another."""
  read = dict(wanted)
  for name, x in wanted.items():
    dtype = jnp.dtype(saved[name][0]) if name in saved else x.dtype
    if all(jnp.issubdtype(d, jnp.floating) for d in (dtype, x.dtype)):
      read[name] = jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
  return exactly(path, saved, read)


def _check_layout(path: Any, record: Any) -> None:
  """Raises ValueError for a record that another version has written."""
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


def layout_checked(path: Any) -> dict[str, Any]:
  """The record of a checkpoint; ValueError where another version wrote it."""
  record = read_record(path)
  _check_layout(path, record)
  return record


def check(path: Any, abstract: Any, *, fit: Callable[..., dict]) -> None:
  """Raises as `read` does, without reading the arrays."""
  record = layout_checked(path)
  fit(path, record["arrays"], by_path(abstract))


def _first_of_its_kind(record: logging.LogRecord) -> bool:
  """False for what asyncio logs of the other arrays of a damaged checkpoint.

  Orbax reads them side by side and raises the first error; those of the others
  are logged with a traceback when they are collected, at any time later.
  """
  return "exception was never retrieved" not in record.getMessage()


def _read_arrays(path: Any, wanted: dict[str, Any]) -> dict[str, Any]:
  logging.getLogger("asyncio").addFilter(_first_of_its_kind)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    return checkpointer.restore(
      path / _ARRAYS,
      args=ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
      ),
    )


def _damaged(arrays: dict[str, Any], saved: dict) -> list[str]:
  found = jax.device_get(_fingerprints(arrays))
  return [name for name in arrays if int(found[name]) != saved[name][2]]


def read(
  path: Any, abstract: Any, *, fit: Callable[..., dict[str, Any]] = exactly
) -> tuple[Any, str]:
  """((tree, Progress), "") or, of a damaged checkpoint, ((), the reason).

  Args:
    path: the folder of one checkpoint.
    abstract: ShapeDtypeStructs with shardings; a part of what was saved.
    fit: what may differ, `exactly` or `in_any_dtype`.

  Raises ValueError where the checkpoint is of other arrays or layout.
  """
  wanted, record, reason = by_path(abstract), {}, ""
  try:
    record = read_record(path)
  except Exception as error:  # noqa: BLE001 Any damage; the next may do.
    reason = f"its record cannot be read: {_damage(error, path)}"
  if reason := _agreed(reason):
    return (), reason
  _check_layout(path, record)
  arrays, saved = {}, record["arrays"]
  found = fit(path, saved, wanted)
  try:
    arrays = _read_arrays(path, found)
    if bad := _damaged(arrays, saved):
      reason = f"the numbers of {bad[0]} have changed since they were saved"
  except Exception as error:  # noqa: BLE001 Tensorstore raises many types.
    reason = f"its arrays cannot be read: {_damage(error, path)}"
  if reason := _agreed(reason):
    return (), reason
  leaves = [arrays.pop(name).astype(x.dtype) for name, x in wanted.items()]
  tree = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
  return (tree, _progress(record["progress"])), ""


def _agreed(reason: str) -> str:
  """What is damaged for one process is damaged for all of them."""
  if jax.process_count() == 1:
    return reason
  bad = multihost_utils.process_allgather(np.array(bool(reason)))
  return reason or ("another process cannot read it" if bad.any() else "")


def _damage(error: Exception, path: Any) -> str:
  """An error in a line; raised where not the checkpoint is at fault."""
  if storage.meaning(error, path):
    raise storage.explained(error, path) from error
  text = str(error).strip().splitlines()
  return f"{type(error).__name__} {text[0][:120] if text else ''}".strip()
