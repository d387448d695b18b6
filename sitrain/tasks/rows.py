"""Problems of a task: the next rows of its table, and their shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from sitrain.types import Key, Problems, Task


def take_rows(
  table: Problems, key: Key, step: int | Int[Array, ""], n: int
) -> Problems:
  """The `n` problems of iteration `step`, each row once in every epoch.

  Problem i of a step is place step * n + i of the table, shuffled anew for
  every epoch and repeated: a function of (key, step, i) alone, so there is no
  position to save. Raises ValueError for an empty table.
  """
  size = table.prompt.shape[0]
  if not size:
    raise ValueError("the table has no rows: give one with problems")
  first = step * n // size
  epochs = first + jnp.arange((n - 1) // size + 2)
  shuffle = jax.vmap(
    lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), size)
  )
  place = step * n + jnp.arange(n)
  row = shuffle(epochs)[place // size - first, place % size]
  return jax.tree.map(lambda x: x[row], table)


def some_problems(task: Task) -> Problems:
  """Problems to check a task by: its table, or one that is drawn."""
  if task.table != ():
    return task.table
  # A loop is one program. Without it, each of a hundred operations is compiled.
  keys = jax.random.key(0)[None]
  drawn = jax.lax.map(lambda key: task.problems(key, 1), keys)
  return jax.tree.map(lambda x: x[0], drawn)


def problem_shape(task: Task) -> Problems:
  """Shapes and dtypes of one problem [1 ...] of a task; nothing is drawn."""
  return jax.eval_shape(
    lambda: jax.tree.map(lambda x: x[:1], some_problems(task))
  )
