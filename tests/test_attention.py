"""Every way to attend within rows gives the values and gradients of one."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from sitrain.models import attention, decoder, kernels

ROWS, LENGTH, HEADS, GROUPS, SIZE = 2, 22, 2, 3, 8


def heads(length=LENGTH, size=SIZE):
  draw = lambda i, n: jax.random.normal(jax.random.key(i), n)
  query = draw(0, (ROWS, length, HEADS * GROUPS, size))
  return query, *(draw(i, (ROWS, HEADS, length, size)) for i in (1, 2))


def masks():
  """By name, [B T T]: texts with pads, texts with branches, local windows."""
  column = jnp.arange(LENGTH)
  real = column < jnp.array([[LENGTH], [9]])
  shifted = (column >= jnp.array([[0], [5]])) & real
  branch = jnp.where(column < 4, 0, 1 + (column - 4) // 6) * jnp.ones_like(
    real, jnp.int32
  )
  see = lambda real, path: decoder.sees_rows(
    jnp.where(real, 1, -1), path
  ).visible
  text = see(real, branch * 0)
  near = column[:, None] - column < 3
  return {
    "text": text, "left pads": see(shifted, branch * 0),
    "branches": see(real, branch), "local": text & near,
  }


def value_and_grad(kind, given, visible, **options):
  """Mixed values where anything is seen, and gradients of their use."""
  seen = jnp.any(visible, axis=-1)[..., None, None]
  weight = jax.random.normal(jax.random.key(5), given[0].shape)

  @jax.jit
  def run(*given):
    def loss(*given):
      mixed = attention.attend(*given, visible, kind=kind, **options)
      mixed = jnp.where(seen, mixed, 0)
      return jnp.sum(mixed * weight), mixed

    (_, mixed), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
      *given
    )
    return mixed, grads

  return run(*given)


def close(got, want, tolerance=1e-5):
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def naive(query, key, value, visible, scale, cap):
  """Row by row and head by head, in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  out = np.zeros_like(query)
  for b, t, m in np.ndindex(out.shape[:3]):
    at = np.flatnonzero(visible[b, t])
    if at.size:
      scores = scale * key[b, m // GROUPS, at] @ query[b, t, m]
      scores = cap * np.tanh(scores / cap) if cap else scores
      weights = np.exp(scores - scores.max())
      out[b, t, m] = weights @ value[b, m // GROUPS, at] / weights.sum()
  return out


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_plain_is_the_formula(cap):
  for name, visible in masks().items():
    options = dict(scale=0.3, cap=cap)
    mixed, _ = value_and_grad("plain", heads(), visible, **options)
    want = naive(*heads(), np.asarray(visible), 0.3, cap)
    np.testing.assert_allclose(mixed, want, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("chunk, bands", [(5, 8), (4, 2), (64, 8)])
def test_chunks_change_nothing(monkeypatch, chunk, bands):
  # 22 queries: a last chunk that is short; two bands of chunks; one chunk.
  monkeypatch.setattr(attention, "CHUNK", chunk)
  monkeypatch.setattr(attention, "BANDS", bands)
  for visible in masks().values():
    got, want = (
      value_and_grad(kind, heads(), visible, scale=0.3, cap=2.0)
      for kind in ("chunked", "plain")
    )
    close(got, want)
    assert max(float(jnp.max(jnp.abs(x))) for x in want[1]) > 0.1


def test_chunks_store_no_square_of_the_length():
  """Planned memory of the gradient: four times the length, not sixteen."""

  def planned(kind, length):
    given = jax.eval_shape(lambda: heads(length))
    visible = jax.ShapeDtypeStruct((ROWS, length, length), bool)
    mix = functools.partial(attention.attend, kind=kind, scale=1.0, cap=0.0)
    grad = jax.grad(lambda *x: jnp.sum(mix(*x) ** 2), (0, 1, 2))
    compiled = jax.jit(grad).lower(*given, visible).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 4 * ROWS * HEADS * GROUPS * 2048**2
  assert planned("plain", 2048) > scores
  assert planned("chunked", 2048) < scores / 2


def test_auto_is_plain_while_rows_are_short():
  short, longer = attention.SHORT, attention.SHORT + 1
  assert attention.settled("auto", short) == "plain"
  assert attention.settled("auto", longer) == "chunked"
  assert attention.settled("plain", longer) == "plain"
  assert attention.queries_at_once("auto", short) == short
  assert attention.queries_at_once("auto", longer) == attention.CHUNK


def test_the_kernel_for_tpus_gives_the_same(monkeypatch):
  make = functools.partial(splash_attention.make_splash_mha, interpret=True)
  monkeypatch.setattr(splash_attention, "make_splash_mha", make)
  visible = masks()["text"]
  assert not bool(visible[1, 12].any()), "the second row has pads"
  options = dict(scale=0.3, cap=2.0)
  got = value_and_grad("splash", heads(), visible, **options)
  close(got, value_and_grad("plain", heads(), visible, **options), 2e-5)
  # A row with branches would come out wrong, so it comes out as no number.
  mixed = attention.attend(
    *heads(), visible.at[1].set(masks()["branches"][0]), kind="splash",
    **options,
  )
  assert bool(jnp.all(jnp.isnan(mixed[1]))) and not jnp.isnan(mixed[0]).any()


def test_tokamax_gets_its_arguments(monkeypatch):
  pytest.importorskip("tokamax")
  own = kernels._tokamax
  # Its kernels for GPUs take the same arguments as what it has for any device.
  monkeypatch.setattr(
    kernels, "_tokamax",
    lambda scale, cap, _, *given: own(scale, cap, "xla", *given),
  )
  for visible in masks().values():
    got, want = (
      value_and_grad(kind, heads(), visible, scale=0.3, cap=2.0)
      for kind in ("triton", "plain")
    )
    close(got, want)


def test_missing_packages_are_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tokamax", None)
  with pytest.raises(ValueError, match=r"'triton': pip install 'sitrain\["):
    attention.attend(
      *heads(), masks()["text"], kind="triton", scale=1.0, cap=0.0
    )


@pytest.mark.parametrize("kind, options, message", [
  ("flash", {}, "choose one of auto, plain"),
  ("cudnn", {"cap": 3.0}, "no soft cap"),
  ("cudnn", {}, "dtype='bfloat16'"),
  ("splash", {"local": True}, "no local layers"),
])
def test_what_does_not_fit_is_refused(kind, options, message):
  given = heads()
  with pytest.raises(ValueError, match=message):
    attention.attend(
      *given, masks()["text"], kind=kind, **{"scale": 1.0, "cap": 0.0} | options
    )


def test_a_model_refuses_it_before_it_has_parameters():
  model = decoder.Decoder(
    vocabulary=5, layers=1, width=8, heads=1, kv_heads=1, head_size=8,
    mlp_size=8, attention="flash",
  )
  with pytest.raises(ValueError, match="config.model.attention='flash'"):
    jax.eval_shape(lambda key: decoder.init(model, key), jax.random.key(0))
