"""Each process answers and judges its own rows, on the host."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, PartitionSpec

from sitrain.rollout import by_turn
from sitrain.runtime.sharding import ROWS, groups, shard_rows
from sitrain.types import PAD, Metrics, Reply


def of_own_rows(judge: Callable, mesh: Mesh) -> tuple[Callable, Callable]:
  """(the judge on the rows of this process, the total of its metrics).

  The judge gets NumPy arrays: all problems, and the episodes of this process.
  The verdict that comes out covers all rows. The metrics cover the rows of this
  process, until `total(metrics)` adds up all processes: only verdicts and
  metrics are sent between them. Raises ValueError for a mesh where one row
  lives in two processes, because it would be judged twice.
  """
  if jax.process_count() == 1:
    same = lambda x: x
    return _judge_with(judge, jax.device_get, same), same
  _check_rows(mesh)
  # Not on the global mesh: what is computed here differs by process.
  alone = jax.make_mesh(
    (1,), ("alone",), axis_types=(AxisType.Auto,),
    devices=jax.local_devices()[:1],
  )

  def judge_alone(*given):
    with jax.set_mesh(alone):
      return jax.device_get(judge(*given))

  to_local = lambda tree: _local_rows(tree, mesh)
  to_global = lambda tree: _global_rows(tree, mesh)
  return _judge_with(judge_alone, to_local, to_global), _total


def hosts_of(mesh: Mesh) -> by_turn.Hosts:
  """Which rows this process answers between turns: those of its devices.

  Of several processes none stops early, so that they need not wait for each
  other to agree: a turn that no row writes takes no steps. Raises ValueError as
  `of_own_rows` does.
  """
  if jax.process_count() == 1:
    return by_turn.ONE
  _check_rows(mesh)
  return by_turn.Hosts(
    read=lambda tree: _local_rows(tree, mesh),
    write=lambda reply: _global_rows(reply, mesh),
    may_end=lambda ends: False,
  )


def together(answer: Callable[..., Reply]) -> Callable[..., Reply]:
  """The answers to rows that every process has, each of a share of them.

  `answer` is that of `by_turn.playing`. All processes return the same.
  """
  count, number = jax.process_count(), jax.process_index()
  if count == 1:
    return answer

  def answer_share(given, rows, turn, alive, seed):
    own = np.arange(len(alive)) % count == number
    reply = answer(given, rows, turn, alive & own, seed)
    tokens = np.where(own[:, None], reply.tokens, PAD)
    gather = multihost_utils.process_allgather
    tokens, done = gather((tokens, reply.done | ~own))
    return Reply(np.max(tokens, axis=0), np.all(done, axis=0))

  return answer_share


def _judge_with(judge, to_local, to_global) -> Callable:
  def judge_rows(key, state, problems, episodes):
    given = jax.device_get(problems), to_local(episodes)
    verdict, metrics = jax.device_get(judge(key, state, *given))
    to_float = lambda x: np.asarray(x, np.float32)
    return to_global(jax.tree.map(to_float, verdict)), metrics

  return judge_rows


def _total(metrics: Metrics) -> Metrics:
  gather = multihost_utils.process_allgather
  return jax.tree.map(lambda x: np.sum(gather(x), axis=0), metrics)


def _check_rows(mesh: Mesh) -> None:
  axes = [mesh.axis_names.index(axis) for axis in ROWS]
  devices = np.moveaxis(mesh.devices, axes, [0, 1])
  for group in devices.reshape(groups(mesh), -1):
    owners = {device.process_index for device in group}
    if len(owners) > 1:
      raise ValueError(
        f"config.mesh: rows of one group live in processes {sorted(owners)}, "
        "and each would verify them: make config.mesh.tensor a divisor of the "
        "devices of one process"
      )


def _local_rows(tree: Any, mesh: Mesh) -> Any:
  """The rows of every array that are on this process, as NumPy arrays."""
  local = multihost_utils.global_array_to_host_local_array
  rows = PartitionSpec(ROWS)
  return jax.tree.map(lambda x: np.asarray(local(x, mesh, rows)), tree)


def _global_rows(tree: Any, mesh: Mesh) -> Any:
  """Local rows of every process as global arrays, split like the episodes."""
  put = jax.make_array_from_process_local_data
  return jax.tree.map(lambda x: put(shard_rows(mesh), x), tree)
