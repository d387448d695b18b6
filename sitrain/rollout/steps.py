"""Search trees over the steps of a single attempt, each with a rollout.

A step is a fixed number of tokens, and a rollout continues it to the end of the
attempt, whose reward is the value of the step.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from sitrain.rollout import contexts, tree
from sitrain.rollout.play import play_on
from sitrain.types import Episodes, Params, Problems, Reply, Task


def grow(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  task: Task,
  problems: Problems,
  reward: Callable[[Episodes], Float[Array, " P"]],
  *,
  step: int,
  limit: int,
  temperature: float,
  **options: Any,
) -> Episodes:
  """Nodes as rows, see `tree.to_episodes`: turn 1 a step, 2 its rollout.

  Args:
    reward: of attempts; all tokens after the prompt are one.
    step: tokens of a step, or less where the attempt ends.
    limit: tokens of an attempt at the most; rows are cut there.
    options: nodes, depth, width and explore of `tree.search`.
  """
  columns = problems.prompt.shape[1] + limit
  turns = (step, limit - step) if step < limit else (limit,)

  def reply(answer, episodes, turn):
    nothing = jnp.zeros((turn.shape[0], 0), jnp.int32)
    return Reply(nothing, ends(episodes, task.eos))

  def write(keys, rows, live):
    rows = play_on(
      keys, model, params, problems, rows, samples=1, reply=reply, turns=turns,
      eos=task.eos, temperature=temperature, live=live,
    )
    return contexts.narrow(rows, columns)

  def evaluate(rows):
    return reward(rows), ends(rows, task.eos)

  return tree.to_episodes(
    tree.search(keys, write, evaluate, problems, **options)
  )


def depth_of(task: Task, turns: tuple[int, ...], step: int) -> int:
  """The most steps of an attempt.

  Raises ValueError for a task that is verified on the host, for another number
  of turns than one, and for steps that are empty or longer than an attempt.
  """
  if task.on_host:
    raise ValueError(
      "this task is verified on the host, and a search calls its verifier in "
      "every step: take a task that is verified on the device, such as maze"
    )
  if len(turns) != 1:
    raise ValueError(
      f"turns={tuple(turns)}: a tree of steps is grown in one turn: give one "
      "limit"
    )
  if not 1 <= step <= turns[0]:
    raise ValueError(
      f"step={step}: set the tokens of a step, from 1 to turns[0]={turns[0]}"
    )
  return -(-turns[0] // step)


def ends(episodes: Episodes, eos: tuple[int, ...]) -> Bool[Array, " B"]:
  """Whether turn 1 has an end token, so that nothing follows it."""
  end = jnp.isin(episodes.tokens, jnp.asarray(eos, jnp.int32))
  return jnp.any(end & (episodes.turn == 1), axis=1)
