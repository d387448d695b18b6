"""Rows that share a prompt, read once, against the same rows one by one."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain import train, types
from sitrain.methods import score
from sitrain.models import attention, decoder, logprobs, reading
from sitrain.rollout import play
from sitrain.tasks import maze

PROBLEMS, ROWS, SLOTS, REST, VOCABULARY = 3, 4, 6, 9, 31
SIZES = dict(
  vocabulary=VOCABULARY, layers=2, width=16, heads=4, kv_heads=2, head_size=4,
  mlp_size=24,
)
MODELS = {
  "llama": decoder.Decoder(**SIZES),
  "scanned": decoder.Decoder(**SIZES, scan=True, remat="full"),
  "gemma": decoder.Decoder(
    **SIZES, post_norms=True, qk_norm=True, attention_cap=5.0, window=4,
    local=(True, False), local_rope_base=100.0,
  ),
}


# Op by op, each of a hundred would be compiled.
token_scores = jax.jit(
  logprobs.token_scores, static_argnums=0, static_argnames="shared"
)


def rows(lengths=(6, 3, 5), columns=SLOTS + REST):
  """Rows at column 0: a prompt for each problem, ends of several lengths."""
  draw = np.random.default_rng(0)
  tokens = draw.integers(0, VOCABULARY, (PROBLEMS, ROWS, columns))
  turn = np.full(tokens.shape, -1)
  for p, length in enumerate(lengths):
    tokens[p, :, :length] = tokens[p, 0, :length]
    turn[p, :, :length] = 0
    for g in range(ROWS):
      first, second = draw.integers(1, 4, 2)
      end = length + first + 2 + second
      turn[p, g, length:end] = [1] * first + [0] * 2 + [2] * second
  tokens[turn < 0] = -1
  as_array = functools.partial(jnp.asarray, dtype=jnp.int32)
  return as_array(tokens), as_array(turn), as_array(0 * turn)


def objective(model, params, reference, given, shared):
  """A sum over all that is scored behind the prompts, and the scores."""
  scores, kl = logprobs.token_scores_and_kl(
    model, params, reference, *given, inputs=given[0], temperature=0.7,
    shared=shared,
  )
  counted = jnp.cumsum(given[1] >= 1, axis=-1) > 0
  found = [jnp.where(counted, x, 0) for x in (*scores, kl)]
  weight = jax.random.normal(jax.random.key(3), kl.shape)
  return sum(jnp.sum(x * weight) for x in found), found


def both(model, given, shared):
  """Value, scores and gradient with `shared` and with rows one by one."""
  params, reference = (
    fakes.parameters(model, seed) for seed in (0, 1)
  )
  grad = jax.jit(
    jax.value_and_grad(objective, argnums=1, has_aux=True),
    static_argnums=(0, 4),
  )
  return [grad(model, params, reference, given, x) for x in (shared, ())]


def assert_near(got, want):
  """Equal but for rounding, beside the largest number of the array."""
  np.testing.assert_allclose(got, want, rtol=0, atol=3e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["scanned", "gemma"])
def test_a_shared_prompt_changes_neither_scores_nor_gradients(name):
  got, want = both(MODELS[name], rows(), (SLOTS, REST))
  assert float(jnp.max(jnp.abs(want[0][1][0]))) > 1
  jax.tree.map(assert_near, got, want)


def differing():
  """Problems whose rows begin differently, some with tokens of their own.

  Problem 0 from column 4 on, of its 6 given tokens; problem 1 with a row that
  has two tokens fewer, and a row of pads; problem 2 from the first token on,
  behind two pads that only one row has.
  """
  tokens, turn, path = (np.array(x) for x in rows())
  tokens[0, 1, 4], tokens[0, 2, 5] = 29, 30
  for x, fill in ((tokens, -1), (turn, -1)):
    x[1, 1] = np.append(x[1, 1, 2:], [fill, fill])
    x[1, 3] = fill
    x[2, 1] = np.append([fill, fill], x[2, 1, :-2])
  tokens[2, 2, 0] = 30
  return tuple(map(jnp.asarray, (tokens, turn, path)))


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_only_the_common_prefix_is_shared(name):
  given = differing()
  prefix = reading.common_prefix(given[1], given[0], SLOTS)
  np.testing.assert_array_equal(prefix.length, [4, 0, 0])
  got, want = both(MODELS[name], given, (SLOTS, SLOTS + REST))
  assert float(jnp.max(jnp.abs(want[0][1][0]))) > 1
  jax.tree.map(assert_near, got, want)


def test_rows_that_do_not_fit_are_nan():
  """Better than the numbers of another row's prompt, which nobody notices."""
  tokens, turn, path = rows(lengths=(6, 6, 6))
  tokens = tokens.at[0, 1, 3].set(30)  # From here on all is a row's own.
  path = path.at[1, 2].set(1)
  end = jnp.sum(turn >= 0, axis=-1)
  room = int(jnp.sort(end[0])[1]) - 3  # enough for two rows, not for all
  shared, plain = (
    np.asarray(token_scores(
      MODELS["llama"], fakes.parameters(MODELS["llama"], 0),
      tokens, turn, path, inputs=tokens, shared=x,
    ).logprob)
    for x in ((SLOTS, room), ())
  )
  fits = np.asarray(end[0]) - 3 <= room
  assert 0 < fits.sum() < ROWS
  np.testing.assert_array_equal(np.isnan(shared[0]), (
    ~fits[:, None] & (np.asarray(turn[0]) >= 0)
  ))
  assert_near(shared[0, fits, 3:], plain[0, fits, 3:])
  assert np.isnan(shared[1, 2, 0]) and not np.isnan(shared[2]).any()


def test_complete_episodes_have_equal_scores(monkeypatch):
  """In parts of whole problems."""
  model, (tokens, turn, path) = MODELS["llama"], rows()
  params = fakes.parameters(model, 0)
  flat = [x.reshape(-1, x.shape[-1]) for x in (tokens, turn, path)]
  number = jnp.arange(flat[0].shape[0])
  episodes = types.Episodes(
    flat[0], flat[1], jnp.zeros(flat[0].shape), flat[2], number, number
  )
  monkeypatch.setattr(reading, "ATTENTION_ELEMENTS", 1000)
  got, want = (
    jax.jit(functools.partial(
      logprobs.score_rows, model, temperature=1.0, **options
    ))(params, episodes)
    for options in ({"together": ROWS, "shared": (SLOTS, REST)}, {})
  )
  counted = jnp.cumsum(flat[1] >= 1, axis=-1) > 0
  for x, y in zip(got, want):
    assert_near(jnp.where(counted, x, 0), jnp.where(counted, y, 0))


def test_rows_may_be_cut_to_their_longest():
  given = tuple(x[..., :10] for x in rows(lengths=(2, 1, 2)))
  got, want = both(MODELS["llama"], given, (SLOTS, REST))
  jax.tree.map(assert_near, got, want)


def test_branches_do_not_see_one_another():
  """What another row of the problem says changes no score of this one."""
  model, given = MODELS["llama"], rows(lengths=(6, 6, 6))
  params = fakes.parameters(model, 0)
  other = given[0].at[:, 1, SLOTS:].set(7)
  first, second = (
    token_scores(
      model, params, tokens, *given[1:], inputs=tokens, shared=(SLOTS, REST)
    ).logprob
    for tokens in (given[0], other)
  )
  np.testing.assert_array_equal(first[:, 0], second[:, 0])
  assert not np.array_equal(first[:, 1], second[:, 1])


def flops(model, shared):
  params = fakes.parameters(model, 0)
  grad = jax.jit(
    jax.grad(lambda p: objective(model, p, params, rows(), shared)[0])
  )
  return grad.lower(params).compile().cost_analysis()["flops"]


def test_the_prompt_is_computed_once():
  """6 + 4 * 8 columns are read instead of 4 * 14."""
  model = MODELS["llama"]
  assert flops(model, (SLOTS, REST)) < 0.75 * flops(model, ())


def test_long_rows_are_read_one_by_one(monkeypatch):
  monkeypatch.setattr(attention, "SHORT", 8)
  model = MODELS["llama"]
  assert flops(model, (SLOTS, REST)) == flops(model, ())


def test_columns_are_those_of_the_rollout():
  task = maze.make(doors=2, rooms=2)
  slots, rest = play.columns_of(task, (3, 3, 3))
  problems = jax.jit(task.problems, static_argnums=1)(jax.random.key(0), 2)
  assert slots == problems.prompt.shape[1]
  assert rest == 3 * 3 + 2 * play.reply_width(task.reply, problems) == 11


def test_parts_of_a_batch_keep_the_samples_of_a_problem():
  """Own rows and rows with a given first attempt make groups of their own."""
  task = maze.make(doors=2, rooms=2)
  model = decoder.Decoder(**SIZES | {"vocabulary": task.tokenizer.size})
  method = score.stage_two(
    {"policy": model}, task, (), problems=PROBLEMS, samples=4, offline=2,
    turns=(3, 3), share_prompts=True,
  )
  params = fakes.parameters(model, 0)
  state = train.init_state(
    {"policy": params}, optax.sgd(0.1), held={"reference": params}
  )
  collect, judge, _ = train.make_parts(method, lambda state, batch: (state, {}))
  key = jax.random.key(1)
  problems, episodes = jax.jit(collect)(state, key)
  verdict, _ = jax.jit(judge)(state, key, problems, episodes)
  batch, _ = jax.jit(method.curate)(key, state, problems, episodes, verdict)
  assert batch.tokens.shape[:2] == (3 * PROBLEMS, 2)
  slots = problems.prompt.shape[1]
  for tokens in (batch.tokens, batch.inputs):
    np.testing.assert_array_equal(tokens[:, 0, :slots], tokens[:, 1, :slots])
