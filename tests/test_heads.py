"""The scalar head against slow forwards of prefixes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.models import decoder, heads, lora, parameters
from sitrain.models.huggingface import describe, weights
from sitrain.models.logprobs import token_scores
from sitrain.runtime import sharding

ROWS, LENGTH, VOCABULARY = 3, 8, 23
KEY = jax.random.key(0)
PLAIN = decoder.Decoder(
  vocabulary=VOCABULARY, layers=1, width=16, heads=4, kv_heads=2, head_size=4,
  mlp_size=24, tied=False,
)  # fmt: skip
GEMMA = PLAIN.clone(
  layers=2, tied=True, post_norms=True, qk_norm=True, norm_plus_one=True,
  attention_cap=5.0, window=4, local=(True, False), embed_scale=4.0,
)  # fmt: skip
MODELS = {
  "plain": PLAIN, "gemma": GEMMA,
  "scanned": PLAIN.clone(scan=True, remat="full"),
  "bfloat16": PLAIN.clone(dtype=jnp.bfloat16),
}  # fmt: skip


@functools.cache
def trunk(model):
  return jax.jit(decoder.init, static_argnums=0)(model, KEY)


@functools.cache
def critic(model):
  """Parameters with a head that is not zero."""
  head = jax.random.normal(jax.random.key(1), (model.width,))
  return heads.add(model, trunk(model)) | {"value_head": head}


@functools.cache
def rows():
  """(tokens, turn, path): pads on neither side, on the right, on the left."""
  tokens = jax.random.randint(
    jax.random.key(2), (ROWS, LENGTH), 0, VOCABULARY, jnp.int32
  )
  column = jnp.arange(LENGTH)
  first, end = jnp.array([[0, 0, 3], [LENGTH, 5, LENGTH]])[..., None]
  real = (column >= first) & (column < end)
  turn = jnp.where(real, column > first + 1, -1).astype(jnp.int32)
  return jnp.where(real, tokens, -1), turn, 0 * turn


value = jax.jit(heads.values, static_argnums=0, static_argnames="shared")
score = jax.jit(heads.score, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def hidden_of(model, params, tokens, turn):
  attend = decoder.sees_rows(turn, 0 * turn)
  return model.apply({"params": params}, tokens, attend)[0]


def slow(model, params, text):
  """w . h of the last token of each prefix of a text, each read alone."""
  n = text.size
  inside = np.tril(np.ones((n, n), bool))
  fill = [(0, LENGTH - n)] * 2
  turn = np.pad(np.where(inside, 1, -1), fill, constant_values=-1)
  tokens = np.pad(np.where(inside, text, -1), fill, constant_values=-1)
  each = [jnp.asarray(x, jnp.int32) for x in (tokens, turn)]
  hidden = np.asarray(hidden_of(model, params, *each), np.float32)
  return hidden[range(n), range(n)] @ np.asarray(params["value_head"])


@pytest.mark.parametrize("name", MODELS)
def test_a_value_is_that_of_the_tokens_before(name):
  model, (tokens, turn, path) = MODELS[name], rows()
  params = critic(model)
  found = value(model, params, tokens, turn, path)
  ends = score(model, params, tokens, turn, path)
  assert found.dtype == ends.dtype == jnp.float32
  want = np.zeros((ROWS, LENGTH + 1))
  for b in range(ROWS):
    at = np.flatnonzero(turn[b] >= 0)
    want[b, at + 1] = slow(model, params, np.asarray(tokens[b, at]))
  assert np.abs(want).max() > 1
  # bfloat16 rounds what other shapes add up in another order.
  tolerance = 0.1 if model.dtype == jnp.bfloat16 else 1e-5
  np.testing.assert_allclose(
    ends, want[range(ROWS), [LENGTH, 5, LENGTH]], atol=tolerance
  )
  want[1, 5] = 0  # a pad: no value stands there
  np.testing.assert_allclose(found, want[:, :-1], atol=tolerance)


def test_a_number_by_hand():
  """Without layers' output a hidden state is the normed embedding."""
  params = critic(PLAIN)
  silent = {n: 0 * x for n, x in params["layers"].items()}
  params = params | {"layers": silent}
  tokens, turn, path = rows()
  x = np.asarray(params["embed"])[np.maximum(tokens, 0)]
  normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + PLAIN.norm_eps)
  each = normed @ np.asarray(params["value_head"])
  np.testing.assert_allclose(
    value(PLAIN, params, tokens, turn, path)[0, 1:], each[0, :-1], atol=1e-5
  )
  np.testing.assert_allclose(
    score(PLAIN, params, tokens, turn, path),
    [each[0, 7], each[1, 4], each[2, 7]],
    atol=1e-5,
  )


def test_a_new_critic_says_zero():
  params = heads.add(PLAIN, trunk(PLAIN))
  assert sorted(params) == ["embed", "layers", "norm", "value_head"]
  assert not np.any(value(PLAIN, params, *rows()))
  assert not np.any(score(PLAIN, params, *rows()))
  again = heads.add(PLAIN, critic(PLAIN))
  np.testing.assert_array_equal(
    again["value_head"], critic(PLAIN)["value_head"]
  )


def test_the_end_of_a_row_changes_no_value_before_it():
  tokens, turn, path = rows()
  full = value(PLAIN, critic(PLAIN), tokens, turn, path)
  cut = [x[:, :6] for x in (tokens, turn, path)]
  np.testing.assert_allclose(
    value(PLAIN, critic(PLAIN), *cut), full[:, :6], atol=1e-6
  )
  # Index t is the value before token t is written, so t itself is not read.
  other = tokens.at[:, 5].set((tokens[:, 5] + 1) % VOCABULARY)
  changed = value(PLAIN, critic(PLAIN), other, turn, path)
  np.testing.assert_array_equal(changed[:, :6], full[:, :6])
  assert not np.allclose(changed[0, 6], full[0, 6])


def test_the_order_of_rows_is_that_of_values():
  order = jnp.array([2, 0, 1])
  moved = [x[order] for x in rows()]
  for read in (value, score):
    np.testing.assert_allclose(
      read(PLAIN, critic(PLAIN), *moved),
      read(PLAIN, critic(PLAIN), *rows())[order], atol=1e-6,
    )


def test_alternatives_are_rows():
  pairs = [jnp.stack([x, x[::-1]], 1) for x in rows()]
  for read, shape in ((value, (ROWS, 2, LENGTH)), (score, (ROWS, 2))):
    both = read(PLAIN, critic(PLAIN), *pairs)
    assert both.shape == shape
    np.testing.assert_allclose(
      both[:, 0], read(PLAIN, critic(PLAIN), *rows()), atol=4e-6
    )


@pytest.mark.parametrize("name", ["scanned", "bfloat16"])
@pytest.mark.parametrize("read", [value, score], ids=["values", "score"])
def test_gradients_reach_the_head_and_the_trunk(name, read):
  model = MODELS[name]
  weight = jax.random.normal(jax.random.key(4), (ROWS, LENGTH))

  def loss(params):
    found = read(model, params, *rows())
    return jnp.sum(found * (weight if found.ndim == 2 else weight[:, 0]))

  grad = jax.jit(jax.grad(loss))(critic(model))
  for path, x in jax.tree_util.tree_leaves_with_path(grad):
    assert np.any(x) and np.all(np.isfinite(x)), path
  # Values are linear in the head: w . dL/dw is L itself.
  own = jnp.vdot(grad["value_head"], critic(model)["value_head"])
  np.testing.assert_allclose(own, loss(critic(model)), rtol=2e-2, atol=1e-2)


def test_a_row_of_pads_is_zero_and_spoils_no_gradient():
  tokens, turn, path = (x.at[1].set(v) for x, v in zip(rows(), (-1, -1, 0)))

  def loss(params):
    found = value(PLAIN, params, tokens, turn, path)
    ends = score(PLAIN, params, tokens, turn, path)
    return jnp.sum(jnp.sin(found)) + jnp.sum(jnp.sin(ends)), (found, ends)

  grad, (found, ends) = jax.jit(jax.grad(loss, has_aux=True))(critic(PLAIN))
  assert not np.any(found[1]) and ends[1] == 0 and ends[0] != 0
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grad))


def test_a_shared_prompt_changes_no_value_after_it():
  tokens, turn, path = (jnp.repeat(x[:1, None], 2, 1) for x in rows())
  tokens = tokens.at[0, 1, 4:].set(1)
  turn = jnp.where(jnp.arange(LENGTH) < 4, 0, 1) + 0 * turn
  given = PLAIN, critic(PLAIN), tokens, turn, path
  forked = value(*given, shared=(4, 4))[..., 4:]
  np.testing.assert_allclose(forked, value(*given)[..., 4:], atol=1e-5)


def test_adapters_train_the_head_beside_them():
  base = trunk(PLAIN)
  own = lora.adapters(jax.random.key(1), PLAIN, rank=2)
  own = heads.add(PLAIN, own)
  assert sorted(own) == ["layers", "value_head"]
  trained = jax.tree.map(lambda x: x + 0.1, own)

  @jax.jit
  def read(trained):
    joined = lora.join(base, trained, scale=1.5)
    return value(PLAIN, joined, *rows())

  merged = lora.merge(base, trained, scale=1.5)
  np.testing.assert_allclose(
    read(trained), value(PLAIN, merged, *rows()), atol=1e-5
  )
  grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(read(x)))))(trained)
  assert all(np.any(x) for x in jax.tree.leaves(grad))


def test_the_head_disturbs_nothing_else():
  """Log-probabilities, casting, slicing and layout of the rest of the tree."""
  params = trunk(GEMMA)
  both = heads.add(GEMMA, params)
  tokens, turn, path = rows()
  read = jax.jit(functools.partial(token_scores, GEMMA))
  for a, b in zip(*(
    read(tree, tokens, turn, path, inputs=tokens) for tree in (params, both)
  )):
    np.testing.assert_array_equal(a, b)
  cast = parameters.computed(both, jnp.bfloat16)
  assert cast["value_head"].dtype == jnp.float32
  assert parameters.unstack(both)["value_head"] is both["value_head"]
  specs = sharding.match_rules(decoder.PARTITION_RULES, both)
  assert specs["value_head"] == jax.sharding.PartitionSpec()


def test_a_scalar_head_is_not_exported(tmp_path):
  params, config = critic(PLAIN), describe.config_of(PLAIN)
  with pytest.raises(ValueError, match="value_head: export a policy"):
    weights.write(tmp_path / "out", PLAIN, params, config, dtype="float32")
  assert not (tmp_path / "out").exists()
