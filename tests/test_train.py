"""The loop: splitting changes nothing, and nor does how it is compiled."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.losses.reduce import mean
from sitrain.methods import score, verbs
from sitrain.train import (
  at_round,
  init_state,
  join_waves,
  make_iteration,
  make_loop,
  make_parts,
  make_train_step,
  shuffle,
  split_rows,
)
from sitrain.types import (
  OFFLINE,
  PAD,
  ROOT,
  Batch,
  Mean,
  Problems,
  TrainState,
  Verdict,
  Weights,
)

VOCABULARY, EOS, AGAIN, TURNS = 7, 3, 4, (3, 3)
PROBLEMS, SAMPLES = 8, 4


def verify(answer, episodes, turns):
  """Right iff the tokens of the turn add up to an even number."""
  each = [
    jnp.sum(jnp.where(episodes.turn == k + 1, episodes.tokens, 0), axis=1)
    for k in range(turns)
  ]
  reward = (jnp.stack(each, axis=1) + answer) % 2 == 0
  return Verdict(reward.astype(jnp.float32), jnp.ones(reward.shape))


def problems(key, n):
  prompt = jax.random.randint(key, (n, 2), 0, VOCABULARY)
  return Problems(prompt, jnp.arange(n)[:, None] % 2, prompt)


def state_of(params, reference, optimizer):
  return init_state(
    {"policy": params}, optimizer, held={"reference": reference}
  )


@pytest.fixture(scope="module")
def small():
  """(method, state, optimizer) over a policy that is a table."""
  rng = np.random.default_rng(0)
  tables = rng.normal(size=(2, VOCABULARY, VOCABULARY)).astype(np.float32)
  task = fakes.task(verify, again=[AGAIN], eos=(EOS,), prompt=[[0, 0]])
  optimizer = optax.adam(0.03)
  method = score.stage_two(
    {"policy": fakes.bigram(VOCABULARY)}, task._replace(problems=problems),
    optimizer, turns=TURNS, problems=PROBLEMS, samples=SAMPLES, beta2=0.3,
  )
  policy, reference = map(fakes.tabled, tables)
  return method, state_of(policy, reference, optimizer), optimizer


def table_of(state):
  return state.params["policy"]["table"]


def bits(tree):
  """Every leaf as the bytes that it holds."""
  return [
    (str(x.dtype), x.shape, np.asarray(x).tobytes())
    for x in jax.tree.leaves(tree)
  ]


def close(got, want, tolerance):
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def batch_of(method, state):
  collect, judge, _ = make_parts(method, lambda state, batch: (state, {}))

  @jax.jit
  def make(state, key):
    posed, episodes = collect(state, key)
    verdict, _ = judge(state, key, posed, episodes)
    return method.curate(key, state, posed, episodes, verdict)[0]

  return make(state, jax.random.key(2))


def many_terms(method):
  """The method's loss, a mean over tokens, a rare term and an empty one."""

  def loss(params, state, batch):
    terms, metrics = method.loss(params, state, batch)
    logits = params["policy"]["table"][jnp.maximum(batch.tokens, 0)]
    height = jnp.sum(logits**2, axis=-1)
    # Only rows that begin with token 0 count: whole parts have none.
    rare = batch.mask * (batch.tokens[:, :1] == 0) * (batch.turn == 2)
    terms = terms | {
      "tokens": mean(height, batch.mask),
      "rare": mean(height**2, rare),
      "never": mean(height, batch.mask * 0),
    }
    return terms, metrics

  return loss


def test_microbatches_change_nothing(small):
  method, state, _ = small
  batch = batch_of(method, state)
  loss = many_terms(method)
  sgd = optax.sgd(1.0)
  state = state._replace(opt_state=sgd.init(state.params))
  whole, parts = (
    jax.jit(make_train_step(sgd, loss, microbatches=n))(state, batch)
    for n in (1, 8)
  )
  # A step of size one of plain descent: parameters differ by the gradient.
  gradient = table_of(state) - table_of(whole[0])
  assert float(jnp.max(jnp.abs(gradient))) > 0.1
  close(whole[0].params, parts[0].params, 2e-6)
  for name in whole[1]:
    close(whole[1][name], parts[1][name], 1e-3)
    assert np.all(np.isfinite(jax.tree.leaves(whole[1][name])))

  def one_part(params, part):
    terms, _ = loss(params, state, part)
    return sum(
      t.total / jnp.where(t.count > 0, t.count, 1.0) for t in terms.values()
    )

  # Means of the parts' means are something else, so this test can fail.
  naive = jax.jit(jax.vmap(jax.grad(one_part), (None, 0)))(
    state.params, split_rows(batch, 8)
  )
  naive = jnp.sum(naive["policy"]["table"], 0) / 8
  assert float(jnp.max(jnp.abs(naive - gradient))) > 1e-3


def test_the_step_descends_on_total_over_count():
  def loss(params, state, batch):
    x = params["w"] * batch.targets.weight[:, 0]
    return {
      "a": Mean(jnp.sum(x), jnp.float32(4.0)),
      "b": Mean(jnp.sum(3.0 * x), jnp.sum(batch.mask)),
    }, {}

  token = jnp.zeros((4, 2), jnp.int32)
  weight = jnp.array([1.0, 2.0, 3.0, 4.0])[:, None] * jnp.ones(2)
  batch = Batch(token, token, token, token, jnp.ones((4, 2)), Weights(weight))
  sgd = optax.sgd(0.1)
  state = init_state({"w": jnp.float32(5.0)}, sgd)
  after, metrics = make_train_step(sgd, loss)(state, batch)
  want = 10 / 4 + 30 / 8  # sums of weights, over the counts
  np.testing.assert_allclose(after.params["w"], 5.0 - 0.1 * want, rtol=1e-6)
  norm = metrics["learn/gradient_norm"]
  np.testing.assert_allclose(norm.total / norm.count, want, rtol=1e-6)
  assert int(after.step) == 0, "the step counts iterations, not updates"
  norm = metrics["learn/parameter_norm"]
  np.testing.assert_allclose(norm.total, abs(after.params["w"]), rtol=1e-6)
  # A finite gradient, and an update that ends the run: its own step says so.
  broken = optax.sgd(1e30)
  state = init_state({"w": jnp.float32(5.0), "v": jnp.ones(2)}, broken)
  _, metrics = make_train_step(broken, loss)(state, batch)
  assert np.isfinite(metrics["learn/gradient_norm"].total)
  assert not np.isfinite(metrics["learn/parameter_norm"].total)


def check_rows(state, problems, episodes, verdict):
  """As `refresh`: do the rows begin with the prompt of their problem?"""
  prompt = problems.prompt[episodes.problem]
  same = jnp.all(prompt == episodes.tokens[:, :2])
  return state._replace(memory=(same, problems.prompt.shape[0]))


def test_waves_change_nothing(small):
  """Collected in parts, the round is the same to the last row."""
  method, state, optimizer = small
  method = method._replace(refresh=check_rows)
  step = make_train_step(optimizer, method.loss)
  out = {}
  for waves in (1, 4):
    collect, judge, learn = map(
      jax.jit, make_parts(method, step, waves=waves)
    )
    posed, episodes = collect(state, jax.random.key(4))
    assert posed.prompt.shape[0] == PROBLEMS
    verdict, metrics = judge(state, jax.random.key(5), posed, episodes)
    after, _ = learn(state, jax.random.key(6), posed, episodes, verdict)
    assert bool(after.memory[0]) and after.memory[1] == PROBLEMS
    out[waves] = posed, episodes, verdict, metrics, after
  one, four = out[1], out[4]
  for name in ("tokens", "turn", "path", "problem", "parent"):
    got, want = getattr(four[1], name), getattr(one[1], name)
    np.testing.assert_array_equal(got, want, err_msg=name)
  close(four[1].logprob, one[1].logprob, 1e-6)
  assert len(np.unique(np.asarray(one[1].tokens), axis=0)) > 16
  close(four[3], one[3], 1e-5)
  close(four[4].params, one[4].params, 1e-6)
  moved = jnp.abs(table_of(one[4]) - table_of(state))
  assert float(jnp.max(moved)) > 1e-2


def test_joined_waves_count_problems_and_parents_of_the_round():
  """Six problems of three rows in two waves; each row continues the next."""
  count, each, waves = 6, 3, 2
  row = np.arange(count * each)
  parent = np.where(row % each, row - 1, ROOT)
  parent[-1] = OFFLINE
  whole = fakes.pack([([int(b), 1], [0, 1]) for b in row], problem=row // each)
  whole = whole._replace(parent=jnp.asarray(parent, jnp.int32))

  def wave_of(w):
    own = row[row // each % waves == w]
    kind = jax.tree.map(lambda x: x[own], whole)
    place = np.argsort(own)
    return kind._replace(
      problem=kind.problem // waves,
      parent=jnp.asarray([
        p if p < 0 else place[np.searchsorted(own, p)] for p in parent[own]
      ], jnp.int32),
    )

  stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(wave_of, range(waves)))
  found = join_waves({"a": stacked}, count)["a"]
  assert bits(found) == bits(whole)


def test_split_rows_deals_the_rows_in_turn():
  x = jnp.arange(24).reshape(12, 2)
  parts = split_rows({"x": x, "y": x[:, 0]}, 3)
  assert parts["x"].shape == (3, 4, 2) and parts["y"].shape == (3, 4)
  for i in range(3):
    np.testing.assert_array_equal(parts["x"][i], x[i::3])
    np.testing.assert_array_equal(parts["y"][i], x[i::3, 0])


def test_shuffle_permutes_within_blocks():
  rows, count = 24, 4
  token = jnp.tile(jnp.arange(rows)[:, None], (1, 3))
  mask = token.astype(jnp.float32)
  batch = Batch(token, token, token, token, mask, Weights(mask))
  deal = jax.jit(functools.partial(shuffle, count=count))
  seen = set()
  for seed in range(40):
    dealt = deal(jax.random.key(seed), batch)
    row = np.asarray(dealt.tokens[:, 0])
    for leaf in jax.tree.leaves(dealt):
      first = np.asarray(leaf).reshape(rows, -1)[:, 0]
      np.testing.assert_array_equal(first, row)
    blocks = row.reshape(-1, count)
    np.testing.assert_array_equal(
      np.sort(blocks, axis=1), np.arange(rows).reshape(-1, count)
    )
    seen |= {tuple(block % count) for block in blocks}
  # 240 draws of 24 orders: one of them is missing with probability 1e-3.
  assert len(seen) == 24


@pytest.fixture(scope="module")
def fused(small):
  """Parts, root key, and four iterations of them in one program.

  Everything that splits is on: waves, epochs, minibatches and microbatches.
  """
  method, state, optimizer = small
  step = make_train_step(optimizer, method.loss, microbatches=2)
  parts = make_parts(method, step, minibatches=2, waves=2, epochs=2)
  root = jax.random.key(9)
  loop = jax.jit(make_loop(make_iteration(*parts), 4))
  return parts, root, loop(state, root)


def check_staged(state, root, parts, fused):
  """The parts compiled apart give the bits of the fused loop."""
  want, metrics = fused
  count = int(want.step)
  iteration = make_iteration(*map(jax.jit, parts))
  staged = state
  for step in range(count):
    key = jax.random.fold_in(root, staged.step)
    staged, found = iteration(staged, key)
    for name, one in found.items():
      same = bits(one) == bits(type(one)(*(x[step] for x in metrics[name])))
      assert same, (step, name)
  assert bits(staged) == bits(want)
  assert int(want.step) == count and bits(want.params) != bits(state.params)


def test_fused_is_staged_bit_for_bit(small, fused):
  parts, root, want = fused
  check_staged(small[1], root, parts, want)


def test_two_and_two_steps_are_four(small, fused):
  parts, root, (want, metrics) = fused
  two = jax.jit(make_loop(make_iteration(*parts), 2))
  half, first = two(small[1], root)
  whole, second = two(half, root)
  assert bits(whole) == bits(want)
  for name in metrics:
    both = jax.tree.map(
      lambda x, y: jnp.concatenate([x, y]), first[name], second[name]
    )
    assert bits(both) == bits(metrics[name]), name
  assert two._cache_size() == 1, "a state that is passed on compiles anew"
  assert int(whole.step) == 4


def test_keys_are_those_of_the_step():
  def iteration(state, key):
    return state._replace(step=state.step + 1), {
      "key": jax.random.key_data(key)
    }

  state = TrainState(jnp.int32(5), {}, {}, (), {}, ())
  root = jax.random.key(3)
  after, said = jax.jit(make_loop(iteration, 3))(state, root)
  assert int(after.step) == 8
  for place, step in enumerate((5, 6, 7)):
    want = jax.random.key_data(jax.random.fold_in(root, step))
    np.testing.assert_array_equal(said["key"][place], want)


def test_epochs_and_minibatches_are_updates(fused):
  _, _, (after, metrics) = fused
  # Four iterations of two epochs of two minibatches.
  assert int(after.opt_state[0].count) == 16
  assert int(after.step) == 4
  # The sampler is compared with the policy before the first update alone:
  # with half of the rows, once.
  gap = metrics["generate/sampler_gap"]
  assert np.all(gap.count > 0)
  assert np.all(gap.count <= PROBLEMS * SAMPLES // 2 * sum(TURNS))
  assert np.all(gap.total / gap.count < 1e-6)
  assert np.all(metrics["learn/gradient_norm"].count == 4)
  assert np.all(metrics["judge/reward_1"].count == PROBLEMS * SAMPLES)


def with_columns(method):
  """The method, which also says how many columns its loss has seen."""

  def loss(params, state, batch):
    terms, metrics = method.loss(params, state, batch)
    columns = jnp.float32(batch.tokens.shape[-1])
    return terms, metrics | {"columns": Mean(columns, jnp.ones(()))}

  return method._replace(loss=loss)


def test_columns_of_padding_are_cut_and_change_nothing(small):
  method, state, optimizer = small
  method = with_columns(method)
  step = make_train_step(optimizer, method.loss)
  collect, judge, whole = map(jax.jit, make_parts(method, step, waves=2))
  trimmed = jax.jit(make_parts(method, step, waves=2, buckets=3)[2])
  key = jax.random.key(3)
  posed, episodes = collect(state, key)
  verdict, _ = judge(state, key, posed, episodes)
  length = episodes.tokens.shape[-1]
  thirds = [-(-length * i // 3) for i in (1, 2, 3)]
  for longest, seen in ((length, length), (thirds[1], thirds[1])):
    kept = jnp.arange(length) < longest
    fill = dict(tokens=PAD, turn=PAD, logprob=0.0, path=0)
    short = episodes._replace(**{
      name: jnp.where(kept, getattr(episodes, name), value)
      for name, value in fill.items()
    })
    given = state, key, posed, short, verdict
    (want, said), (got, told) = whole(*given), trimmed(*given)
    assert said.pop("columns").total == length
    assert told.pop("columns").total == seen
    close(got, want, 1e-5)
    close(told, said, 1e-3)
    moved = jax.tree.map(jnp.subtract, want.params, state.params)
    assert optax.tree.norm(moved) > 1e-2
  assert trimmed._cache_size() == 1, "a length is compiled anew"


def test_less_than_one_bucket_is_refused(small):
  with pytest.raises(ValueError, match="buckets=0"):
    make_parts(small[0], lambda state, batch: (state, {}), buckets=0)


signal = verbs.with_signal(lambda reward: reward)


def seldom(method):
  """The method on rows of which most problems have no signal."""

  def judge(key, state, problems, episodes):
    verdict, metrics = method.judge(key, state, problems, episodes)
    rare = problems.prompt[:, :1] + problems.prompt[:, 1:] > 6
    reward = verdict.reward * rare[episodes.problem]
    return verdict._replace(reward=reward), metrics

  return method._replace(judge=judge)


def slow_rounds(collect, judge, state, keys, rounds):
  """The kept groups of dynamic sampling, by a list in Python."""
  kept, spare, drawn = [], [], 0
  for number in range(rounds):
    at = at_round(state, number)
    first, second = (jax.random.fold_in(key, number) for key in keys)
    posed, episodes = collect(at, first)
    verdict, _ = judge(at, second, posed, episodes)
    drawn += 1
    want = np.asarray(signal(posed, episodes, verdict))
    for p in range(PROBLEMS):
      rows = slice(p * SAMPLES, (p + 1) * SAMPLES)
      group = [x[rows] for x in (episodes.tokens, verdict.reward)]
      (kept if want[p] else spare).append([posed.prompt[p], *group])
    if len(kept) >= PROBLEMS:
      break
  groups = (kept + spare)[:PROBLEMS]
  return [np.stack(x) for x in zip(*groups)], min(len(kept), PROBLEMS), drawn


def test_problems_without_a_signal_are_posed_again(small):
  """Fused as by hand: kept groups, counted rounds, the same shapes."""
  method, state, optimizer = small
  method, state = seldom(method), state._replace(posed=jnp.int32(0))
  step = make_train_step(optimizer, method.loss)
  collect, judge, learn = make_parts(method, step)

  def look(state, key, posed, episodes, verdict):
    return state._replace(memory=(posed, episodes, verdict)), {}

  jitted = jax.jit(collect), jax.jit(judge)
  for rounds, key in ((4, 0), (2, 1)):
    iteration = jax.jit(
      make_iteration(collect, judge, look, wanted=signal, rounds=rounds)
    )
    key = jax.random.key(key)
    after, metrics = iteration(state, key)
    posed, episodes, verdict = after.memory
    keys = jax.random.split(key, 3)[:2]
    want, found, drawn = slow_rounds(*jitted, state, keys, rounds)
    assert float(metrics["generate/rounds"].total) == drawn > 1
    wanted = metrics["generate/wanted"]
    assert (float(wanted.total), float(wanted.count)) == (found, PROBLEMS)
    np.testing.assert_array_equal(posed.prompt, want[0])
    grouped = lambda x: np.asarray(x).reshape(PROBLEMS, SAMPLES, -1)
    np.testing.assert_array_equal(grouped(episodes.tokens), want[1])
    np.testing.assert_array_equal(grouped(verdict.reward), want[2])
    problem = np.repeat(np.arange(PROBLEMS), SAMPLES)
    np.testing.assert_array_equal(episodes.problem, problem)
    # What was sampled in vain counts in the judge's metrics.
    rows = metrics["judge/reward_1"].count
    assert float(rows) == drawn * PROBLEMS * SAMPLES
    assert int(after.step) == int(state.step) + 1
    assert int(after.posed) == drawn


def test_enough_signal_needs_one_round(small):
  method, state, optimizer = small
  collect, judge, learn = make_parts(
    method, make_train_step(optimizer, method.loss)
  )
  every = lambda posed, *rest: jnp.ones(posed.prompt.shape[0], bool)
  iteration = make_iteration(
    collect, judge, learn, wanted=every, rounds=5
  )
  with pytest.raises(ValueError, match="counted in state.posed: init_state"):
    jax.eval_shape(iteration, state, jax.random.key(0))
  state = state._replace(posed=jnp.int32(0))
  _, metrics = jax.jit(iteration)(state, jax.random.key(0))
  assert float(metrics["generate/rounds"].total) == 1
  assert float(metrics["judge/reward_1"].count) == PROBLEMS * SAMPLES


@pytest.mark.parametrize("rounds", (1, 4))
def test_each_row_of_a_table_is_posed_once_an_epoch(rounds):
  """However many rounds an iteration has: some have one, some have four."""
  size, count = 10, 3
  row = jnp.arange(size)[:, None]
  task = fakes.task(verify, again=[AGAIN], eos=(EOS,), prompt=[[0, 0]])
  task = task._replace(table=Problems(row, row, row))
  pose, wanted = verbs.pose_from(task, count), lambda posed, *_: (
    posed.prompt[:, 0] % 5 > 0
  )

  def judge(state, key, problems, rows):
    posed = jnp.bincount(problems.prompt[:, 0], length=size)
    return problems.answer, {"posed": Mean(posed, jnp.ones(()))}

  iteration = make_iteration(
    lambda state, key: (pose(key, state), jnp.zeros(count)), judge,
    lambda state, *given: (state, {}),
    **({"wanted": wanted, "rounds": rounds} if rounds > 1 else {}),
  )
  state = init_state({}, optax.identity(), rounds=rounds)
  frozen = verbs.frozen_of(task, jax.random.key_data(jax.random.key(2)))
  # The stage is not the first of its run.
  state = state._replace(step=jnp.int32(5), frozen=frozen | {"first": 5})
  _, metrics = jax.jit(make_loop(iteration, 21))(state, jax.random.key(1))
  drawn = metrics.get("generate/rounds", metrics["posed"]._replace(
    total=np.ones(21)
  )).total
  each = np.cumsum(metrics["posed"].total, axis=0)
  np.testing.assert_array_equal(each.sum(1), np.cumsum(drawn) * count)
  assert np.all(each.max(1) - each.min(1) <= 1)
  assert min(drawn) == 1 and max(drawn) == (1 if rounds == 1 else 2)


def test_curate_and_refresh_see_all_rows_of_the_round(small):
  """Four waves are sampled; what follows gets all rows, once."""
  plain, state, optimizer = small
  seen = []

  def refresh(state, problems, episodes, verdict):
    seen.append((len(problems.prompt), len(episodes.tokens)))
    return plain.refresh(state, problems, episodes, verdict)

  def curate(key, state, problems, episodes, verdict):
    seen.append((len(problems.prompt), len(verdict.reward)))
    return plain.curate(key, state, problems, episodes, verdict)

  method = plain._replace(refresh=refresh, curate=curate)
  step = make_train_step(optimizer, method.loss)
  iteration = make_iteration(*make_parts(method, step, waves=4))
  jax.eval_shape(iteration, state, jax.random.key(0))
  assert seen == [(PROBLEMS, PROBLEMS * SAMPLES)] * 2
