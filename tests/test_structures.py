"""One method of each structure, compiled by the main's own functions.

Fused and staged, in waves and microbatches, cut and resumed: none of it may
change what is learned. Every method is tried without the loop in
test_contracts.py, and eight devices in test_devices.py.
"""

import functools

import compilations
import jax
import jax.numpy as jnp
import loops
import mains
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from test_contracts import (
  KEY,
  METHODS,
  PROBLEMS,
  Row,
  avals,
  run_for,
  stage_for,
)

from sitrain.curate.advantage import leave_one_out, same_problem
from sitrain.curate.policy import policy_batch
from sitrain.judge.verifier import verdict_metrics, verify
from sitrain.methods import verbs
from sitrain.models.roles import params_of
from sitrain.rollout import contexts
from sitrain.rollout.play import play, row_keys
from sitrain.runtime import checkpoint
from sitrain.runtime.cores import xla_has_flag
from sitrain.runtime.stage import compile_loop
from sitrain.runtime.start import layout, start_state
from sitrain.types import GIVEN, Method, Progress, Verdict

VOTES = 2


def answer_of(judge):
  """The row [B] that each judge read: they stand as those do."""
  return jnp.arange(judge.problem.shape[0]) // VOTES


def votes(models, task, optimizer, *, problems, samples, turns) -> Method:
  """Rows that answer, and rows that judge an answer in one token.

  An answer is worth the share of its judges that name an even token; a judge is
  worth whether it agrees with the verifier.
  """
  model = models["policy"]
  options = dict(reply=task.reply, eos=task.eos, temperature=1.0)

  def generate(keys, state, posed):
    params = params_of(state, "policy")
    solve = play(
      keys, model, params, posed, samples=samples, turns=turns, **options
    )
    asked = contexts.compose(
      posed, contexts.Segment(solve, GIVEN), contexts.Segment(solve, 1), [11]
    )
    other = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31)
    judge = play(
      row_keys(other, samples), model, params, asked, samples=VOTES,
      turns=(1,), **options,
    )
    problem = solve.problem[judge.problem]
    return {"solve": solve, "judge": judge._replace(problem=problem)}

  def judge(key, state, posed, rows):
    right = verify(task, posed, rows["solve"], 1)
    wrote = rows["judge"].turn == 1
    token = jnp.max(jnp.where(wrote, rows["judge"].tokens, 0), axis=1)
    yes = (token % 2 == 0).astype(jnp.float32)
    solved = yes.reshape(-1, VOTES).mean(axis=1)[:, None]
    agrees = yes == right.reward[answer_of(rows["judge"]), 0]
    ones = jnp.ones_like(yes)[:, None]
    verdicts = {
      "solve": right._replace(reward=solved),
      "judge": Verdict(agrees.astype(jnp.float32)[:, None], ones),
    }
    return verdicts, verdict_metrics(task, rows["solve"], verdicts["solve"])

  def curate(key, state, posed, rows, verdicts):
    solve, judge = rows["solve"], rows["judge"]
    # Judges of one answer are compared with each other.
    judge = judge._replace(problem=answer_of(judge) + problems)
    joined = contexts.stack(solve, judge)
    pair = verdicts["solve"], verdicts["judge"]
    both = jax.tree.map(lambda *x: jnp.concatenate(x), *pair)
    return policy_batch(
      joined, both, shape=lambda reward: reward, group=same_problem,
      estimate=leave_one_out, discount=0.0, kl="none", kl_weights=(0.0,),
      reference_logprob=jnp.zeros_like(joined.logprob),
    ), {}

  return Method(
    pose=verbs.pose_from(task, problems), generate=generate, judge=judge,
    refresh=verbs.keep_state, curate=curate,
    loss=verbs.policy_loss(
      model, turns=1, temperature=1.0, clip=0.2, clip_high=0.2, max_ratio=10.0,
      kl="none",
    ),
  )


# Policy gradient, weighted likelihood, more than two turns, pairs, values,
# several kinds of rows. A method of another structure is one more name.
LIKE = ("stage_two", "star", "stage_two of three turns", "dpo", "ppo")
STRUCTURES = {name: METHODS[name] for name in LIKE} | {
  "votes": Row(
    votes, {"problems": PROBLEMS, "samples": 4, "turns": (3,)}, held=()
  ),
}
RANDOM = "pair_sft+"  # Partners are drawn.
ROWS = STRUCTURES | {RANDOM: METHODS[RANDOM]}
# Others run always that are staged and split in the same way.
NIGHTLY = ("star", "stage_two of three turns", "dpo")
# These are compiled as users do, so that bits can be compared; see mains.flags.
EXACT = ("stage_two", "votes")
PROGRESS = Progress("one", 2, {}, 0.0, 0, False)
ROOT = jax.random.split(KEY)[1]


@pytest.fixture(scope="module", autouse=True)
def programs(cache):
  """Equal programs are compiled once."""
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


def marked(names):
  """The names, those in NIGHTLY for .ci/nightly alone."""
  return [
    pytest.param(name, marks=[pytest.mark.nightly] * (name in NIGHTLY))
    for name in names
  ]


@functools.cache
def stage_of(name):
  return stage_for(ROWS[name])


@functools.cache
def begun(name):
  """(shapes, state) as the main makes them, the first one of a run."""
  run, stage = run_for(ROWS[name]), stage_of(name)
  alone = stage._replace(held=dict.fromkeys(stage.held, "init"))
  state = start_state(run, alone, layout(run, alone))
  # A reference that equals the policy would have no divergence.
  held = jax.tree.map(lambda x: 0.8 * x, state.held)
  return layout(run, stage), state._replace(held=held)


def compiled(name, **changed):
  """The iterations of a structure's stage with some of its fields changed."""
  run, stage = run_for(ROWS[name]), stage_of(name)._replace(**changed)
  compile_one = jax.stages.Lowered.compile
  with pytest.MonkeyPatch.context() as patch:
    if name in EXACT and xla_has_flag(mains.EMITTERS):
      patch.setattr(
        jax.stages.Lowered, "compile",
        lambda lowered: compile_one(lowered, {mains.EMITTERS: True}),
      )
    return compile_loop(run, stage, layout(run, stage))


@functools.cache
def two_steps(name):
  """(fused program of two steps, state after them, its metrics)."""
  state = begun(name)[1]
  fused = compiled(name)
  return fused, *fused(loops.copy(state), ROOT)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_donated_state_of_the_main_is_trained(name):
  """Twice by one program; the first state of a run holds no array twice."""
  stage, run = stage_of(name), run_for(ROWS[name])
  alone = stage._replace(held=dict.fromkeys(stage.held, "init"))
  state = start_state(run, alone, layout(run, alone))
  fused, half, metrics = two_steps(name)
  after, _ = fused(state, ROOT)
  assert avals(after) == avals(half) and int(after.step) == 2
  counter = compilations.counter()
  fused(after, ROOT)
  assert counter.count() == 0
  counter.close()
  first = begun(name)[1]
  assert loops.bits(half.params) != loops.bits(first.params)
  assert np.all(metrics["learn/gradient_norm"].total > 0)
  for x in jax.tree.leaves((half.params, metrics)):
    assert np.all(np.isfinite(x))


@pytest.mark.parametrize("name", STRUCTURES)
def test_two_and_two_steps_are_four(name, tmp_path):
  """Two calls of one program, with and without a checkpoint between them."""
  fused, half, _ = two_steps(name)
  abstract, _ = begun(name)
  manager = checkpoint.open_manager(tmp_path)
  checkpoint.save(manager, 2, half._replace(frozen={}), PROGRESS, 0.0)
  whole, metrics = fused(loops.copy(half), ROOT)
  manager.wait_until_finished()
  saved = abstract._replace(frozen={})
  restored, progress = checkpoint.restore_last(manager, saved)
  checkpoint.finish(manager)
  restored = restored._replace(frozen=loops.copy(half.frozen))
  assert progress == PROGRESS and loops.bits(restored) == loops.bits(half)
  again, repeated = fused(restored, ROOT)
  assert loops.bits(again) == loops.bits(whole) and int(whole.step) == 4
  assert loops.bits(repeated) == loops.bits(metrics)


@pytest.mark.parametrize("name", marked(STRUCTURES))
def test_fused_is_staged(name):
  """The same bits, and the second call of the parts compiles nothing.

  Metrics may differ by rounding: nothing is computed from them. So may
  parameters where the compiler leaves out what makes programs equal.
  """
  _, half, want = two_steps(name)
  staged = compiled(name, fused=False)
  got, found = staged(loops.copy(begun(name)[1]), ROOT)
  if name in EXACT:
    assert loops.bits(got) == loops.bits(half)
  for x, y in zip(jax.tree.leaves(got.params), jax.tree.leaves(half.params)):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
  for metric in want:
    for x, y in zip(found[metric], want[metric]):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5, err_msg=metric)
  counter = compilations.counter()
  staged(got, ROOT)
  assert counter.count() == 0
  counter.close()


@pytest.mark.parametrize("name", marked(ROWS))
def test_waves_and_microbatches_change_nothing(name):
  """Random partners included: who is drawn depends on the round alone."""
  _, want, metrics = two_steps(name)
  parts = loops.PARTS | {"waves": 4, "microbatches": 8}
  split = compiled(name, parts=parts)
  got, found = split(loops.copy(begun(name)[1]), ROOT)
  for x, y in zip(*map(jax.tree.leaves, (got.params, want.params))):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)
  for metric in metrics:
    for x, y in zip(found[metric], metrics[metric]):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-3, err_msg=metric)
