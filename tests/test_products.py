"""Products in bfloat16 that give float32, and which machines want them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from sitrain.models import decoder, products
from sitrain.runtime import machine, sharding

ROWS, INPUTS, OUTPUTS = 6, 5, 7
MODEL = decoder.Decoder(
  vocabulary=13, layers=2, width=8, heads=2, kv_heads=1, head_size=4,
  mlp_size=12, dtype=jnp.bfloat16, scan=True,
)


def drawn(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


@pytest.mark.parametrize("rows", [ROWS, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_a_product(rows, transposed):
  shape = (OUTPUTS, INPUTS) if transposed else (INPUTS, OUTPUTS)
  x, weight, given = drawn(0, rows, INPUTS), drawn(1, *shape), drawn(2, rows, 7)

  def plain(x, w):
    return x @ (w.T if transposed else w)

  got, back = jax.vjp(lambda x, w: products.wide(x, w, transposed), x, weight)
  f32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
  want, back_plain = jax.vjp(plain, *f32((x, weight)))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  found, wanted = back(f32(given)), back_plain(f32(given))
  for one, other in zip(found, wanted):
    assert one.dtype == jnp.bfloat16
    np.testing.assert_allclose(f32(one), other, rtol=1e-2, atol=1e-2)


def test_products_are_kept_for_the_gradient_as_bits():
  def layer(x, weights):
    for weight in weights:
      x = products.kept(products.wide(x, weight, False).astype(x.dtype))
      x = jax.nn.silu(x)
    return x

  def program(policy):
    def loss(x, weights):
      once = jax.checkpoint(layer, policy=policy, prevent_cse=False)
      y, _ = jax.lax.scan(lambda x, w: (once(x, w), None), x, weights)
      return jnp.sum(y.astype(jnp.float32) ** 2)

    grad = jax.grad(loss, argnums=(0, 1))
    return jax.make_jaxpr(grad)(drawn(2, 4, 5), weights).jaxpr

  weights = drawn(0, 3, 5, 7), drawn(1, 3, 7, 5)
  own = program(products.POLICY)
  other = program(jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
  again = len(list(products_in(other))) - len(list(products_in(own)))
  assert again == 2  # both products of a layer
  bits = [x for x in carried(own) if x.aval.dtype == jnp.uint16]
  assert [x.aval.shape for x in bits] == [(3, 4, 7), (3, 4, 5)]
  assert all(x.aval.dtype != jnp.uint16 for x in carried(other))


def carried(jaxpr):
  """What loops of a program give, all iterations side by side."""
  for one in jaxpr.eqns:
    if one.primitive.name == "scan":
      yield from one.outvars
    for inner in jaxprs_in_params(one.params):
      yield from carried(inner)


def test_what_is_kept_has_the_gradient_of_what_it_was():
  x, given = drawn(0, 4, 5), drawn(1, 4, 5)
  got, back = jax.vjp(lambda x: products.kept(x * 2), x)
  np.testing.assert_array_equal(got, x * 2)
  np.testing.assert_array_equal(back(given)[0], given * 2)


def products_in(jaxpr):
  """(dtypes of both sides, dtype of the result) of products of matrices."""
  for one in jaxpr.eqns:
    if one.primitive.name == "dot_general":
      sides = [x.aval for x in one.invars]
      if all(x.ndim == 2 for x in sides):
        yield {x.dtype.name for x in sides}, one.outvars[0].aval.dtype.name
    for inner in jaxprs_in_params(one.params):
      yield from products_in(inner)


def scored(model, params):
  tokens = jnp.arange(6, dtype=jnp.int32).reshape(2, 3)
  attend = decoder.sees_rows(jnp.ones_like(tokens), jnp.zeros_like(tokens))
  hidden, _ = model.apply({"params": params}, tokens, attend)
  logits = model.apply({"params": params}, hidden, method="logits")
  return jnp.sum(jax.nn.log_softmax(logits)[..., 1]), logits


def test_a_cpu_computes_every_product_of_a_bfloat16_model_that_way():
  model = machine.suited(MODEL.clone(remat="auto"), sharding.make_mesh())
  assert model.remat == "dots"
  grad = jax.grad(lambda model, p: scored(model, p)[0], argnums=1)
  params = decoder.init(MODEL, jax.random.key(0))
  found = list(products_in(jax.make_jaxpr(grad, static_argnums=0)(
    model, params
  ).jaxpr))
  assert len(found) >= 3 * 8
  assert all(x == ({"bfloat16"}, "float32") for x in found)
  score = jax.jit(scored, static_argnums=0)
  got, want = (score(one, params)[1] for one in (model, MODEL))
  np.testing.assert_allclose(got, want, atol=0.05)


def test_float32_and_accelerators_stay_as_they_are():
  f32 = MODEL.clone(dtype=jnp.float32, remat="none")
  assert machine.suited(f32, sharding.make_mesh()) == f32
  model = machine.suited_to(MODEL.clone(remat="auto"), "tpu")
  assert (model.wide, model.remat) == (False, "full")
