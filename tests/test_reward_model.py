"""A reward model: its pairs, loss and scores, and a policy that it pays."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.curate.pairs import best_pairs
from sitrain.methods import grpo, reward_model
from sitrain.models import heads
from sitrain.models.decoder import Decoder
from sitrain.rollout.contexts import append, begin
from sitrain.tasks import maze
from sitrain.train import init_state
from sitrain.types import GIVEN, PAD, Verdict

TASK = maze.make(doors=2, rooms=2)
MODEL = Decoder(
  vocabulary=TASK.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
  head_size=8, mlp_size=8,
)
KEY = jax.random.key(0)
PROBLEMS = jax.jit(lambda key: TASK.problems(key, 4))(KEY)
RNG = np.random.default_rng(0)
ROWS = append(begin(PROBLEMS, 3), jnp.asarray(RNG.integers(0, 12, (12, 3))), 1)
# The rewards of the second problem are equal; of the third one is not known.
REWARD = np.array([0, 1, 0, 1, 1, 1, np.nan, 0, 1, 0.2, 0.1, 0.7])
VERDICT = Verdict(
  jnp.asarray(REWARD[:, None], jnp.float32),
  jnp.asarray(np.isfinite(REWARD)[:, None], jnp.float32),
)
MODELS = {"policy": MODEL, "reward_model": MODEL}
ROLE = "reward_model"
# Op by op, each of a hundred would be compiled.
SCORE = jax.jit(heads.score, static_argnums=0)


def role(seed):
  """A scalar head that is not 0, on parameters of its own."""
  params = heads.add(MODEL, fakes.parameters(MODEL, seed))
  return params | {heads.NAME: jax.random.normal(jax.random.key(seed), (8,))}


def state_of(**params):
  own = {"policy": fakes.parameters(MODEL, 0)}
  held = {"reference": own["policy"]}
  return init_state(
    params or own, optax.identity(), held=held | ({} if params else {
      ROLE: role(3)
    })
  )


def test_the_best_and_the_worst_row_of_a_problem_are_a_pair():
  batch, found = best_pairs(ROWS, VERDICT, 4)
  assert found.tolist() == [1, 0, 1, 1]
  for problem, best, worst in ((0, 1, 0), (2, 8, 7), (3, 11, 10)):
    for side, row in enumerate((best, worst)):
      np.testing.assert_array_equal(
        batch.tokens[problem, side], ROWS.tokens[row]
      )
      np.testing.assert_array_equal(
        batch.mask[problem, side], ROWS.turn[row] > GIVEN
      )
  assert not np.any(batch.mask[1])
  assert batch.targets.label.tolist() == [1] * 4


def test_scores_of_rows_in_parts(monkeypatch):
  params = role(1)
  want = SCORE(MODEL, params, ROWS.tokens, ROWS.turn, ROWS.path)
  assert want.shape == (12,) and np.std(want) > 0.1
  monkeypatch.setattr("sitrain.models.reading.ATTENTION_ELEMENTS", 2000)
  read = jax.jit(lambda params: heads.score_rows(MODEL, params, ROWS))
  assert "scan" in str(jax.make_jaxpr(read)(params)), "there was one part"
  np.testing.assert_allclose(read(params), want, atol=1e-5)


def method_of(maker, **options):
  return maker(
    MODELS, TASK, (), problems=4, samples=3, turns=(3,), **options
  )


def test_the_loss_is_that_of_bradley_and_terry():
  """log(1 + exp(worst - best)), over the three problems that have a pair."""
  state = state_of(reward_model=role(1))
  method = method_of(reward_model.make)
  batch, metrics = jax.jit(method.curate)(KEY, state, PROBLEMS, ROWS, VERDICT)
  assert metrics["curate/pairs"].total == 3
  loss = jax.jit(lambda params: method.loss(params, state, batch))
  terms, told = loss(state.params)
  score = SCORE(
    MODEL, state.params[ROLE], ROWS.tokens, ROWS.turn, ROWS.path
  )
  margin = score[jnp.array([1, 8, 11])] - score[jnp.array([0, 7, 10])]
  np.testing.assert_allclose(
    terms["preference"].total, np.sum(np.log1p(np.exp(-margin))), rtol=1e-4
  )
  assert terms["preference"].count == told["learn/margin"].count == 3
  np.testing.assert_allclose(
    told["learn/preferred"].total, np.sum(1 / (1 + np.exp(-margin))), rtol=1e-4
  )
  total = lambda params: loss(params)[0]["preference"].total
  moved = jax.tree.map(
    lambda x, g: x - 1e-3 * g, state.params,
    jax.jit(jax.grad(total))(state.params),
  )
  assert total(moved) < total(state.params)


def test_scores_are_the_reward_and_the_verifier_reports():
  state = state_of()
  method = method_of(grpo.make, kl="none", reward_role=ROLE)
  batch, metrics = jax.jit(method.curate)(KEY, state, PROBLEMS, ROWS, VERDICT)
  score = jax.jit(functools.partial(heads.score_rows, MODEL))
  score = np.asarray(score(state.held[ROLE], ROWS))
  known = np.isfinite(REWARD)
  want = np.zeros(12)
  for p in range(4):
    rows = np.flatnonzero(known & (np.arange(12) // 3 == p))
    want[rows] = (score[rows] - score[rows].mean()) / score[rows].std()
  column = int(np.argmax(np.asarray(ROWS.turn[0]) > GIVEN))
  np.testing.assert_allclose(
    batch.targets.advantage[:, column], want, atol=1e-3
  )
  right = known & (np.nan_to_num(REWARD) > 0)
  for name, rows in (("right", right), ("wrong", known & ~right)):
    found = metrics[f"curate/score_{name}"]
    assert found.count == rows.sum()
    np.testing.assert_allclose(found.total, score[rows].sum(), rtol=1e-4)


def test_a_row_that_a_reply_ended_has_its_score_in_its_last_turn():
  """With 0 there the policy would learn to end its rows, or not to."""
  more = jnp.where(jnp.arange(12)[:, None] % 3 == 0, PAD, 5)
  rows = append(ROWS, more, 2)
  known = jnp.ones((12, 2)).at[::3, 1].set(0)
  verdict = Verdict(jnp.zeros((12, 2)), known)
  method = grpo.make(
    MODELS, TASK, (), problems=4, samples=3, turns=(3, 3), kl="none",
    reward_role=ROLE, estimate="as_it_is", discount=0.0,
  )
  batch, metrics = jax.jit(method.curate)(
    KEY, state_of(), PROBLEMS, rows, verdict
  )
  score = jax.jit(functools.partial(heads.score_rows, MODEL))
  score = np.asarray(score(state_of().held[ROLE], rows))
  advantage = np.asarray(batch.targets.advantage)
  for b, row in enumerate(np.asarray(rows.turn)):
    last = row.max()
    np.testing.assert_allclose(advantage[b, row == last], score[b], rtol=1e-4)
    assert not advantage[b, (row > GIVEN) & (row < last)].any()
  assert metrics["curate/score_wrong"].count == 12


def test_what_is_missing_is_named():
  with pytest.raises(ValueError, match="config.roles.reward_model"):
    reward_model.make(
      {"policy": MODEL}, TASK, (), problems=4, samples=3, turns=(3,)
    )
  with pytest.raises(ValueError, match="config.roles.judge"):
    method_of(grpo.make, reward_role="judge")
  method = method_of(reward_model.make)
  with pytest.raises(ValueError, match="trains the role 'reward_model'"):
    method.curate(KEY, state_of(), PROBLEMS, ROWS, VERDICT)
