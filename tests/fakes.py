"""Models and tasks that compile in no time, for tests of what surrounds them.

Both models are Decoders to whoever asks: a table of logits stands where the
transformer was, so whatever a policy does can be worked out by hand.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sitrain.models import foreign
from sitrain.models.decoder import Decoder, init
from sitrain.tasks import characters
from sitrain.tasks.draw import constant_reply
from sitrain.types import GIVEN, PAD, ROOT, Episodes, Problems, Task, Verdict

# For methods whose losses and checks are looked at: it is never asked.
SILENT = {"policy": foreign.from_logits(lambda *_: None, vocabulary=1)}
SIZES = dict(layers=1, width=1, heads=1, kv_heads=1, head_size=2, mlp_size=1)


def parameters(model, seed):
  """Parameters of a Decoder, drawn by NumPy: `init` compiles for seconds.

  They are larger than a first policy's, so that a mistake moves the logits.
  """
  shapes = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    if jax.tree_util.keystr(path).rstrip("']").endswith("norm"):
      return jnp.asarray(1 + 0.1 * rng.normal(size=leaf.shape), jnp.float32)
    return jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def written(cache):
  """A cache without what is only read."""
  return tuple(layer[:2] for layer in cache)


class Bigram(Decoder):
  """Looks at the last token alone: logits = params["table"][token]."""

  @nn.compact
  def __call__(self, tokens, attend, cache=(), column=0):
    seen = jnp.maximum(tokens, 0)[..., None] == jnp.arange(self.vocabulary)
    return seen.astype(self.dtype), written(cache)

  def logits(self, hidden):
    return hidden @ self.get_variable("params", "table")

  @nn.nowrap
  def make_cache(self, batch, length):
    return ((jnp.zeros((batch, 1)), jnp.zeros((batch, 1))),)


class Table(Decoder):
  """Looks at all that it sees: one row of logits for every listed context."""

  contexts: tuple = ()  # sorted codes, see `code`

  @nn.compact
  def __call__(self, tokens, attend, cache=(), column=0):
    base = self.vocabulary + 1
    digit = (jnp.maximum(tokens, 0) + 1) * base**attend.position
    seen = jnp.sum(jnp.where(attend.visible, digit[:, None], 0), axis=-1)
    known = seen[..., None] == jnp.asarray(self.contexts)
    return known.astype(float), written(cache)

  def logits(self, hidden):
    return hidden @ self.get_variable("params", "table")


def code(context, vocabulary):
  """The number of a context, a list of tokens."""
  return sum((t + 1) * (vocabulary + 1) ** i for i, t in enumerate(context))


def bigram(vocabulary):
  return Bigram(vocabulary=vocabulary, **SIZES)


def tabled(table):
  """Parameters of a Bigram or a Table; `layers` is what `unstack` slices."""
  return {"table": jnp.asarray(table), "layers": jnp.zeros((1,))}


def task(verify, *, again, eos, prompt, vocabulary=16):
  """A task that poses one prompt and replies with a constant."""

  def problems(key, n):
    return Problems(
      prompt=jnp.tile(jnp.asarray(prompt, jnp.int32), (n, 1)),
      answer=jnp.arange(n, dtype=jnp.int32)[:, None],
      solution=jnp.full((n, 1), PAD, jnp.int32),
    )

  def final(episodes, turns):
    inside = episodes.turn[:, None] == jnp.arange(1, turns + 1)[:, None]
    return jnp.sum(
      jnp.where(inside, episodes.tokens[:, None] + 1, 0), axis=2
    )

  alphabet = "".join(chr(97 + i) for i in range(vocabulary))
  return Task(
    problems=problems,
    verify=verify,
    reply=constant_reply(again),
    final=final,
    level=lambda problems: problems.answer[:, 0] * 0,
    levels=("only",),
    eos=eos,
    turn_length=1,
    tokenizer=characters.make(alphabet),
    table=(),
    on_host=False,
  )


def constant_verdict(value):
  """A verifier that gives every turn the same reward."""

  def verify(answer, episodes, turns):
    reward = jnp.full((answer.shape[0], turns), value, jnp.float32)
    return Verdict(reward, jnp.ones_like(reward))

  return verify


def transcribe(prompt, turns, replies):
  """(tokens, turn) of a row as Python lists; `replies` stand between turns."""
  tokens, marks = list(prompt), [GIVEN] * len(prompt)
  for k, written in enumerate(turns):
    tokens += list(written)
    marks += [k + 1] * len(written)
    if k + 1 < len(turns):
      tokens += list(replies[k])
      marks += [GIVEN] * len(replies[k])
  return tokens, marks


def pack(rows, *, length=0, problem=(), logprob=()):
  """Episodes of (tokens, turn) lists."""
  width = max(length, *(len(tokens) for tokens, _ in rows))
  full = [
    np.array([list(row[i]) + [PAD] * (width - len(row[i])) for row in rows])
    for i in (0, 1)
  ]
  tokens, turn = (jnp.asarray(x, jnp.int32) for x in full)
  count = len(rows)
  if not len(logprob):
    logprob = np.zeros((count, width), np.float32)
  if not len(problem):
    problem = np.arange(count)
  return Episodes(
    tokens=tokens,
    turn=turn,
    logprob=jnp.asarray(logprob),
    path=jnp.zeros_like(tokens),
    problem=jnp.asarray(problem, jnp.int32),
    parent=jnp.full((count,), ROOT, jnp.int32),
  )


def strip(row):
  """A row without its pads, as a list."""
  return [int(token) for token in row if token != PAD]
