"""What breaks SCoRe silently, each check shown to fail where the bug is.

Every pitfall is a function that checks a method; the test applies it to the
method and to one with the bug put in, where it must not pass.
"""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.curate import policy as batches
from sitrain.curate.advantage import to_tokens
from sitrain.losses import reduce
from sitrain.methods import (
  imitation,
  objectives,
  reinforce,
  score,
  single_turn,
  star,
)
from sitrain.models.logprobs import token_scores
from sitrain.train import init_state, make_parts, make_train_step
from sitrain.types import GIVEN, OFFLINE, PAD, Problems, Verdict

VOCABULARY, EOS, AGAIN, TURNS = 6, 3, 4, (3, 3)
PROBLEMS, SAMPLES, PROMPT = 16, 16, [0, 1]
MODELS = {"policy": fakes.bigram(VOCABULARY)}
SGD = optax.sgd(0.2)


def task_of(verify):
  return fakes.task(
    verify, again=[AGAIN], eos=(EOS,), prompt=[PROMPT], vocabulary=VOCABULARY
  )


NOTHING_RIGHT = task_of(fakes.constant_verdict(0.0))
OPTIONS = dict(turns=TURNS, problems=PROBLEMS, samples=SAMPLES)


def stage_one(**options):
  return score.stage_one(MODELS, NOTHING_RIGHT, SGD, **OPTIONS, **options)


def stage_two(**options):
  return score.stage_two(MODELS, NOTHING_RIGHT, SGD, **OPTIONS, **options)


def fails(check, *args):
  """True if the check finds the bug."""
  try:
    check(*args)
  except AssertionError:
    return True
  return False


@pytest.fixture(scope="module")
def state():
  """A policy that has been moved away from its reference."""
  rng = np.random.default_rng(7)
  reference = rng.normal(size=(VOCABULARY, VOCABULARY))
  moved = reference + 0.8 * rng.normal(size=reference.shape)
  policy, reference = (
    fakes.tabled(x.astype(np.float32)) for x in (moved, reference)
  )
  return init_state({"policy": policy}, SGD, held={"reference": reference})


@pytest.fixture(scope="module")
def collect():
  """jit(collect): every method here generates in the same way."""
  return jax.jit(make_parts(stage_one(), lambda state, batch: (state, {}))[0])


@pytest.fixture(scope="module")
def round_of(state, collect):
  """(problems, episodes, verdict) of one round, rewards drawn by lot."""
  posed, episodes = collect(state, jax.random.key(0))
  rows = episodes.tokens.shape[0]
  reward = jax.random.bernoulli(jax.random.key(1), 0.4, (rows, 2)) * 1.0
  return posed, episodes, Verdict(reward, jnp.ones_like(reward))


@functools.cache
def compiled(method):
  """(batch, gradient of the objective) of a method, each compiled once."""

  def objective(params, state, batch):
    terms, _ = method.loss(params, state, batch)
    return sum(reduce.value(term) for term in terms.values())

  curate = jax.jit(lambda *given: method.curate(*given)[0])
  return curate, jax.jit(jax.grad(objective))


def curated(method, state, round_of):
  return compiled(method)[0](jax.random.key(2), state, *round_of)


def gradient(method, state, batch):
  """With respect to the table of the policy."""
  return compiled(method)[1](state.params, state, batch)["policy"]["table"]


def first_turn_kl(state):
  """Exact KL of turn 1's whole sequence, by walking through the table."""
  logp, logq = (
    np.asarray(jax.nn.log_softmax(p["table"]), np.float64)
    for p in (state.params["policy"], state.held["reference"])
  )
  divergence = np.sum(np.exp(logp) * (logp - logq), axis=1)
  alive = np.eye(VOCABULARY)[PROMPT[-1]]
  total = 0.0
  for _ in range(TURNS[0]):
    total += alive @ divergence
    alive = alive @ np.exp(logp)
    alive[EOS] = 0.0
  return total


def check_anchor(method, state, collect):
  """The KL of turn 1 falls, step by step, where nothing else is asked."""
  parts = make_parts(method, make_train_step(SGD, method.loss))
  judge, learn = map(jax.jit, parts[1:])
  before = first_turn_kl(state)
  assert before > 0.3
  for step in range(4):
    key = jax.random.key(step)
    posed, episodes = collect(state, key)
    verdict, _ = judge(state, key, posed, episodes)
    state, _ = learn(state, key, posed, episodes, verdict)
    after = first_turn_kl(state)
    assert after < 0.97 * before, (step, before, after)
    before = after


@pytest.mark.parametrize("kl", ["exact", "k1"])
def test_the_anchor_holds_the_first_attempt(kl, state, collect, monkeypatch):
  options = dict(beta1=0.0, beta2=1.0, kl=kl)
  check_anchor(stage_one(**options), state, collect)

  def inert(*args, **options):
    scores, gap = exact(*args, **options)
    turn = args[4]
    return scores, jnp.where(turn == 1, jax.lax.stop_gradient(gap), gap)

  def on_second(gap, turn, turns):
    return jnp.roll(per_turn(gap, turn, turns), 1, axis=1)

  exact, per_turn = objectives.token_scores_and_kl, batches.per_turn
  monkeypatch.setattr(objectives, "token_scores_and_kl", inert)
  monkeypatch.setattr(batches, "per_turn", on_second)
  assert fails(check_anchor, stage_one(**options), state, collect)


def test_without_weight_the_anchor_has_no_gradient(state, round_of):
  posed, episodes, verdict = round_of
  no_reward = verdict._replace(reward=0 * verdict.reward)
  for beta2, moves in ((0.0, False), (0.1, True)):
    method = stage_one(beta1=0.1, beta2=beta2)
    batch = curated(method, state, (posed, episodes, no_reward))
    first = batch._replace(mask=batch.mask * (batch.turn == 1))
    found = gradient(method, state, first)
    assert bool(jnp.any(found != 0)) == moves
  # Nor has a reward of the second attempt a say in the first.
  method = stage_one(beta1=0.0, beta2=0.0)
  batch = curated(method, state, round_of)
  first = batch._replace(mask=batch.mask * (batch.turn == 1))
  assert not np.any(gradient(method, state, first))
  assert np.any(gradient(method, state, batch))


def check_sums(method, state):
  """An attempt of twice the length has twice the loss, in every term."""
  values = []
  for length in (3, 6):
    rows = [
      fakes.transcribe([5], [[5] * n, [5] * n], [[5]])
      for n in (length, 2 * length)
    ]
    episodes = fakes.pack(rows, length=40)
    # On policy, so that every ratio is 1 and the sums are plain.
    logp = jax.nn.log_softmax(state.params["policy"]["table"][5])[5]
    episodes = episodes._replace(
      logprob=jnp.where(episodes.turn >= 1, logp, 0.0)
    )
    batch = batches.token_batch(
      episodes, to_tokens(jnp.ones((2, 2)), episodes.turn),
      jnp.ones((2, 2), bool), kl_weights=(0.1, 0.3),
      reference_logprob=jnp.zeros(episodes.tokens.shape),
    )
    terms, _ = jax.jit(method.loss)(state.params, state, batch)
    values.append({k: float(reduce.value(t)) for k, t in terms.items()})
  for name in ("policy_1", "policy_2", "kl_1", "kl_2"):
    assert values[0][name] != 0
    np.testing.assert_allclose(values[1][name], 2 * values[0][name], rtol=1e-5)
  # 3 and 6 tokens of advantage 1 in each turn.
  np.testing.assert_allclose(values[0]["policy_1"], -4.5, rtol=1e-5)
  np.testing.assert_allclose(values[0]["policy_2"], -4.5, rtol=1e-5)


def test_losses_are_sums_over_the_tokens_of_an_episode(state, monkeypatch):
  check_sums(stage_two(), state)

  real = reduce.per_episode

  def mean_of_rows(x, mask):
    length = jnp.sum(mask, axis=-1, keepdims=True)
    return real(x / jnp.maximum(length, 1), mask)

  for bug in (reduce.mean, mean_of_rows):
    monkeypatch.setitem(reduce.AGGREGATES, "episode_sum", bug)
    assert fails(check_sums, stage_two(), state)


def check_turns_are_independent(method, state, round_of):
  """The advantage of turn 1 does not know what became of turn 2."""
  posed, episodes, verdict = round_of
  flipped = verdict.reward.at[:, 1].set(1.0 - verdict.reward[:, 1])
  other = posed, episodes, verdict._replace(reward=flipped)
  one, two = (curated(method, state, r) for r in (round_of, other))
  first, second = one.turn == 1, one.turn == 2
  a, b = one.targets.advantage, two.targets.advantage
  np.testing.assert_array_equal(np.where(first, a, 0), np.where(first, b, 0))
  assert np.any(np.asarray(a)[np.asarray(first)])
  assert np.any(np.where(second, a - b, 0))


def test_no_returns_over_the_trajectory(state, round_of, monkeypatch):
  check_turns_are_independent(stage_two(), state, round_of)
  real = batches.returns

  def undiscounted(value, counted, written, discount):
    return real(value, counted, written, 1.0)

  monkeypatch.setattr(batches, "returns", undiscounted)
  assert fails(check_turns_are_independent, stage_two(), state, round_of)


def check_scale(make, state, round_of):
  """Eleven times the reward is eleven times the gradient of turn 2."""
  sizes = []
  for bonus in (0.0, 10.0):
    method = make(bonus=bonus, shaping="weight", kl="none")
    batch = curated(method, state, round_of)
    second = batch._replace(mask=batch.mask * (batch.turn == 2))
    sizes.append(float(jnp.linalg.norm(gradient(method, state, second))))
  assert sizes[0] > 0
  np.testing.assert_allclose(sizes[1], 11 * sizes[0], rtol=1e-4)


def test_no_whitening(state, round_of, monkeypatch):
  check_scale(stage_two, state, round_of)
  real = reinforce.ESTIMATES["leave_one_out"]

  def whitened(value, group, known):
    advantage = real(value, group, known)
    return advantage / (jnp.std(advantage) + 1e-6)

  monkeypatch.setitem(reinforce.ESTIMATES, "leave_one_out", whitened)
  assert fails(check_scale, stage_two, state, round_of)


def check_groups(method, state, round_of):
  """Each row is compared with the other samples of its own problem."""
  _, episodes, verdict = round_of
  reward = np.asarray(verdict.reward, np.float64)
  shaped = np.stack(
    [reward[:, 0], reward[:, 1] + 10 * (reward[:, 1] - reward[:, 0])], axis=1
  )
  batch = curated(method, state, round_of)
  problem = np.asarray(episodes.problem)
  for row in range(len(problem)):
    others = [
      j for j in range(len(problem)) if problem[j] == problem[row] and j != row
    ]
    assert len(others) == SAMPLES - 1
    want = shaped[row] - np.mean(shaped[others], axis=0)
    for k in range(2):
      own = np.asarray(batch.turn[row]) == k + 1
      found = np.asarray(batch.targets.advantage[row])[own]
      np.testing.assert_allclose(found, want[k], atol=1e-5)


def test_the_baseline_pairs_the_right_rows(state, round_of, monkeypatch):
  check_groups(stage_two(), state, round_of)

  def tiled(problem, reward):
    # Rows taken for K-major: every problem once, then all of them again.
    group = jnp.arange(reward.shape[0]) % PROBLEMS
    return jnp.broadcast_to(group[:, None], reward.shape)

  def off_by_one(problem, reward):
    group = jnp.roll(problem, 1)
    return jnp.broadcast_to(group[:, None], reward.shape)

  for bug in (tiled, off_by_one):
    monkeypatch.setitem(reinforce.BASELINES, "leave_one_out", bug)
    assert fails(check_groups, stage_two(), state, round_of)


def test_the_second_attempt_is_scored_in_its_own_context(toy):
  model, params, task = toy
  method = score.stage_two(
    {"policy": model}, task, SGD, turns=(3, 3), problems=4, samples=2,
    offline=1, temperature=0.8,
  )
  other = {**params, "embed": params["embed"] * 0.9}
  state = init_state({"policy": params}, SGD, held={"reference": other})

  @jax.jit
  def generate(key):
    posed = method.pose(key, state)
    return method.generate(jax.random.split(key, 4), state, posed)

  episodes = generate(jax.random.key(0))

  @jax.jit
  def score_all(params, tokens, turn, temperature):
    return token_scores(
      model, params, tokens, turn, episodes.path, inputs=tokens,
      temperature=temperature,
    ).logprob

  turn, tokens = episodes.turn, episodes.tokens

  def check(*args, who=params, marks=2):
    own = np.asarray(turn == marks)
    if marks == 1:
      own = own & (np.asarray(episodes.parent) == OFFLINE)[:, None]
    assert own.any(axis=1).sum() >= 4
    gap = np.asarray(score_all(who, *args) - episodes.logprob)[own]
    assert np.max(np.abs(gap)) < 1e-5

  right = tokens, turn, 0.8
  check(*right)
  # The offline first attempts are the reference's, at the same temperature.
  check(*right, who=other, marks=1)
  assert fails(lambda: check(*right, marks=1))
  dropped = jnp.where(turn == 1, PAD, turn)
  assert fails(check, tokens, dropped, 0.8)
  place = jnp.cumsum(turn >= 1, axis=1) > 0
  said = jnp.where((turn == GIVEN) & place, 0, tokens)
  assert fails(check, said, turn, 0.8)
  assert fails(check, tokens, turn, 1.0)


def test_offline_attempts_alone_are_the_same_rows(toy):
  model, params, task = toy
  make = functools.partial(
    score.stage_two, {"policy": model}, task, SGD, turns=(3, 3), problems=4,
    offline=2,
  )
  state = init_state({"policy": params}, SGD, held={"reference": params})
  posed = jax.jit(task.problems, static_argnums=1)(jax.random.key(0), 4)
  keys = jax.random.split(jax.random.key(1), 4)
  alone, beside = (
    jax.jit(make(samples=n).generate)(keys, state, posed) for n in (0, 2)
  )
  assert alone.tokens.shape[0] == 8 and beside.tokens.shape[0] == 16
  # Beside own ones, the rows of a problem stand together.
  given = np.flatnonzero(beside.parent == OFFLINE)
  assert given.tolist() == [4 * p + s for p in range(4) for s in (2, 3)]
  np.testing.assert_array_equal(alone.tokens, beside.tokens[given])
  np.testing.assert_array_equal(alone.problem, beside.problem[given])

  @jax.jit
  def batch_of(key, posed, rows):
    verdict = task.verify(posed.answer[rows.problem], rows, 2)
    return make(samples=0).curate(key, state, posed, rows, verdict)[0]

  batch = batch_of(keys[0], posed, alone)
  assert not np.any(batch.mask * (batch.turn == 1))
  assert np.any(batch.mask * (batch.turn == 2))
  with pytest.raises(ValueError, match="samples=1: a baseline needs"):
    make(samples=1)


def check_temperature(state, kl):
  """Policy and reference are scored at the temperature of the sampler."""
  method = stage_two(temperature=0.6, kl=kl)
  # The reference is the policy, so what it says must be the sampler's word.
  state = state._replace(held={"reference": state.params["policy"]})

  @jax.jit
  def measure(key):
    posed = method.pose(key, state)
    keys = jax.random.split(key, PROBLEMS)
    episodes = method.generate(keys, state, posed)
    verdict, _ = method.judge(key, state, posed, episodes)
    batch, _ = method.curate(key, state, posed, episodes, verdict)
    _, metrics = method.loss(state.params, state, batch)
    return batch, metrics

  batch, metrics = measure(jax.random.key(3))
  assert float(jnp.sum(batch.mask)) > 100
  gap = metrics["generate/sampler_gap"]
  assert float(gap.total / gap.count) < 1e-5
  assert abs(float(metrics["learn/kl_1"].total)) < 1e-3
  assert abs(float(metrics["learn/kl_2"].total)) < 1e-3


@pytest.mark.parametrize("kl", ["exact", "k1"])
def test_one_temperature_for_all(kl, state, monkeypatch):
  check_temperature(state, kl)
  where = {"exact": objectives, "k1": reinforce}[kl]
  name = {"exact": "token_scores_and_kl", "k1": "score_rows"}[kl]
  real = getattr(where, name)

  def at_one(*args, **options):
    return real(*args, **(options | {"temperature": 1.0}))

  monkeypatch.setattr(where, name, at_one)
  assert fails(check_temperature, state, kl)


def check_mask(method, state, round_of):
  """Exactly what the policy wrote is trained on, the end token included."""
  _, episodes, _ = round_of
  batch = curated(method, state, round_of)
  tokens, turn = np.asarray(episodes.tokens), np.asarray(episodes.turn)
  mask = np.asarray(batch.mask)
  np.testing.assert_array_equal(mask, (turn >= 1).astype(np.float32))
  ends = (tokens == EOS) & (turn >= 1)
  assert ends.sum() > 20 and np.all(mask[ends] == 1)
  assert np.all(mask[turn == PAD] == 0) and np.all(mask[turn == GIVEN] == 0)


def test_the_end_token_is_in_the_mask(state, round_of, monkeypatch):
  check_mask(stage_two(), state, round_of)
  real = batches.token_mask

  def without_last(turn, trained):
    after = jnp.concatenate([turn[:, 1:], turn[:, :1]], axis=1)
    return real(turn, trained) * (after == turn)

  monkeypatch.setattr(batches, "token_mask", without_last)
  assert fails(check_mask, stage_two(), state, round_of)


def test_offline_rows_leave_the_weight_of_turn_1_alone(state, round_of):
  """Half of the rows have a given first attempt: the others count alone."""
  method = stage_two(beta1=0.0, beta2=0.5)
  posed, episodes, verdict = round_of
  own = np.arange(PROBLEMS * SAMPLES) % SAMPLES < SAMPLES // 2
  keep = lambda x: x[own]
  half = jax.tree.map(keep, episodes), jax.tree.map(keep, verdict)
  mixed = episodes._replace(parent=jnp.where(own, episodes.parent, OFFLINE))

  def first_turn(*rows):
    batch = curated(method, state, (posed, *rows))
    terms, _ = method.loss(state.params, state, batch)
    return {k: float(reduce.value(x)) for k, x in terms.items() if "1" in k}

  alone, beside = first_turn(*half), first_turn(mixed, verdict)
  assert set(alone) == {"policy_1", "kl_1"} and alone["kl_1"] > 0.1
  for name, want in alone.items():
    np.testing.assert_allclose(beside[name], want, rtol=1e-4, atol=1e-6)


def test_a_given_turn_longer_than_its_limit_is_left_out_and_counted():
  """Cut, it would teach to go on where an attempt should have ended."""
  long = [2, 2, 2, 2, EOS, 5, EOS]
  # Of problems that are drawn, one is looked at when the method is made.
  solutions = [[2, EOS, 5, 5, EOS, PAD, PAD], long]
  task = NOTHING_RIGHT._replace(problems=lambda key, n: Problems(
    jnp.tile(jnp.array(PROMPT), (n, 1)), jnp.zeros((n, 1), jnp.int32),
    jnp.array(solutions)[:n],
  ))
  method = imitation.make(MODELS, task, SGD, problems=2, turns=(3, 3))
  key, empty = jax.random.key(0), jnp.zeros(0)

  @jax.jit
  def batch_of(key):
    posed = method.pose(key, empty)
    rows = method.generate(jax.random.split(key, 2), empty, posed)
    verdict, metrics = method.judge(key, empty, posed, rows)
    return method.curate(key, empty, posed, rows, verdict)[0], metrics

  batch, metrics = batch_of(key)
  assert not np.any(batch.mask[1]), "garbage is trained"
  written = np.asarray(batch.tokens[0])[np.asarray(batch.mask[0]) > 0]
  assert written.tolist() == [2, EOS, 5, 5, EOS]
  long = metrics["judge/too_long"]
  assert (float(long.total), float(long.count)) == (1.0, 2.0)


def test_what_cannot_be_trained_is_refused():
  for bad in (0.0, -1.0, float("inf"), float("nan")):
    with pytest.raises(ValueError, match=f"temperature={bad}: .*above 0"):
      stage_two(temperature=bad)
  with pytest.raises(ValueError, match="offline=1 needs a second turn"):
    single_turn.make(
      MODELS, NOTHING_RIGHT, SGD, **OPTIONS, offline=1
    )
  with pytest.raises(ValueError, match="turns=.3,.: this method needs 2"):
    star.make(MODELS, NOTHING_RIGHT, SGD, **(OPTIONS | {"turns": (3,)}))
  with pytest.raises(ValueError, match="gives no solutions"):
    imitation.make(
      MODELS, NOTHING_RIGHT, SGD, problems=PROBLEMS, turns=TURNS
    )
