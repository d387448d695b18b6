"""The loop of a stage whose judge runs on the host, wave by wave.

The same verbs, keys and results as the fused loop of train.py. The waves are
sampled without waiting, so the host judges one while the device samples the
next ones.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sitrain.runtime.sharding import ROWS, groups
from sitrain.train import minibatches
from sitrain.types import Episodes, Method, Task, Verdict


def make_staged(
  method: Method, learn: Callable, mesh: Mesh, *, waves: int, steps: int
) -> Callable:
  """`steps` iterations: (state, root_key) -> (state, metrics [steps]).

  `learn` is that of `train.make_parts`, compiled. Keys are those of
  `train.make_iteration`.
  """
  judge, generate = of_own_rows(method.judge, mesh), jax.jit(method.generate)
  pose = jax.jit(functools.partial(_pose, method, waves))
  stack = jax.jit(_stack)

  def iteration(state, root_key):
    key = jax.random.fold_in(root_key, state.step)
    collect_key, judge_key, learn_key = jax.random.split(key, 3)
    posed = pose(collect_key, state)
    played = [generate(keys, state, wave) for keys, wave in posed]
    judged = [
      judge(key, state, wave, episodes)
      for key, (_, wave), episodes in zip(
        jax.random.split(judge_key, waves), posed, played
      )
    ]
    verdicts, metrics = zip(*judged)
    problems = [wave for _, wave in posed]
    waved = stack(problems), stack(played), stack(list(verdicts))
    state, learned = learn(state, learn_key, *waved)
    summed = jax.tree.map(lambda *x: sum(x), *metrics)
    return state._replace(step=state.step + 1), summed | learned

  def loop(state, root_key):
    rows = []
    for _ in range(steps):
      state, measured = iteration(state, root_key)
      rows.append(jax.device_get(measured))
    return state, jax.tree.map(lambda *x: np.stack(x), *rows)

  return loop


def _pose(method, waves, key, state):
  """(keys, problems) of every wave."""
  pose_key, row_key = jax.random.split(key)
  problems = method.pose(pose_key, state)
  keys = jax.random.split(row_key, problems.prompt.shape[0])
  split = minibatches((keys, problems), waves)
  return [jax.tree.map(operator.itemgetter(i), split) for i in range(waves)]


def _stack(trees):
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def on_host(task: Task) -> Task:
  """The task with a verifier that gets NumPy arrays, where it is on the host.

  To trace it raises ValueError.
  """
  if not task.on_host:
    return task

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    return task.verify(_numpy(answer), _numpy(episodes), turns)

  def final(episodes: Episodes, turn: int):
    return task.final(_numpy(episodes), turn)

  return task._replace(verify=verify, final=final)


def _numpy(tree: Any) -> Any:
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree)):
    raise ValueError("the task verifies on the host: set it to False")
  return jax.tree.map(np.asarray, tree)


def of_own_rows(judge: Callable, mesh: Mesh) -> Callable:
  """The judge on the rows of this process alone; a verdict on all rows.

  With several processes each row is judged by the one that holds it, and
  nothing but verdicts and metrics passes between them. A mesh where one row
  lives in two processes raises ValueError, for it would be judged twice.
  """
  if jax.process_count() == 1:
    return judge
  _check_rows(mesh)
  gather = multihost_utils.process_allgather
  # Outside of the mesh of all: what is computed here differs by process.
  alone = jax.make_mesh(
    (1,), ("alone",), axis_types=(AxisType.Auto,),
    devices=jax.local_devices()[:1],
  )

  def judge_own(key, state, problems, episodes):
    whole = jax.tree.map(lambda x: gather(x, tiled=True), problems)
    mine = _mine(episodes, mesh)
    with jax.set_mesh(alone):
      found = judge(key, state, whole, mine)
      verdict, metrics = jax.device_get(found)
    summed = jax.tree.map(lambda x: np.sum(gather(x), axis=0), metrics)
    return _everyones(verdict, mesh), summed

  return judge_own


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


def _mine(tree: Any, mesh: Mesh) -> Any:
  """The rows of every array that this process holds, as NumPy arrays."""
  local = multihost_utils.global_array_to_host_local_array
  rows = PartitionSpec(ROWS)
  return jax.tree.map(lambda x: np.asarray(local(x, mesh, rows)), tree)


def _everyones(tree: Any, mesh: Mesh) -> Any:
  """Rows of all processes as arrays that are split like the episodes."""
  place = NamedSharding(mesh, PartitionSpec(ROWS))
  put = jax.make_array_from_process_local_data
  return jax.tree.map(lambda x: put(place, np.asarray(x)), tree)
