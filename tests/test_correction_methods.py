"""SCL, CCT, subtle errors and LeDex: what is trained, worked out by hand."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import edits
from sitrain.curate.select import balanced
from sitrain.methods import (
  cct,
  ledex,
  pag,
  pair_sft,
  rise,
  satori,
  scheduled_sampling,
  scl,
  score,
  spoc,
  subtle_errors,
)
from sitrain.tasks import chain
from sitrain.types import Verdict

PROMPT, AGAIN, END = [4, 8], [2], 3
TASK = fakes.task(None, again=AGAIN, eos=(END,), prompt=PROMPT)
FIRST, SECOND = [5, END], [6, 6, END]


def array(x):
  return jnp.asarray(x, jnp.float32)


def trained(batch):
  """Of each pair or row (its tokens, those that are trained)."""
  tokens, mask = jax.device_get((batch.tokens, batch.mask))
  width = tokens.shape[-1]
  return [
    (fakes.strip(row), row[own > 0].tolist())
    for row, own in zip(tokens.reshape(-1, width), mask.reshape(-1, width))
  ]


def two_attempts(rewards):
  """Rows of the same two attempts, and their verdict."""
  rows = fakes.pack(
    [fakes.transcribe(PROMPT, [FIRST, SECOND], [AGAIN])] * len(rewards),
    problem=[0] * len(rewards),
  )
  known = np.isfinite(rewards)
  return rows, Verdict(array(rewards), array(known))


@pytest.mark.parametrize("scope, begun", [
  ("first", PROMPT), ("review", [*PROMPT, *FIRST, *AGAIN]),
])
def test_the_right_attempt_is_chosen_whichever_came_first(scope, begun):
  # A part of the reward, as for the form of an answer, is no right attempt.
  rows, verdict = two_attempts(
    [[1, 0.1], [0, 1], [1, 1], [0, 0], [np.nan, 1], [0.1, 0]]
  )
  method = scl.make(
    fakes.SILENT, TASK, None, problems=1, samples=6, turns=(3, 3), scope=scope,
    reference="none",
  )
  batch, metrics = jax.jit(
    lambda *a: method.curate(jax.random.key(0), None, *a)
  )(TASK.problems(None, 1), rows, verdict)
  right_first = [(begun + text, text) for text in (FIRST, SECOND)]
  found = trained(batch)
  assert found[:2] == right_first and found[2:4] == right_first[::-1]
  assert all(own == [] for _, own in found[4:])
  assert metrics["curate/pairs"] == (2, 6)
  with pytest.raises(ValueError, match="attempts are compared: give 2"):
    scl.make(fakes.SILENT, TASK, None, problems=1, samples=2, turns=(3,))


def test_kinds_of_rows_have_their_shares():
  one = np.array([1, 0, 0, 0, 1, 1]) > 0
  kept = np.array([1, 1, 1, 1, 0, 0]) > 0
  found = balanced(jnp.array(one), jnp.array(kept), 0.4)
  # 0.4 of 4 on one row, and 0.6 of 4 on three.
  np.testing.assert_allclose(found, [1.6, 0.8, 0.8, 0.8, 0, 0], rtol=1e-6)
  for alone in (one, ~one):
    found = balanced(jnp.array(one), jnp.array(kept & alone), 0.0)
    np.testing.assert_array_equal(found, 1.0 * (kept & alone))


@pytest.mark.parametrize("answers", [False, True])
def test_examples_of_both_kinds_are_weighed(answers):
  """Rows 0 and 1 are right, 2 is wrong, 3 could not be judged."""
  texts = [[5, END], [6, END], [7, END], [9, END]]
  rows = fakes.pack(
    [fakes.transcribe(PROMPT, [text], []) for text in texts], problem=[0] * 4
  )
  verdict = Verdict(
    array([[1], [1], [0], [np.nan]]), array([[1], [1], [1], [0]])
  )
  method = cct.make(
    fakes.SILENT, TASK, None, problems=1, samples=4, turns=(2, 2),
    confident=0.4, answers=answers,
  )
  batch, metrics = jax.jit(
    lambda *a: method.curate(jax.random.key(0), None, *a)
  )(TASK.problems(None, 1), rows, verdict)
  found = trained(batch)
  # Of the two right ones each has the other as its second attempt.
  for own, other in ((0, 1), (1, 0)):
    text, learned = found[own]
    assert text == PROMPT + texts[own] + AGAIN + texts[other]
    assert learned == answers * texts[own] + texts[other]
  assert found[2][1] in texts[:2] and found[3][1] == []
  weight = np.asarray(batch.targets.weight)[:, 0]
  np.testing.assert_allclose(weight, [0.6, 0.6, 1.8, 0.0], rtol=1e-6)
  assert metrics["curate/confident"] == (2, 4)


@pytest.mark.parametrize("confident, right", [(1.0, 1), (0.0, 3)])
def test_a_share_of_nothing_trains_nothing(confident, right):
  """Where all examples of a round are of the other kind, too."""
  rows = fakes.pack(
    [fakes.transcribe(PROMPT, [[5 + i, END]], []) for i in range(3)],
    problem=[0] * 3,
  )
  reward = (jnp.arange(3) < right)[:, None] * 1.0
  method = cct.make(
    fakes.SILENT, TASK, None, problems=1, samples=3, turns=(2, 2),
    confident=confident,
  )
  batch, metrics = method.curate(
    jax.random.key(0), None, TASK.problems(None, 1), rows,
    Verdict(reward, jnp.ones((3, 1))),
  )
  assert not np.asarray(batch.mask).any()
  assert metrics["curate/kept"] == (0, 3)


def test_the_baseline_of_a_diagnosis_sees_its_reward_as_it_is():
  """Whatever it is paid, true diagnoses are compared with true ones."""
  critic = chain.critic(operations=(2, 2))
  ids = critic.tokenizer.encode
  rows = fakes.pack([fakes.transcribe(
    ids("3+4+2="), [ids(x) for x in ("78<end>", "<bad@2>", "79<end>")],
    [[], ids("<fix>")],
  )] * 4, problem=[0] * 4)
  reward = array([[0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
  verdict = Verdict(reward, jnp.ones((4, 3)))

  def gains(explain):
    method = ledex.make(
      fakes.SILENT, critic, None, problems=1, samples=4, turns=(4, 4, 4),
      kl="none", explain=explain, baseline="same_outcome", discount=0.0,
    )
    batch, _ = method.curate(
      jax.random.key(0), None, critic.problems(jax.random.key(0), 1), rows,
      verdict,
    )
    third = np.asarray(rows.turn) == 3
    return np.asarray(batch.targets.advantage)[third]

  np.testing.assert_allclose(gains(0.4), gains(1.0), atol=1e-6)
  assert np.abs(gains(1.0)).max() > 0.5


@pytest.mark.parametrize("maker, options", [
  (cct.make, {}), (pair_sft.make, {}), (rise.make, {}), (scl.make, {}),
  (satori.make, {"restarts": 0}), (score.stage_one, {}),
  (score.stage_two, {}),
])
def test_a_verdict_is_taken_for_no_attempt(maker, options):
  options = {"problems": 1, "samples": 2, "turns": (5, 5)} | options
  with pytest.raises(ValueError, match="is the policy's verdict: take the"):
    maker(fakes.SILENT, chain.critic(), None, **options)
  maker(fakes.SILENT, chain.make(), None, **options)


@pytest.mark.parametrize("maker, options, said", [
  (ledex.make, {"explain": -1.0}, "explain=-1.0: set it to 0 or more"),
  (ledex.make, {"discount": 2.0}, "discount=2.0: set it from 0 to 1"),
  (ledex.make, {"beta": -1.0}, "weigh the KL of turns: set them from 0"),
  (pag.make, {"bonus": np.inf}, "bonus=inf: give a finite number"),
  (spoc.make, {"beta_verdict": -3.0}, "weigh the KL of turns: set them"),
  (rise.make, {"missing": np.inf}, "missing=inf: give a number up to 1"),
  (rise.make, {"missing": 5.0}, "missing=5.0: give a number up to 1"),
  (satori.make, {"beta": -1.0, "restarts": 0}, "weigh the KL of turns"),
  (satori.make, {"dropped": 5, "restarts": 0}, "set it from 0 to 4"),
  (scheduled_sampling.make, {"warmup": -5}, "warmup=-5: set it to 0 or"),
  (subtle_errors.make, {"anchor": -1.0}, "anchor=-1.0: set it to 0 or more"),
])
def test_options_that_turn_an_objective_round_are_refused(maker, options, said):
  judged = maker in (ledex.make, pag.make, spoc.make)
  task = (chain.critic if judged else chain.make)()
  given = {"problems": 1, "samples": 2, "turns": (5,) * 3} | options
  if maker is scheduled_sampling.make:
    del given["samples"]
  with pytest.raises(ValueError, match=said):
    maker(fakes.SILENT, task, None, **given)


def test_an_error_is_one_other_number_in_its_step():
  """Numbers are tokens 5 to 7; 9 ends a step."""
  rows = fakes.pack([
    fakes.transcribe([5, 6], [[5, 8, 9, 6, 7, 9, 3]], []),
    fakes.transcribe([5, 6], [[8, 3]], []),
  ])
  at = lambda column: jnp.zeros(rows.tokens.shape).at[:, column].set(0.9)
  inject = lambda column, shift: edits.inject(
    rows, at(column), jnp.full(2, shift), ids=(5, 6, 7), ends=(9,)
  )
  found = inject(2, 0.0)  # the first written number, 5, becomes the next, 6
  assert fakes.strip(np.asarray(found.rows.tokens[0])) == [
    5, 6, 6, 8, 9, 6, 7, 9, 3
  ]
  np.testing.assert_array_equal(np.flatnonzero(found.step[0]), [2, 3, 4])
  found = inject(6, 0.99)  # 7 becomes the one before it
  assert fakes.strip(np.asarray(found.rows.tokens[0]))[6] == 6
  np.testing.assert_array_equal(np.flatnonzero(found.step[0]), [6, 7])
  # A prompt is not changed, and neither is a turn without a number.
  found = inject(0, 0.5)
  assert fakes.strip(np.asarray(found.rows.tokens[0]))[:2] == [5, 6]
  assert found.found.tolist() == [True, False]
  np.testing.assert_array_equal(found.rows.tokens[1], rows.tokens[1])
  assert not found.step[1].any()


def test_numbers_are_single_tokens():
  make = lambda **options: subtle_errors.make(
    fakes.SILENT, chain.make(), None, problems=1, samples=2, turns=(5,),
    **options,
  )
  with pytest.raises(ValueError, match="values='3': give two or more"):
    make(values="3")
  with pytest.raises(ValueError, match="values='11': give two or more, each"):
    make(values="11")
  with pytest.raises(ValueError, match="no token for|not in|characters"):
    make(values="ab")
  with pytest.raises(ValueError, match="reference='none': choose one of prev"):
    make(reference="none")


def test_a_diagnosis_is_credited_by_itself_or_with_the_end():
  """Rows 0 to 2 fail at first, row 3 does not, and row 4 accepts its own."""
  critic = chain.critic(operations=(2, 2))
  ids = critic.tokenizer.encode
  texts = ["78<end>", "<bad@2>", "79<end>"]
  written = [ids(text) for text in texts]
  replies = [[], ids("<fix>")]
  prompt = ids("3+4+2=")
  rows = fakes.pack(
    [fakes.transcribe(prompt, written, replies)] * 4
    + [fakes.transcribe(prompt, written[:2], replies[:1])], problem=[0] * 5,
  )
  reward = np.array(
    [[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, np.nan]]
  )
  verdict = Verdict(array(reward), array(np.isfinite(reward)))
  problems = critic.problems(jax.random.key(0), 1)

  def advantages(**options):
    method = ledex.make(
      fakes.SILENT, critic, None, problems=1, samples=5, turns=(4, 4, 4),
      kl="none", **options,
    )
    batch, _ = method.curate(jax.random.key(0), None, problems, rows, verdict)
    turn, gain = np.asarray(rows.turn), np.asarray(batch.targets.advantage)
    mask = np.asarray(batch.mask)
    np.testing.assert_array_equal(mask[3], 0)
    np.testing.assert_array_equal(mask[:3], turn[:3] > 1)
    assert method.wanted(problems, rows, verdict).tolist() == [True]
    return [
      [gain[b][turn[b] == k].mean() for b in own]
      for k, own in ((2, (0, 1, 2, 4)), (3, (0, 1, 2)))
    ]

  others = lambda x: [v - (sum(x) - v) / (len(x) - 1) for v in x]
  diagnosis, mended = advantages()
  np.testing.assert_allclose(diagnosis, others([1, 1, 0, 0]), rtol=1e-5)
  np.testing.assert_allclose(mended, others([1, 0, 1]), rtol=1e-5)
  diagnosis, _ = advantages(discount=0.5)
  np.testing.assert_allclose(diagnosis, others([1.5, 1, 0.5, 0]), rtol=1e-5)
  diagnosis, again = advantages(discount=0.5, explain=0.0)
  np.testing.assert_allclose(diagnosis, others([0.5, 0, 0.5, 0]), atol=1e-6)
  np.testing.assert_allclose(again, mended, rtol=1e-5)
  with pytest.raises(ValueError, match="attempt, diagnosis, refinement"):
    ledex.make(
      fakes.SILENT, critic, None, problems=1, samples=2, turns=(4, 4)
    )
