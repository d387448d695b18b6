"""What the method families share: token advantages, pairs, joined losses."""

import functools

import fakes
import jax
import jax.numpy as jnp
import mains
import numpy as np
import pytest

from sitrain.curate import pairs
from sitrain.curate.advantage import gae, whiten_tokens
from sitrain.curate.policy import gae_batch, token_rewards
from sitrain.losses.value import value_error
from sitrain.methods import (
  dpo,
  objectives,
  ppo,
  reinforce_pp,
  spin,
  verbs,
)
from sitrain.models import heads
from sitrain.models.decoder import Decoder
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import check_trained
from sitrain.rollout import contexts
from sitrain.tasks import maze
from sitrain.types import (
  GIVEN,
  PAD,
  ROOT,
  Batch,
  Episodes,
  TrainState,
  ValueTargets,
  Verdict,
)

families = mains.imported("benchmarks.families")

TASK = maze.make(doors=2, rooms=2)
TURNS = (3, 3)
MODEL = Decoder(
  vocabulary=TASK.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
  head_size=8, mlp_size=8,
)


def array(x):
  return jnp.asarray(x, jnp.float32)


# Rows of a prompt, two turns with a reply between them, and padding.
TURN = np.array([
  [0, 0, 1, 1, 1, 0, 2, 2, PAD],
  [0, 0, 1, 1, 0, 2, 2, 2, PAD],
  [0, 0, 0, 1, 1, PAD, PAD, PAD, PAD],
])


def rows_of(turn, logprob=None, tokens=None):
  turn = jnp.asarray(turn, jnp.int32)
  count = turn.shape[0]
  logprob = jnp.zeros(turn.shape) if logprob is None else array(logprob)
  tokens = jnp.where(turn == PAD, PAD, 1) if tokens is None else tokens
  return Episodes(
    tokens=jnp.asarray(tokens, jnp.int32), turn=turn, logprob=logprob,
    path=jnp.zeros_like(turn), problem=jnp.arange(count, dtype=jnp.int32),
    parent=jnp.full(count, ROOT, jnp.int32),
  )


def slow_gae(reward, value, mask, discount, decay):
  """Schulman et al. 2016, Eq. 16, as the sum that it is."""
  out = np.zeros_like(reward)
  for b in range(len(reward)):
    steps = np.flatnonzero(mask[b])
    v = [*value[b, steps], 0.0]
    delta = [
      reward[b, t] + discount * v[i + 1] - v[i] for i, t in enumerate(steps)
    ]
    for i, t in enumerate(steps):
      later = enumerate(delta[i:])
      out[b, t] = sum((discount * decay) ** n * d for n, d in later)
  return out


@pytest.mark.parametrize("discount, decay", [
  (1.0, 1.0), (0.9, 0.8), (0.5, 0.0), (1.0, 0.95),
])
def test_gae_against_a_loop(discount, decay):
  rng = np.random.default_rng(0)
  reward, value = rng.normal(size=(2, 6, 12))
  mask = (rng.random((6, 12)) < 0.6) * 1.0
  mask[3] = 0
  want = slow_gae(reward, value, mask, discount, decay)
  # What stands outside of the mask is no step, whatever it says.
  value = np.where(mask > 0, value, np.nan)
  found = jax.jit(lambda *x: gae(*x, discount=discount, decay=decay))(
    *map(array, (reward, value, mask))
  )
  np.testing.assert_allclose(found, want, atol=1e-5)


def test_gae_by_hand():
  # d = (0 + 3 - 1, 4 + 0 - 3) = (2, 1); A = (2 + 1 / 2, 1).
  found = gae(
    array([[0, 9, 4, 9]]), array([[1, 9, 3, 9]]), array([[1, 0, 1, 0]]),
    discount=1.0, decay=0.5,
  )
  np.testing.assert_allclose(found, [[2.5, 0, 1, 0]])


def test_tokens_are_whitened_over_the_round():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(7, 9)) * 3 + 5
  mask = rng.random((7, 9)) < 0.5
  chosen = x[mask]
  want = np.where(mask, (x - chosen.mean()) / chosen.std(), 0)
  found = whiten_tokens(array(np.where(mask, x, np.inf)), array(mask))
  np.testing.assert_allclose(found, want, atol=1e-4)
  # Nothing to whiten, and nothing that differs: 0 and no NaN.
  same = [(np.full((7, 9), value), mask) for value in (1.0, 0.1, 100.3)]
  for values, inside in ((x, mask * 0), *same):
    found = whiten_tokens(array(values), array(inside))
    np.testing.assert_array_equal(found, 0)


def test_a_tokens_reward_by_hand():
  """The turn's reward on its last token, less the KL of every token."""
  rng = np.random.default_rng(2)
  logprob = np.where(TURN > 0, rng.normal(size=TURN.shape), 0)
  reference = rng.normal(size=TURN.shape)
  reward = np.array([[1, 0], [0, 1], [1, 0]])
  known = np.array([[1, 1], [1, 1], [1, 0]])
  found, counted = token_rewards(
    rows_of(TURN, logprob), Verdict(array(reward), array(known)),
    kl_weight=0.5, reference_logprob=array(reference),
  )
  want = np.where(TURN > 0, -0.5 * (logprob - reference), 0)
  want[0, 4] += 1  # the last token of turn 1
  want[1, 7] += 1
  want[2, 4] += 1
  np.testing.assert_allclose(found, want, atol=1e-6)
  np.testing.assert_array_equal(counted, known > 0)


def test_tokens_before_an_unknown_reward_are_not_trained():
  """Its return would leave out that reward: a silent zero."""
  reward = array([[1, np.nan], [0, 1], [1, np.nan]])
  known = array([[1, 0], [1, 1], [1, 0]])  # row 2 never wrote turn 2
  zeros = jnp.zeros(TURN.shape)
  batch, _ = gae_batch(
    rows_of(TURN), Verdict(reward, known), zeros, discount=1.0, decay=1.0,
    kl_weight=0.0, reference_logprob=zeros,
  )
  want = np.where((TURN > 0) & (np.arange(3) > 0)[:, None], 1.0, 0.0)
  np.testing.assert_array_equal(batch.mask, want)
  assert np.all(np.isfinite(batch.targets.advantage))


def test_without_a_critic_returns_are_future_rewards():
  """Two turns that are right earn the first turn both rewards."""
  reward, ones = array([[1, 1], [0, 1], [0, 0]]), jnp.ones((3, 2))
  zeros = jnp.zeros(TURN.shape)
  known = ones.at[2, 1].set(0)
  options = dict(discount=1.0, decay=1.0, kl_weight=0.0)
  batch, returns = gae_batch(
    rows_of(TURN), Verdict(reward, known), zeros,
    reference_logprob=zeros, **options,
  )
  want = np.array([
    [0, 0, 2, 2, 2, 0, 1, 1, 0],
    [0, 0, 1, 1, 0, 1, 1, 1, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0],
  ])
  np.testing.assert_allclose(returns, want, atol=1e-6)
  inside = TURN > 0
  mean, std = want[inside].mean(), want[inside].std()
  whitened = np.where(inside, (want - mean) / std, 0)
  np.testing.assert_allclose(batch.targets.advantage, whitened, atol=1e-4)


def test_the_value_error_by_hand():
  """Clipped, the worse of two errors counts: max(2 ** 2, 2.8 ** 2) / 2."""
  value, returns, old = array([[3.0]]), array([[5.0]]), array([[2.0]])
  found = value_error(value, returns, old, clip=0.2)
  np.testing.assert_allclose(found, 2.8**2 / 2)
  slope = jax.grad(lambda v: value_error(v, returns, old, clip=0.2).sum())
  np.testing.assert_array_equal(slope(value), 0)
  slope = jax.grad(lambda v: value_error(v, returns, old, clip=np.inf).sum())
  np.testing.assert_allclose(slope(value), -2)


def state_of(roles=("policy", "reference"), memory=()):
  params = {n: fakes.parameters(MODEL, i) for i, n in enumerate(roles)}
  if "critic" in params:
    params["critic"] = heads.add(MODEL, params["critic"])
  held = {"reference": params.pop("reference")}
  return TrainState(jnp.int32(0), {}, params, (), held, memory)


@pytest.fixture(scope="module")
def played():
  """(problems, rows, verdict) of six problems and four samples."""
  key = jax.random.key(1)
  problems = jax.jit(TASK.problems, static_argnums=1)(key, 6)
  play = verbs.play_with(
    MODEL, TASK, samples=4, turns=TURNS, temperature=1.0
  )
  rows = jax.jit(play)(jax.random.split(key, 6), state_of(), problems)
  rng = np.random.default_rng(3)
  reward = rng.integers(0, 2, (24, 2))
  return problems, rows, Verdict(array(reward), jnp.ones((24, 2)))


def test_values_in_parts_are_values(played, monkeypatch):
  rows, critic = played[1], state_of(("critic", "reference")).params["critic"]
  critic = critic | {heads.NAME: jnp.arange(8.0)}
  values = lambda: jax.jit(lambda p: heads.value_rows(MODEL, p, rows))(critic)
  whole = values()
  assert whole.shape == rows.tokens.shape and jnp.std(whole) > 0.1
  monkeypatch.setattr("sitrain.models.reading.ATTENTION_ELEMENTS", 2000)
  parts = jax.make_jaxpr(lambda p: heads.value_rows(MODEL, p, rows))(critic)
  assert "scan" in str(parts), "there was one part"
  np.testing.assert_allclose(values(), whole, rtol=1e-5, atol=1e-5)


@functools.cache
def pair_batch():
  """Pairs of random rows with random marks; some are left out."""
  rng, turns = np.random.default_rng(0), TURN[:2]
  tokens = rng.integers(0, 9, (2, 2, *turns.shape))
  tokens = np.where(turns == PAD, PAD, tokens)[0]
  rows = [rows_of(turns, tokens=t) for t in tokens]

  @jax.jit
  def made(held, *rows):
    reference = pairs.score_pairs(MODEL, held, *rows, temperature=1.0)
    return pairs.pair_batch(
      *rows, reference, label=jnp.ones(2),
      trained=jnp.array([[True, True], [True, False]]),
    )

  return made(state_of().held["reference"], *rows)


score = jax.jit(functools.partial(score_rows, MODEL, temperature=1.0))


# Op by op, each of hundreds would be compiled.
@functools.cache
def preference(**options):
  return jax.jit(verbs.preference_loss(
    MODEL, temperature=1.0, **{"beta": 0.3, "anchor": 0.0} | options
  ))


def curated(method, *given):
  return jax.jit(method.curate)(jax.random.key(0), *given)


def test_pairs_are_scored_as_rows():
  batch = pair_batch()
  for i in range(2):
    rows = rows_of(batch.turn[:, i], tokens=batch.tokens[:, i])
    want = score(state_of().held["reference"], rows).logprob
    np.testing.assert_allclose(
      batch.targets.reference_logprob[:, i], want, atol=1e-6
    )


def test_dpo_at_the_reference_is_log_two():
  """And its gradient makes chosen rows likelier, and rejected ones rarer."""
  state, batch = state_of(), pair_batch()
  at = {"policy": state.held["reference"]}
  terms, metrics = preference()(at, state, batch)
  found = terms["preference"]
  np.testing.assert_allclose(found.total / found.count, np.log(2), rtol=1e-5)
  preferred = metrics["learn/preferred"]
  np.testing.assert_allclose(preferred.total / preferred.count, 0.5, rtol=1e-5)
  assert found.count == 2
  slope = jax.jit(jax.grad(
    lambda p: preference()(p, state, batch)[0]["preference"].total
  ))(at)
  moved = jax.tree.map(lambda x, g: x - 0.05 * g, at, slope)
  before, after = (
    preference()(params, state, batch)[1] for params in (at, moved)
  )
  assert after["learn/margin"].total > 0.01
  assert after["learn/preference"].total < before["learn/preference"].total
  assert after["learn/preferred"].total > 1


def test_dpo_against_numpy():
  state, batch = state_of(), pair_batch()
  terms, metrics = preference(anchor=0.5)(state.params, state, batch)
  own = np.stack([
    score(
      state.params["policy"],
      rows_of(batch.turn[:, i], tokens=batch.tokens[:, i]),
    ).logprob for i in range(2)
  ], axis=1)
  mask = np.asarray(batch.mask)
  # The second pair trains its first turn alone.
  assert mask[0].sum() == 10 and mask[1].sum() == 4
  gap = ((own - batch.targets.reference_logprob) * mask).sum(-1)
  margin = 0.3 * (gap[:, 0] - gap[:, 1])
  want = np.log1p(np.exp(-margin))
  np.testing.assert_allclose(terms["preference"].total, want.sum(), rtol=1e-4)
  np.testing.assert_allclose(
    metrics["learn/margin"].total, margin.sum(), rtol=1e-3
  )
  nll = -(own * mask)[:, 0].sum()
  np.testing.assert_allclose(terms["likelihood"].total, 0.5 * nll, rtol=1e-4)
  assert terms["likelihood"].count == mask[:, 0].sum() == 7


def test_a_pair_that_is_left_out_counts_nowhere():
  state, batch = state_of(), pair_batch()
  alone = jax.tree.map(lambda x: x[:1], batch)
  mask = batch.mask.at[1].set(0)
  for loss in (preference(), preference(anchor=1.0)):
    both = jax.tree.leaves(loss(state.params, state, batch._replace(mask=mask)))
    one = jax.tree.leaves(loss(state.params, state, alone))
    np.testing.assert_allclose(both, one, rtol=1e-5)


def test_best_and_worst_become_pairs(played):
  """Of every problem, unless its rows are all worth the same."""
  problems, rows, verdict = played
  verdict = verdict._replace(reward=verdict.reward.at[:4].set(1.0))
  method = dpo.make(
    {"policy": MODEL}, TASK, (), problems=6, samples=4, turns=TURNS
  )
  batch, metrics = curated(method, state_of(), problems, rows, verdict)
  assert batch.tokens.shape[:2] == (6, 2)
  last = np.asarray(verdict.reward[:, 1]).reshape(6, 4)
  mixed = last.max(1) > last.min(1)
  assert not mixed[0] and 0 < mixed.sum() < 6
  np.testing.assert_array_equal(np.any(batch.mask > 0, axis=(1, 2)), mixed)
  for p in np.flatnonzero(mixed):
    for side, want in enumerate((last[p].argmax(), last[p].argmin())):
      row = 4 * p + want
      np.testing.assert_array_equal(batch.tokens[p, side], rows.tokens[row])
      np.testing.assert_array_equal(
        batch.mask[p, side] > 0, np.asarray(rows.turn[row]) > GIVEN
      )
  found = metrics["curate/pairs"]
  assert (found.total, found.count) == (mixed.sum(), 6)


def test_spin_prefers_the_solution_and_leaves_out_what_equals_it(played):
  problems, turns = played[0], (4, 4)  # longer than a solution needs
  method = spin.make({"policy": MODEL}, TASK, (), problems=6, turns=turns)
  # The policy writes the solution of the first problem, and of the others not.
  rows = jax.jit(functools.partial(
    contexts.given, reply=TASK.reply, turns=turns, eos=TASK.eos
  ))(problems)
  first = jnp.argmax(rows.turn > 0, axis=1)
  column = jnp.arange(rows.tokens.shape[1]) == first[:, None]
  wrong = column & (jnp.arange(6) > 0)[:, None]
  own = rows._replace(tokens=jnp.where(wrong, rows.tokens ^ 1, rows.tokens))
  # A round whose longest row is short is cut before it is curated.
  own = jax.tree.map(lambda x: x[:, :-1] if x.ndim > 1 else x, own)
  ones = jnp.ones((6, 2))
  batch, metrics = curated(
    method, state_of(), problems, own, Verdict(ones, ones)
  )
  np.testing.assert_array_equal(batch.tokens[:, 0], rows.tokens)
  np.testing.assert_array_equal(
    np.any(batch.mask > 0, axis=(1, 2)), np.arange(6) > 0
  )
  assert metrics["curate/pairs"].total == 5


def test_the_policy_becomes_the_reference():
  state = state_of()
  state = state._replace(held=jax.tree.map(
    lambda x: x.astype(jnp.bfloat16), state.held
  ))
  found = verbs.promote(state, (), (), ())
  policy = state.params["policy"]
  for x, y, own in zip(*map(jax.tree.leaves, (
    found.held["reference"], state.held["reference"], policy
  ))):
    assert x.dtype == y.dtype == jnp.bfloat16 and x is not own
    np.testing.assert_array_equal(x, own.astype(jnp.bfloat16))
  assert found.params is state.params
  with pytest.raises(ValueError, match="held.reference"):
    verbs.promote(state._replace(held={}), (), (), ())


def test_two_losses_are_joined():
  loss = lambda name: lambda params, state, batch: (
    {name: batch.targets}, {f"learn/{name}": batch.targets}
  )
  batch = Batch(*[0] * 5, targets=(1, 2))
  both = objectives.join_losses(loss("a"), loss("b"))
  assert both((), (), batch) == (
    {"a": 1, "b": 2}, {"learn/a": 1, "learn/b": 2}
  )
  with pytest.raises(ValueError, match="two losses name .*'a'"):
    objectives.join_losses(loss("a"), loss("a"))((), (), batch)


def critic_method(maker=ppo.make, **options):
  return maker(
    {"policy": MODEL, "critic": MODEL}, TASK, (), problems=6, samples=4,
    turns=TURNS, **options,
  )


def test_a_critic_of_zero_is_no_critic(played):
  """PPO's advantages at lambda 1 are then those of REINFORCE++."""
  state = state_of(("policy", "critic", "reference"))
  found = [
    curated(method, state, *played)[0].targets
    for method in (
      critic_method(decay=1.0), critic_method(reinforce_pp.make)
    )
  ]
  for x, y in zip(found[0].policy, found[1]):
    np.testing.assert_allclose(x, y, atol=1e-6)
  assert isinstance(found[0].value, ValueTargets)
  np.testing.assert_array_equal(found[0].value.old_value, 0)


def test_each_loss_of_ppo_reaches_its_role(played):
  state = state_of(("policy", "critic", "reference"))
  method = critic_method()
  batch, _ = curated(method, state, *played)

  def slopes(*names):
    total = lambda params: sum(
      mean.total for name, mean in method.loss(params, state, batch)[0].items()
      if name.startswith(names)
    )
    found = jax.jit(jax.grad(total))(state.params)
    return {
      role: float(sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree)))
      for role, tree in found.items()
    }

  found = slopes("policy")
  assert found["policy"] > 0 and found["critic"] == 0
  found = slopes("value")
  assert found["policy"] == 0 and found["critic"] > 0


def test_a_critic_learns_returns(played):
  """A step along the gradient of its loss brings values nearer."""
  state = state_of(("policy", "critic", "reference"))
  method = critic_method(value_clip=np.inf)
  batch, _ = curated(method, state, *played)
  error = jax.jit(jax.value_and_grad(
    lambda params: method.loss(params, state, batch)[0]["value"].total
  ))
  before, slope = error(state.params)
  moved = jax.tree.map(lambda x, g: x - 1e-3 * g, state.params, slope)
  assert error(moved)[0] < before


def test_roles_that_are_missing_are_named(played):
  with pytest.raises(ValueError, match="config.roles.critic"):
    ppo.make({"policy": MODEL}, TASK, (), problems=6, turns=TURNS)
  with pytest.raises(ValueError, match=r"trained=\('policy', 'critic'\)"):
    check_trained(state_of(), "policy", "critic")
  with pytest.raises(ValueError, match="head"):
    heads.value_rows(MODEL, state_of().params["policy"], played[1])
  with pytest.raises(ValueError, match="samples=1"):
    dpo.make({"policy": MODEL}, TASK, (), problems=6, samples=1, turns=TURNS)
  blank = lambda posed: posed._replace(solution=posed.solution * 0 + PAD)
  bare = TASK._replace(problems=lambda key, n: blank(TASK.problems(key, n)))
  with pytest.raises(ValueError, match="no solutions"):
    spin.make({"policy": MODEL}, bare, (), problems=6, turns=TURNS)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_families_name_existing_files(name):
  family = families.FAMILIES[name]
  config = families.config_of(family, seed=3)
  assert config["seed"] == 3
  assert {family.stage, family.control} <= set(config["stages"])
  assert not family.method or 0 < families.lines_of(family.method) <= 60
  other = families.config_of(family, seed=4)
  assert families.base_of(config) != families.base_of(other)


def test_a_base_model_is_shared_with_its_runs_config(tmp_path):
  """A workdir with checkpoints and no config.json is refused."""
  one, shared, other = (tmp_path / x for x in ("one", "shared", "other"))
  (one / "base").mkdir(parents=True)
  (one / "base" / "weights").write_text("1")
  (one / "config.json").write_text("{}")
  (one / "summary.json").write_text("{}")
  families.keep_base(one, shared)
  for _ in range(2):  # What is there already stays.
    families.take_base(shared, other)
    found = {x.relative_to(other).as_posix() for x in other.rglob("*.*")}
    assert found == {"config.json"}
    assert (other / "base" / "weights").read_text() == "1"
