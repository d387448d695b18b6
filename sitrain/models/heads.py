"""A scalar head on the decoder, for critics and reward models.

The parameters of such a role are the decoder's tree and "value_head" [D], in
float32 also where the model computes in bfloat16. They have no "head": logits
are never made. The decoder, adapters and partition rules take the tree as it
is; an export to transformers refuses it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.models import decoder, reading
from sitrain.types import PAD, Episodes, Params

NAME = "value_head"


def init(model: decoder.Decoder) -> Float[Array, " D"]:
  """The first head: zeros, so that values and scores begin at 0.

  The first gradient reaches the head alone, the second one all parameters.
  """
  return jnp.zeros(model.width, jnp.float32)


def add(model: decoder.Decoder, params: Params) -> Params:
  """`params` with a first scalar head, and without the matrix of logits.

  `params` are those of `decoder.init`, or adapters of `lora.adapters`, which
  then train the head beside them. A head that is there is kept. An untied
  "head" is left out, because it would take memory, with its two moments of the
  optimizer, and nothing would read it; tied embeddings stay.
  """
  rest = {name: x for name, x in params.items() if name != "head"}
  return {NAME: init(model), **rest}


def values(
  model: decoder.Decoder,
  params: Params,
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  path: Int[Array, "*B T"],
  *,
  shared: tuple[int, ...] = (),
) -> Float[Array, "*B T"]:
  """The value of the state before every token, in float32.

  Index t speaks about token t, as in `logprobs.token_scores`: v_t = w . h with
  h the hidden state that predicts token t, made of the tokens that t sees
  before it. 0 at pads and where nothing is seen before. `params` are all that
  the decoder needs: with adapters, those of `lora.join`. `shared` is that of
  `token_scores`. Nothing larger than the hidden states [*B T D] is held.
  """
  rows = reading.prepare(model, tokens, turn, path, tokens, 1.0, shared)
  found = _project(params, rows.hidden(params))
  return rows.to_rows(jnp.where(rows.scored, found, 0))


def value_rows(
  model: decoder.Decoder, params: Params, episodes: Episodes
) -> Float[Array, "B T"]:
  """`values` of whole episodes, part by part as in `logprobs.score_rows`."""
  read = lambda *rows: values(model, params, *rows)
  return reading.in_parts(model, read, episodes)


def score(
  model: decoder.Decoder,
  params: Params,
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  path: Int[Array, "*B T"],
) -> Float[Array, "*B"]:
  """One number for each row, in float32: w . h of its last token.

  The last token is that of the last column that is no pad, so the number
  speaks about the complete row; rows must have no branches. Where the model has
  a `pad_token`, as those of sequence classification in transformers have, the
  last one that is no such token; some pad with the token that ends a text. A
  row without tokens has 0. `params` as in `values`.
  """
  lead, length = tokens.shape[:-1], tokens.shape[-1]
  tokens, turn, path = (x.reshape(-1, length) for x in (tokens, turn, path))
  hidden = reading.hidden_states(model, params, tokens, turn, path)
  column = jnp.arange(length)
  read = (turn != PAD) & (tokens != model.pad_token)
  last = jnp.max(jnp.where(read, column, -1), axis=1, keepdims=True)
  # A sum and no gather: the gradient of a gather is a slow scatter.
  chosen = (column == last)[..., None]
  state = jnp.sum(jnp.where(chosen, hidden, 0), axis=1)
  return jnp.where(last[:, 0] >= 0, _project(params, state), 0).reshape(lead)


def score_rows(
  model: decoder.Decoder, params: Params, episodes: Episodes
) -> Float[Array, " B"]:
  """`score` of whole episodes, part by part as in `logprobs.score_rows`."""
  read = lambda *rows: score(model, params, *rows)
  return reading.in_parts(model, read, episodes)


def _project(params, hidden):
  """w . h in float32; a sum, for which no float32 copy of h is made."""
  if NAME not in params:
    raise ValueError(
      "a critic or reward model has no scalar head: set config.roles.NAME.head"
      " of its role to 'scalar'"
    )
  return jnp.sum(hidden.astype(jnp.float32) * params[NAME], axis=-1)
