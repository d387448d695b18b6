"""Methods name the right functions: their loss and their targets, in NumPy.

The model is left out: log-probabilities are given where a loss would ask for
them, and rounds are written by hand.
"""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.methods import (
  best_of_n,
  cispo,
  clip_cov,
  dapo,
  dpo,
  dr_grpo,
  gdpo,
  gigpo,
  grpo,
  gspo,
  ipo,
  kl_cov,
  kto,
  objectives,
  orpo,
  reinforce,
  rest_em,
  rloo,
  sapo,
  simpo,
  spark,
)
from sitrain.tasks import chain, maze, tic_tac_toe
from sitrain.types import (
  Batch,
  PolicyTargets,
  PreferenceTargets,
  TokenScores,
  UnpairedTargets,
  Verdict,
)

TASK = maze.make(doors=2, rooms=2)._replace(rewards=("right", "short"))
LIMIT = 6
SHAPE = {"problems": 2, "samples": 3, "turns": (LIMIT,)}
LENGTHS = np.array([5, 1, 3, 6])
MASK = np.arange(7) - 1 < LENGTHS[:, None]
MASK[:, 0] = False
RNG = np.random.default_rng(0)
LOGPROB = RNG.uniform(-3, -0.1, MASK.shape)
OLD = LOGPROB + 0.4 * RNG.normal(size=MASK.shape)
REFERENCE = LOGPROB + 0.8 * RNG.normal(size=MASK.shape)
GAIN = np.repeat(RNG.normal(size=(4, 1)), 7, axis=1)
RATIO = np.exp(LOGPROB - OLD)


def array(x):
  return jnp.asarray(x, jnp.float32)


def value(terms):
  return {
    name: float(term.total / term.count) for name, term in terms.items()
  }


@pytest.fixture
def given(monkeypatch):
  """Losses read these log-probabilities in the place of a model's."""
  def scores(model, params, tokens, *rest, **options):
    logprob = array(LOGPROB).reshape(tokens.shape)
    return TokenScores(logprob, jnp.zeros_like(logprob))

  monkeypatch.setattr(objectives, "token_scores", scores)
  monkeypatch.setattr(objectives, "join_base", lambda params, state: params)


def loss_of(make, **options):
  method = make(fakes.SILENT, TASK, None, **SHAPE | options)
  token = jnp.zeros(MASK.shape, jnp.int32)
  targets = PolicyTargets(
    array(GAIN), array(np.full(MASK.shape, 0.3)), array(OLD), array(OLD),
    array(REFERENCE),
  )
  batch = Batch(
    token, token, jnp.asarray(MASK, jnp.int32), token, array(MASK), targets
  )
  terms, _ = method.loss({"policy": ()}, None, batch)
  return value(terms)


def token_mean(x):
  return x[MASK].mean()


def episode_sum(x):
  return np.mean([row[m].sum() for row, m in zip(x, MASK)])


def episode_mean(x):
  return np.mean([row[m].mean() for row, m in zip(x, MASK)])


def constant(x):
  return episode_sum(x) / LIMIT


def ppo(ratio, low, high):
  return -np.minimum(ratio * GAIN, np.clip(ratio, 1 - low, 1 + high) * GAIN)


def k3():
  gap = REFERENCE - LOGPROB
  return np.exp(gap) - 1 - gap


def sequence():
  gap = [np.mean((a - b)[m]) for a, b, m in zip(LOGPROB, OLD, MASK)]
  return np.exp(np.array(gap))[:, None] * np.ones(MASK.shape)


def gate():
  tau = np.where(GAIN > 0, 1.0, 1.05)
  return -4 / tau / (1 + np.exp(-tau * (RATIO - 1))) * GAIN


# name: (maker, its options, how tokens are reduced, loss of a token, its KL)
POLICY = {
  "grpo": (grpo.make, {}, episode_mean, lambda: ppo(RATIO, 0.2, 0.2), k3),
  "grpo of tokens": (
    grpo.make, {"aggregate": "token_mean", "kl": "k2"}, token_mean,
    lambda: ppo(RATIO, 0.2, 0.2), lambda: (LOGPROB - REFERENCE) ** 2 / 2,
  ),
  "rloo": (rloo.make, {}, episode_sum, lambda: -RATIO * GAIN, None),
  "dr_grpo": (dr_grpo.make, {}, constant, lambda: ppo(RATIO, 0.2, 0.2), None),
  "dapo": (dapo.make, {}, token_mean, lambda: ppo(RATIO, 0.2, 0.28), None),
  "gspo": (
    gspo.make, {}, episode_mean, lambda: ppo(sequence(), 3e-4, 4e-4), None
  ),
  "cispo": (
    cispo.make, {"clip_high": 0.1}, token_mean,
    lambda: -np.minimum(RATIO, 1.1) * GAIN * LOGPROB, None,
  ),
  "sapo": (sapo.make, {}, episode_mean, gate, None),
  "clip_cov": (
    clip_cov.make, {}, token_mean, lambda: ppo(RATIO, 0.2, 0.2), None
  ),
  "kl_cov": (
    kl_cov.make, {}, token_mean, lambda: -RATIO * GAIN,
    lambda: np.abs(LOGPROB - REFERENCE),
  ),
  "dual clip": (
    dr_grpo.make, {"dual": 1.2}, constant, lambda: np.where(
      GAIN < 0, np.minimum(ppo(RATIO, 0.2, 0.2), -1.2 * GAIN),
      ppo(RATIO, 0.2, 0.2),
    ), None,
  ),
}


@pytest.mark.parametrize("name", POLICY)
def test_the_loss_of_a_method_is_its_equation(name, given):
  make, options, reduce, tokens, kl = POLICY[name]
  found = loss_of(make, **options)
  want = {"policy_1": reduce(tokens())}
  if kl is not None:
    want["kl_1"] = reduce(0.3 * kl())
  assert set(found) == set(want)
  for term in want:
    np.testing.assert_allclose(found[term], want[term], rtol=1e-5)


TEXTS = [[5, 6, 3], [5, 3], [6, 6, 6, 6, 6, 6], [7, 3], [7, 7, 3], [8, 3]]
PROBLEM = np.array([0, 0, 0, 1, 1, 1])
REWARD = np.array([1, 0, 0, 0.5, 1, 1])


def round_of(reward=REWARD, parts=None):
  """(problems, rows, verdict) of six rows of two problems, one turn each."""
  texts = [fakes.transcribe([4], [text], []) for text in TEXTS]
  rows = fakes.pack(texts, problem=PROBLEM.tolist())
  logprob = jnp.where(rows.turn >= 1, -0.5, 0.0)
  column = lambda x: array(x)[:, None]
  verdict = Verdict(
    column(reward), jnp.ones((6, 1)),
    {name: column(x) for name, x in (parts or {}).items()},
  )
  problems = fakes.task(
    None, again=[9], eos=(3,), prompt=[4]
  ).problems(None, 2)
  return problems, rows._replace(logprob=logprob), verdict


def curated(make, sampled, **options):
  method = make(fakes.SILENT, TASK, None, **SHAPE | options)
  return method.curate(jax.random.key(0), None, *sampled)


def gains(batch):
  """The advantage of each row, which all of its tokens have."""
  mask, gain = np.asarray(batch.mask), np.asarray(batch.targets.advantage)
  rows = [set(g[m > 0].tolist()) for g, m in zip(gain, mask)]
  assert all(len(row) == 1 for row in rows)
  return np.array([row.pop() for row in rows])


def over_groups(x, function):
  return np.concatenate([function(x[:3]), function(x[3:])])


def normalised(x, ddof=0):
  return over_groups(
    x, lambda g: (g - g.mean()) / (g.std(ddof=ddof) + 1e-6)
  )


ADVANTAGE = {
  "dr_grpo": (dr_grpo.make, {}, lambda r: over_groups(
    r, lambda g: g - g.mean())),
  "gspo": (gspo.make, {}, normalised),
  "cispo of likelihood": (
    cispo.make, {"estimate": "maximum_likelihood"},
    lambda r: over_groups(r, lambda g: g / g.mean() - 1),
  ),
  "sapo": (
    sapo.make, {"estimate": "group_normalise_sample"},
    lambda r: normalised(r, 1),
  ),
  "dapo": (dapo.make, {}, normalised),
  # Lengths 3, 2, 6, 2, 3, 2 of a limit of 6: those from 3 on are charged.
  "dapo of long turns": (
    dapo.make, {"margin": 4}, lambda r: normalised(
      r - np.array([1 / 4, 0, 1, 0, 1 / 4, 0])
    ),
  ),
}


@pytest.mark.parametrize("name", ADVANTAGE)
def test_the_advantage_of_a_method_is_its_equation(name):
  make, options, equation = ADVANTAGE[name]
  batch, _ = curated(make, round_of(), **options)
  np.testing.assert_allclose(
    gains(batch), equation(REWARD), rtol=1e-4, atol=1e-5
  )


def test_named_rewards_have_advantages_of_their_own():
  parts = {"right": REWARD, "short": np.array([0, 1, 0, 1, 0, 1.0])}
  weights = {"right": 1.0, "short": 0.5}
  batch, _ = curated(
    gdpo.make, round_of(sum(parts.values()), parts), weights=weights
  )
  total = sum(weights[k] * normalised(x, 1) for k, x in parts.items())
  want = (total - total.mean()) / (total.std(ddof=1) + 1e-6)
  np.testing.assert_allclose(gains(batch), want, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="give each a number"):
    curated(gdpo.make, round_of(), weights={"right": 1.0})
  # One that the task only logs is not known in a row: without a weight here it
  # changes nothing, and with one the row is masked.
  logged = parts | {"short": np.where(np.arange(6) == 1, np.nan, 0.0)}
  batch, _ = curated(
    gdpo.make, round_of(REWARD, logged), weights={"right": 1.0, "short": 0.0}
  )
  right = normalised(REWARD, 1)
  want = (right - right.mean()) / (right.std(ddof=1) + 1e-6)
  np.testing.assert_allclose(gains(batch), want, rtol=1e-4, atol=1e-5)
  batch, _ = curated(gdpo.make, round_of(REWARD, logged), weights=weights)
  assert np.isfinite(batch.targets.advantage).all()
  masked = np.asarray(batch.mask).sum(1) == 0
  assert masked.tolist() == [False, True, False, False, False, False]


def test_a_step_is_trained_where_its_verdict_agrees():
  """SPARK on four attempts at 1 + 2 + 3, whose right steps are `36;`.

  By hand: rewards 1, 0, 0, 1 are advantages a, -a, -a, a. Of `36;` all steps
  are kept; of `35;` the second, `5`, is wrong and kept alone; `4` of `47;` is
  wrong, and `7` follows from it; of `56;`, right by chance, `6` does not follow
  and loses its advantage, as does `5`. The last step `;` is right in all.
  """
  task = chain.make(operations=(2, 2), steps=True)
  text = task.tokenizer.encode
  rows = fakes.pack(
    [fakes.transcribe(text("1+2+3="), [text(one)], [])
     for one in ("36;", "35;", "47;", "56;")], problem=[0] * 4,
  )
  answer = jnp.array([[6, 2, 1, 2, 3, *text("++")]] * 4)
  verdict = task.verify(answer, rows, 1)
  np.testing.assert_array_equal(verdict.reward[:, 0], [1, 0, 0, 1])
  options = {
    "problems": 1, "samples": 4, "turns": (3,), "kl": "none", "beta": 0.0
  }
  make = lambda **more: spark.make(
    fakes.SILENT, task, None, **options, **more
  ).curate(jax.random.key(0), None, None, rows, verdict)
  whole = 0.5 / np.std([1, 0, 0, 1], ddof=1)
  kept = np.array([[1, 1, 1], [0, -1, 0], [-1, 0, 0], [0, 0, 1]])
  for more in ({}, {"share_prompts": True}):
    batch, metrics = make(**more)
    gain = np.asarray(batch.targets.advantage).reshape(rows.turn.shape)
    np.testing.assert_allclose(gain[:, 6:], whole * kept, rtol=1e-4)
    assert np.all(np.asarray(batch.mask).reshape(gain.shape)[:, 6:] == 1)
    assert value(metrics) == {"curate/agrees": 0.5}
  # Steps that end with `;` alone: the first verdict holds for all of the row.
  batch, _ = make(ends=";")
  first = np.array([1, 0, -1, 0])[:, None] * np.ones(3)
  np.testing.assert_allclose(
    batch.targets.advantage[:, 6:], whole * first, rtol=1e-4
  )
  with pytest.raises(ValueError, match="no verdicts on steps.*steps=True"):
    spark.make(fakes.SILENT, chain.make(), None, **options)
  gap = task._replace(rewards=("step_1", "step_3"))
  with pytest.raises(ValueError, match="'step_1', 'step_3'"):
    spark.make(fakes.SILENT, gap, None, **options)


def test_turns_are_compared_with_those_of_their_state():
  """GiGPO on four rows of a problem; only two have one text before turn 2.

  Two turns of rewards r_1, r_2: A_1 = R - mean R + weight (R_1 - mean R_1) with
  R = r_1 + r_2 and R_1 = r_1 + r_2 / 2, where turn 1 of all is in one state.
  """
  turns = [[[5], [5]], [[5], [6]], [[6], [6]], [[7], [6]]]
  texts = [fakes.transcribe([4], two, [[9]]) for two in turns]
  rows = fakes.pack(texts, problem=[0] * 4)
  reward = np.array([[0, 1], [0, 0], [1, 0], [0, 0.5]])
  known = np.ones((4, 2))
  verdict = Verdict(array(reward), array(known))
  problems = fakes.task(None, again=[9], eos=(3,), prompt=[4]).problems(None, 1)
  options = {"turns": (3, 3), "discount": 0.5, "weight": 2.0, "kl": "none"}
  batch, metrics = curated(gigpo.make, (problems, rows, verdict), **options)
  centred = lambda x: x - x.mean()
  episode = centred(reward.sum(axis=1))
  first = episode + 2 * centred(reward @ [1, 0.5])
  # Rows 0 and 1 stand behind one text; rows 2 and 3 are alone.
  second = episode + 2 * np.array([0.5, -0.5, 0, 0])
  found = np.asarray(batch.targets.advantage)
  for k, want in ((1, first), (2, second)):
    own = np.asarray(rows.turn) == k
    np.testing.assert_allclose(found[own], want, rtol=1e-5, atol=1e-6)
  assert value(metrics) == {"curate/compared": 6 / 8}
  # Behind the reply alone all second turns are in one state.
  batch, metrics = curated(
    gigpo.make, (problems, rows, verdict), **options, state="reply"
  )
  assert value(metrics) == {"curate/compared": 1.0}
  own = np.asarray(rows.turn) == 2
  np.testing.assert_allclose(
    np.asarray(batch.targets.advantage)[own],
    episode + 2 * centred(reward[:, 1]), rtol=1e-5, atol=1e-6,
  )
  # A row with an unknown turn is in no group, and not trained.
  verdict = Verdict(array(reward), array(known).at[0, 1].set(0))
  batch, _ = curated(gigpo.make, (problems, rows, verdict), **options)
  assert rows_trained(batch) == [1, 2, 3]
  np.testing.assert_allclose(
    np.asarray(batch.targets.advantage)[1, np.asarray(rows.turn)[1] == 2],
    -0.5, rtol=1e-5,
  )
  silent = tic_tac_toe.make()  # Seats move without a word between them.
  with pytest.raises(ValueError, match="has no replies: set 'text'"):
    gigpo.make(fakes.SILENT, silent, None, **SHAPE, state="reply")


def test_a_sampler_that_rounds_is_corrected_for(monkeypatch):
  """Ratios are to the scored policy; the rest is a weight of at most 2."""
  problems, rows, verdict = round_of()
  noise = np.random.default_rng(0).normal(size=rows.logprob.shape)
  scored = rows.logprob + array(noise)
  monkeypatch.setattr(
    reinforce, "score_rows", lambda *a, **k: TokenScores(scored, scored)
  )
  monkeypatch.setattr(reinforce, "params_of", lambda state, role: ())
  sampled = problems, rows, verdict
  plain, _ = curated(dr_grpo.make, sampled)
  batch, _ = curated(dr_grpo.make, sampled, sampler_ratio=2.0)
  np.testing.assert_array_equal(batch.targets.old_logprob, scored)
  np.testing.assert_array_equal(batch.targets.sampler_logprob, rows.logprob)
  weight = np.minimum(np.exp(noise), 2.0)
  assert np.any(weight == 2.0)
  np.testing.assert_allclose(
    batch.targets.advantage * batch.mask,
    plain.targets.advantage * weight * plain.mask, rtol=1e-5, atol=1e-6,
  )


def test_rounding_is_corrected_for_where_the_policy_rounds(monkeypatch):
  """In bfloat16 by default, and never with sampler_ratio=0."""
  problems, rows, verdict = round_of()
  scored = rows.logprob + 0.5
  monkeypatch.setattr(
    reinforce, "score_rows", lambda *a, **k: TokenScores(scored, scored)
  )
  monkeypatch.setattr(reinforce, "params_of", lambda state, role: ())
  silent = fakes.SILENT["policy"]
  rounds = silent._replace(dtype=jnp.bfloat16)
  for model, options, want in (
    (silent, {}, rows.logprob), (rounds, {}, scored),
    (rounds, {"sampler_ratio": 0.0}, rows.logprob),
  ):
    method = dr_grpo.make({"policy": model}, TASK, None, **SHAPE | options)
    sampled = problems, rows, verdict
    batch, _ = method.curate(jax.random.key(0), None, *sampled)
    np.testing.assert_array_equal(batch.targets.old_logprob, want)


def rows_trained(batch):
  return np.flatnonzero(np.any(np.asarray(batch.mask) > 0, axis=1)).tolist()


def test_what_is_imitated():
  sampled = round_of()
  assert rows_trained(curated(rest_em.make, sampled)[0]) == [0, 4, 5]
  one = curated(rest_em.make, sampled, per_problem=1)[0]
  assert rows_trained(one) in ([0, 4], [0, 5])
  low = curated(rest_em.make, sampled, least=0.5)[0]
  assert rows_trained(low) == [0, 3, 4, 5]
  best = curated(best_of_n.make, round_of(np.array([0, 0, 0, 0.5, 0.1, 0])))[0]
  assert rows_trained(best) == [3]
  assert np.all(np.asarray(best.mask) <= np.asarray(best.turn >= 1))


def pair_terms(make, **options):
  method = make(fakes.SILENT, TASK, None, **SHAPE | options)
  pairs = lambda x: array(x).reshape(2, 2, -1)
  token = jnp.zeros((2, 2, 7), jnp.int32)
  batch = Batch(
    token, token, pairs(MASK).astype(jnp.int32), token, pairs(MASK),
    PreferenceTargets(pairs(REFERENCE), jnp.ones(2)),
  )
  return value(method.loss({"policy": ()}, None, batch)[0])


def sums(x):
  return np.array([r[m].sum() for r, m in zip(x, MASK)]).reshape(2, 2)


def means(x):
  return np.array([r[m].mean() for r, m in zip(x, MASK)]).reshape(2, 2)


def difference(x):
  return x[:, 0] - x[:, 1]


def logistic(margin):
  return np.mean(np.log1p(np.exp(-margin)))


def odds(x):
  return difference(x - np.log1p(-np.exp(x)))


CHOSEN = -np.mean([x for r in (0, 2) for x in LOGPROB[r][MASK[r]]])
GAP = LOGPROB - REFERENCE
PAIRS = {
  "dpo": (dpo.make, {"anchor": 0.2}, {
    "preference": logistic(0.1 * difference(sums(GAP))),
    "likelihood": 0.2 * CHOSEN,
  }),
  "normalised dpo": (dpo.make, {"per_token": True}, {
    "preference": logistic(0.1 * difference(means(GAP)))
  }),
  "ipo": (ipo.make, {}, {
    "preference": np.mean((difference(means(GAP)) - 5) ** 2)
  }),
  "simpo": (simpo.make, {}, {
    "preference": logistic(2 * difference(means(LOGPROB)) - 1)
  }),
  "orpo": (orpo.make, {}, {
    "preference": 0.1 * logistic(odds(means(LOGPROB))), "likelihood": CHOSEN
  }),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_loss_of_pairs_is_its_equation(name, given):
  make, options, want = PAIRS[name]
  found = pair_terms(make, **options)
  assert set(found) == set(want)
  for term in want:
    np.testing.assert_allclose(found[term], want[term], rtol=1e-5)


def test_rows_by_themselves_are_compared_with_the_mean_gap(given, monkeypatch):
  """KTO: targets of a round, and the loss on them."""
  problems, rows, verdict = round_of()
  other = rows.logprob - 0.2 * (rows.turn >= 1)
  monkeypatch.setattr(
    kto, "score_rows", lambda *a, **k: TokenScores(other, other)
  )
  monkeypatch.setattr(kto, "params_of", lambda state, role: ())
  verdict = verdict._replace(known=verdict.known.at[1].set(0.0))
  batch, _ = curated(kto.make, (problems, rows, verdict))
  assert batch.targets.good.tolist() == [1, 0, 0, 1, 1, 1]
  assert rows_trained(batch) == [0, 2, 3, 4, 5]
  length = np.array([len(TEXTS[i]) for i in (0, 2, 3, 4, 5)])
  np.testing.assert_allclose(
    batch.targets.baseline, 0.2 * length.mean(), rtol=1e-5
  )
  # Four good rows and a bad one are known: both sides sum to 2.5.
  np.testing.assert_allclose(
    batch.targets.weight, [0.625, 0, 2.5, 0.625, 0.625, 0.625], rtol=1e-6
  )
  method = kto.make(fakes.SILENT, TASK, None, **SHAPE, weight_bad=0.5)
  token, good = jnp.zeros(MASK.shape, jnp.int32), np.array([1, 0, 0, 1])
  weight = np.array([0.5, 1.0, 1.0, 0.5])
  batch = Batch(
    token, token, jnp.asarray(MASK, jnp.int32), token, array(MASK),
    UnpairedTargets(
      array(REFERENCE), array(good), jnp.full(4, 0.3), array(weight)
    ),
  )
  gap = 0.1 * (sums(GAP).ravel() - 0.3)
  want = np.where(
    good > 0, 1 / (1 + np.exp(gap)), 0.5 / (1 + np.exp(-gap))
  )
  want = (weight * want).mean()
  found = value(method.loss({"policy": ()}, None, batch)[0])
  np.testing.assert_allclose(found["preference"], want, rtol=1e-5)


def test_rows_of_one_kind_teach_kto_nothing(monkeypatch):
  """Else a policy that is never right unlearns all that it writes."""
  problems, rows, verdict = round_of()
  score = TokenScores(rows.logprob, rows.logprob)
  monkeypatch.setattr(kto, "score_rows", lambda *a, **k: score)
  monkeypatch.setattr(kto, "params_of", lambda state, role: ())
  bad = verdict._replace(reward=0 * verdict.reward)
  batch, _ = curated(kto.make, (problems, rows, bad))
  assert not batch.targets.weight.any()
  batch, _ = curated(kto.make, (problems, rows, bad), good_share=0.0)
  assert batch.targets.weight.all()
  with pytest.raises(ValueError, match="good_share=1.0"):
    kto.make(fakes.SILENT, TASK, None, **SHAPE, good_share=1.0)


@pytest.mark.parametrize("make, options, message", [
  (grpo.make, {"aggregate": "mean"}, "choose one of token_mean"),
  (dapo.make, {"margin": LIMIT}, "or below 6"),
  (dr_grpo.make, {"dual": 1.0}, "above 1, or inf"),
  (sapo.make, {"negative": 0.0}, "set both above 0"),
  (dr_grpo.make, {"max_ratio": 0.0}, "max_ratio=0.0: set it above 0"),
  (rloo.make, {"sampler_ratio": -2.0}, "sampler_ratio=-2.0: set it above 0"),
  (gspo.make, {"clip_high": -1.0}, "clip_high=-1.0: set it above 0"),
  (gspo.make, {"clip": 0.0}, "clip=0.0: set it above 0, or inf"),
  (cispo.make, {"clip_high": -1.0}, "clip_high=-1.0: set it above 0"),
  (dpo.make, {"beta": -0.1}, "beta=-0.1: set it above 0"),
  (ipo.make, {"beta": 0.0}, "beta=0.0: set it above 0"),
  (simpo.make, {"beta": 0.0}, "beta=0.0: set it above 0"),
  (kto.make, {"beta": -1.0}, "beta=-1.0: set it above 0"),
  (dpo.make, {"smoothing": 0.5}, "below 0.5"),
  (dpo.make, {"reference": "old"}, "choose one of previous, held, none"),
  (simpo.make, {"rule": "first"}, "choose one of best_and_worst"),
  (gigpo.make, {"state": "board"}, "choose one of text, reply"),
  (rest_em.make, {"start": "reference"}, "choose one of base, previous"),
  (best_of_n.make, {"samples": 1}, "set it to 2 or more"),
])
def test_wrong_options_are_refused(make, options, message):
  with pytest.raises(ValueError, match=message):
    make(fakes.SILENT, TASK, None, **SHAPE | options)


def test_the_ratio_of_a_sequence_is_that_of_a_turn(given):
  """Two turns of a row have ratios of their own."""
  turns = {"turns": (3, 3), "clip": np.inf, "clip_high": np.inf}
  method = gspo.make(fakes.SILENT, TASK, None, **SHAPE | turns)
  turn = np.where(MASK, np.where(np.arange(7) < 4, 1, 2), 0)
  token = jnp.zeros(MASK.shape, jnp.int32)
  targets = PolicyTargets(*map(array, (GAIN, 0 * OLD, OLD, OLD, OLD)))
  batch = Batch(
    token, token, jnp.asarray(turn, jnp.int32), token, array(MASK), targets
  )
  found = value(method.loss({"policy": ()}, None, batch)[0])
  for k in (1, 2):
    rows = [b for b in range(4) if np.any(turn[b] == k)]
    gap = [np.mean((LOGPROB - OLD)[b][turn[b] == k]) for b in rows]
    want = -np.mean(np.exp(gap) * GAIN[rows, 1])
    np.testing.assert_allclose(found[f"policy_{k}"], want, rtol=1e-5)
