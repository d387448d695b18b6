"""Rollouts in pieces against the one program of `play` in slots."""

import functools

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_refill import PROBLEMS, ROWS, SAMPLES, assert_same, ragged, run
from test_rollout import EOS, TURNS, reply

from sitrain.evaluate import pieces as in_pieces
from sitrain.evaluate import player
from sitrain.runtime import pieces, sharding
from sitrain.types import Episodes

ONE = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def posed():
  return ragged()


def programs_of(model, slots):
  return pieces.compiled(
    model, ONE, slots=slots, samples=SAMPLES, reply=reply, turns=TURNS, eos=EOS
  )


@pytest.mark.parametrize("slots, steps", [(4, 3), (16, 5), (1, 7)])
def test_the_episodes_are_those_of_one_program(toy, posed, slots, steps):
  """Rows that have ended do not change, and others are seen as they grow."""
  model, params, _ = toy
  keys, problems, temperature = posed
  want = run(keys, model, params, problems, temperature, slots=slots)
  programs = programs_of(model, slots)
  given = keys, (programs.prepare(params), temperature), problems
  table = programs.begin(*given, jnp.ones(PROBLEMS, bool))
  ended, seen, calls = np.zeros(ROWS, bool), set(), 0
  opened = compilations.counter()
  while not ended.all():
    before = opened.count()
    table, now = programs.go_on(*given, table, np.int32(steps))
    assert calls == 0 or opened.count() == before, "compiled twice"
    last, ended = ended, np.asarray(now.ended)
    assert np.all(ended[last]), "a row has begun again"
    np.testing.assert_array_equal(
      now.rows.tokens[ended], want.tokens[ended], err_msg=f"call {calls}"
    )
    np.testing.assert_array_equal(now.tokens, (now.rows.turn > 0).sum(axis=1))
    seen.add(int(ended.sum()))
    calls += 1
    assert calls < ROWS * sum(TURNS), "it does not end"
  opened.close()
  assert len(seen) > 3, "rows ended together"
  assert_same(now.rows, want)


def test_the_steps_are_those_that_are_asked_for(toy, posed):
  model, params, _ = toy
  keys, problems, temperature = posed
  programs = programs_of(model, 4)
  given = keys, (programs.prepare(params), temperature), problems
  table, step = programs.begin(*given, jnp.ones(PROBLEMS, bool)), 0
  while True:
    table, now = programs.go_on(*given, table, np.int32(3))
    if now.ended.all():
      break
    step += 3
    assert table.slots.step == step
  assert step < table.slots.step <= step + 3
  again, _ = programs.go_on(*given, jax.tree.map(jnp.copy, table), np.int32(3))
  assert again.slots.step == table.slots.step


def test_problems_that_are_not_live_are_not_played(toy, posed):
  model, params, _ = toy
  keys, problems, temperature = posed
  want = run(keys, model, params, problems, temperature, slots=4)
  programs = programs_of(model, 4)
  given = keys, (programs.prepare(params), temperature), problems
  live = np.arange(PROBLEMS) >= 3
  table, now = programs.begin(*given, live), Episodes
  table, now = programs.go_on(*given, table, np.int32(10**6))
  own = np.repeat(live, SAMPLES)
  assert now.ended.all() and not np.any(now.tokens[~own])
  np.testing.assert_array_equal(now.rows.tokens[own], want.tokens[own])


def test_places_are_shared_by_the_groups():
  np.testing.assert_array_equal(in_pieces.places(3, 4, 1), [-1, 0, 1, 2])
  # Two groups of three places each, for five problems of six.
  np.testing.assert_array_equal(
    in_pieces.places(5, 6, 2), [0, 2, 4, -1, 1, 3]
  )
  np.testing.assert_array_equal(
    in_pieces.places(1, 5, 4), [-1, 0, -1, -1, -1, -1, -1, -1]
  )


def test_parts_are_those_of_the_player(toy):
  """Also a part that others have begun, in the programs of a whole one."""
  model, params, task = toy
  options = dict(
    turns=(task.turn_length,) * 2, samples=2, slots=3, reply=task.reply
  )
  made = player.make(model, task, **options, jit=jax.jit)
  programs = pieces.compiled(model, ONE, **options, eos=task.eos)
  key, prepared = jax.random.key(2), programs.prepare(params)
  posed = jax.device_get(made.pose(jax.random.fold_in(key, 0), 9))
  given = dict(batch=18, temperature=1.0)
  for rows in (np.arange(9), np.array([1, 4, 5, 8])):
    want = player.play_rows(made, params, key, posed, rows, **given)
    found = list(in_pieces.play_rows(
      programs, made, prepared, key, posed, rows, groups=1, **given
    ))
    order = np.concatenate([one.problems for one in found])
    some = [one.played for one in found if len(one.problems)]
    got = jax.tree.map(lambda *x: np.concatenate(x), *some)
    place = np.searchsorted(rows, order)[:, None] * 2 + np.arange(2)
    own = player.Played(*(
      jax.tree.map(functools.partial(np.take, indices=place.ravel(), axis=0), x)
      for x in want
    ))
    jax.tree.map(np.testing.assert_array_equal, got, own)
    assert found[0].tokens == 0
