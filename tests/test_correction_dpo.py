"""SuperCorrect's correction DPO on rows written by hand."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import edits, roles
from sitrain.methods import correction_dpo
from sitrain.rollout import continued
from sitrain.tasks import chain
from sitrain.types import Problems, TrainState, Verdict

TASK = chain.critic(operations=(3, 3))
IDS = TASK.tokenizer.encode
PROMPT, FIX = IDS("3+4+2*2="), IDS("<fix>")
WRONG = "786<end>"  # The second step is wrong; "798<end>" is right.
OWN = [
  ("<bad@2>", "798<end>"),  # right: no pair begins with it
  ("<ok>", ""),  # accepts it, and ends
  ("<bad@2>", "787<end>"),  # a true verdict, and the same step wrong again
]
TEACHER = [
  ("<bad@1>", "798<end>"),  # names another step
  ("<bad@2>", "797<end>"),  # mends the step, and fails in the end
  ("<bad@2>", "798<end>"),
]


def rows_of(*groups):
  """Rows of one or more problems: (first attempt, own, teacher's)."""
  texts = [
    [first, *row] for first, *both in groups for rows in both for row in rows
  ]
  written = [[IDS(x) for x in row if x] for row in texts]
  return fakes.pack(
    [fakes.transcribe(PROMPT, row, [[], FIX]) for row in written],
    problem=np.repeat(np.arange(len(groups)), 6),
  )


def posed(count):
  answer = jnp.asarray([[8, 3, 3, 4, 2, 2, *IDS("++*")]] * count, jnp.int32)
  prompt = jnp.asarray([PROMPT] * count, jnp.int32)
  return Problems(prompt, answer, jnp.full((count, 1), -1))


def make(**options):
  models = fakes.SILENT | {"teacher": fakes.SILENT["policy"]}
  return correction_dpo.make(models, TASK, None, **{
    "problems": 2, "samples": 3, "turns": (5, 5, 5), "reference": "none",
    "ends": "0123456789",
  } | options)


@pytest.mark.parametrize("scope, chosen, rejected", [
  ("step", ["<bad@2>79"], ["<ok>", "<bad@2>787"]),
  ("whole", ["<bad@2>798<end>"], ["<ok>", "<bad@2>787<end>"]),
])
def test_a_true_correction_of_the_teacher_beats_a_false_own_one(
  scope, chosen, rejected
):
  """Behind a wrong first attempt alone; nothing of that is trained."""
  right = "798<end>"
  rows = rows_of(
    (WRONG, OWN, TEACHER), (right, OWN, TEACHER), (WRONG, OWN, TEACHER[:1] * 3)
  )
  method, problems = make(scope=scope), posed(3)
  verdict, _ = method.judge(None, None, problems, rows)
  sampled = problems, rows, verdict
  curate = jax.jit(lambda key: method.curate(key, None, *sampled))
  seen = set()
  for seed in range(6):
    batch, metrics = curate(jax.random.key(seed))
    trained = [
      [TASK.tokenizer.decode(row[mask > 0]) for row, mask in zip(*pair)]
      for pair in zip(np.asarray(batch.tokens), np.asarray(batch.mask))
    ]
    assert trained[0][0] in chosen and trained[0][1] in rejected
    assert trained[1:] == [["", ""]] * 2
    assert metrics["curate/pairs"] == (1, 3)
    seen.add(trained[0][1])
    for row in np.asarray(batch.tokens[0]):
      assert fakes.strip(row)[: len(PROMPT) + 4] == PROMPT + IDS(WRONG)
  assert seen == set(rejected)
  wanted = method.wanted(*sampled)
  assert wanted.tolist() == [True, False, False]


def test_corrections_against_a_loop():
  """Also where turns were not written, and where a verifier failed."""
  rng = np.random.default_rng(0)
  reward = rng.integers(0, 2, (200, 3)).astype(np.float32)
  known = (rng.random((200, 3)) < 0.8).astype(np.float32)
  reward[known == 0] = np.nan
  taught = rng.random(200) < 0.5
  good, counted = np.zeros((2, 200))
  for b in range(200):
    first, said, last = (
      reward[b, k] if known[b, k] else None for k in range(3)
    )
    good[b] = said == 1 and last == 1
    judged = said == 0 or (said == 1 and last is not None)
    counted[b] = first == 0 and judged and taught[b] == bool(good[b])
  found = roles.corrections(
    Verdict(jnp.asarray(reward), jnp.asarray(known)), jnp.asarray(taught)
  )
  assert 10 < counted.sum() < 190
  np.testing.assert_array_equal(found.known[:, 0], counted)
  np.testing.assert_array_equal(found.reward[:, 0] * counted, good * counted)


def test_what_follows_the_corrected_step_is_left_out():
  """Against a loop over random attempts; 9 ends a step, 3 the turn."""
  rng = np.random.default_rng(1)
  texts = [
    [rng.choice([5, 6, 9], rng.integers(1, 6)).tolist() + [3] for _ in range(3)]
    for _ in range(60)
  ]
  texts[0][2] = list(texts[0][0])  # a copy
  rows = fakes.pack([fakes.transcribe([4], row, [[8], [8]]) for row in texts])
  found = edits.until_changed(rows.tokens, rows.turn, (9,))
  for b, (first, _, last) in enumerate(texts):
    want, changed = [], False
    for i, token in enumerate(last):
      want.append(True)
      changed |= i >= len(first) or token != first[i]
      if changed and token == 9:
        break
    want += [False] * (len(last) - len(want))
    turn = np.asarray(rows.turn[b])
    assert np.asarray(found[b])[turn == 3].tolist() == want, (first, last)
    assert np.all(found[b][turn != 3])
  pairs = lambda x: x.reshape(30, 2, -1)
  same = edits.until_changed(pairs(rows.tokens), pairs(rows.turn), (9,))
  np.testing.assert_array_equal(same, pairs(found))


def test_roles_go_on_from_one_attempt():
  """With their own parameters, and each row with draws of its own."""
  vocabulary, end = 6, 5
  model = fakes.bigram(vocabulary)
  uniform = np.zeros((vocabulary, vocabulary), np.float32)
  always_two = uniform + 50 * np.eye(vocabulary)[2]
  task = fakes.task(None, again=[4], eos=(end,), prompt=[1, 2])
  state = TrainState(
    jnp.int32(0), {}, {"policy": fakes.tabled(uniform)}, (),
    {"teacher": fakes.tabled(always_two)}, (),
  )
  generate = jax.jit(continued.make(
    {"policy": model, "teacher": model}, task, ("policy", "teacher"),
    samples=8, turns=(3, 2), temperature=1.0,
  ))
  problems = task.problems(None, 2)
  keys = jax.random.split(jax.random.key(0), 2)
  rows = generate(keys, state, problems)
  assert rows.tokens.shape[0] == 32
  np.testing.assert_array_equal(rows.problem, np.repeat([0, 1], 16))
  assert np.all(np.asarray(rows.parent) < 0)
  of = lambda b, k: np.asarray(rows.tokens[b])[np.asarray(rows.turn[b]) == k]
  for p in range(2):
    first = of(16 * p, 1).tolist()
    for b in range(16 * p, 16 * p + 16):
      assert of(b, 1).tolist() == first
    taught = [of(16 * p + 8 + i, 2).tolist() for i in range(8)]
    assert taught == [[2, 2]] * 8
    assert len({tuple(of(16 * p + i, 2)) for i in range(8)}) > 2
  alone = generate(keys[1:], state, task.problems(None, 1))
  np.testing.assert_array_equal(alone.tokens, rows.tokens[16:])
  with pytest.raises(ValueError, match="two turns or more"):
    continued.make({}, task, (), samples=1, turns=(3,), temperature=1.0)


def test_what_it_needs_is_named():
  with pytest.raises(ValueError, match="config.roles.tutor"):
    make(teacher="tutor")
  with pytest.raises(ValueError, match="scope='half': choose one of step"):
    make(scope="half")
  with pytest.raises(ValueError, match="attempt, verdict, correction"):
    make(turns=(5, 5))
  with pytest.raises(ValueError, match="verdicts of the policy"):
    correction_dpo.make(
      fakes.SILENT, chain.make(), None, problems=1, samples=2, turns=(5,) * 3
    )
