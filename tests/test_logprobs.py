"""token_scores against the naive computation on full logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from sitrain.models import decoder, logprobs, lora, parameters

VOCABULARY, ROWS, LENGTH = 97, 3, 12

MODEL = decoder.Decoder(
  vocabulary=VOCABULARY,
  layers=2,
  width=16,
  heads=4,
  kv_heads=2,
  head_size=4,
  mlp_size=24,
)


@functools.partial(jax.jit, static_argnames="chunk")
def score(params, tokens, turn, path, *, inputs, temperature=1.0, chunk=0):
  return logprobs.token_scores(
    MODEL,
    params,
    tokens,
    turn,
    path,
    inputs=inputs,
    temperature=jnp.asarray(temperature),
    chunk=chunk,
  )


def init(seed):
  return jax.jit(decoder.init, static_argnums=0)(MODEL, jax.random.key(seed))


@functools.cache
def case():
  """Ragged rows: (params, reference, tokens, turn, path)."""
  draw = functools.partial(jax.random.randint, dtype=jnp.int32)
  tokens = draw(jax.random.key(2), (ROWS, LENGTH), 0, VOCABULARY)
  length = jnp.array([12, 7, 10])[:, None]
  real = jnp.arange(LENGTH) < length
  turn = jnp.where(real, jnp.where(jnp.arange(LENGTH) < 4, 0, 1), -1)
  tokens = jnp.where(real, tokens, -1)
  path = jnp.zeros_like(turn)
  return init(0), init(1), tokens, turn.astype(jnp.int32), path


def naive(params, tokens, turn, path, temperature):
  """Log-softmax of the full logits, shifted: index t predicts token t."""
  attend = decoder.sees_rows(turn, path)
  hidden, _ = MODEL.apply({"params": params}, tokens, attend)
  logits = MODEL.apply({"params": params}, hidden, method="logits")
  logits = logits / jnp.asarray(temperature).reshape(-1, 1, 1)
  return jax.nn.log_softmax(logits[:, :-1], axis=-1)


def naive_scores(params, reference, temperature):
  _, _, tokens, turn, path = case()
  logp = naive(params, tokens, turn, path, temperature)
  logq = naive(reference, tokens, turn, path, temperature)
  chosen = jnp.maximum(tokens[:, 1:], 0)[..., None]
  values = (
    jnp.take_along_axis(logp, chosen, -1)[..., 0],
    -jnp.sum(jnp.exp(logp) * logp, -1),
    jnp.sum(jnp.exp(logp) * (logp - logq), -1),
  )
  real = turn[:, 1:] != -1
  return [jnp.pad(jnp.where(real, x, 0), ((0, 0), (1, 0))) for x in values]


def our_scores(params, reference, temperature, chunk):
  _, _, tokens, turn, path = case()
  scores, kl = logprobs.token_scores_and_kl(
    MODEL,
    params,
    reference,
    tokens,
    turn,
    path,
    inputs=tokens,
    temperature=temperature,
    chunk=chunk,
  )
  return [scores.logprob, scores.entropy, kl]


def weighed(scores, params, reference):
  """A sum over all three with weights that differ at every token."""
  values = scores(params, reference)
  weight = jnp.cos(jnp.arange(values[0].size, dtype=jnp.float32))
  weight = weight.reshape(values[0].shape)
  total = sum(jnp.sum(x * weight) * (i + 1) for i, x in enumerate(values))
  return total, values


@functools.cache
def expected(temperatures):
  scores = functools.partial(
    naive_scores, temperature=np.array(temperatures)
  )
  params, reference, *_ = case()
  loss = functools.partial(weighed, scores)
  return jax.jit(jax.grad(loss, has_aux=True))(params, reference)


@pytest.mark.parametrize(
  "temperatures,chunk",
  [((1.0,), 0), ((0.5, 1.0, 2.0), 0), ((0.5, 1.0, 2.0), 5), ((1.0,), 1)],
)
def test_scores_and_gradients_are_those_of_full_logits(temperatures, chunk):
  one = len(temperatures) == 1
  temperature = temperatures[0] if one else jnp.array(temperatures)
  params, reference, *_ = case()
  scores = lambda p, r: our_scores(p, r, temperature, chunk)
  loss = functools.partial(weighed, scores)
  grad, values = jax.jit(jax.grad(loss, has_aux=True))(params, reference)
  want_grad, want = expected(temperatures)
  for x, y in zip(values, want):
    np.testing.assert_allclose(x, y, atol=2e-5)
  assert float(jnp.max(want[2])) > 0.01
  for x, y in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad)):
    np.testing.assert_allclose(x, y, atol=2e-4, rtol=1e-4)


def test_no_gradient_reaches_the_reference():
  params, reference, *_ = case()
  loss = lambda r: weighed(lambda p, r: our_scores(p, r, 1.0, 0), params, r)[0]
  grad = jax.jit(jax.grad(loss))(reference)
  assert all(not np.any(x) for x in jax.tree.leaves(grad))


def test_alternatives_are_rows():
  params, _, tokens, turn, path = case()
  temperature = jnp.array([0.5, 1.0, 2.0])
  pairs = [jnp.stack([x, x[::-1]], 1) for x in (tokens, turn, path)]
  divided = dict(temperature=temperature)
  flat = score(params, tokens, turn, path, inputs=tokens, **divided)
  both = score(params, *pairs, inputs=pairs[0], **divided)
  assert both.logprob.shape == (ROWS, 2, LENGTH)
  np.testing.assert_allclose(both.logprob[:, 0], flat.logprob, atol=1e-5)
  np.testing.assert_allclose(both.entropy[:, 0], flat.entropy, atol=1e-5)


def test_inputs_are_read_and_tokens_are_scored():
  params, _, tokens, turn, path = case()
  inputs = tokens.at[:, 3].set(5)
  clean = score(params, tokens, turn, path, inputs=tokens).logprob
  noisy = score(params, tokens, turn, path, inputs=inputs).logprob
  np.testing.assert_array_equal(clean[:, :4], noisy[:, :4])
  logp = naive(params, inputs, turn, path, 1.0)
  want = jnp.take_along_axis(logp, jnp.maximum(tokens[:, 1:], 0)[..., None], 2)
  real = turn[:, 1:] != -1
  np.testing.assert_allclose(noisy[:, 1:][real], want[..., 0][real], atol=2e-5)


@pytest.mark.parametrize("trunk", [0, 3])
def test_paths_in_one_row_score_as_rows_of_their_own(trunk):
  """Without a trunk the texts are packed, and each first token scores 0."""
  params, _, tokens, _, _ = case()
  tokens = jnp.abs(tokens)
  half = (LENGTH - trunk) // 2
  path = [0] * trunk + [1] * half + [2] * (LENGTH - trunk - half)
  path = jnp.array([path] * ROWS, jnp.int32)
  turn = jnp.ones_like(path)
  packed = score(params, tokens, turn, path, inputs=tokens, chunk=5)
  stem, rest = tokens[:, :trunk], tokens[:, trunk + half :]
  for part, columns in (
    (tokens[:, : trunk + half], slice(trunk, trunk + half)),
    (jnp.concatenate([stem, rest], 1), slice(trunk + half, LENGTH)),
  ):
    ones = jnp.ones_like(part)
    alone = score(params, part, ones, ones * 0, inputs=part)
    for x, y in zip(packed, alone):
      np.testing.assert_allclose(x[:, columns], y[:, trunk:], atol=2e-5)


def test_left_pads_shift_nothing():
  params, _, tokens, _, _ = case()
  ones = jnp.ones((ROWS, 6), jnp.int32)
  text = jnp.abs(tokens[:, :6])
  alone = score(params, text, ones, ones * 0, inputs=text)
  padded, turn = (
    jnp.pad(x, ((0, 0), (6, 0)), constant_values=-1) for x in (text, ones)
  )
  shifted = score(params, padded, turn, turn * 0, inputs=padded)
  for x, y in zip(shifted, alone):
    np.testing.assert_allclose(x[:, 6:], y, atol=2e-5)
    assert not np.any(x[:, :6])


def largest(jaxpr):
  """Elements of the largest array that a jaxpr makes, inner ones included."""
  sizes = [0]
  for eqn in jaxpr.eqns:
    sizes += [v.aval.size for v in eqn.outvars]
    sizes += [largest(j) for j in jaxprs_in_params(eqn.params)]
  return max(sizes)


def test_logits_of_all_tokens_are_never_stored():
  params, reference, *_ = case()
  logits = ROWS * LENGTH * VOCABULARY

  def made(chunk):
    scores = lambda p, r: our_scores(p, r, 1.0, chunk)
    loss = lambda p, r: weighed(scores, p, r)[0]
    return largest(jax.make_jaxpr(jax.grad(loss))(params, reference).jaxpr)

  assert made(LENGTH) >= logits
  assert made(4) < logits


@pytest.mark.parametrize("room,products", [(2**29, 2), (0, 3)])
def test_few_logits_are_kept_for_the_gradient(room, products, monkeypatch):
  """By remat="dots"; else they are computed twice."""
  monkeypatch.setattr(logprobs, "KEPT_BYTES", room)
  params, *_ = case()
  model = MODEL.clone(remat="dots", layers=1)
  params = params | {"layers": jax.tree.map(lambda x: x[:1], params["layers"])}
  tokens = jnp.ones((2, 5), jnp.int32)

  def loss(params):
    scores = logprobs.token_scores(
      model, params, tokens, tokens, 0 * tokens, inputs=tokens, chunk=2
    )
    return jnp.sum(scores.logprob)

  text = str(jax.make_jaxpr(jax.grad(loss))(params))
  of_vocabulary = [
    line for line in text.splitlines()
    if "dot_general[" in line and f"{VOCABULARY}" in line
  ]
  assert len(of_vocabulary) == products


def test_the_default_chunk_follows_from_the_sizes(monkeypatch):
  params, _, tokens, turn, path = case()

  def text():
    score = functools.partial(logprobs.token_scores, MODEL, inputs=tokens)
    return str(jax.make_jaxpr(score)(params, tokens, turn, path))

  assert "scan[" not in text()
  monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", ROWS * VOCABULARY * 6)
  monkeypatch.setattr(logprobs, "CHUNK_TOKENS", 1)
  assert "length=2" in text()


BFLOAT16 = MODEL.clone(layers=1, dtype=jnp.bfloat16)
FAMILIES = {
  "qwen3": BFLOAT16.clone(qk_norm=True, tied=False),
  "llama": BFLOAT16.clone(qkv_bias=True, out_bias=True),
  "gemma": BFLOAT16.clone(
    layers=2, qk_norm=True, norm_plus_one=True, post_norms=True, window=4,
    attention_cap=5.0, logit_cap=10.0, local=(True, False), embed_scale=4.0,
    activation="gelu_tanh",
  ),
}


def perturbed(tree, seed):
  """Noise everywhere, so that no norm is a number that bfloat16 holds."""
  draw = np.random.default_rng(seed)
  noise = lambda x: jnp.asarray(0.2 * draw.normal(size=x.shape), x.dtype)
  return jax.tree.map(lambda x: x + noise(x), tree)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_in_bfloat16_are_the_same_policy(name):
  """The KL of a policy and its copy is exactly 0."""
  model, (_, _, tokens, turn, path) = FAMILIES[name], case()
  params = jax.jit(decoder.init, static_argnums=0)(model, jax.random.key(0))
  params = perturbed(params, 1)
  adapters = perturbed(lora.adapters(jax.random.key(1), model, rank=2), 2)
  held = parameters.computed(params, jnp.bfloat16)
  kinds = {x.dtype for x in jax.tree.leaves(held["layers"])}
  assert kinds == {jnp.dtype("float32"), jnp.dtype("bfloat16")}

  @jax.jit
  def read(params, held):
    scores, kl = logprobs.token_scores_and_kl(
      model, params, held, tokens, turn, path, inputs=tokens
    )
    other = logprobs.token_scores(
      model, held, tokens, turn, path, inputs=tokens
    )
    return scores, other, kl

  join = functools.partial(lora.join, scale=jnp.float32(1.7))
  joined = join(params, adapters)
  for own, copy in (
    (params, held),
    (joined, parameters.computed(joined, jnp.bfloat16)),
    (joined, join(held, parameters.computed(adapters, jnp.bfloat16))),
  ):
    scores, other, kl = read(own, copy)
    np.testing.assert_array_equal(kl, 0.0)
    for x, y in zip(scores, other):
      # Two programs: the compiler may add up the float32 logits in two ways.
      np.testing.assert_allclose(x, y, rtol=1e-6)
    assert np.any(scores.logprob)


@pytest.mark.parametrize("attention", ["plain", "chunked"])
def test_pads_reach_neither_scores_nor_gradients(attention):
  """Whatever ids stand there, in rows of pads alone too."""
  model = MODEL.clone(layers=1, attention=attention)
  layers = jax.tree.map(lambda x: x[:1], init(0)["layers"])
  params = init(0) | {"layers": layers}
  _, _, tokens, turn, path = case()
  column = jnp.arange(LENGTH)
  turn = turn.at[2].set(-1).at[1].set(jnp.where(column < 3, -1, turn[1]))
  weight = jnp.cos(jnp.arange(tokens.size, dtype=jnp.float32))

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def read(params, tokens):
    scores = logprobs.token_scores(
      model, params, tokens, turn, path, inputs=tokens
    )
    total = scores.logprob + jnp.sin(scores.entropy)
    return jnp.sum(total * weight.reshape(total.shape)), scores

  clean, odd = (
    read(params, jnp.where(turn < 0, other, tokens)) for other in (-1, 10**9)
  )
  for x, y in zip(jax.tree.leaves(clean), jax.tree.leaves(odd)):
    assert np.all(np.isfinite(x))
    np.testing.assert_array_equal(x, y)
  scores = odd[0][1]
  assert not np.any(scores.logprob[turn < 0]) and np.any(scores.logprob[0])
