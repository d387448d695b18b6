"""SCoRe's loss on a policy that is a table: its expected gradient is exact.

All groups of two samples are enumerated, each put through the method's own
`curate` and `loss`, and the gradients added up with the groups' probabilities.
The objective is the paper's with discount 0: what turn 1 writes decides the
context of turn 2, but no reward of turn 2 flows back through that choice, so
the distribution of contexts is held fixed there (Kumar et al. 2024, App. A.2).
"""

import itertools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.losses.reduce import value
from sitrain.methods import multi_turn, reinforce, score, single_turn
from sitrain.models.logprobs import token_scores
from sitrain.types import Problems, TrainState, Verdict

VOCABULARY, END, PROMPT, AGAIN = 3, 2, [0], [1]
ALPHA, BETA1, BETA2 = 10.0, 0.7, 1.3  # large, so that no term hides


def attempts(limit):
  """Every attempt: up to `limit` tokens, nothing after the end token."""
  found = []
  for length in range(1, limit + 1):
    for row in itertools.product(range(VOCABULARY), repeat=length):
      ends = row[-1] == END or length == limit
      if ends and END not in row[:-1]:
        found.append(list(row))
  return found


class Game:
  """All pairs of attempts of a limit, their tokens, rewards and a policy."""

  def __init__(self, limit, turns=2):
    rng = np.random.default_rng(limit)
    each = attempts(limit)
    self.limit, self.turns = limit, turns
    self.pairs = list(itertools.product(each, repeat=turns))
    rows = [fakes.transcribe(PROMPT, pair, [AGAIN]) for pair in self.pairs]
    self.episodes = fakes.pack(rows)
    # The reward of an attempt, whatever came before: right is half of them.
    right = dict(zip(map(tuple, each), rng.permutation(len(each)) % 2))
    self.reward = jnp.array(
      [[float(right[tuple(y)]) for y in pair] for pair in self.pairs]
    )
    codes = {
      fakes.code(tokens[:i], VOCABULARY)
      for tokens, _ in rows
      for i in range(1, len(tokens))
    }
    self.contexts = tuple(sorted(codes))
    self.model = fakes.Table(
      vocabulary=VOCABULARY, contexts=self.contexts, **fakes.SIZES
    )
    shape = (len(self.contexts), VOCABULARY)
    policy, reference = rng.normal(size=(2, *shape))
    self.table, self.reference = jnp.asarray(policy), fakes.tabled(reference)

  def scores(self, params):
    """log pi of every token of every pair, [N T]."""
    rows = self.episodes
    return token_scores(
      self.model, params, rows.tokens, rows.turn, rows.path,
      inputs=rows.tokens, temperature=1.0,
    ).logprob

  def by_turn(self, x):
    """[N T] -> [N K], sums over the tokens of each turn."""
    turn = np.asarray(self.episodes.turn)
    return jnp.stack(
      [jnp.sum(x * (turn == k + 1), axis=1) for k in range(self.turns)], axis=1
    )

  def method(self, make, **options):
    task = fakes.task(
      fakes.constant_verdict(0.0), again=AGAIN, eos=(END,),
      prompt=[PROMPT], vocabulary=VOCABULARY,
    )
    return make(
      {"policy": self.model}, task, optax.sgd(1.0), problems=1, samples=2,
      turns=(self.limit,) * self.turns, **options,
    )


def expected_gradient(game, method, groups=2):
  """Sum over all groups of P(group) times the gradient of its loss."""
  count = len(game.pairs)
  index = jnp.asarray(list(itertools.product(range(count), repeat=groups)))
  one = jnp.zeros((1, 1), jnp.int32)
  problems = Problems(jnp.asarray([PROMPT], jnp.int32), one, one)

  def loss(table):
    params = fakes.tabled(table)
    fixed = jax.lax.stop_gradient(game.scores(params))
    chance = jnp.exp(jnp.sum(game.by_turn(fixed), axis=1))
    # Prompt and reply have log-probabilities too; the sampler reports none.
    sampled = jnp.where(game.episodes.turn >= 1, fixed, 0.0)
    state = TrainState(
      jnp.int32(0), {}, {"policy": params}, (), {"reference": game.reference},
      (),
    )

    def one_group(rows):
      episodes = jax.tree.map(
        lambda x: x[rows], game.episodes._replace(logprob=sampled)
      )._replace(problem=jnp.zeros(groups, jnp.int32))
      reward = game.reward[rows]
      verdict = Verdict(reward, jnp.ones_like(reward))
      frozen = jax.lax.stop_gradient(state)
      batch, _ = method.curate(
        jax.random.key(0), frozen, problems, episodes, verdict
      )
      terms, _ = method.loss(state.params, frozen, batch)
      weight = jnp.prod(chance[rows])
      return weight * sum(value(term) for term in terms.values()), weight

    values, weights = jax.vmap(one_group)(index)
    return jnp.sum(values), jnp.sum(weights)

  gradient, total = jax.jit(jax.grad(loss, has_aux=True))(game.table)
  np.testing.assert_allclose(total, 1.0, rtol=1e-9)
  return np.asarray(gradient)


def exact_gradient(game, credit, betas, per_token=False):
  """jax.grad of -sum_k E_contexts E_{y_k}[credit_k - beta_k KL_k].

  `per_token`: KL summed over tokens with their prefixes held fixed.
  """

  def objective(table):
    logp = game.scores(fakes.tabled(table))
    ratio = logp - game.scores(game.reference)
    own = game.by_turn(logp)
    total = 0.0
    for k in range(game.turns):
      before = jax.lax.stop_gradient(jnp.sum(own[:, :k], axis=1))
      # Later turns are summed out: they add up to one and carry no gradient.
      after = jax.lax.stop_gradient(jnp.sum(own[:, k + 1 :], axis=1))
      chance = jnp.exp(before + own[:, k] + after)
      divergence = game.by_turn(ratio)[:, k]
      total += jnp.sum(chance * credit[:, k])
      if not per_token:
        total -= betas[k] * jnp.sum(chance * divergence)
        continue
      fixed = jax.lax.stop_gradient(chance)
      rest = local_kl(game, table) * (game.episodes.turn == k + 1)
      total -= betas[k] * jnp.sum(fixed * jnp.sum(rest, axis=1))
    return -total

  return np.asarray(jax.jit(jax.grad(objective))(game.table))


def local_kl(game, table):
  """Exact KL of the distribution that each token was drawn from, [N T]."""
  logp, logq = (
    jax.nn.log_softmax(x) for x in (table, game.reference["table"])
  )
  each = jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1)
  tokens = np.asarray(game.episodes.tokens)
  place = np.zeros(tokens.shape, int)
  for row, real in enumerate(tokens):
    for i in range(1, int(np.sum(real >= 0))):
      code = fakes.code([int(t) for t in real[:i]], VOCABULARY)
      place[row, i] = game.contexts.index(code)
  return each[place]


@pytest.fixture(scope="module", params=[1, 2])
def game(request):
  with jax.enable_x64(True):
    yield Game(request.param)


def agree(found, want):
  assert np.max(np.abs(want)) > 0.05
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-9)


def shaped(game, alpha):
  """Eq. 4: r_1 for turn 1 and r_2 + alpha (r_2 - r_1) for turn 2."""
  first, second = game.reward[:, 0], game.reward[:, 1]
  return jnp.stack([first, second + alpha * (second - first)], axis=1)


def test_stage_two_is_the_gradient_of_equation_4(game):
  options = dict(bonus=ALPHA, beta1=BETA1, beta2=BETA1, kl="k1")
  want = exact_gradient(game, shaped(game, ALPHA), (BETA1, BETA1))
  found = expected_gradient(game, game.method(score.stage_two, **options))
  agree(found, want)
  # The bonus equals a weight in expectation: r_1 is fixed by the context.
  weighted = game.method(score.stage_two, shaping="weight", **options)
  agree(expected_gradient(game, weighted), want)
  plain = jnp.stack([game.reward[:, 0], 11 * game.reward[:, 1]], axis=1)
  agree(exact_gradient(game, plain, (BETA1, BETA1)), want)


def test_stage_one_is_the_gradient_of_equation_3(game):
  method = game.method(score.stage_one, beta1=BETA1, beta2=BETA2, kl="k1")
  credit = game.reward * jnp.array([0.0, 1.0])
  want = exact_gradient(game, credit, (BETA2, BETA1))
  agree(expected_gradient(game, method), want)


def test_exact_kl_holds_prefixes_fixed(game):
  """On one token a turn this is the gradient of the KL itself."""
  method = game.method(
    score.stage_two, bonus=ALPHA, beta1=BETA1, beta2=BETA2, kl="exact"
  )
  found = expected_gradient(game, method)
  credit, betas = shaped(game, ALPHA), (BETA2, BETA1)
  agree(found, exact_gradient(game, credit, betas, per_token=True))
  whole = exact_gradient(game, credit, betas)
  if game.limit == 1:
    agree(found, whole)
  else:
    assert np.max(np.abs(found - whole)) > 1e-3


def test_k2_as_a_loss_has_the_gradient_of_the_exact_kl(game):
  options = dict(bonus=0.0, beta1=BETA1, beta2=BETA2)
  found, want = (
    expected_gradient(game, game.method(score.stage_two, kl=kl, **options))
    for kl in ("k2", "exact")
  )
  agree(found, want)
  third = expected_gradient(
    game, game.method(score.stage_two, kl="k3", **options)
  )
  assert np.max(np.abs(third - want)) > 1e-3, "k3 is known to be biased"


def test_the_baselines_of_multi_turn(game):
  """Groups by outcome are a baseline as good as those by problem."""
  want = exact_gradient(game, game.reward, (BETA1, BETA1))
  for baseline in reinforce.BASELINES:
    method = game.method(
      multi_turn.make, beta1=BETA1, beta2=BETA1, kl="k1", baseline=baseline
    )
    found = expected_gradient(game, method)
    if baseline == "leave_one_out":
      agree(found, want)
    else:
      # A row that is alone in its group learns nothing of turn 2: the gradient
      # of each context shrinks by the chance of that, and turn 1's stays.
      first = game.contexts.index(fakes.code(PROMPT, VOCABULARY))
      agree(found[first], want[first])
      inner = found * want
      assert np.all(inner[np.abs(want) > 1e-6] > 0)


def test_returns_over_the_trajectory_are_something_else(game):
  method = game.method(
    score.stage_two, bonus=ALPHA, beta1=BETA1, beta2=BETA1, kl="k1",
    discount=1.0,
  )
  found = expected_gradient(game, method)
  want = exact_gradient(game, shaped(game, ALPHA), (BETA1, BETA1))
  assert np.max(np.abs(found - want)) > 0.1


def test_single_turn_with_three_samples_a_problem():
  with jax.enable_x64(True):
    game = Game(2, turns=1)
    method = game.method(single_turn.make, beta1=BETA1, kl="k1")
    want = exact_gradient(game, game.reward, (BETA1,))
    agree(expected_gradient(game, method, groups=3), want)
