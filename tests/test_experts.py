"""Mixtures of experts: against a loop, gradients, blocks, bad options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.models import experts, grouped

ROWS, WIDTH, SIZE, COUNT, TAKEN = 40, 6, 5, 4, 2


def drawn(seed, *shape):
  draw = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(draw, jnp.float32)


PARAMS = {
  "router": drawn(0, WIDTH, COUNT),
  "experts_gate": drawn(1, COUNT, WIDTH, SIZE),
  "experts_up": drawn(2, COUNT, WIDTH, SIZE),
  "experts_down": drawn(3, COUNT, SIZE, WIDTH),
}
X = drawn(4, ROWS, WIDTH)


def by_hand(x, params, sum_to_one):
  """One row and one expert at a time."""
  found, x, params = np.zeros_like(x), *jax.tree.map(np.asarray, (x, params))
  for i, row in enumerate(x):
    logits = row @ params["router"]
    chance = np.exp(logits - logits.max())
    chance /= chance.sum()
    best = np.argsort(-chance)[:TAKEN]
    total = chance[best].sum() if sum_to_one else 1.0
    for e in best:
      gate = row @ params["experts_gate"][e]
      y = gate / (1 + np.exp(-gate)) * (row @ params["experts_up"][e])
      found[i] += chance[e] / total * (y @ params["experts_down"][e])
  return found


@pytest.mark.parametrize("sum_to_one", [True, False])
def test_each_row_gets_its_experts_by_hand(sum_to_one):
  mix = jax.jit(functools.partial(
    experts.mixture, per_token=TAKEN, activation="silu", sum_to_one=sum_to_one
  ))
  expected = by_hand(X, PARAMS, sum_to_one)
  np.testing.assert_allclose(mix(X, PARAMS), expected, atol=1e-4)
  # All rows want the same experts, and none is turned away.
  same = jnp.broadcast_to(X[:1], X.shape)
  expected = np.broadcast_to(expected[:1], X.shape)
  np.testing.assert_allclose(mix(same, PARAMS), expected, atol=1e-4)


# Empty groups, edges of blocks, all rows, more groups than rows.
SIZES = [
  [10, 0, 25, 5], [0, 0, 40, 0], [8, 16, 16, 0], [0, 1, 0, 39],
  [1] * 40 + [0] * 24,
]


@pytest.mark.parametrize("sizes", SIZES, ids=range(len(SIZES)))
def test_products_by_block_are_those_of_ragged_dot(sizes):
  """With their gradients; TPUs take ragged_dot."""
  count = len(sizes)
  rows, matrices = drawn(5, ROWS, WIDTH), drawn(6, count, WIDTH, SIZE)
  weight, sizes = drawn(7, ROWS, SIZE), jnp.array(sizes, jnp.int32)

  def both(product, rows, matrices, sizes):
    found = product(rows, matrices, sizes)
    return jnp.sum(found * weight), found

  def of(product):
    grad = jax.value_and_grad(
      functools.partial(both, product), (0, 1), has_aux=True
    )
    return jax.tree.leaves(jax.jit(grad)(rows, matrices, sizes))

  assert grouped._block_size(rows, sizes) == (10 if count == 4 else 8)
  for own, theirs in zip(
    of(grouped.product), of(jax.lax.ragged_dot), strict=True
  ):
    np.testing.assert_allclose(own, theirs, atol=1e-5)


def test_a_block_of_many_rows_computes_little_more_than_the_rows():
  """128 experts would cost 128 times as much if each saw all rows."""
  rows = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
  sizes = jax.ShapeDtypeStruct((128,), jnp.int32)
  places = jax.eval_shape(
    lambda sizes: grouped._block_places(sizes, 4096, 32), sizes
  )
  assert grouped._block_size(rows, sizes) == 32
  assert places[0].shape[0] * 32 == 2 * 4096


def test_another_activation_is_refused():
  with pytest.raises(ValueError, match="activation 'relu': not silu"):
    experts.mixture(
      X, PARAMS, per_token=1, activation="relu", sum_to_one=True
    )
