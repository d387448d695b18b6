"""Tasks that are verified on the host, and which stages may have them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.runtime.options import ConfigError
from sitrain.types import Episodes, Method, Task, Verdict


class HostOnly(ValueError):
  """A verifier of the host was traced, for so many turns."""

  def __init__(self, turns: int):
    super().__init__("the task verifies on the host: set it to False")
    self.turns = turns


def on_host(task: Task) -> Task:
  """The task with a verifier that gets NumPy arrays, where it is on the host.

  To trace it raises HostOnly, a ValueError.
  """
  if not task.on_host:
    return task

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    return task.verify(*_numpy((answer, episodes), turns), turns)

  def final(episodes: Episodes, turn: int):
    return task.final(_numpy(episodes, turn), turn)

  return task._replace(verify=verify, final=final)


def _numpy(tree: Any, turns: int) -> Any:
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree)):
    raise HostOnly(turns)
  return jax.tree.map(np.asarray, tree)


def check_host(field: str, options: dict, method: Method, task: Task) -> None:
  """Raises ConfigError where the judge cannot be traced, or delayed samples.

  `field` is "stage.<name>", and `options` are the stage's.
  """
  if options["delay"] not in (0, 1):
    raise ConfigError(f"config.{field}.delay={options['delay']}: set 0 or 1")
  if options["delay"] and options["fused"]:
    raise ConfigError(
      f"config.{field}.delay=1 needs config.{field}.fused=False: a fused stage "
      "has no host to wait for"
    )
  if options["delay"] and options["steps_per_call"] < 2:
    raise ConfigError(
      f"config.{field}.delay=1 begins with the second step of a call: set "
      f"config.{field}.steps_per_call to 2 or more"
    )
  if not (task.on_host and options["fused"]):
    return
  row = jnp.zeros((1, 8), jnp.int32)
  episodes = Episodes(row, row, row * 0.0, row, row[0, :1], row[0, :1])
  one = jax.tree.map(lambda x: x[:1], task.table)
  try:
    jax.eval_shape(method.judge, jax.random.key(0), (), one, episodes)
  except ValueError as error:
    raise ConfigError(f"config.{field}.fused=True: {error}") from error
