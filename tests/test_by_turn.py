"""Rollouts whose replies the host writes, against those of one program."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np

from sitrain.models.logprobs import token_scores
from sitrain.rollout import by_turn, stops
from sitrain.rollout.play import play
from sitrain.types import GIVEN, PAD, Problems, Reply

PROBLEMS, SAMPLES, TURNS, WIDTH, EOS = 5, 2, (4, 5, 3), 3, (3, 11)


def reply(answer, episodes, turn):
  """None, one or more tokens, by the length of the turn; 7 ends the row."""
  own = episodes.turn == turn[:, None]
  length = jnp.sum(own, axis=1)
  said = jnp.where(jnp.arange(WIDTH) < length[:, None] - 1, 5, PAD)
  said = said.at[:, 0].set(jnp.where(length > 1, answer[:, 0], PAD))
  done = jnp.any(own & (episodes.tokens == 7), axis=1)
  return Reply(said.astype(jnp.int32), done)


def posed():
  rng = np.random.default_rng(0)
  prompt = rng.integers(0, 16, (PROBLEMS, 6))
  prompt[np.arange(6) < np.arange(PROBLEMS)[:, None]] = PAD
  return Problems(
    jnp.asarray(prompt, jnp.int32), jnp.arange(PROBLEMS)[:, None],
    jnp.full((PROBLEMS, 1), PAD, jnp.int32),
  )


@functools.cache
def programs(model, temperature=1.0, *, write=None, samples=SAMPLES):
  """Compiled once for all tests; `asked` keeps what the host was given."""
  asked = []

  def answer(answer, rows, turn, alive, seed):
    asked.append((answer, rows, turn, alive, seed))
    told = jax.device_get(reply(answer, rows, np.full(len(alive), turn)))
    tokens = np.where((alive & ~told.done)[:, None], told.tokens, PAD)
    return write(tokens, told.done | ~alive) if write else Reply(
      tokens, told.done | ~alive
    )

  host = lambda *given: reply(*given)
  host.columns, host.answer = WIDTH, answer
  turns = by_turn.make(
    model, lambda state: (state, temperature), samples=samples, reply=host,
    turns=TURNS, eos=EOS,
  )
  return turns._replace(
    begin=jax.jit(turns.begin), go_on=jax.jit(turns.go_on, donate_argnums=1)
  ), asked


def keys_of(numbers):
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  return fold(jax.random.key(4, impl="threefry2x32"), jnp.asarray(numbers))


def run(model, params, numbers):
  """The rows of the problems `numbers`, in that order."""
  turns, asked = programs(model)
  asked.clear()
  part = jax.tree.map(lambda x: x[np.asarray(numbers)], posed())
  (rows,) = by_turn.play_all(
    [by_turn.playing(turns, keys_of(numbers), params, part)]
  )
  return rows, list(asked)


def test_a_turn_ends_behind_a_string(toy):
  """The tokens up to there are those that are drawn without it."""
  model, params, _ = toy
  names = "abcdefghijklmnop"
  first = lambda rows: [
    "".join(names[t] for t in tokens[turn == 1])
    for tokens, turn in zip(np.asarray(rows.tokens), np.asarray(rows.turn))
  ]
  plain = first(run(model, params, range(PROBLEMS))[0])
  string = next(text for text in plain if len(text) == TURNS[0])[1:3]
  host = lambda *given: reply(*given)
  host.columns, host.answer = WIDTH, ()
  host.stops = stops.make([string], names)
  turns = by_turn.make(
    model, lambda state: (state, 1.0), samples=SAMPLES, reply=host,
    turns=TURNS, eos=EOS,
  )
  rows = jax.jit(turns.begin)(keys_of(range(PROBLEMS)), params, posed()).rows
  cut = lambda text: (text + string)[: (text + string).index(string) + 2]
  want = [cut(text) if string in text else text for text in plain]
  assert first(rows) == want and want != plain


def test_the_host_answers_as_one_program_does(toy):
  """Tokens, marks, log-probabilities; seeds and rows of any batch."""
  model, params, _ = toy
  together, asked = run(model, params, range(PROBLEMS))
  fused = jax.jit(lambda params: play(
    keys_of(range(PROBLEMS)), model, params, posed(), samples=SAMPLES,
    reply=reply, turns=TURNS, eos=EOS, temperature=1.0,
  ))(params)
  for name in ("tokens", "turn", "path", "problem", "parent"):
    np.testing.assert_array_equal(
      getattr(together, name), getattr(fused, name), err_msg=name
    )
  np.testing.assert_allclose(together.logprob, fused.logprob, atol=1e-5)
  scores = token_scores(
    model, params, together.tokens, together.turn, together.path,
    inputs=together.tokens, temperature=1.0,
  )
  own = np.asarray(together.turn) > GIVEN
  np.testing.assert_allclose(
    np.asarray(scores.logprob)[own], np.asarray(together.logprob)[own],
    atol=1e-5,
  )
  # The case is a case: some rows end early, replies have different lengths.
  alive = [one[3] for one in asked]
  assert not alive[1].all() and alive[1].any()
  given = (np.asarray(together.turn) == GIVEN).sum(axis=1)
  assert len(set(given.tolist())) > 2
  # Other numbers in another order: the same rows, and the same seeds.
  backward, again = run(model, params, [4, 3, 2, 1, 0])
  order = np.arange(PROBLEMS * SAMPLES).reshape(PROBLEMS, -1)[::-1].ravel()
  np.testing.assert_array_equal(
    together.tokens, np.asarray(backward.tokens)[order]
  )
  for one, other in zip(asked, again):
    np.testing.assert_array_equal(one[4], other[4][order])
  assert len(np.unique(np.stack([one[4] for one in asked]))) > PROBLEMS


def test_an_error_stands_behind_the_last_turn(toy):
  """Where a row is done, its tokens are kept, and the row ends."""
  model, params, _ = toy
  told = lambda tokens, done: Reply(
    np.full_like(tokens, 9), np.ones_like(done)
  )
  turns, asked = programs(model, write=told)
  (rows,) = by_turn.play_all([
    by_turn.playing(turns, keys_of(range(PROBLEMS)), params, posed())
  ])
  tokens, mark = np.asarray(rows.tokens), np.asarray(rows.turn)
  count = (mark != PAD).sum(axis=1)
  for row, marks, n in zip(tokens, mark, count):
    assert marks.max() == 1
    assert row[n - WIDTH : n].tolist() == [9] * WIDTH
    assert marks[n - WIDTH : n].tolist() == [GIVEN] * WIDTH
    assert marks[n - WIDTH - 1] == 1
  assert len(asked) == 1


def test_several_rollouts_take_turns(toy):
  """The second is begun before the first has its reply: devices stay busy."""
  order = []

  def playing(name):
    for k in range(2):
      order.append((name, k))
      yield
    return rows[name]

  rows = {n: fakes.pack([([i], [0])]) for i, n in enumerate("ab")}
  found = by_turn.play_all([playing("a"), playing("b")])
  assert [int(one.tokens[0, 0]) for one in found] == [0, 1]
  assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
