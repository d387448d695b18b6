"""Attempts and the policy's verdicts on them: credit, metrics, evaluations.

The arithmetic is held against loops in Python, and rows of chain.critic are
written by hand.
"""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import roles as credit
from sitrain.evaluate import brief, run, samples, studies, tables, verdicts
from sitrain.evaluate import player as playing
from sitrain.judge import verifier
from sitrain.judge.roles import binary
from sitrain.losses.reduce import value
from sitrain.methods import multi_turn, pag, spoc
from sitrain.runtime import progress
from sitrain.tasks import chain, maze
from sitrain.types import Problems, Verdict

PROBLEMS, SAMPLES, TURNS = 3, 6, 5
ROWS = PROBLEMS * SAMPLES


def array(x):
  return jnp.asarray(x, jnp.float32)


@pytest.fixture(scope="module")
def ragged():
  """(reward, known, written, problem) of rows that end after a verdict."""
  rng = np.random.default_rng(0)
  reward = rng.integers(0, 2, (ROWS, TURNS)).astype(float)
  length = rng.choice([2, 4, 5], ROWS)
  written = np.arange(TURNS) < length[:, None]
  known = written.copy()
  known[1, 2:], known[4, 0:] = False, False  # behind a verifier that failed
  assert written[1, 2]
  reward[~known] = np.nan
  return reward, known, written, rng.permutation(np.arange(ROWS) % PROBLEMS)


def standard(values):
  values = np.array(values)
  return (values - values.mean()) / (values.std() + 1e-6)


def filled(places, values):
  """[ROWS TURNS] of these values at these places, 0 elsewhere."""
  found = np.zeros((ROWS, TURNS))
  for place, x in zip(places, values, strict=True):
    found[place] = x
  return found


def test_roles_are_whitened_by_themselves(ragged):
  reward, known, _, _ = ragged
  value = reward + np.where(np.arange(TURNS) % 2, 5.0, 0.0)  # verdicts are easy
  want = np.zeros((ROWS, TURNS))
  for role in range(2):
    places = [
      (b, k) for b in range(ROWS) for k in range(TURNS)
      if known[b, k] and k % 2 == role
    ]
    want += filled(places, standard([value[p] for p in places]))
  found = jax.jit(credit.role_whiten)(array(value), array(known))
  np.testing.assert_allclose(found, want, atol=1e-5)
  only = np.zeros_like(known)
  np.testing.assert_array_equal(
    credit.role_whiten(array(value), array(only)), 0
  )


def test_a_revision_is_compared_with_the_attempt_before_it():
  reward = np.array([[0, 1, 1, 0, 0], [1, 0, 0, 1, 1]])
  want = [[0, 0, 2, 0, -2], [0, 0, -2, 0, 2]]
  found = credit.revision_bonus(array(reward), 2.0)
  np.testing.assert_array_equal(found, want)
  np.testing.assert_array_equal(credit.revision_bonus(array([[1]]), 2.0), 0)


def slow_rewards(reward, known, written, rule):
  """{(row, turn): reward} of the turns that are paid, and all that count."""
  paid, trained = {}, set()
  for b in range(ROWS):
    own = [k for k in range(TURNS) if written[b, k]]
    last = max(k for k in own if k % 2 == 0)
    for k in own:
      if not known[b, k] or rule != "corr" and not known[b, last]:
        continue
      trained.add((b, k))
      if rule == "corr":
        paid[b, k] = reward[b, k]
      elif rule == "all":
        paid[b, k] = reward[b, last]
      elif k % 2 == 0:
        paid[b, k] = 1.0 if reward[b, k] == reward[b, last] == 1 else 0.0
  return paid, trained


@pytest.mark.parametrize("rule", credit.RULES)
@pytest.mark.parametrize("over", credit.NORMALISED)
def test_messages_are_normalised_among_samples(ragged, rule, over):
  """SPOC's Alg. 4 over ragged rows, in Python."""
  reward, known, written, problem = ragged
  paid, trained = slow_rewards(reward, known, written, rule)
  want = np.zeros((ROWS, TURNS))
  groups = {}
  for b, k in paid:
    name = (problem[b], k) if over == "per_index" else problem[b]
    groups.setdefault(name, []).append((b, k))
  for places in groups.values():
    want += filled(places, standard([paid[p] for p in places]))
  assert 1 < len(paid) < len(trained) or rule != "last"
  assert len(set(map(len, groups.values()))) > 1

  @jax.jit
  def fast(reward, known, written, problem):
    found, some, counted = credit.message_rewards(
      reward, known, written, rule=rule
    )
    gain = credit.message_normalise(found, problem, some, over=over)
    return gain, some, counted

  gain, some, counted = fast(
    array(reward), jnp.array(known), jnp.array(written), jnp.array(problem)
  )
  np.testing.assert_allclose(gain, want, atol=1e-5)
  at = lambda x: {tuple(p) for p in np.argwhere(np.asarray(x)).tolist()}
  assert at(some) == set(paid) and at(counted) == trained


def test_raft_keeps_the_right_messages_of_the_best_sample(ragged):
  """SPOC's Alg. 3 over ragged rows, in Python."""
  reward, known, written, _ = ragged
  # Row 8, of which nothing is right, is alone.
  problem = np.where(np.arange(ROWS) == 8, ROWS // 2, np.arange(ROWS) // 2)
  want, left_out = set(), 0
  for number in set(problem.tolist()):
    last = {}
    for b in np.flatnonzero(problem == number):
      place = max(k for k in range(TURNS) if written[b, k] and k % 2 == 0)
      if known[b, place]:
        last[b] = reward[b, place]
    if not last:
      continue
    best = next(b for b in last if last[b] == max(last.values()))
    right = {
      (best, k) for k in range(TURNS) if known[best, k] and reward[best, k] == 1
    }
    judged = any(k % 2 for _, k in right)
    if last[best] == 1 or judged:
      want |= right
    else:
      left_out += 1
  found = jax.jit(credit.best_messages, static_argnums=4)(
    array(reward), jnp.array(known), jnp.array(written), jnp.array(problem),
    ROWS,
  )
  assert {tuple(p) for p in np.argwhere(np.asarray(found)).tolist()} == want
  assert want and left_out, (want, left_out)


# 3 + 4 = 7, 7 + 2 = 9 of a chain modulo 10, whose digits are tokens.
CRITIC = chain.critic(operations=(2, 2))
EPISODES = (
  # Right at once, and said so.
  (["79<end>", "<ok>"], (1, 1)),
  # Wrong, caught and mended, and said so.
  (["78<end>", "<bad@2>", "79<end>", "<ok>"], (0, 1, 1, 1)),
  # Wrong and accepted: the row ends.
  (["78<end>", "<ok>"], (0, 0)),
  # Right, but not accepted, and spoiled; that is not seen.
  (["79<end>", "<bad@1>", "60<end>", "<ok>"], (1, 0, 0, 0)),
  # Wrong, caught with another step named, repeated, and caught with its own.
  (["68<end>", "<bad@2>", "68<end>", "<bad@1>"], (0, 0, 0, 1)),
)


def played_rows():
  """The problem of each row, and its text."""
  ids = CRITIC.tokenizer.encode
  prompt = ids("3+4+2=")
  rows = fakes.pack([
    fakes.transcribe(
      prompt, [ids(text) for text in turns],
      [[], ids("<fix>"), []][: len(turns) - 1],
    )
    for turns, _ in EPISODES
  ])
  rows = rows._replace(problem=jnp.arange(len(EPISODES)))
  # Answer: value, operations, operands, operators (+ is token 10).
  answer = np.tile([9, 2, 3, 4, 2, 10, 10], (len(EPISODES), 1))
  problems = Problems(
    np.tile(prompt, (len(EPISODES), 1)), jnp.array(answer), answer
  )
  return problems, rows


def test_metrics_compare_attempts_with_attempts():
  problems, rows = played_rows()
  verdict = verifier.verify(CRITIC, problems, rows, 4)
  want = np.full((5, 4), np.nan)
  for row, (_, rewards) in zip(want, EPISODES):
    row[: len(rewards)] = rewards
  known = np.isfinite(want)
  np.testing.assert_array_equal(verdict.known, known)
  np.testing.assert_array_equal(np.asarray(verdict.reward)[known], want[known])
  found = {
    name: float(value(x))
    for name, x in verifier.verdict_metrics(CRITIC, rows, verdict).items()
  }
  expected = {
    "true_2": 3 / 5, "caught_2": 2 / 3, "cleared_2": 1 / 2,
    "true_4": 2 / 3, "caught_4": 1 / 2, "cleared_4": 1,
    "corrected_3": 1 / 3, "spoiled_3": 1 / 3, "changed_3": 2 / 3,
    "copied_3": 1 / 2,
  }
  for name, x in expected.items():
    assert found[f"judge/{name}"] == pytest.approx(x), name
  assert "judge/corrected_2" not in found and "judge/copied_2" not in found


def evaluated():
  problems, rows = played_rows()
  judge = playing.make_judge(CRITIC, 4)
  judged = playing.Judged(*map(np.asarray, judge(problems, rows)))
  return playing.Played(np.asarray(rows.tokens), np.asarray(rows.turn), judged)


def test_an_episode_that_a_verdict_ended_keeps_its_last_attempt(monkeypatch):
  """The row that was wrongly accepted, too: its verdict is no attempt."""
  episodes = evaluated()
  np.testing.assert_array_equal(episodes.judged.right, [
    [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1],
  ])
  fresh = episodes._replace(
    judged=playing.Judged(*(x[:, :2] for x in episodes.judged))
  )
  posed, _ = played_rows()
  posed = posed._replace(answer=np.asarray(posed.answer))
  monkeypatch.setattr(run, "_both", lambda *a, **k: (posed, episodes, fresh))
  players = run.Players(playing.Player(None, None, None, 1, 4), None)
  row = run.evaluate(
    players, None, CRITIC, jax.random.key(0), problems=5, temperature=1.0,
    draws=10,
  )
  assert row["accuracy_1"] == row["accuracy_3"] == pytest.approx(2 / 5)
  assert "accuracy_2" not in row and "accuracy_4" not in row
  assert row["incorrect_to_correct"] == pytest.approx(1 / 5)
  assert row["correct_to_incorrect"] == pytest.approx(1 / 5)
  assert row["changed"] == pytest.approx(2 / 5)
  # The attempts that were not revised, and the one that was repeated.
  assert row["edits"]["copied"] == pytest.approx(3 / 5)
  assert row["verdict_accuracy"] == pytest.approx(5 / 8)
  assert row["verdict_recall"] == pytest.approx(3 / 5)
  assert row["verdict_precision"] == pytest.approx(3 / 4)
  assert row["verdict_cleared"] == pytest.approx(2 / 3)
  assert row["verdict_named"] == pytest.approx(2 / 5)
  assert row["verdicts"] == 8
  first, second = row["by_verdict"]
  assert first["verdict_accuracy"] == pytest.approx(3 / 5)
  assert second["verdicts"] == 3
  kinds = [one["kind"] for one in row["dialogues"]]
  assert sorted(kinds) == ["c->c", "c->i", "i->c", "i->i", "i->i"]
  mended = next(x for x in row["dialogues"] if x["kind"] == "i->c")
  assert mended["verdicts"] == [2, 4]
  lines = progress.dialogue_text(mended).splitlines()[1:]
  lines = [line for line in lines if not line.startswith("instruction")]
  assert [line[:9] for line in lines] == [
    "attempt 1", "verdict 2", "attempt 3", "verdict 4"
  ]
  assert [line.endswith("(right)") for line in lines] == [False] + [True] * 3
  assert verdicts.summarize(chain.make(), episodes) == {}
  # The table of a run names the attempts that there are.
  titles, cells = progress.summary_rows([row | {"name": "pag"}])
  told = dict(zip(titles, cells))
  assert told["accuracy@3"].startswith("40.0 [") and "accuracy@2" not in told
  assert told["resample@3"][0].isdigit()
  short = brief.shares(episodes, 2)
  assert short["gain"] == 0 and np.isnan(short["copied_2"])
  assert short["copied_3"] == 1 / 2


def test_a_sampled_verdict_is_no_attempt():
  """Files and summary number the attempts by their turns, as evaluations do."""
  episodes, (posed, _) = evaluated(), played_rows()
  found = samples.records(
    {"chain": CRITIC}, posed._replace(answer=np.asarray(posed.answer)),
    np.arange(5), episodes, samples=1, turns=4,
  )
  mended, accepted = found[1], found[2]
  assert "attempts_2" not in mended and "attempts_4" not in mended
  assert mended["texts"] == ["78"] and mended["statuses"] == ["wrong"]
  assert mended["verdicts_2"] == {
    "texts": ["<bad@2>"], "accepts": [False], "right": [1]
  }
  assert mended["attempts_3"]["texts"] == ["79"]
  assert mended["attempts_3"]["right"] == mended["verdicts_4"]["right"] == [1]
  # What was accepted is the last attempt, and has no further verdict.
  assert accepted["verdicts_2"]["right"] == [0]
  assert accepted["attempts_3"]["texts"] == ["78"]
  assert accepted["attempts_3"]["statuses"] == ["wrong"]
  assert accepted["verdicts_4"] == {
    "texts": [None], "accepts": [None], "right": [None]
  }
  told = samples.summarize(
    np.random.default_rng(0), found, verifiers=("chain",), turns=(1, 3),
    ks=(1,), draws=10,
  )
  first, second = told["verifiers"]["chain"]["attempts"]
  assert first["accuracy"] == second["accuracy"] == pytest.approx(2 / 5)
  assert second["incorrect_to_correct"] == pytest.approx(1 / 5)
  assert told["verdict_accuracy"] == pytest.approx(5 / 8)
  assert told["verdict_recall"] == pytest.approx(3 / 5)
  table, own, *_ = tables.samples_tables(
    told | {"task": "chain", "temperature": 1.0, "samples": 1}
  )
  assert [str(c.header) for c in table.columns] == ["", "chain@1", "chain@3"]
  assert list(own.columns[1].cells) == ["62.5"]


def test_studies_leave_verdicts_out(monkeypatch):
  episodes = evaluated()
  monkeypatch.setattr(studies, "played", lambda *a, **k: (None, episodes))
  player = playing.Player(None, None, None, 1, 4)
  given = dict(problems=5, temperature=1.0, draws=10, back=2)
  key = jax.random.key(0)
  found = studies.many_turns(player, None, key, **given)
  assert found["turns"] == [1, 3] and found["accuracy"] == [2 / 5, 2 / 5]
  assert found["ever"] == [2 / 5, 3 / 5]
  # One problem of four samples, of which three turns are played.
  some = lambda x: x[1:5, :3]
  four = episodes._replace(
    judged=playing.Judged(*map(some, episodes.judged))
  )
  monkeypatch.setattr(studies, "played", lambda *a, **k: (None, four))
  player = playing.Player(None, None, None, 4, 3)
  found = studies.scaling(player, None, key, budgets=(2, 4), **given)
  # One of four first attempts is right, and one of four second ones.
  assert found["pass"] == pytest.approx([1 / 2, 1])
  assert found["sequential"][0] == pytest.approx(1 / 4)
  with pytest.raises(ValueError, match="need 2 turns"):
    studies.scaling(player, None, key, budgets=(2,), **(given | {"back": 1}))


def curated(make, **options):
  """Advantages of the five rows as samples of one problem, by turn."""
  problems, rows = played_rows()
  verdict = verifier.verify(CRITIC, problems, rows, 4)
  unknown = verdict.known == 0
  verdict = Verdict(
    jnp.where(unknown, jnp.nan, verdict.reward), verdict.known
  )
  rows = rows._replace(
    problem=jnp.zeros_like(rows.problem),
    logprob=jnp.where(rows.turn > 0, -0.5, 0.0),
  )
  method = make(
    {"policy": fakes.SILENT["policy"]}, CRITIC, None, problems=1, samples=5,
    turns=(4, 4, 4, 4), kl="none", **options,
  )
  batch, _ = method.curate(jax.random.key(0), None, problems, rows, verdict)
  gain, turn = np.asarray(batch.targets.advantage), np.asarray(rows.turn)
  mask = np.asarray(batch.mask)
  np.testing.assert_array_equal(mask, turn > 0)
  found = np.full((5, 4), np.nan)
  for b, k in zip(*np.nonzero(turn > 0)):
    found[b, turn[b, k] - 1] = gain[b, k]
  return found


def by_turn(function):
  found = np.full((5, 4), np.nan)
  for k in range(4):
    own = [b for b, (_, r) in enumerate(EPISODES) if len(r) > k]
    found[own, k] = function(
      np.array([EPISODES[b][1][k] for b in own], float), own, k
    )
  return found


def test_pag_by_hand():
  """Revisions with their bonus, less the mean of the others, by role."""
  gain = np.array([np.nan, 1, np.nan, -1, 0])  # of each row's revision

  def credit_of(rewards, own, k):
    worth = rewards + (3.0 * gain[own] if k == 2 else 0)
    others = (worth.sum() - worth) / (len(worth) - 1)
    return worth - others

  raw = by_turn(credit_of)
  found = curated(pag.make, bonus=3.0, named=True, whitened=False)
  np.testing.assert_allclose(found, raw, rtol=1e-5, atol=1e-6)
  want = raw.copy()
  for role in (0, 1):
    part = raw[:, role::2]
    want[:, role::2] = (part - np.nanmean(part)) / (np.nanstd(part) + 1e-6)
  found = curated(pag.make, bonus=3.0, named=True)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_spoc_by_hand():
  want = by_turn(lambda rewards, own, k: standard(rewards))
  found = curated(spoc.make)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
  # Rows 0 and 1 end right; verdicts are trained, and have no advantage.
  found = curated(spoc.make, rewards="last")
  np.testing.assert_allclose(
    found[:, 0], standard([1, 0, 0, 0, 0]), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_array_equal(found[:, 1], 0)


def test_a_task_without_verdicts_is_refused():
  for make in (pag.make, spoc.make):
    with pytest.raises(ValueError, match="this task has none: take one"):
      make(
        fakes.SILENT, maze.make(doors=2, rooms=2), None, problems=2, samples=2,
        turns=(3, 3),
      )
    with pytest.raises(ValueError, match="needs 2 or more"):
      make(fakes.SILENT, CRITIC, None, problems=2, samples=2, turns=(4,))
  with pytest.raises(ValueError, match="rewards='some': choose one"):
    spoc.make(
      fakes.SILENT, CRITIC, None, problems=2, samples=2, turns=(4, 4),
      rewards="some",
    )


def test_a_verdict_need_not_name_what_is_wrong():
  """Paid for saying rightly that an attempt is wrong, as PAG has it."""
  problems, rows = played_rows()
  verdict = verifier.verify(CRITIC, problems, rows, 4)
  assert np.asarray(verdict.reward)[4, 1] == 0
  want = [[1, 1], [0, 1, 1, 1], [0, 0], [1, 0, 0, 0], [0, 1, 0, 1]]
  rows_options = dict(problems=1, samples=5, turns=(4, 4, 4, 4), kl="none")
  for make, more in (
    (pag.make, {}), (spoc.make, {"named": False}),
    (multi_turn.make, {"named": False}),
  ):
    method = make(fakes.SILENT, CRITIC, None, **rows_options, **more)
    found, metrics = method.judge(None, None, problems, rows)
    np.testing.assert_array_equal(found.known, verdict.known)
    for row, x in zip(np.asarray(found.reward), want):
      np.testing.assert_array_equal(row[: len(x)], x)
    assert float(value(metrics["judge/reward_2"])) == pytest.approx(3 / 5)
    named = make(
      fakes.SILENT, CRITIC, None, **rows_options, **more | {"named": True}
    )
    again, _ = named.judge(None, None, problems, rows)
    np.testing.assert_array_equal(again.reward, verdict.reward)


def test_no_verdict_on_what_could_not_be_judged_is_paid():
  problems, rows = played_rows()
  lost = CRITIC._replace(verify=lambda *given: Verdict(
    jnp.ones((5, 4)), jnp.ones((5, 4)).at[0, 0].set(0)
  ))
  found = binary(lost).verify(problems.answer, rows, 4)
  np.testing.assert_array_equal(found.known[0], [0, 0, 1, 1])
  np.testing.assert_array_equal(found.known[1:], 1)
  with pytest.raises(ValueError, match="named=False pays verdicts of the pol"):
    multi_turn.make(
      fakes.SILENT, maze.make(doors=2, rooms=2), None, problems=2, samples=2,
      turns=(3, 3), named=False,
    )
