"""The problems of a table, in an order that needs no iterator."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from sitrain.types import Key, Problems


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
