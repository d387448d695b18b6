"""Stages with a judge on the host: its arguments, and delayed samples."""

import functools
import threading

import compilations
import fakes
import jax
import jax.numpy as jnp
import loops
import numpy as np
import optax
import pytest

from sitrain.judge.verifier import verdict_metrics, verify
from sitrain.methods import score, star
from sitrain.runtime import compile, metrics, sharding
from sitrain.runtime import stage as stages
from sitrain.runtime.host import check_host, on_host, shapes_only
from sitrain.runtime.options import ConfigError
from sitrain.runtime.recording import check_numbers
from sitrain.runtime.stage import compile_loop
from sitrain.runtime.staged import GAP, OLD_GAP
from sitrain.train import init_state, make_parts, make_train_step
from sitrain.types import Problems, Verdict

VOCABULARY, EOS, AGAIN, TURNS, PROBLEMS, SAMPLES = 7, 3, 4, (3, 3), 4, 4
MODEL = fakes.bigram(VOCABULARY)
OPTIMIZER = optax.sgd(0.5)
MESH = loops.mesh_of(1)
ROOT = jax.random.key(1, impl="threefry2x32")


def sums_of_turns(episodes, turns):
  inside = episodes.turn[:, None] == np.arange(1, turns + 1)[:, None]
  return np.where(inside, episodes.tokens[:, None], 0).sum(axis=2)


def sums_on_device(episodes, turns):
  inside = episodes.turn[:, None] == jnp.arange(1, turns + 1)[:, None]
  return jnp.sum(jnp.where(inside, episodes.tokens[:, None], 0), axis=2)


def verify_rows(answer, episodes, turns):
  """Right iff the tokens of a turn and the answer add up evenly."""
  assert all(isinstance(x, np.ndarray) for x in (answer, *episodes))
  sums = sums_of_turns(episodes, turns) + answer[:, :1]
  reward = (sums % 2 == 0).astype(np.float32)
  return Verdict(reward, np.ones_like(reward))


def draw(key, n):
  prompt = jax.random.randint(key, (n, 2), 0, VOCABULARY)
  return Problems(prompt, jnp.arange(n)[:, None] % 2, prompt)


TASK = on_host(
  fakes.task(verify_rows, again=[AGAIN], eos=(EOS,), prompt=[[0, 0]])
  ._replace(problems=draw, final=sums_of_turns, on_host=True)
)


def method_of(task=TASK):
  """SCoRe's stage II; its problems encode when they are posed."""
  method = score.stage_two(
    {"policy": MODEL}, task, OPTIMIZER, turns=TURNS, problems=PROBLEMS,
    samples=SAMPLES,
  )

  def pose(key, state):
    posed = method.pose(key, state)
    when = state.step if isinstance(state.posed, tuple) else state.posed
    return posed._replace(answer=posed.answer + when // 2)

  return method._replace(pose=pose)


METHOD = method_of()


def rarely(task):
  """Half of the problems have no reward, so no signal."""

  def verify(answer, episodes, turns):
    verdict = task.verify(answer, episodes, turns)
    return verdict._replace(reward=verdict.reward * (answer[:, :1] % 2 == 0))

  return task._replace(verify=verify)


def begin(rounds=1):
  """A new state for each call, because it is donated."""
  rng = np.random.default_rng(0)
  tables = rng.normal(size=(2, VOCABULARY, VOCABULARY)).astype(np.float32)
  policy, reference = map(fakes.tabled, tables)
  state = init_state(
    {"policy": policy}, OPTIMIZER, held={"reference": reference}, rounds=rounds
  )
  return jax.device_put(state, sharding.replicated(MESH))


def abstract(rounds=1):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    begin(rounds),
  )


def stepped(method):
  """Samples and verdicts that encode the step that their verbs see."""

  def generate(keys, state, problems):
    rows = method.generate(keys, state, problems)
    later = jnp.where(rows.turn >= 1, 0.01 * state.step, 0.0)
    return rows._replace(logprob=rows.logprob - later)

  def judge(key, state, problems, rows):
    verdict, metrics = method.judge(key, state, problems, rows)
    later = 0.125 * (state.step % 8)  # exact, on the host and on the device
    return verdict._replace(
      reward=(verdict.reward * (1 + later)).astype(np.float32)
    ), metrics

  return method._replace(generate=generate, judge=judge)


@functools.cache
def loop_of(steps, delay, waves=1, rounds=1):
  stage = loops.stage_of(
    METHOD if rounds == 1 else stepped(method_of(rarely(TASK))), OPTIMIZER,
    steps_per_call=steps, fused=False, delay=delay,
    parts=loops.PARTS | {"waves": waves}, rounds=rounds,
  )
  run = loops.run_of(MODEL, mesh=MESH)
  return compile_loop(run, stage, abstract(rounds))


@functools.cache
def parts():
  step = make_train_step(OPTIMIZER, METHOD.loss)
  collect, judge, learn = make_parts(METHOD, step)
  return jax.jit(collect), judge, jax.jit(learn)


def by_hand(state, steps, delay):
  """The same loop, written out: samples of the policy `delay` updates ago."""
  collect, judge, learn = parts()
  policies, told = [state.params], []
  for i in range(steps):
    key = jax.random.fold_in(ROOT, state.step)
    collect_key, judge_key, learn_key = jax.random.split(key, 3)
    sampler = state._replace(params=policies[max(i - delay, 0)])
    problems, episodes = collect(sampler, collect_key)
    verdict, judged = judge(state, judge_key, problems, episodes)
    state, learned = learn(state, learn_key, problems, episodes, verdict)
    state = state._replace(step=state.step + 1)
    policies.append(state.params)
    told.append(judged | learned)
  return state, told


@pytest.mark.parametrize("delay", (0, 1))
def test_samples_are_of_the_policy_before_the_last_update(delay):
  state, told = loop_of(3, delay)(begin(), ROOT)
  want, said = by_hand(begin(), 3, delay)
  assert loops.bits(state) == loops.bits(want) and int(state.step) == 3
  for name in set(said[0]) - {GAP}:
    for i in range(3):
      for got, one in zip(told[name], said[i][name]):
        np.testing.assert_allclose(got[i], one, rtol=1e-6, err_msg=name)


def test_a_delay_changes_what_is_learned():
  late, _ = loop_of(3, 1)(begin(), ROOT)
  state, _ = loop_of(3, 0)(begin(), ROOT)
  assert loops.bits(late.params) != loops.bits(state.params)


def test_a_single_step_has_nothing_to_be_late_for():
  late, said = loop_of(1, 1)(begin(), ROOT)
  state, told = loop_of(1, 0)(begin(), ROOT)
  assert loops.bits(late) == loops.bits(state)
  assert loops.bits({k: said[k] for k in told}) == loops.bits(told)


def test_a_call_depends_on_its_arguments_alone():
  """A run that is resumed between calls gives the same results."""
  loop = loop_of(3, 1)
  half, _ = loop(begin(), ROOT)
  kept = loops.copy(half)
  whole, told = loop(half, ROOT)
  loop(begin(), ROOT)
  again, retold = loop(kept, ROOT)
  assert loops.bits(again) == loops.bits(whole) and int(whole.step) == 6
  assert loops.bits(retold) == loops.bits(told)


def test_only_a_fresh_sampler_can_disagree():
  """The gap from an update has its own metric, and stops no run."""
  _, told = loop_of(3, 1)(begin(), ROOT)
  rows = metrics.records(told)
  fresh, late = ([row[name] for row in rows] for name in (GAP, OLD_GAP))
  assert fresh[0] < 1e-6 and np.all(np.isnan(fresh[1:]))
  assert np.isnan(late[0]) and min(late[1:]) > 1e-3
  check_numbers("one", 0, told, 1e-3)
  _, told = loop_of(3, 0)(begin(), ROOT)
  assert OLD_GAP not in told
  assert max(row[GAP] for row in metrics.records(told)) < 1e-6


def test_the_second_call_compiles_nothing():
  loop = loop_of(3, 1)
  state, _ = loop(begin(), ROOT)
  counter = compilations.counter()
  loop(state, ROOT)
  assert counter.count() == 0
  counter.close()


def test_waves_change_nothing():
  one, told = loop_of(3, 1)(begin(), ROOT)
  two, said = loop_of(3, 1, waves=2)(begin(), ROOT)
  for x, y in zip(*map(jax.tree.leaves, (one.params, two.params))):
    np.testing.assert_allclose(x, y, atol=1e-6)
  for name, mean in told.items():
    np.testing.assert_allclose(
      said[name].total, mean.total, rtol=1e-4, atol=1e-4, err_msg=name
    )


def verify_on_device(answer, episodes, turns):
  """What `verify_rows` says, in jnp."""
  sums = sums_on_device(episodes, turns) + answer[:, :1]
  reward = (sums % 2 == 0).astype(jnp.float32)
  return Verdict(reward, jnp.ones_like(reward))


@functools.cache
def fused_rounds(rounds):
  """The fused loop of the same task, verified on the device."""
  task = TASK._replace(
    verify=verify_on_device, final=sums_on_device, on_host=False
  )
  stage = loops.stage_of(
    stepped(method_of(rarely(task))), OPTIMIZER, steps_per_call=3,
    rounds=rounds,
  )
  run = loops.run_of(MODEL, mesh=MESH)
  return compile_loop(run, stage, abstract(rounds))


def test_rounds_are_posed_again_as_in_the_fused_loop():
  """Kept groups, counted rounds and every bit of the state."""
  want, metrics = fused_rounds(3)(begin(3), ROOT)
  state, found = loop_of(3, 0, rounds=3)(begin(3), ROOT)
  assert loops.bits(state) == loops.bits(want)
  rounds = np.asarray(metrics["generate/rounds"].total)
  assert np.all(rounds >= 1) and rounds.max() > 1 and rounds.min() < 3
  assert int(state.posed) == rounds.sum()
  for name in ("generate/rounds", "generate/wanted", "judge/reward_2"):
    for x, y in zip(found[name], metrics[name]):
      np.testing.assert_allclose(x, y, rtol=1e-6, err_msg=name)
  rows = np.asarray(metrics["judge/reward_1"].count)
  np.testing.assert_array_equal(rows, rounds * PROBLEMS * SAMPLES)
  # In waves the rounds are the same.
  waved, _ = loop_of(3, 0, waves=2, rounds=3)(begin(3), ROOT)
  for x, y in zip(*map(jax.tree.leaves, (waved.params, state.params))):
    np.testing.assert_allclose(x, y, atol=1e-6)


def test_the_judge_of_a_host_leaves_the_device_alone():
  """Another operation would be queued after all waves that are sampled."""
  problems, episodes = jax.tree.map(
    np.asarray, parts()[0](begin(), ROOT)
  )
  with jax.transfer_guard_host_to_device("disallow"):
    verdict = verify(TASK, problems, episodes, 2)
    metrics = verdict_metrics(TASK, episodes, verdict)
    with pytest.raises(RuntimeError, match="[Dd]isallow"):
      jnp.sum(problems.answer)
  leaves = jax.tree.leaves(metrics)
  assert leaves and all(x.dtype == np.float32 for x in leaves)
  assert not any(isinstance(x, jax.Array) for x in leaves)
  # On the device they are the same.
  silent = TASK._replace(final=sums_on_device)
  on_device = jax.jit(functools.partial(verdict_metrics, silent))
  for name, mean in on_device(episodes, verdict).items():
    np.testing.assert_allclose(metrics[name], mean, rtol=1e-6, err_msg=name)


def test_named_rewards_of_a_host_have_their_places():
  """They are traced by the task's names, and reported each."""

  def verify_parts(answer, episodes, turns):
    verdict = verify_rows(answer, episodes, turns)
    form = np.full_like(verdict.reward, 0.25)
    return Verdict(verdict.reward + form, verdict.known, {"form": form})

  task = fakes.task(verify_parts, again=[AGAIN], eos=(EOS,), prompt=[[0, 0]])
  task = on_host(
    task._replace(final=sums_of_turns, on_host=True, rewards=("form",))
  )
  judge = method_of(task).judge
  rows = fakes.pack(
    [fakes.transcribe([0, 0], [[1, EOS], [2, EOS]], [[AGAIN]])] * 2,
    problem=[0, 1],
  )
  given = jax.tree.map(np.asarray, (draw(ROOT, 2), rows))
  with shapes_only():
    shapes, _ = jax.eval_shape(judge, ROOT, (), *given)
  verdict, metrics = judge(ROOT, (), *given)
  assert set(shapes.parts) == set(verdict.parts) == {"form"}
  assert verdict.reward.shape == shapes.parts["form"].shape == (2, 2)
  for k in (1, 2):
    form = metrics[f"judge/form_{k}"]
    assert (float(form.total), float(form.count)) == (0.5, 2.0)


def test_what_cannot_be_delayed_is_refused():
  plain = {"delay": 0, "fused": False, "steps_per_call": 2, "rounds": 1}
  check_host("stage.a", plain)
  for change, message in (
    ({"delay": 1, "fused": True}, "delay=1.*fused=False"),
    ({"delay": 2}, "delay=2: set 0 or 1"),
    ({"delay": 1, "steps_per_call": 1}, "steps_per_call to 2 or more"),
    ({"rounds": 0}, "rounds=0: set 1 or more"),
    ({"rounds": 2, "delay": 1}, "rounds=2 needs .*delay=0"),
  ):
    with pytest.raises(ConfigError, match=f"stage.a.*{message}"):
      check_host("stage.a", plain | change)
  method = star.make(
    {"policy": MODEL}, TASK, OPTIMIZER, problems=PROBLEMS, samples=SAMPLES,
    turns=TURNS,
  )
  stage = loops.stage_of(method, OPTIMIZER, fused=False, delay=1)
  run = loops.run_of(MODEL, mesh=MESH)
  with pytest.raises(ValueError, match="stage.one.delay=1.*does not weigh"):
    compile_loop(run, stage, abstract())


def test_who_waits_gets_what_was_made_ahead():
  gate = threading.Event()
  first, second = compile.ahead(gate.wait), compile.ahead(lambda: 1 // 0)
  with pytest.raises(ZeroDivisionError):
    second.result()
  gate.set()  # The first was waiting meanwhile.
  assert first.result() is True


def test_a_stage_that_does_not_compile_says_so_when_it_begins(monkeypatch):
  def fail(*args):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 TB")

  stage = loops.stage_of(METHOD, OPTIMIZER)
  monkeypatch.setattr(stages, "compile_loop", fail)
  monkeypatch.setattr(stages, "layout", lambda *args: abstract())
  future = stages.compile_ahead(loops.run_of(MODEL, mesh=MESH), stage)
  with pytest.raises(ValueError, match="stage.one does not compile: .* 3 TB"):
    future.result()
