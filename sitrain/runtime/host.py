"""Tasks with verifiers on the host, and the stages that allow them."""

import contextlib
import contextvars
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.runtime.options import ConfigError
from sitrain.types import Episodes, Method, Task, Verdict


class HostOnly(ValueError):
  """A verifier that runs on the host was traced."""

  def __init__(self):
    super().__init__(
      "the task verifies or is answered on the host: set it to False"
    )


_shapes_only = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only():
  """Inside, host verifiers may be traced: only their shapes count."""
  token = _shapes_only.set(True)
  try:
    yield
  finally:
    _shapes_only.reset(token)


def on_host(task: Task) -> Task:
  """The task; a verifier on the host gets NumPy arrays.

  Tracing such a verifier raises HostOnly, except inside `shapes_only`.
  """
  if not task.on_host:
    return task

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    if is_traced((answer, episodes)):
      each = jnp.zeros((answer.shape[0], turns), jnp.float32)
      return Verdict(each, each, {name: each for name in task.rewards})
    return task.verify(*_numpy((answer, episodes)), turns)

  def final(episodes: Episodes, turns: int):
    if is_traced(episodes):
      return jnp.zeros((*episodes.problem.shape, turns), jnp.int32)
    return task.final(_numpy(episodes), turns)

  return task._replace(verify=verify, final=final)


def is_traced(tree: Any) -> bool:
  """Whether only shapes are needed; raises HostOnly if values are traced."""
  traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))
  if traced and not _shapes_only.get():
    raise HostOnly
  return traced


def _numpy(tree: Any) -> Any:
  return jax.tree.map(np.asarray, tree)


def check_host(field: str, options: dict) -> None:
  """Checks the options delay and rounds, which need a judge on the host.

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
  if options["rounds"] < 1:
    raise ConfigError(
      f"config.{field}.rounds={options['rounds']}: set 1 or more"
    )
  if options["rounds"] > 1 and options.get("writes"):
    raise ConfigError(
      f"config.{field}.rounds={options['rounds']}: a stage that writes keeps"
      " all its rows: set 1"
    )
  if options["rounds"] > 1 and options["delay"]:
    raise ConfigError(
      f"config.{field}.rounds={options['rounds']} needs config.{field}.delay=0:"
      " whether to pose again is known only when samples were judged"
    )


def check_rounds(field: str, rounds: int, method: Method) -> None:
  """Raises ConfigError for rounds of a method that wants no problem more.

  Which problems teach it something is the method's to say: others are thrown
  away, and it would never learn from them.
  """
  if rounds > 1 and method.wanted == ():
    raise ConfigError(
      f"config.{field}.rounds={rounds}: config.{field}.method, with the options"
      " that it has, learns from problems whose samples are rewarded alike too"
      " (its Method.wanted is ()): set rounds to 1"
    )
