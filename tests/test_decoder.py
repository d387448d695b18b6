"""The decoder against itself: caches, paths, pads, scan, remat, layouts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from sitrain.models import decoder
from sitrain.models.blocks import RopeScaling

VOCABULARY, ROWS, LENGTH = 19, 3, 9

PLAIN = decoder.Decoder(
  vocabulary=VOCABULARY,
  layers=2,
  width=16,
  heads=4,
  kv_heads=2,
  head_size=8,
  mlp_size=24,
)
# Everything that a family may ask for, with a window shorter than the rows.
RICH = PLAIN.clone(
  norm_plus_one=True,
  post_norms=True,
  qkv_bias=True,
  out_bias=True,
  qk_norm=True,
  rope_base=500.0,
  rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 32),
  local=(True, False),
  window=3,
  local_rope_base=50.0,
  attention_scalar=11.0,
  attention_cap=2.0,
  logit_cap=3.0,
  activation="gelu_tanh",
  tied=False,
  embed_scale=4.0,
)
# What RICH excludes; one layer rotates and one does not.
OTHER = PLAIN.clone(
  pre_norms=False,
  post_norms=True,
  qk_norm=True,
  qk_norm_whole=True,
  rope=(True, False),
  rope_share=0.5,
  experts=3,
  experts_per_token=2,
)


@functools.cache
def params(model):
  """First parameters with noise everywhere, norms and biases included."""
  first = jax.jit(decoder.init, static_argnums=0)(model, jax.random.key(0))
  leaves, tree = jax.tree.flatten(first)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noise = [jax.random.normal(k, x.shape) * 0.2 for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise)])


def some_tokens(seed=0):
  return jax.random.randint(
    jax.random.key(seed), (ROWS, LENGTH), 0, VOCABULARY, jnp.int32
  )


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens, attend):
  variables = {"params": params}
  hidden, cache = model.apply(variables, tokens, attend)
  assert cache == ()
  return model.apply(variables, hidden, method="logits")


def whole_rows():
  turn = jnp.ones((ROWS, LENGTH), jnp.int32)
  return decoder.sees_rows(turn, jnp.zeros_like(turn))


def primitives(jaxpr):
  """All equations of a jaxpr, the inner ones included."""
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in jaxprs_in_params(eqn.params):
      yield from primitives(inner)


def test_sees_rows_by_hand():
  turn = jnp.array([[0, 1, 1, 1, 2, -1]], jnp.int32)
  path = jnp.array([[0, 1, 2, 1, 0, 0]], jnp.int32)
  attend = decoder.sees_rows(turn, path)
  expected = [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 1, 0, 0, 0],
    [1, 1, 0, 1, 0, 0],
    [1, 1, 1, 1, 1, 0],
    [0, 0, 0, 0, 0, 0],
  ]
  np.testing.assert_array_equal(attend.visible[0], np.array(expected, bool))
  np.testing.assert_array_equal(attend.position[0], [0, 1, 1, 2, 4, 0])


def test_a_model_has_its_parameters_and_no_others():
  shapes = jax.eval_shape(
    functools.partial(decoder.init, PLAIN), jax.random.key(0)
  )
  assert set(shapes) == {"embed", "layers", "norm"}
  assert {x.shape[0] for x in jax.tree.leaves(shapes["layers"])} == {2}
  assert not [k for k in shapes["layers"] if "bias" in k or "post" in k]
  assert set(params(RICH)) == {"embed", "layers", "norm", "head"}


@pytest.mark.parametrize(
  "model", [PLAIN, RICH, OTHER], ids=["plain", "rich", "other"]
)
def test_decoding_token_by_token_is_the_full_forward(model):
  tokens, start = some_tokens(), jnp.array([0, 2, 5], jnp.int32)
  column = jnp.arange(LENGTH)
  real = column >= start[:, None]
  turn = jnp.where(real, 1, -1).astype(jnp.int32)
  attend = decoder.sees_rows(turn, jnp.zeros_like(turn))
  tokens = jnp.where(real, tokens, -1)
  full = logits(model, params(model), tokens, attend)
  each = {"params": decoder.unstack(params(model))}

  @functools.partial(jax.jit, static_argnums=2)
  def step(cache, column, width):
    now = jax.lax.dynamic_slice_in_dim(tokens, column, width, 1)
    attend = decoder.sees_cache(start, column, width, LENGTH)
    hidden, cache = model.apply(each, now, attend, cache, column)
    return cache, model.apply(each, hidden, method="logits")

  cache = model.make_cache(ROWS, LENGTH)
  cache, prompt = step(cache, 0, 4)
  parts = [prompt]
  for i in range(4, LENGTH):
    cache, one = step(cache, i, 1)
    parts.append(one)
  stepped = jnp.concatenate(parts, 1)
  np.testing.assert_allclose(stepped[real], full[real], atol=1e-5)


@pytest.mark.parametrize("model", [PLAIN, RICH], ids=["plain", "rich"])
def test_rows_that_share_the_cache_of_a_prompt_are_complete_rows(model):
  prompt, samples = 4, 3  # two prompts, three rows each
  tokens = jax.random.randint(
    jax.random.key(3), (2 * samples, LENGTH), 0, VOCABULARY, jnp.int32
  )
  tokens = tokens.at[:, :prompt].set(
    jnp.repeat(tokens[::samples, :prompt], samples, axis=0)
  )
  start = jnp.array([0, 2], jnp.int32)
  each = {"params": decoder.unstack(params(model))}
  attend = decoder.sees_cache(start, 0, prompt, prompt)
  _, shared = model.apply(
    each, tokens[::samples, :prompt], attend, model.make_cache(2, prompt)
  )
  start = jnp.repeat(start, samples)

  @jax.jit
  def step(cache, column):
    now = jax.lax.dynamic_slice_in_dim(tokens, column, 1, 1)
    attend = decoder.sees_cache(start, column, 1, LENGTH)
    both = tuple(own + more for own, more in zip(cache, shared, strict=True))
    hidden, cache = model.apply(each, now, attend, both, column - prompt)
    return cache, model.apply(each, hidden, method="logits")

  cache, steps = model.make_cache(2 * samples, LENGTH - prompt), []
  for column in range(prompt, LENGTH):
    cache, one = step(cache, column)
    steps.append(one)
  turn = jnp.where(jnp.arange(LENGTH) >= start[:, None], 1, -1)
  attend = decoder.sees_rows(turn, jnp.zeros_like(turn))
  full = logits(model, params(model), jnp.where(turn > 0, tokens, -1), attend)
  np.testing.assert_allclose(
    jnp.concatenate(steps, 1), full[:, prompt:], atol=1e-5
  )


def test_a_cache_that_is_longer_than_the_text_changes_nothing():
  tokens, start = some_tokens(), jnp.zeros(ROWS, jnp.int32)
  full = logits(RICH, params(RICH), tokens, whole_rows())
  attend = decoder.sees_cache(start, 0, LENGTH, LENGTH + 5)
  # What lies in the columns to come is never read.
  cache = jax.tree.map(lambda x: x + 7.0, RICH.make_cache(ROWS, LENGTH + 5))
  variables = {"params": params(RICH)}
  hidden, _ = RICH.apply(variables, tokens, attend, cache, 0)
  cached = RICH.apply(variables, hidden, method="logits")
  np.testing.assert_allclose(cached, full, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def value_and_grad(model, params, tokens):
  def loss(params):
    variables = {"params": params}
    hidden, _ = model.apply(variables, tokens, whole_rows())
    logits = model.apply(variables, hidden, method="logits")
    return jnp.sum(jnp.sin(logits)), logits

  (_, out), grad = jax.value_and_grad(loss, has_aux=True)(params)
  return out, grad


@functools.cache
def plain_value_and_grad():
  return value_and_grad(RICH, params(RICH), some_tokens())


@pytest.mark.parametrize(
  "scan,remat", [(False, "full"), (True, "none"), (True, "dots")]
)
def test_scan_and_remat_change_neither_values_nor_gradients(scan, remat):
  model = RICH.clone(scan=scan, remat=remat)
  out, grad = value_and_grad(model, params(RICH), some_tokens())
  expected, expected_grad = plain_value_and_grad()
  np.testing.assert_allclose(out, expected, atol=1e-5)
  assert jax.tree.structure(grad) == jax.tree.structure(expected_grad)
  for x, y in zip(jax.tree.leaves(grad), jax.tree.leaves(expected_grad)):
    np.testing.assert_allclose(x, y, atol=2e-4, rtol=1e-4)


def test_scan_and_remat_of_experts_and_of_layers_that_do_not_rotate():
  tokens = some_tokens()
  out, grad = value_and_grad(OTHER, params(OTHER), tokens)
  model = OTHER.clone(scan=True, remat="full")
  again, other_grad = value_and_grad(model, params(OTHER), tokens)
  np.testing.assert_allclose(again, out, atol=1e-5)
  for x, y in zip(jax.tree.leaves(grad), jax.tree.leaves(other_grad)):
    np.testing.assert_allclose(x, y, atol=2e-4, rtol=1e-4)
    assert np.any(x)


def test_layers_that_do_not_rotate_know_no_positions():
  """Only the mask tells them an order, so a bag of tokens is all they see."""
  model = PLAIN.clone(rope=(False,), layers=1)
  p = params(PLAIN)
  p = {**p, "layers": jax.tree.map(lambda x: x[:1], p["layers"])}
  tokens = some_tokens()
  swapped = jnp.concatenate([tokens[:, 4::-1], tokens[:, 5:]], 1)
  a, b = (logits(model, p, x, whole_rows()) for x in (tokens, swapped))
  np.testing.assert_allclose(a[:, 5:], b[:, 5:], atol=1e-5)
  rotating = model.clone(rope=(True,))
  a, b = (logits(rotating, p, x, whole_rows()) for x in (tokens, swapped))
  assert np.max(np.abs(a[:, 5:] - b[:, 5:])) > 1e-3


def test_scan_is_a_scan_and_remat_makes_products_again():
  def names(model):
    def loss(params):
      hidden, _ = model.apply({"params": params}, some_tokens(), whole_rows())
      return jnp.sum(hidden)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params(RICH))
    return [e.primitive.name for e in primitives(jaxpr.jaxpr)]

  plain, scanned = names(RICH), names(RICH.clone(scan=True))
  assert "scan" in scanned and "scan" not in plain
  again = names(RICH.clone(remat="full"))
  assert again.count("dot_general") > plain.count("dot_general")
  assert names(RICH.clone(remat="dots")).count("exp") > plain.count("exp")


def test_scan_of_layers_of_one_kind():
  model, tokens = PLAIN.clone(scan=True), some_tokens()
  expected = logits(PLAIN, params(PLAIN), tokens, whole_rows())
  scanned = logits(model, params(PLAIN), tokens, whole_rows())
  np.testing.assert_allclose(scanned, expected, atol=1e-5)


def test_unstacked_parameters_are_the_same_model():
  model, each = RICH.clone(scan=True), decoder.unstack(params(RICH))
  assert len(each["layers"]) == RICH.layers
  expected, _ = plain_value_and_grad()
  out = logits(model, each, some_tokens(), whole_rows())
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_unknown_options_are_refused():
  for options in (
    {"remat": "some"},
    {"activation": "relu"},
    {"rope_scaling": RopeScaling("yarn")},
    {"rope_share": 0.4},  # 3 of 8 elements
    {"rope_share": 1.5},
  ):
    with pytest.raises(ValueError):
      model = PLAIN.clone(**options)
      model.apply({"params": params(PLAIN)}, some_tokens(), whole_rows())


def test_pads_are_never_read():
  turn = jnp.ones((ROWS, LENGTH), jnp.int32)
  turn = turn.at[0, 6:].set(-1).at[1, :3].set(-1)
  attend = decoder.sees_rows(turn, jnp.zeros_like(turn))
  a, b = (
    logits(RICH, params(RICH), x, attend)[turn != -1]
    for x in (
      jnp.where(turn == -1, -1, some_tokens()),
      jnp.where(turn == -1, some_tokens(1), some_tokens()),
    )
  )
  np.testing.assert_array_equal(a, b)


def test_two_branches_in_one_row_are_two_rows():
  # trunk 0..2, branch 1 at 3..5, branch 2 at 6..8
  path = jnp.array([[0] * 3 + [1] * 3 + [2] * 3] * ROWS, jnp.int32)
  tokens, turn = some_tokens(), jnp.ones((ROWS, LENGTH), jnp.int32)
  forked = logits(RICH, params(RICH), tokens, decoder.sees_rows(turn, path))
  other = jnp.concatenate([tokens[:, :3], tokens[:, 6:], tokens[:, 3:6]], 1)
  first = logits(RICH, params(RICH), tokens, whole_rows())
  second = logits(RICH, params(RICH), other, whole_rows())
  np.testing.assert_allclose(forked[:, :6], first[:, :6], atol=1e-5)
  np.testing.assert_allclose(forked[:, 6:], second[:, 3:6], atol=1e-5)
  assert jnp.max(jnp.abs(forked[:, 6:] - first[:, 6:])) > 0.01


def test_packed_texts_do_not_see_each_other():
  path = jnp.array([[1] * 4 + [2] * 5] * ROWS, jnp.int32)
  tokens, turn = some_tokens(), jnp.ones((ROWS, LENGTH), jnp.int32)
  packed = logits(RICH, params(RICH), tokens, decoder.sees_rows(turn, path))
  first = logits(RICH, params(RICH), tokens, whole_rows())
  second = logits(RICH, params(RICH), jnp.roll(tokens, -4, 1), whole_rows())
  np.testing.assert_allclose(packed[:, :4], first[:, :4], atol=1e-5)
  np.testing.assert_allclose(packed[:, 4:], second[:, :5], atol=1e-5)


def test_a_local_layer_sees_its_window_only():
  model = PLAIN.clone(local=(True,), window=3, layers=1)
  p = params(PLAIN)
  p = {**p, "layers": jax.tree.map(lambda x: x[:1], p["layers"])}
  tokens = some_tokens()
  changed = tokens.at[:, 2].set((tokens[:, 2] + 1) % VOCABULARY)
  a, b = (logits(model, p, x, whole_rows()) for x in (tokens, changed))
  moved = jnp.max(jnp.abs(a - b), axis=(0, 2)) > 1e-6
  np.testing.assert_array_equal(moved, [i in (2, 3, 4) for i in range(LENGTH)])


def test_bfloat16_computes_softmax_norms_and_logits_in_float32():
  model = RICH.clone(dtype=jnp.bfloat16)
  tokens = some_tokens()
  out = logits(model, params(RICH), tokens, whole_rows())
  assert out.dtype == jnp.float32
  expected, _ = plain_value_and_grad()
  error = jnp.abs(out - expected)
  assert 0 < jnp.max(error) < 0.25 and jnp.sum(error) / error.size < 0.03
  cache = model.make_cache(ROWS, LENGTH)
  assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}
  jaxpr = jax.make_jaxpr(functools.partial(logits, model))(
    params(RICH), tokens, whole_rows()
  )
  seen = list(primitives(jaxpr.jaxpr))
  for name in ("exp", "rsqrt"):
    kinds = {e.invars[0].aval.dtype for e in seen if e.primitive.name == name}
    assert kinds == {jnp.dtype("float32")}
  products = [e for e in seen if e.primitive.name == "dot_general"]
  assert {e.invars[0].aval.dtype for e in products} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("model", [PLAIN, RICH], ids=["plain", "rich"])
def test_every_parameter_has_one_partition_rule(model):
  shapes = jax.eval_shape(
    functools.partial(decoder.init, model), jax.random.key(0)
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    name = "/".join(k.key for k in path)
    specs = [s for r, s in decoder.PARTITION_RULES if re.search(r, name)]
    assert len(specs) == 1, name
    assert len(specs[0]) in (0, leaf.ndim), name
    assert {a for a in specs[0] if a} <= {"fsdp", "tensor"}
    # Vectors are whole on every device, matrices are cut in both directions.
    if leaf.ndim > 2 and "bias" not in name and "norm" not in name:
      assert {a for a in specs[0] if a} == {"fsdp", "tensor"}, name


def test_first_logits_have_a_spread_of_about_one():
  model = PLAIN.clone(width=64, head_size=16, mlp_size=128, vocabulary=32)
  first = jax.jit(decoder.init, static_argnums=0)(model, jax.random.key(3))
  out = logits(model, first, some_tokens(), whole_rows())
  assert 0.5 < jnp.std(out) < 2
