"""Bandits over the levels of a task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.curate.curriculum import choose, update_arms
from sitrain.methods import sec
from sitrain.models.decoder import Decoder
from sitrain.rollout.contexts import begin
from sitrain.tasks import chain, maze
from sitrain.train import init_state
from sitrain.types import Verdict

choose_jitted = jax.jit(choose, static_argnums=3)


def test_levels_are_drawn_with_their_chance():
  rng = np.random.default_rng(0)
  level = jnp.asarray(rng.permutation(np.repeat(np.arange(3), 200)))
  chance = jnp.array([0.7, 0.0, 0.3])
  keys = jax.random.split(jax.random.key(0), 50)
  found = np.stack([choose_jitted(key, level, chance, 100) for key in keys])
  share = np.bincount(level[found].reshape(-1), minlength=3) / found.size
  np.testing.assert_allclose(share, chance, atol=0.03)
  # No candidate stands twice in a round: there are enough of each level.
  assert all(len(set(row)) == 100 for row in found)


def test_levels_without_candidates_are_not_drawn():
  level = jnp.array([2, 0, 2, 0])
  found = choose_jitted(
    jax.random.key(1), level, jnp.array([0.1, 0.8, 0.1]), 64
  )
  assert set(np.asarray(found)) == {0, 1, 2, 3}


def test_arms_by_hand():
  value = jnp.array([0.4, 0.2, 0.6, 0.1])
  found = update_arms(
    value, jnp.array([0, 2, 0, 2, 1]), jnp.array([1, 0.5, 0, jnp.nan, 0.7]),
    jnp.array([1.0, 1, 1, 0, 0]), rate=0.5,
  )
  # Of level 1 no verdict is known, and level 3 was not posed.
  np.testing.assert_allclose(found, [0.45, 0.2, 0.55, 0.1], rtol=1e-6)


def method_of(task, **options):
  model = Decoder(
    vocabulary=task.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
    head_size=8, mlp_size=8,
  )
  return sec.make(
    {"policy": model}, task, (), problems=40, samples=2, turns=(8,), **options
  )


def test_the_level_between_too_easy_and_too_hard_is_posed():
  task = chain.make(operations=(1, 3))
  method = method_of(task, tau=0.1)
  memory = method.memory(jax.random.key(0))
  state = init_state({}, optax.identity(), memory=memory)
  pose = jax.jit(method.pose)
  for step in range(6):
    problems = pose(jax.random.key(step), state)
    level = np.repeat(task.level(problems), 2)
    # Level 0 is always right, 1 half the time, and 2 never.
    right = np.where(level == 1, np.arange(80) % 2, level == 0)
    verdict = Verdict(
      jnp.asarray(right[:, None], jnp.float32), jnp.ones((80, 1))
    )
    rows = begin(problems, 2)
    state = method.refresh(state, problems, rows, verdict)
  assert np.argmax(state.memory) == 1
  np.testing.assert_allclose(state.memory[jnp.array([0, 2])], 0)
  assert np.mean(task.level(problems) == 1) > 0.9


def test_a_task_of_one_level_is_refused():
  with pytest.raises(ValueError, match="1_operations.* a curriculum needs two"):
    method_of(chain.make(operations=(1, 1)))
  assert method_of(maze.make())
