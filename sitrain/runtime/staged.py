"""The loop of a stage whose judge runs on the host, wave by wave.

The same verbs, keys and results as the fused loop of train.py. The waves are
sampled without waiting, so the host judges one while the device samples the
next ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sitrain.runtime.sharding import ROWS
from sitrain.train import minibatches
from sitrain.types import Episodes, Method, Task, Verdict


def make_staged(
  method: Method, learn: Callable, *, waves: int, steps: int
) -> Callable:
  """`steps` iterations: (state, root_key) -> (state, metrics [steps]).

  `learn` is that of `train.make_parts`, compiled. Keys are those of
  `train.make_iteration`.
  """
  pose, generate = jax.jit(method.pose), jax.jit(method.generate)

  def iteration(state, root_key):
    key = jax.random.fold_in(root_key, state.step)
    collect_key, judge_key, learn_key = jax.random.split(key, 3)
    pose_key, row_key = jax.random.split(collect_key)
    problems = pose(pose_key, state)
    keys = jax.random.split(row_key, problems.prompt.shape[0])
    posed = [_wave((keys, problems), waves, i) for i in range(waves)]
    played = [generate(keys, state, wave) for keys, wave in posed]
    judged = [
      method.judge(key, state, wave, episodes)
      for key, (_, wave), episodes in zip(
        jax.random.split(judge_key, waves), posed, played
      )
    ]
    verdicts, metrics = zip(*judged)
    waved = [_stacked(x) for x in ([w for _, w in posed], played, verdicts)]
    state, learned = learn(state, learn_key, *waved)
    summed = jax.tree.map(lambda *x: sum(x), *metrics)
    return state._replace(step=state.step + 1), summed | learned

  def loop(state, root_key):
    rows = []
    for _ in range(steps):
      state, measured = iteration(state, root_key)
      rows.append(measured)
    return state, _stacked(rows)

  return loop


def _wave(tree, waves, i):
  return jax.tree.map(lambda x: x[i], minibatches(tree, waves))


def _stacked(trees):
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def on_host(task: Task, mesh: Mesh) -> Task:
  """The task with `verify` and `final` on the rows of this process alone.

  Their results are put together to arrays of all rows. A mesh where one row
  lives in two processes raises ValueError, for it would be judged twice.
  """
  if not task.on_host:
    return task
  _check_rows(mesh)

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    if isinstance(answer, jax.core.Tracer):
      raise ValueError("the task verifies on the host: set it to False")
    found = task.verify(*_mine((answer, episodes)), turns)
    return _everyones(found, mesh)

  def final(episodes: Episodes, turn: int):
    return _everyones(task.final(_mine(episodes), turn), mesh)

  return task._replace(verify=verify, final=final)


def _check_rows(mesh: Mesh) -> None:
  devices = np.moveaxis(
    mesh.devices, [mesh.axis_names.index(axis) for axis in ROWS], [0, 1]
  )
  for group in devices.reshape(*devices.shape[:2], -1).reshape(
    -1, devices[0, 0].size
  ):
    owners = {device.process_index for device in group}
    if len(owners) > 1:
      raise ValueError(
        f"config.mesh: rows of one group live in processes {sorted(owners)}, "
        "and each would verify them: make config.mesh.tensor a divisor of the "
        "devices of one process"
      )


def _mine(tree: Any) -> Any:
  """The rows of every array that this process holds, as NumPy arrays."""
  if jax.process_count() == 1:
    return jax.tree.map(np.asarray, tree)
  local = multihost_utils.global_array_to_host_local_array

  def rows(x):
    mesh = x.sharding.mesh
    return np.asarray(local(x, mesh, PartitionSpec(ROWS)))

  return jax.tree.map(rows, tree)


def _everyones(tree: Any, mesh: Mesh) -> Any:
  """Rows of all processes as arrays that are split like the episodes."""
  place = NamedSharding(mesh, PartitionSpec(ROWS))
  put = jax.make_array_from_process_local_data
  return jax.tree.map(lambda x: put(place, np.asarray(x)), tree)
