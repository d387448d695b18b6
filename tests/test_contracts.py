"""What every method keeps to, whatever it computes: one table, all contracts.

Each row is compiled by the main's own functions, on mazes whose verifier is
kind: a policy that knows nothing never leaves a maze, and without rewards all
advantages would be 0.
"""

import functools

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sitrain.methods import (
  imitation,
  multi_turn,
  pair_sft,
  score,
  single_turn,
  star,
)
from sitrain.models.decoder import Decoder
from sitrain.runtime import checkpoint, compile, optimizer
from sitrain.runtime.stage import compile_ahead, compile_loop, run_stage
from sitrain.runtime.start import layout, start_state
from sitrain.tasks import maze
from sitrain.types import Mean, Progress, Verdict

MAZE = maze.make(doors=2, rooms=2)
TURNS, PROBLEMS, SAMPLES = (3, 3), 8, 4
MODEL = Decoder(
  vocabulary=MAZE.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
  head_size=8, mlp_size=8,
)
# Adam with a large eps is smooth: what differs by rounding stays so.
OPTIMIZER = optimizer.make(learning_rate=0.03, steps=4, eps=1e-2)
PROGRESS = Progress("one", 2, {}, 0.0, 0, False)


def kind(answer, episodes, turns):
  """Right iff the tokens of the turn and the exit's room add up evenly."""
  said = [
    jnp.sum(jnp.where(episodes.turn == k + 1, episodes.tokens, 0), axis=1)
    for k in range(turns)
  ]
  right = (jnp.stack(said, axis=1) + answer[:, -2:-1]) % 2 == 0
  return Verdict(right.astype(jnp.float32), jnp.ones(right.shape))


TASK = MAZE._replace(verify=kind)
ROWS = {"problems": PROBLEMS, "samples": SAMPLES, "turns": TURNS}
RL = ROWS | {"beta1": 0.2}
RL2 = RL | {"beta2": 0.4}
# Estimators of the KL and baselines are spread over the rows.
METHODS = {
  "imitation": (imitation.make, {"problems": PROBLEMS, "turns": TURNS}),
  "single_turn": (single_turn.make, RL | {"kl": "k1"}),
  "multi_turn": (multi_turn.make, RL2 | {"kl": "k3"}),
  "stage_one": (
    score.stage_one,
    RL2 | {"baseline": "same_outcome", "share_prompts": True},
  ),
  "stage_two": (score.stage_two, RL2 | {"kl": "k2", "offline": 2}),
  "stage_two of three turns": (
    score.stage_two,
    RL2 | {"turns": (3, 3, 3), "kl": "none", "share_prompts": True},
  ),
  "star": (star.make, ROWS),
  "star+": (star.make, ROWS | {"also_correct": True, "trained": (1, 2)}),
  "pair_sft": (pair_sft.make, ROWS),
  "pair_sft+": (pair_sft.make, ROWS | {"also_correct": True}),
}
# Rows without a plus trace the same program with another constant.
COMPILED = [name for name in METHODS if name not in ("star", "pair_sft")]
RANDOM_PARTNERS = ("pair_sft+",)  # drawn once a wave


@functools.cache
def stage_of(name):
  make, options = METHODS[name]
  method = make({"policy": MODEL}, TASK, OPTIMIZER, **options)
  anchor = "none" if name == "imitation" else "base/last"
  return loops.stage_of(method, OPTIMIZER, anchor=anchor)


@pytest.fixture(scope="module", autouse=True)
def programs(cache):
  """Equal programs of different rows are compiled once."""
  names = (
    "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
  )
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in zip(names, (str(cache), 0.0)):
    jax.config.update(name, value)
  yield
  for name in names:
    jax.config.update(name, before[name])
  compilation_cache.reset_cache()


@functools.cache
def begun():
  """(abstract, state) by anchor, as the main makes them."""
  states = {}
  for name in ("imitation", "star"):
    stage, run = stage_of(name), loops.run_of(MODEL)
    alone = stage._replace(anchor="none")
    state = start_state(run, alone, layout(run, alone))
    if stage.anchor != "none":
      # A reference that equals the policy would have no divergence.
      other = jax.tree.map(lambda x: 0.8 * x, state.params["policy"])
      state = state._replace(reference=other)
    states[stage.anchor] = layout(run, stage), state
  return states


@functools.cache
def two_steps(name):
  """(fused program of two steps, state after them, what it told)."""
  stage, run = stage_of(name), loops.run_of(MODEL)
  abstract, state = begun()[stage.anchor]
  fused = compile_loop(run, stage, abstract)
  return fused, *fused(loops.copy(state), ROOT)


ROOT = jax.random.split(jax.random.key(0, impl="threefry2x32"))[1]


def avals(tree):
  return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", METHODS)
def test_the_state_keeps_its_kind(name):
  """Structure, shape, dtype; and no large constant in the program."""
  stage = stage_of(name)
  abstract, state = begun()[stage.anchor]
  loop = loops.loop_of(stage, loops.mesh_of(1))
  closed, out = jax.make_jaxpr(loop, return_shape=True)(abstract, ROOT)
  assert jax.tree.structure(out[0]) == jax.tree.structure(state)
  assert avals(out[0]) == avals(state)
  count = len(jax.tree.leaves(state))
  assert not any(x.weak_type for x in closed.out_avals[:count])
  for mean in out[1].values():
    assert isinstance(mean, Mean)
    assert mean.total.shape == mean.count.shape == (2,)
  assert max(loops.constants(closed), default=0) < 1_000_000


def test_constants_are_found_where_they_stand():
  table = np.ones((600, 600), np.float32)

  def loop(x):
    body = lambda x, _: (x + jnp.sum(jax.jit(lambda: table * 2)()), ())
    return jax.lax.scan(body, x, length=2)[0]

  assert max(loops.constants(jax.make_jaxpr(loop)(1.0))) == table.nbytes


@pytest.mark.parametrize("name", COMPILED)
def test_two_and_two_steps_are_four(name, tmp_path):
  """Two calls of one program, with and without a checkpoint between them."""
  fused, half, _ = two_steps(name)
  abstract, state = begun()[stage_of(name).anchor]
  manager = checkpoint.open_manager(tmp_path)
  checkpoint.save(manager, 2, half, PROGRESS, 0.0)
  whole, told = fused(loops.copy(half), ROOT)
  manager.wait_until_finished()
  restored, progress = checkpoint.restore_last(manager, abstract)
  checkpoint.finish(manager)
  assert progress == PROGRESS and loops.bits(restored) == loops.bits(half)
  again, retold = fused(restored, ROOT)
  assert loops.bits(again) == loops.bits(whole)
  assert loops.bits(retold) == loops.bits(told)
  assert int(whole.step) == 4
  assert loops.bits(half.params) != loops.bits(state.params)
  assert np.all(told["learn/gradient_norm"].total > 0)
  for x in jax.tree.leaves((whole.params, told)):
    assert np.all(np.isfinite(x))


@pytest.mark.parametrize("name", COMPILED)
def test_fused_is_staged(name):
  """The same bits, and the second call of the parts compiles nothing.

  What is told may differ by rounding: nothing is computed from it.
  """
  fused, half, told = two_steps(name)
  stage, run = stage_of(name), loops.run_of(MODEL)
  abstract, state = begun()[stage.anchor]
  staged = compile_loop(run, stage._replace(fused=False), abstract)
  got, said = staged(loops.copy(state), ROOT)
  assert loops.bits(got) == loops.bits(half)
  for metric in told:
    for x, y in zip(said[metric], told[metric]):
      np.testing.assert_allclose(x, y, rtol=1e-6, err_msg=metric)
  counter = compile.count_compilations()
  staged(got, ROOT)
  assert counter.count() == 0
  counter.close()


@pytest.mark.parametrize("name", COMPILED)
def test_waves_and_microbatches_change_nothing(name):
  _, want, told = two_steps(name)
  stage, run = stage_of(name), loops.run_of(MODEL)
  abstract, state = begun()[stage.anchor]
  waves = 1 if name in RANDOM_PARTNERS else 4
  parts = loops.PARTS | {"waves": waves, "microbatches": 8}
  split = compile_loop(run, stage._replace(parts=parts), abstract)
  got, said = split(loops.copy(state), ROOT)
  for x, y in zip(jax.tree.leaves(got.params), jax.tree.leaves(want.params)):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)
  for metric in told:
    for x, y in zip(said[metric], told[metric]):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-3, err_msg=metric)


def test_three_turns_in_stages(tmp_path):
  """Stage I of two turns, then of three held to its result, then stage II."""
  two, three = {"turns": (3, 3)}, {"turns": (3, 3, 3)}
  plan = (
    ("base", imitation.make, METHODS["imitation"][1], "init", "none"),
    ("a", score.stage_one, RL2 | two, "base/last", "base/last"),
    ("b", score.stage_one, RL2 | three, "a/last", "a/last"),
    ("c", score.stage_two, RL2 | three, "b/last", "a/last"),
  )
  run = loops.run_of(MODEL, tmp_path)
  policies = {}
  for name, make, options, start, anchor in plan:
    method = make({"policy": MODEL}, TASK, OPTIMIZER, **options)
    stage = loops.stage_of(
      method, OPTIMIZER, steps_per_call=1, name=name, start=start,
      anchor=anchor, steps=1,
    )
    if name != "base":
      state = start_state(run, stage, layout(run, stage))
      before, held = (x.split("/")[0] for x in (start, anchor))
      assert loops.bits(state.params["policy"]) == policies[before]
      assert loops.bits(state.reference) == policies[held]
      assert int(state.step) == len(policies)
    params, progress = run_stage(run, stage, compile_ahead(run, stage))
    assert progress.step == 1 and progress.done
    policies[name] = loops.bits(params)
  assert len({str(bits) for bits in policies.values()}) == len(plan)


def test_a_new_policy_may_be_held_to_an_old_one(tmp_path):
  """start says where a stage begins, and anchor alone what it is held to."""
  method = imitation.make({"policy": MODEL}, TASK, OPTIMIZER, **METHODS[
    "imitation"
  ][1])
  make = lambda name, **more: loops.stage_of(
    method, OPTIMIZER, steps_per_call=1, name=name, steps=1, **more
  )
  base = make("base", anchor="none")
  run = loops.run_of(MODEL, tmp_path)
  params, _ = run_stage(run, base, compile_ahead(run, base))
  anew = make("anew", anchor="base/last")
  state = start_state(run, anew, layout(run, anew))
  assert loops.bits(state.reference) == loops.bits(params)
  first = start_state(run, base, layout(run, base))
  assert loops.bits(state.params) == loops.bits(first.params)
  assert loops.bits(first.params["policy"]) != loops.bits(params)
