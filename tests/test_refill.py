"""Slots that are refilled against all rows at once: the same episodes."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rollout import EOS, PROMPTS, TURNS, VOCABULARY, pose, reply

from sitrain.evaluate import player
from sitrain.methods import score, verbs
from sitrain.models.decoder import sees_cache
from sitrain.models.logprobs import token_scores
from sitrain.rollout.play import play
from sitrain.rollout.refill import sees_ring
from sitrain.tasks.draw import constant_reply
from sitrain.types import Episodes, TrainState

PROBLEMS, SAMPLES = 7, 3
ROWS = PROBLEMS * SAMPLES


@functools.partial(
  jax.jit, static_argnames=("model", "slots", "turns", "eos", "top_k", "top_p",
                            "samples", "first_turn", "reply"),
)
def run(
  keys, model, params, problems, temperature, *, slots, turns=TURNS, eos=EOS,
  samples=SAMPLES, reply=reply, **options,
):
  return play(
    keys, model, params, problems, slots=slots, samples=samples, reply=reply,
    turns=turns, eos=eos, temperature=temperature, **options,
  )


def ragged():
  """(keys, ragged problems, a temperature for each row, some of them 0)."""
  order = [i % 4 for i in range(PROBLEMS)]
  temperature = np.random.default_rng(0).choice([0, 0.7, 1], ROWS)
  return (
    jax.random.split(jax.random.key(11), PROBLEMS),
    pose([PROMPTS[i] for i in order], order, slots=6),
    jnp.asarray(temperature, jnp.float32),
  )


@pytest.fixture(scope="module")
def posed():
  return ragged()


def assert_same(found, want):
  for name in Episodes._fields:
    got, expected = getattr(found, name), getattr(want, name)
    assert got.dtype == expected.dtype, name
    if name == "logprob":
      np.testing.assert_allclose(got, expected, atol=1e-5)
    else:
      np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize("slots, limits, options", [
  (4, TURNS, {}),
  (5, TURNS[:2], {"top_k": 5, "top_p": 0.9, "first_turn": 2}),
  (16, (12,), {"eos": (3, 7, 9, 11)}),
], ids=["three turns", "filtered", "one turn"])
def test_the_episodes_are_those_of_all_rows_at_once(
  toy, posed, slots, limits, options
):
  model, params, _ = toy
  keys, problems, temperature = posed
  few, all_ = (
    run(
      keys, model, params, problems, temperature, slots=n, turns=limits,
      **options,
    )
    for n in (slots, ROWS)
  )
  assert_same(few, all_)
  length = np.sum(np.asarray(all_.turn) >= 1, axis=1)
  assert len(set(length.tolist())) > 2, "rows of one length prove nothing"


def test_the_log_probabilities_are_token_scores(toy, posed):
  model, params, _ = toy
  keys, problems, temperature = posed
  # As above to the letter, so that nothing is compiled.
  rows = run(keys, model, params, problems, temperature, slots=4, turns=TURNS)
  scores = jax.jit(lambda temperature: token_scores(
    model, params, rows.tokens, rows.turn, rows.path, inputs=rows.tokens,
    temperature=temperature,
  ))(jnp.where(temperature == 0, 1.0, temperature))
  own = np.asarray(rows.turn) >= 1
  np.testing.assert_allclose(
    np.asarray(rows.logprob)[own], np.asarray(scores.logprob)[own], atol=1e-5
  )
  assert np.all(np.asarray(rows.logprob)[~own] == 0)


def test_local_layers_prompts_of_one_token_and_one_slot(toy, posed):
  """A local layer asks for the positions of keys, in whatever column."""
  model, params, _ = toy
  model = model.clone(local=(True, False), window=4)
  keys, _, temperature = posed
  problems = pose([[i] for i in range(PROBLEMS)], range(PROBLEMS), slots=1)
  few, all_ = (
    run(keys, model, params, problems, temperature, slots=n) for n in (1, 0)
  )
  assert_same(few, all_)


def test_a_ring_is_the_cache_in_another_order():
  start, birth = jnp.array([0, 2, 5]), jnp.array([3, 9, 12])
  prompt, turning, step = 6, 8, 12
  found = sees_ring(start, birth, jnp.int32(step), prompt, turning)
  for row in range(3):
    began = int(birth[row])
    want = sees_cache(start[row : row + 1], prompt + step - began, 1, 14)
    column = list(range(prompt))
    column += [prompt + (at - began) % turning for at in range(turning)]
    assert sorted(column) == list(range(14))
    assert found.position[row, 0] == want.position[0, 0]
    np.testing.assert_array_equal(
      found.key_position[row], want.key_position[0][jnp.array(column)]
    )
    np.testing.assert_array_equal(
      found.visible[row, 0], want.visible[0, 0][jnp.array(column)]
    )


trips = []


def counted(answer, episodes, turn):
  jax.debug.callback(lambda: trips.append(1))
  return constant_reply([9])(answer, episodes, turn)


def steps_of(limit, slots, stubborn):
  """Steps that are decoded for 16 rows of one token a turn, in two turns; rows
  of prompt 0 go on to the limit if `stubborn`."""
  trips.clear()
  table = np.zeros((VOCABULARY, VOCABULARY))
  table[:, EOS[0]] = 50.0
  if stubborn:
    table[PROMPTS[0][-1]] = table[6] = np.eye(VOCABULARY)[6] * 50
  prompts = [PROMPTS[2 * (i % 4 > 0)] for i in range(16)]
  rows = run(
    jax.random.split(jax.random.key(0), 16), fakes.bigram(VOCABULARY),
    fakes.tabled(table), pose(prompts, [0] * 16, slots=6), jnp.ones(16),
    slots=slots, samples=1, turns=(limit, 2), reply=counted,
  )
  jax.block_until_ready(rows)
  jax.effects_barrier()
  return len(trips), np.sum(np.asarray(rows.turn) >= 1, axis=1)


def test_a_slot_serves_row_after_row():
  # One token, the reply, one token: three steps a row, and 16 rows in 4 slots.
  steps, length = steps_of(30, 4, stubborn=False)
  assert steps == 3 * 16 // 4
  assert np.all(length == 2)
  # One row in four takes 32 steps. In batches of four rows, each would wait.
  steps, length = steps_of(30, 4, stubborn=True)
  assert steps < 4 * 32 / 2
  assert sorted(length) == [2] * 12 + [31] * 4


def test_inside_a_map(toy, posed):
  """Waves are played one after the other inside one program."""
  model, params, _ = toy
  keys, problems, _ = posed

  def wave(keys):
    return play(
      keys, model, params, problems, slots=1, samples=1, reply=reply,
      turns=TURNS, eos=EOS, temperature=1.0,
    )

  both = jnp.stack([keys, jax.random.split(jax.random.key(1), PROBLEMS)])
  waves = jax.jit(lambda keys: jax.lax.map(wave, keys))(both)
  for number, row_keys in enumerate(both):
    want = run(
      row_keys, model, params, problems, jnp.ones(PROBLEMS), slots=0, samples=1
    )
    assert_same(Episodes(*(leaf[number] for leaf in waves)), want)


def drawn(task):
  """Shapes of keys and of as many problems."""
  return jax.eval_shape(
    lambda key: (jax.random.split(key, 4), task.problems(key, 4)),
    jax.random.key(0),
  )


@pytest.fixture
def asked_for(monkeypatch):
  """The slots of every rollout that is begun; what it plays is tested above."""
  slots = []

  def noted(*given, **options):
    slots.append(options["slots"])
    return play(*given, **options)

  monkeypatch.setattr(player, "play", noted)
  monkeypatch.setattr(verbs, "play", noted)
  return slots


def test_an_evaluation_plays_in_slots(toy, asked_for):
  model, params, task = toy
  make = functools.partial(
    player.make, model, task, turns=(task.turn_length,), samples=2,
    reply=task.reply, jit=jax.jit,
  )
  keys, problems = drawn(task)
  jax.eval_shape(make(slots=3).play, keys, (params, 1.0), problems)
  assert asked_for == [3]
  with pytest.raises(ValueError, match="slots=-2: set it to .* 0"):
    make(slots=-2)


def test_a_method_plays_in_slots(toy, asked_for):
  model, params, task = toy
  make = functools.partial(
    score.stage_one, {"policy": model}, task, (), problems=4, samples=2,
    turns=(task.turn_length,) * 2, offline=2,
  )
  roles = {"policy": params}, (), {"reference": params}
  state = TrainState(jnp.int32(0), {}, *roles, ())
  keys, problems = drawn(task)
  jax.eval_shape(make(slots=3).generate, keys, state, problems)
  assert asked_for == [3]
  with pytest.raises(ValueError, match="slots=-1: set it to .* 0"):
    make(slots=-1)
