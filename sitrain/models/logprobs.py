"""Log-probability, entropy and exact divergence of every token of a row."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.models import axes, decoder, reading
from sitrain.types import Episodes, Params, TokenScores

CHUNK_ELEMENTS = 2**22  # logits that a chunk holds, unless that is too thin
CHUNK_TOKENS = 512  # tokens that keep a chunk's matrix product busy


def token_scores(
  model: decoder.Decoder,
  params: Params,
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  path: Int[Array, "*B T"],
  *,
  inputs: Int[Array, "*B T"],
  temperature: float | Float[Array, "..."] = 1.0,
  chunk: int = 0,
  shared: tuple[int, ...] = (),
) -> TokenScores:
  """Log-probability and entropy of every token under the policy.

  Index t speaks about token t: the distribution given the tokens that it sees
  before it in `inputs` (usually `tokens`). 0 at pads and where nothing is seen
  before. Logits are divided by `temperature`, a number or one per row [*B].
  Logits are made for `chunk` tokens of every row at a time and made again for
  the gradient, so [B T V] is never held; chunk 0 chooses from the sizes.

  With `shared`, (slots of a prompt, columns behind it at the most), rows are
  [P G T] without holes and without paths. The given tokens that all rows of a
  problem begin with, up to that many slots, are then read once for all of
  them, where all scores of a row may be held (`attention.SHORT`); scores of
  these tokens are 0. A row that has more columns behind them, or a path, comes
  back as NaN: rows that differ early need more room behind.
  """
  view = reading.view(model, tokens, turn, path, inputs, temperature, shared)
  read = functools.partial(_scores, model)
  scores = _chunked(
    model, read, _tables(params), (view.hidden(params),), view, chunk
  )
  return TokenScores(*_finish(view, scores))


def token_scores_and_kl(
  model: decoder.Decoder,
  params: Params,
  reference: Params,
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  path: Int[Array, "*B T"],
  *,
  inputs: Int[Array, "*B T"],
  temperature: float | Float[Array, "..."] = 1.0,
  chunk: int = 0,
  shared: tuple[int, ...] = (),
) -> tuple[TokenScores, Float[Array, "*B T"]]:
  """As `token_scores`, and the exact KL to a reference at every token.

  KL(policy || reference) = sum_v p_v (log p_v - log q_v) over the whole
  vocabulary, both at the same temperature, in the same chunks. No gradient
  reaches the reference.
  """
  reference = jax.lax.stop_gradient(reference)
  view = reading.view(model, tokens, turn, path, inputs, temperature, shared)
  read = functools.partial(_scores_and_kl, model)
  tables = _tables(params), _tables(reference)
  hidden = view.hidden(params), view.hidden(reference)
  scores = _chunked(model, read, tables, hidden, view, chunk)
  logprob, entropy, kl = _finish(view, scores)
  return TokenScores(logprob, entropy), kl


def score_rows(
  model: decoder.Decoder,
  params: Params,
  episodes: Episodes,
  *,
  temperature: float,
  together: int = 1,
  shared: tuple[int, ...] = (),
) -> TokenScores:
  """`token_scores` of whole episodes, without a gradient, part by part.

  `together` rows in a row stay in one part and may have a prompt that is
  `shared`. See `reading.in_parts`.
  """

  def score(tokens, turn, path):
    return token_scores(
      model, params, tokens, turn, path, inputs=tokens,
      temperature=temperature, shared=shared,
    )

  return reading.in_parts(model, score, episodes, together=together)


def _tables(params):
  """What logits are made of: the matrices that are no layer's."""
  rest = {name: x for name, x in params.items() if name != "layers"}
  return {name: x for name, x in rest.items() if x.ndim == 2}


def _scores(model, params, tokens, heat, hidden):
  """(logprob, entropy) of a chunk: tokens [B C], hidden [B C D]."""
  logp = _log_softmax(model, params, hidden, heat)
  return _pick(logp, tokens), -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def _scores_and_kl(model, both, tokens, heat, hidden, other):
  """(logprob, entropy, KL) of a chunk; `both` of the policy and reference."""
  params, reference = both
  logp = _log_softmax(model, params, hidden, heat)
  logq = _log_softmax(model, reference, other, heat)
  p = jnp.exp(logp)
  entropy = -jnp.sum(p * logp, axis=-1)
  return _pick(logp, tokens), entropy, jnp.sum(p * (logp - logq), axis=-1)


def _log_softmax(model, params, hidden, heat):
  logits = model.apply({"params": params}, hidden, method="logits")
  return jax.nn.log_softmax(logits / heat, axis=-1)


def _pick(logp, tokens):
  """logp[..., token] by comparison: the gradient of a gather is a scatter."""
  chosen = tokens[..., None] == jnp.arange(logp.shape[-1], dtype=tokens.dtype)
  return jnp.sum(jnp.where(chosen, logp, 0), axis=-1)


def _chunked(model, read, tables, hidden, view, chunk):
  """read(tables, tokens, heat, *hidden) over chunks of columns; [B C] each."""
  each = functools.partial(_of_group, model, read, chunk)
  rows = view.tokens, view.heat
  return axes.by_rows(each, tables, model.dtype, *rows, *hidden)


def _of_group(model, read, chunk, tables, tokens, heat, *hidden):
  """`_chunked` on one group of devices; chunks are of what each one holds."""
  size, length = tokens.shape
  if not chunk:
    logits = size * model.vocabulary // axes.over(("tensor",))
    chunk = max(CHUNK_ELEMENTS // logits, CHUNK_TOKENS // size, 1)
  count = math.ceil(length / chunk)
  if count == 1:
    return read(tables, tokens, heat, *hidden)
  chunk = math.ceil(length / count)

  def split(x):
    rest = [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, [(0, 0), (0, count * chunk - length), *rest])
    return x.reshape(size, count, chunk, *x.shape[2:]).swapaxes(0, 1)

  body = jax.checkpoint(lambda x: read(tables, x[0], heat, *x[1:]))
  parts = jax.lax.map(body, jax.tree.map(split, (tokens, *hidden)))
  return tuple(x.swapaxes(0, 1).reshape(size, -1)[:, :length] for x in parts)


def _finish(view, scores):
  return [view.back(jnp.where(view.known, x, 0)) for x in scores]
