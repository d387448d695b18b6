"""Log-probability, entropy and exact divergence of every token of a row."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.models import axes, decoder, reading
from sitrain.types import Episodes, Params, Policy, TokenScores

CHUNK_ELEMENTS = 2**22  # logits that a chunk holds, unless that is too thin
CHUNK_TOKENS = 512  # tokens that keep a chunk's matrix product busy
# Where layers keep their products (remat="dots"), logits of up to so many bytes
# are kept, too, and are not computed again for the gradient.
KEPT_BYTES = 2**29


def token_scores(
  model: Policy,
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
  Logits are computed for `chunk` tokens of every row at a time and recomputed
  for the gradient, so [B T V] is never held; chunk 0 chooses from the sizes.

  With `shared`, (slots of a prompt, columns after it at the most), rows are
  [P G T] without holes and without paths. The given tokens that all rows of a
  problem begin with, up to that many slots, are then read once for all of
  them, if attention is "plain" for rows of this length; the scores of these
  tokens are 0. A row that has more columns after them, or a path, comes back
  as NaN: rows that differ early need more columns after the prompt.
  """
  rows = reading.prepare(model, tokens, turn, path, inputs, temperature, shared)
  score = functools.partial(_scores, model)
  tables, hidden = model.logit_tables(params), (rows.hidden(params),)
  scores = _chunked(model, score, tables, hidden, rows, chunk)
  return TokenScores(*_finish(rows, scores))


def token_scores_and_kl(
  model: Policy,
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
  rows = reading.prepare(model, tokens, turn, path, inputs, temperature, shared)
  score = functools.partial(_scores_and_kl, model)
  tables = model.logit_tables(params), model.logit_tables(reference)
  hidden = rows.hidden(params), rows.hidden(reference)
  scores = _chunked(model, score, tables, hidden, rows, chunk)
  logprob, entropy, kl = _finish(rows, scores)
  return TokenScores(logprob, entropy), kl


def score_rows(
  model: Policy,
  params: Params,
  episodes: Episodes,
  *,
  temperature: float,
  together: int = 1,
  shared: tuple[int, ...] = (),
) -> TokenScores:
  """`token_scores` of episodes, without a gradient, part by part.

  `together` rows in a row stay in one part and may have a prompt that is
  `shared`. See `reading.in_parts`.
  """

  def score(tokens, turn, path):
    return token_scores(
      model, params, tokens, turn, path, inputs=tokens,
      temperature=temperature, shared=shared,
    )

  return reading.in_parts(model, score, episodes, together=together)


def self_tokens(
  model: Policy,
  params: Params,
  episodes: Episodes,
  uniform: Float[Array, "B T"],
  *,
  temperature: float,
) -> Int[Array, "B T"]:
  """What the policy itself would write in every place of a row, in one pass.

  Index t is a token drawn given those of the row before it, which stay what
  they are: the first above whose cumulated probability `uniform` [0, 1) lies.
  temperature=0: the likeliest one. Tokens with nothing before them come back as
  they are. (Scheduled sampling by a parallel pass, without decoding.)
  """

  def draw(tokens, turn, path, uniform):
    rows = reading.prepare(model, tokens, turn, path, tokens, 1.0, ())
    pick = functools.partial(_drawn, model, temperature)
    own = uniform.reshape(*rows.tokens.shape, 1)
    tables, hidden = model.logit_tables(params), (rows.hidden(params), own)
    found = _chunked(model, pick, tables, hidden, rows, 0)[0]
    return rows.to_rows(jnp.where(rows.scored, found, rows.tokens))

  return reading.in_parts(model, draw, episodes, uniform)


def _drawn(model, temperature, params, tokens, _, hidden, uniform):
  """The token of each place of a chunk, as a tuple of one."""
  if not temperature:
    logp = _log_softmax(model, params, hidden, 1.0)
    return (jnp.argmax(logp, axis=-1).astype(tokens.dtype),)
  p = jnp.exp(_log_softmax(model, params, hidden, temperature))
  total = jnp.cumsum(p, axis=-1)
  found = jnp.sum(total <= uniform * total[..., -1:], axis=-1)
  return (found.astype(tokens.dtype),)


def _scores(model, params, tokens, temperature, hidden):
  """(logprob, entropy) of a chunk: tokens [B C], hidden [B C D]."""
  logp = _log_softmax(model, params, hidden, temperature)
  return _pick(logp, tokens), -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def _scores_and_kl(model, both, tokens, temperature, hidden, other):
  """(logprob, entropy, KL) of a chunk; `both` of the policy and reference."""
  params, reference = both
  logp = _log_softmax(model, params, hidden, temperature)
  logq = _log_softmax(model, reference, other, temperature)
  p = jnp.exp(logp)
  entropy = -jnp.sum(p * logp, axis=-1)
  return _pick(logp, tokens), entropy, jnp.sum(p * (logp - logq), axis=-1)


def _log_softmax(model, params, hidden, temperature):
  logits = model.apply({"params": params}, hidden, method="logits")
  return jax.nn.log_softmax(logits / temperature, axis=-1)


def _pick(logp, tokens):
  """logp[..., token] by comparison: the gradient of a gather is a scatter."""
  chosen = tokens[..., None] == jnp.arange(logp.shape[-1], dtype=tokens.dtype)
  return jnp.sum(jnp.where(chosen, logp, 0), axis=-1)


def _chunked(model, score, tables, hidden, rows, chunk):
  """score(tables, tokens, temperature, *hidden), by chunks of columns."""
  of_group = functools.partial(_of_group, model, score, chunk)
  given = rows.tokens, rows.temperature, *hidden
  return axes.by_rows(of_group, tables, model.dtype, *given)


def _of_group(model, score, chunk, tables, tokens, temperature, *hidden):
  """`_chunked` on one group of devices, with chunks of the rows it holds."""
  size, length = tokens.shape
  if not chunk:
    logits = size * model.vocabulary // axes.over(("tensor",))
    chunk = max(CHUNK_ELEMENTS // logits, CHUNK_TOKENS // size, 1)
  count = math.ceil(length / chunk)
  if count == 1:
    return score(tables, tokens, temperature, *hidden)
  chunk = math.ceil(length / count)

  def split(x):
    padding = [(0, 0), (0, count * chunk - length)]
    x = jnp.pad(x, padding + [(0, 0)] * (x.ndim - 2))
    return x.reshape(size, count, chunk, *x.shape[2:]).swapaxes(0, 1)

  body = lambda x: score(tables, x[0], temperature, *x[1:])
  body = jax.checkpoint(body, policy=_kept(model, size * length))
  parts = jax.lax.map(body, jax.tree.map(split, (tokens, *hidden)))
  return tuple(x.swapaxes(0, 1).reshape(size, -1)[:, :length] for x in parts)


def _kept(model, tokens):
  """The policy of jax.checkpoint for chunks of so many tokens in all."""
  policies = jax.checkpoint_policies
  if model.remat == "dots" and tokens * model.vocabulary * 4 <= KEPT_BYTES:
    return policies.save_only_these_names(decoder.LOGITS)
  return policies.nothing_saveable


def _finish(rows, scores):
  """Scores of the rows as they were given, 0 where there is nothing to score.

  A `where` and no product: what stands under the mask may be infinite.
  """
  return [rows.to_rows(jnp.where(rows.scored, x, 0)) for x in scores]
