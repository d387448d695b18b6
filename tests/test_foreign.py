"""Models of other projects as policies: sampled, scored and trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain import train
from sitrain.methods import score
from sitrain.models import decoder, foreign
from sitrain.models.logprobs import token_scores
from sitrain.rollout.play import play
from sitrain.tasks import maze

TASK = maze.make(doors=2, rooms=2)
SIZE = TASK.tokenizer.size
KEY = jax.random.key(3)


class Foreign(nn.Module):
  """Causal means of embeddings with positions; an own tree of parameters."""

  @nn.compact
  def __call__(self, tokens):
    place = nn.Embed(64, 8, name="place")(jnp.arange(tokens.shape[1]))
    x = nn.Embed(SIZE, 8, name="embed")(tokens) + place
    count = jnp.arange(1, tokens.shape[1] + 1)[:, None]
    x = jnp.concatenate([x, jnp.cumsum(x, axis=1) / count], axis=-1)
    return nn.Dense(SIZE)(nn.gelu(nn.Dense(16, name="layers")(x)))


def read(params, tokens):
  """A plain function; this one calls a linen model."""
  return Foreign().apply({"params": params}, tokens)


POLICY = foreign.from_logits(read, vocabulary=SIZE)
PARAMS = Foreign().init(KEY, jnp.zeros((1, 4), jnp.int32))["params"]


def sampled(**options):
  problems = TASK.problems(KEY, 3)
  # Prompts of several lengths, padded on the left.
  short = problems.prompt.at[1, :4].set(-1)
  return jax.jit(lambda: play(
    jax.random.split(KEY, 3), POLICY, PARAMS,
    problems._replace(prompt=short), reply=TASK.reply, turns=(3, 2),
    eos=TASK.eos, **options,
  ))()


@pytest.mark.parametrize(
  "options", [{"samples": 2}, {"samples": 1, "slots": 2}]
)
def test_its_samples_have_the_scores_that_its_own_logits_give(options):
  rows = sampled(temperature=0.7, **options)
  scores = token_scores(
    POLICY, PARAMS, rows.tokens, rows.turn, rows.path, inputs=rows.tokens,
    temperature=0.7,
  )
  own = np.asarray(rows.turn) > 0
  assert own.sum() > len(own)
  np.testing.assert_allclose(
    np.asarray(rows.logprob)[own], np.asarray(scores.logprob)[own], atol=1e-5
  )
  # It is causal: what pads behind the end hold changes nothing before them.
  logits = read(PARAMS, jnp.maximum(rows.tokens, 0)) / 0.7
  logp = np.asarray(jax.nn.log_softmax(logits))[:, :-1]
  given = np.asarray(rows.tokens)[:, 1:, None]
  expected = np.take_along_axis(logp, np.maximum(given, 0), 2)[..., 0]
  np.testing.assert_allclose(
    np.asarray(rows.logprob)[:, 1:][own[:, 1:]], expected[own[:, 1:]],
    atol=1e-5,
  )


def test_rows_that_it_cannot_read_come_back_as_nan():
  tokens = jnp.asarray([[1, 2, 3, 4]])
  turn, path = jnp.ones_like(tokens), jnp.asarray([[0, 1, 2, 2]])
  scores = lambda path: token_scores(
    POLICY, PARAMS, tokens, turn, path, inputs=tokens
  ).logprob
  assert np.isnan(scores(path)[0, 1:]).all()
  assert np.isfinite(scores(jnp.zeros_like(path))).all()


def test_score_trains_it():
  optimizer = optax.adam(3e-3)
  method = score.stage_one(
    {"policy": POLICY}, TASK, optimizer, problems=2, samples=4, turns=(3, 3)
  )
  step = train.make_train_step(optimizer, method.loss)
  iteration = train.make_iteration(*train.make_parts(method, step))
  held = {"reference": jax.tree.map(jnp.copy, PARAMS)}
  state = train.init_state({"policy": PARAMS}, optimizer, held=held)
  after, metrics = jax.jit(iteration)(state, KEY)
  gap = metrics["learn/gradient_norm"]
  assert np.isfinite(gap.total) and gap.total > 0
  moved = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), after.params["policy"], PARAMS
  )
  assert min(jax.tree.leaves(moved["Dense_0"])) > 0
  assert moved["layers"]["kernel"] > 0 and moved["embed"]["embedding"] > 0


def test_what_a_policy_lacks_is_named():
  with pytest.raises(ValueError, match="Foreign has no vocabulary, dtype") as e:
    score.stage_one(
      {"policy": Foreign()}, TASK, (), problems=2, samples=4, turns=(3, 3)
    )
  assert "make_cache" in str(e.value) and "from_logits" in str(e.value)
  foreign.check(POLICY)
  foreign.check(decoder.Decoder(
    vocabulary=8, layers=1, width=8, heads=1, kv_heads=1, head_size=8,
    mlp_size=8,
  ))
