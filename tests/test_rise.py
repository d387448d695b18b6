"""RISE: which attempts are trained, with what weight, and how they are played.

All against plain Python; models are tiny and of random parameters.
"""

import math

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate.attempts import (
  CRITERIA,
  chosen,
  repeated,
  reward_weights,
)
from sitrain.judge.verifier import charge_missing, last_reward
from sitrain.methods import rise, verbs
from sitrain.models.decoder import Decoder
from sitrain.rollout.best import play_best
from sitrain.rollout.play import play_on, row_keys
from sitrain.rollout.window import play_in_window
from sitrain.tasks.draw import constant_reply
from sitrain.types import (
  GIVEN,
  Batch,
  Problems,
  Reply,
  TokenScores,
  Verdict,
  Weights,
)

PROMPT, AGAIN, END = [4, 5], 9, 3
RNG = np.random.default_rng(0)
MODEL = Decoder(
  vocabulary=10, layers=1, width=16, heads=2, kv_heads=1, head_size=8,
  mlp_size=16,
)
PARAMS = fakes.parameters(MODEL, 0)
REPLY = constant_reply([AGAIN])
PLAYED = dict(reply=REPLY, eos=(END,), temperature=1.0)
KEYS = jax.random.split(jax.random.key(7), 3)
PROBLEMS = Problems(
  jnp.array([[-1, 4, 5], [6, 7, 8], [-1, -1, 1]]),
  jnp.arange(3)[:, None], jnp.full((3, 1), -1),
)


def by_hand(criterion, stop, reward, known):
  """Kept attempts of one row."""
  kept, solved = [], False
  for k, (now, is_known) in enumerate(zip(reward, known)):
    before = reward[:k]
    if not is_known:
      return kept + [False] * (len(reward) - k)
    keep = {
      "all": True, "better": k == 0 or now > before[-1],
      "best": k == 0 or all(now >= x for x in before), "success": now == 1,
    }[criterion]
    kept.append(keep and not (stop and solved))
    solved |= now == 1
  return kept


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("stop", [False, True])
def test_the_criterion_chooses_attempts(criterion, stop):
  reward = RNG.choice([-1.0, 0.0, 0.5, 1.0], (200, 4))
  known = RNG.uniform(size=reward.shape) < 0.9
  verdict = Verdict(
    jnp.where(known, reward, jnp.nan), jnp.asarray(known, jnp.float32)
  )
  found = chosen(verdict, criterion=criterion, stop=stop)
  want = [by_hand(criterion, stop, *row) for row in zip(reward, known)]
  np.testing.assert_array_equal(found, want)


def test_a_copy_of_any_earlier_attempt_is_found():
  texts = [
    [[5, 3], [5, 3], [6, 3]], [[5, 3], [6, 3], [5, 3]],
    [[5, 6, 3], [5, 3], [5, 6]], [[5, 3], [5, 5, 3], [5, 5, 3]],
  ]
  rows = fakes.pack([
    fakes.transcribe(PROMPT, turns, [[AGAIN]] * 2) for turns in texts
  ])
  want = [[turn in turns[:k] for k, turn in enumerate(turns)]
          for turns in texts]
  np.testing.assert_array_equal(repeated(rows, (3, 2, 3)), want)


def test_weights_are_exponential():
  reward = np.array([[1, 0, -1], [np.nan, 1, 0.5]])
  kept = np.array([[1, 1, 1], [0, 1, 0]], bool)
  want = np.where(kept, np.exp(reward / 0.4), 0)
  options = dict(tau=0.4, normalise=False)
  found = reward_weights(jnp.asarray(reward), jnp.asarray(kept), **options)
  np.testing.assert_allclose(found, want, rtol=1e-6)
  np.testing.assert_allclose(
    found[0], [12.18, 1, 0.0821], rtol=1e-3  # the paper's three
  )
  options["normalise"] = True
  found = reward_weights(jnp.asarray(reward), jnp.asarray(kept), **options)
  np.testing.assert_allclose(found, want / want[kept].mean(), rtol=1e-6)


TEXTS = [[[5, 3], [6, 6, 3]], [[7, 7, 3], [7, 7, 3]], [[8, 3], [5, 5, 5]]]
REWARD = np.array([[0, 1], [0, 0], [1, 1.0]])


def sampled():
  """(task, problems, rows, verdict): row 2 ends turn 2 without an answer."""
  rows = fakes.pack([
    fakes.transcribe(PROMPT, turns, [[AGAIN]]) for turns in TEXTS
  ])

  def verify(answer, episodes, turns):
    reward = jnp.asarray(REWARD, jnp.float32)[:, :turns]
    return Verdict(reward, jnp.ones_like(reward))

  def final(episodes, turns):
    return jnp.array([[1, -1], [-1, 1], [1, 1]])[:, :turns]

  task = fakes.task(verify, again=[AGAIN], eos=(END,), prompt=PROMPT)
  task = task._replace(final=final)
  return task, task.problems(None, 3), rows, verify(None, None, 2)


def test_a_wrong_turn_without_an_answer_costs_more():
  task, problems, rows, verdict = sampled()
  found = charge_missing(task, rows, verdict, -1.0)
  # Turn 2 of row 0 has no answer but is paid: the task knows better.
  np.testing.assert_array_equal(found.reward, [[0, 1], [-1, 0], [1, 1]])
  known = verdict.known.at[2, 1].set(0)
  task = task._replace(verify=lambda *_: verdict._replace(known=known))
  last = last_reward(task, problems, rows, 2, missing=-1.0)
  assert last.tolist() == [1, 0, -np.inf]
  host = jax.tree.map(np.asarray, (rows, verdict))
  kept = task._replace(final=lambda e, turns: np.full((3, turns), -1))
  assert isinstance(charge_missing(kept, *host, -1.0).reward, np.ndarray)


def trained(**options):
  """{(row, turn): weight} of what is trained of the round above."""
  task, problems, rows, verdict = sampled()
  method = rise.make(
    fakes.SILENT, task, None, problems=3, samples=1, turns=(3, 3), **options
  )

  @jax.jit  # op by op, each would be compiled
  def both(rows):
    judged, _ = method.judge(None, None, problems, rows)
    return method.curate(None, None, problems, rows, judged)

  batch, metrics = jax.device_get(both(rows))
  found = {}
  for b, k in np.ndindex(3, 2):
    own = (np.asarray(batch.turn[b]) == k + 1)
    inside = set(np.asarray(batch.mask[b])[own].tolist())
    assert len(inside) == 1
    if inside == {1.0}:
      (found[b, k + 1],) = set(
        np.round(np.asarray(batch.targets.weight[b])[own], 3).tolist()
      )
  given = np.asarray(batch.turn) <= GIVEN
  assert not np.any(np.asarray(batch.mask)[given])
  share = metrics["curate/kept"]
  assert share.total / share.count == pytest.approx(len(found) / 6)
  return found


def test_what_is_trained_of_a_round():
  w = lambda reward: pytest.approx(math.exp(reward / 0.4), abs=2e-3)
  # Row 1 copies its first attempt, and row 2 is right already.
  assert trained() == {
    (0, 1): w(0), (0, 2): w(1), (1, 1): w(-1), (2, 1): w(1)
  }
  assert trained(stop=False, repeats=True) == {
    (0, 1): w(0), (0, 2): w(1), (1, 1): w(-1), (1, 2): w(0), (2, 1): w(1),
    (2, 2): w(1),
  }
  assert trained(criterion="success") == {(0, 2): w(1), (2, 1): w(1)}
  assert trained(tau=1.0, missing=0.0, criterion="better")[1, 1] == 1


def test_the_loss_is_a_mean_over_attempts_of_means_over_tokens(monkeypatch):
  """As the paper has it: not a token alone, and not a row, is an item."""
  turn = np.array([[0, 1, 1, 1, 0, 2, -1], [0, 1, 0, 2, 2, 2, 2]])
  mask = (turn > 0) & ~((np.arange(2) == 1)[:, None] & (turn == 1))
  logprob = RNG.uniform(-3, -0.1, turn.shape)
  weight = np.where(turn == 1, 2.0, 5.0) + np.arange(2)[:, None]
  scores = TokenScores(*[jnp.asarray(logprob, jnp.float32)] * 2)
  monkeypatch.setattr(verbs, "token_scores", lambda *a, **k: scores)
  monkeypatch.setattr(verbs, "join_base", lambda params, state: params)
  tokens = jnp.zeros(turn.shape, jnp.int32)
  batch = Batch(
    tokens, tokens, jnp.asarray(turn), tokens,
    jnp.asarray(mask, jnp.float32), Weights(jnp.asarray(weight)),
  )
  items = [
    (weight * -logprob)[b][(turn[b] == k) & mask[b]].mean()
    for b, k in ((0, 1), (0, 2), (1, 2))
  ]
  loss = verbs.likelihood_loss(fakes.SILENT, attempts=2)
  term = loss({"policy": ()}, None, batch)[0]["nll"]
  assert term.count == 3
  assert term.total / term.count == pytest.approx(np.mean(items), rel=1e-5)


def texts(rows, k):
  """Turn k of every row, as lists."""
  return [row[turn == k].tolist() for row, turn in zip(rows.tokens, rows.turn)]


def behind(problems, *turns):
  """Rows [B T] of a prompt and these turns, each with its reply, by hand."""
  return fakes.pack([
    fakes.transcribe(
      fakes.strip(PROBLEMS.prompt[p]), [*each, []], [[AGAIN]] * len(each)
    ) for p, *each in zip(problems, *turns)
  ], problem=problems, length=10)


def test_a_rollout_goes_on_from_the_best_attempt():
  """Turn 2 is the best of n that `play_on` samples behind the same attempt.

  Rows whose reply ends them go no further.
  """
  n = 4

  def ends(answer, episodes, turn):  # problem 1, after its first turn
    return Reply(REPLY(answer, episodes, turn).tokens, answer[:, 0] == 1)

  def score(problems, rows, turn):
    return jnp.sum(jnp.where(rows.turn == turn, rows.tokens, 0), axis=1) * 1.0

  found = jax.device_get(jax.jit(lambda params: play_best(
    KEYS, MODEL, params, PROBLEMS, samples=2, best_of=n, score=score,
    turns=(3, 2), **PLAYED | {"reply": ends},
  ))(PARAMS))
  assert found.problem.tolist() == [0, 0, 1, 1, 2, 2]
  assert set(found.parent.tolist()) == {-1}
  tries = jax.device_get(jax.jit(lambda params, prefix: play_on(
    row_keys(KEYS, 2), MODEL, params, PROBLEMS, prefix, samples=n, turns=(2,),
    first_turn=2, **PLAYED,
  ))(PARAMS, behind(found.problem, texts(found, 1))))
  second = texts(tries, 2)
  assert len({tuple(x) for x in second}) > 6
  for b, text in enumerate(texts(found, 2)):
    best = max(second[n * b : n * b + n], key=sum)  # the first of equal ones
    assert text == (best if found.problem[b] != 1 else [])


def test_a_turn_in_a_window_sees_the_turn_before_alone():
  """Greedy, so that turn 3 must be what the model says behind turn 2 alone."""
  turns, options = (3, 2, 3), PLAYED | {"temperature": 0.0}
  found = jax.device_get(jax.jit(lambda params: play_in_window(
    KEYS, MODEL, params, PROBLEMS, window=2, samples=1, turns=turns, **options
  ))(PARAMS))
  step = jax.jit(lambda prefix: play_on(
    KEYS, MODEL, PARAMS, PROBLEMS, prefix, samples=1, turns=turns[2:],
    first_turn=3, **options,
  ))
  written = [texts(found, k) for k in (1, 2, 3)]
  one, both = (
    texts(jax.device_get(step(behind(found.problem, *seen))), 3)
    for seen in (written[1:2], written[:2])
  )
  assert written[2] == one != both
  for b, each in enumerate(zip(*written)):  # one row, with all replies in it
    row = fakes.transcribe(
      fakes.strip(PROBLEMS.prompt[b]), each, [[AGAIN]] * 2
    )
    assert fakes.strip(found.tokens[b]) == row[0]
    assert [k for k in found.turn[b] if k >= 0] == row[1]


@pytest.mark.parametrize("options, message", [
  ({"criterion": "good"}, "choose one of all, better, best, success"),
  ({"tau": 0.0}, "set it above 0"),
  ({"tau": 0.01}, "from 0.02 on"),
  ({"samples": 0}, "samples=0: set it to 1 or more"),
  ({"best_of": 0}, "set it to 1 or more"),
])
def test_wrong_options_are_refused(options, message):
  task = sampled()[0]
  with pytest.raises(ValueError, match=message):
    rise.make(fakes.SILENT, task, None, problems=2, turns=(3, 3),
              **{"samples": 1} | options)


def test_a_verifier_of_the_host_cannot_choose_in_a_rollout():
  task = sampled()[0]._replace(on_host=True)
  options = dict(problems=2, samples=1, turns=(3, 3))
  rise.make(fakes.SILENT, task, None, **options)
  with pytest.raises(ValueError, match="best_of=2: set it to 1"):
    rise.make(fakes.SILENT, task, None, best_of=2, **options)
  with pytest.raises(ValueError, match="window=1: set it to 2 or more"):
    play_in_window(KEYS, MODEL, PARAMS, PROBLEMS, window=1, samples=1,
                   turns=(3, 3), **PLAYED)
