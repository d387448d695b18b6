"""Control tags: the last token of a prompt says how good the answer will be."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sitrain.rollout.contexts import join
from sitrain.tasks.attempt import attempt
from sitrain.tasks.rows import some_problems
from sitrain.types import GIVEN, Episodes, Task


def ids_of(task: Task, good: str, bad: str) -> tuple[int, int]:
  """The tokens of both tags.

  Raises ValueError where one is not a single token of the task, and where
  prompts do not end with `good`, so that answers would be sampled without it.
  """
  ids = [task.tokenizer.encode(name) for name in (good, bad)]
  if [len(x) for x in ids] != [1, 1]:
    raise ValueError(
      f"good={good!r}, bad={bad!r}: each must be one token of this task"
    )
  if np.any(np.asarray(some_problems(task).prompt)[:, -1] != ids[0][0]):
    raise ValueError(
      f"good={good!r}: prompts do not end with it; set the task's tag={good!r}"
    )
  return ids[0][0], ids[1][0]


def retagged(episodes: Episodes, tag: Int[Array, " B"]) -> Episodes:
  """Rows [B T] whose prompts end with another tag than the sampler read."""
  in_prompt = jnp.cumsum(episodes.turn > GIVEN, axis=1) == 0
  in_prompt &= episodes.turn == GIVEN
  last = jnp.cumsum(in_prompt, axis=1) == jnp.sum(in_prompt, 1, keepdims=True)
  tokens = jnp.where(in_prompt & last, tag[:, None], episodes.tokens)
  return episodes._replace(tokens=tokens)


def chained(
  episodes: Episodes,
  tag: Int[Array, " B"],
  partner: Int[Array, " B"],
  length: int,
) -> Episodes:
  """Rows: prompt, tag, turn 1, and the tag and turn 1 of row `partner`.

  `length` is the limit of a turn. The second is marked as turn 2.
  """
  second = attempt(episodes, 1, length)[partner]
  return join(retagged(episodes, tag), tag[partner][:, None], second)
