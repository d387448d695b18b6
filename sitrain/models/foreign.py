"""Models of other projects as policies: any function from tokens to logits.

`types.Policy` is what rollouts and scores ask of a model. A model that keeps it
decodes with a cache of its own. For others `from_logits` keeps it, slowly: the
cache holds tokens, and every token that is sampled reads its whole row again.
The tree of parameters is the model's own business; partition rules and adapters
know the decoder's only.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.types import Params, Policy

Logits = Callable[[Params, Int[Array, "B T"]], Float[Array, "B T V"]]


class Functions(NamedTuple):
  """A `types.Policy` of functions."""

  vocabulary: int
  apply: Callable[..., Any]
  make_cache: Callable[[int, int], tuple]
  for_decoding: Callable[[Params], Params]
  logit_tables: Callable[[Params], dict[str, Array]]
  dtype: Any = jnp.float32
  heads: int = 1
  attention: str = "chunked"
  residual: str = "whole"


def from_logits(function: Logits, *, vocabulary: int) -> Functions:
  """A policy whose logits are function(params, tokens [B T]) -> [B T V].

  Logits at t are those of token t + 1, from tokens up to t: the function has
  to be causal, and positions count from the first column. Rows have no padding
  before them; what stands behind a row's end must not change its logits. Rows
  that a tree or a pack has made (`Episodes.path` above 0) come back as NaN.
  """
  return Functions(
    vocabulary=vocabulary,
    apply=functools.partial(_apply, function, vocabulary),
    make_cache=_make_cache,
    for_decoding=lambda params: params,
    logit_tables=lambda params: {},
  )


def _make_cache(rows: int, length: int) -> tuple:
  """Room for the tokens of each row, as the keys of the only layer."""
  return ((jnp.zeros((rows, 1, length, 1), jnp.int32),),)


def _apply(
  function, vocabulary, variables, x, attend=(), cache=(), column=0, *,
  method="",
):
  """As of a Decoder, where hidden states are the logits themselves.

  Several tokens with a cache are a prompt: what it predicts is not read, and
  its logits are 0.
  """
  if method == "logits":
    return x
  params, tokens = variables["params"], jnp.maximum(x, 0)
  if not cache:
    return _of_rows(function, params, tokens, attend), ()
  ((own, *before),) = cache
  own = jax.lax.dynamic_update_slice(
    own, tokens[:, None, :, None], (0, 0, column, 0)
  )
  if tokens.shape[1] > 1:
    return jnp.zeros((*tokens.shape, vocabulary)), ((own,),)
  shared = [jnp.repeat(x, own.shape[0] // x.shape[0], 0) for x in before]
  held = jnp.concatenate([*shared, own], axis=2)[:, 0, :, 0]
  return _of_last(function, params, held, attend), ((own,),)


def _of_rows(function, params, tokens, attend):
  """Of rows from column 0 on; NaN where a token does not see all before it."""
  logits = function(params, tokens).astype(jnp.float32)
  seen = jnp.any(attend.visible, axis=-1)
  whole = (attend.position == jnp.arange(tokens.shape[1])) | ~seen
  return jnp.where(jnp.all(whole, -1)[:, None, None], logits, jnp.nan)


def _of_last(function, params, held, attend):
  """Of the last token of rows, whose columns are moved to their positions."""
  rows, length = held.shape
  at = jnp.where(attend.visible[:, 0], attend.key_position, length)
  row = jnp.arange(rows)[:, None]
  tokens = jnp.zeros_like(held).at[row, at].set(held, mode="drop")
  logits = function(params, tokens).astype(jnp.float32)
  return jnp.take_along_axis(logits, attend.position[..., None], axis=1)


def check(model: Any) -> None:
  """Raises ValueError for a model that lacks something of `types.Policy`."""
  wanted = Policy.__annotations__
  if missing := [name for name in wanted if not hasattr(model, name)]:
    kind = getattr(type(model), "__name__", str(model))
    raise ValueError(
      f"the policy {kind} has no {', '.join(missing)}: add what types.Policy"
      " names, or wrap a function (params, tokens) -> logits by"
      " models.foreign.from_logits(function, vocabulary=...)"
    )
