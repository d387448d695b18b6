"""Statistics against enumeration, and the evaluations of a small model."""

import io
import itertools
import json
import math
from collections import Counter

import jax
import numpy as np
import pytest
from rich.console import Console

from sitrain.evaluate import correction as corrections
from sitrain.evaluate import player as playing
from sitrain.evaluate import run, studies, tables
from sitrain.evaluate.bootstrap import bootstrap, estimate
from sitrain.evaluate.dialogues import KINDS
from sitrain.evaluate.edits import BINS, edit_ratio, edit_ratios, histogram
from sitrain.evaluate.pictures import pictures
from sitrain.evaluate.scaling import inference_scaling
from sitrain.evaluate.summary import (
  Evidence,
  all_statistics,
  by_level,
  gather,
  summarize,
)
from sitrain.evaluate.votes import majority_at, pass_at, vote, vote_of_episodes
from sitrain.rollout.contexts import given
from sitrain.runtime import progress
from sitrain.runtime.metrics import finite
from sitrain.types import GIVEN, PAD, Problems, Verdict

TURNS = (4, 4)


def rng(seed=0):
  return np.random.default_rng(seed)


def ones(n):
  return np.ones((1, n))


def numbers(row):
  return {name: float(value[0]) for name, value in row.items()}


def test_correction_counts_by_hand():
  right = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [0, 1], [0, 0.0]])
  row = numbers(corrections.correction(right, ones(6), turns=(1, 2)))
  assert row["accuracy_1"] == pytest.approx(2 / 6)
  assert row["accuracy_2"] == pytest.approx(3 / 6)
  assert row["gain"] == pytest.approx(1 / 6)
  assert row["incorrect_to_correct"] == pytest.approx(2 / 6)
  assert row["correct_to_incorrect"] == pytest.approx(1 / 6)
  assert row["fix_rate"] == row["cs"] == pytest.approx(2 / 4)
  assert row["cl"] == pytest.approx(1 / 2)
  # (1/2 - 1/9) / (2 * 1/3 * 2/3)
  assert row["rss"] == pytest.approx(7 / 8)


def test_correction_identities_hold_in_every_draw():
  right = (rng().random((50, 3)) < 0.5).astype(float)
  weight = rng(1).multinomial(50, [1 / 50] * 50, size=40).astype(float)
  row = corrections.correction(right, weight, turns=(1, 2, 3))
  first, last = row["accuracy_1"], row["accuracy_3"]
  total = first * row["cl"] + (1 - first) * row["cs"]
  np.testing.assert_allclose(last, total)
  fixed, spoiled = row["incorrect_to_correct"], row["correct_to_incorrect"]
  np.testing.assert_allclose(row["gain"], fixed - spoiled, atol=1e-12)
  steps = row["gain_2"] + row["gain_3"]
  np.testing.assert_allclose(row["gain"], steps, atol=1e-12)


def test_weights_count_problems():
  right = (rng(2).random((20, 2)) < 0.5).astype(float)
  count = rng(3).integers(0, 4, 20)
  weighed = corrections.correction(right, count[None] * 1.0, turns=(1, 2))
  repeated = np.repeat(right, count, axis=0)
  plain = corrections.correction(repeated, ones(len(repeated)), turns=(1, 2))
  assert numbers(weighed) == pytest.approx(numbers(plain))


def test_undefined_numbers_are_nan():
  row = numbers(
    corrections.correction(np.ones((4, 2)), ones(4), turns=(1, 2))
  )
  assert row["cl"] == 1.0
  assert math.isnan(row["cs"]) and math.isnan(row["rss"])
  none = corrections.correction(np.ones((4, 2)), 0 * ones(4), turns=(1, 2))
  assert math.isnan(numbers(none)["accuracy_1"])
  same = corrections.rss(np.array([0.4]), np.array([0.4]))
  assert same[0] == pytest.approx(0.5)


@pytest.mark.parametrize("p, n", [(0.3, 2), (0.7, 5), (0.05, 8)])
def test_resample_control_is_unbiased(p, n):
  chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
  fresh = np.tril(np.ones((n + 1, n)), -1)  # row c has c right ones
  row = numbers(corrections.resample(fresh, np.array([chance])))
  assert row["accuracy"] == pytest.approx(p)
  assert row["cl"] * row["accuracy"] == pytest.approx(p**2)
  assert row["cs"] * (1 - p) == pytest.approx(p * (1 - p))
  assert row["incorrect_to_correct"] == pytest.approx(p * (1 - p))
  with pytest.raises(ValueError, match="2 or more"):
    corrections.resample(fresh[:, :1], np.array([chance]))


def test_changes_of_samples_are_those_of_all_pairs_of_them():
  """A second attempt beside the first ones of other samples, by loops."""
  rng = np.random.default_rng(0)
  first = (rng.random((7, 3)) < 0.5) * 1.0
  later = (rng.random((7, 3)) < 0.6) * 1.0
  count = rng.integers(0, 3, 7)
  found = corrections.changes(first, later, count[None] * 1.0)
  own = {0: [], 1: []}  # by whether the first attempt is right
  other = {0: [], 1: []}
  for p in np.repeat(np.arange(7), count):
    for i in range(3):
      own[first[p, i]].append(later[p, i])
      other[first[p, i]] += [first[p, j] for j in range(3) if j != i]
  fixed, total = sum(own[0]), 3 * count.sum()
  wanted = {
    "incorrect_to_correct": fixed / total,
    "correct_to_incorrect": (len(own[1]) - sum(own[1])) / total,
    "cs": np.mean(own[0]), "cl": np.mean(own[1]),
    "cs_over_resample": np.mean(own[0]) - np.mean(other[0]),
    "cl_over_resample": np.mean(own[1]) - np.mean(other[1]),
  }
  wanted["gain"] = (
    wanted["incorrect_to_correct"] - wanted["correct_to_incorrect"]
  )
  assert {k: float(x[0]) for k, x in found.items()} == pytest.approx(wanted)
  alone = corrections.changes(first[:, :1], later[:, :1], count[None] * 1.0)
  assert set(alone) == set(wanted) - {"cs_over_resample", "cl_over_resample"}


def evidence_of(right, fresh, final=None):
  rows = len(right)
  final = right.astype(int) if final is None else final
  return Evidence(right, final, 0 * right, fresh, np.ones(rows), right)


def test_partial_rewards_are_means_and_no_accuracies(toy):
  """0.3 for every answer is not an accuracy of 30 %."""
  _, _, task = toy
  paid = np.array([[0.3, 1.0], [0.3, 0.3]], np.float32)
  verdict = Verdict(paid, np.ones((2, 2), np.float32), {})
  posed = jax.jit(task.problems, static_argnums=1)(jax.random.key(0), 2)
  rows = given(posed, reply=task.reply, turns=(3, 3), eos=task.eos)
  judge = playing.make_judge(task._replace(verify=lambda *_: verdict), 2)
  judged = playing.Judged(*map(np.asarray, judge(posed, rows)))
  assert judged.right.tolist() == [[0, 1], [0, 0]]
  evidence = gather(judged, judged, columns=range(2))
  row = summarize(rng(0), evidence, turns=(1, 2), draws=5)
  assert (row["accuracy_1"], row["accuracy_2"]) == (0.0, 0.5)
  assert row["reward_1"] == pytest.approx(0.3)
  assert row["reward_2"] == pytest.approx(0.65)
  assert "reward_1" in row["intervals"]
  plain = evidence._replace(reward=evidence.right)
  assert "reward_1" not in summarize(rng(0), plain, turns=(1, 2), draws=5)
  for table in (
    tables.rewards_table({"rl": row}), progress.summary_table([row])
  ):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    said = console.file.getvalue()
    assert "mean reward" in said and "0.300" in said and "0.650" in said
  assert "mean reward" not in str(progress.summary_rows([{"accuracy_1": 1.0}]))


def simulated(problems, second, seed):
  """Problems of very different difficulty; `second(p, first)` is a chance."""
  draw = rng(seed)
  p = draw.beta(0.7, 0.7, problems)
  first = draw.random(problems) < p
  last = draw.random(problems) < second(p, first)
  fresh = draw.random((problems, 8)) < p[:, None]
  right = np.stack([first, last], axis=1).astype(float)
  return evidence_of(right, fresh.astype(float))


def test_a_resample_is_no_correction():
  found = [
    summarize(
      rng(), simulated(800, lambda p, first: p, seed), turns=(1, 2), draws=300
    )
    for seed in range(12)
  ]
  # Against the accuracy even a policy that ignores attempt 1 looks confident.
  assert all(row["cl"] > row["accuracy_1"] + 0.1 for row in found)
  assert sum(row["corrects"] for row in found) <= 1  # 2.5 % each by chance
  assert sum(row["confident"] for row in found) <= 1
  fixed = [row["incorrect_to_correct"] for row in found]
  control = [row["resample"]["incorrect_to_correct"] for row in found]
  assert np.mean(fixed) == pytest.approx(np.mean(control), abs=0.01)


def test_a_correction_exceeds_a_resample():
  fixes = simulated(800, lambda p, first: np.where(first, p, p + 0.3), 1)
  row = summarize(rng(), fixes, turns=(1, 2), draws=300)
  assert row["corrects"] and not row["confident"]
  assert row["cs_over_resample"] > 0.1
  low, high = row["intervals"]["cs_over_resample"]
  assert 0 < low < row["cs_over_resample"] < high
  holds = simulated(800, lambda p, first: np.where(first, 0.98, p), 1)
  row = summarize(rng(), holds, turns=(1, 2), draws=300)
  assert row["confident"] and not row["corrects"]


def test_copying_does_not_correct():
  copies = simulated(400, lambda p, first: first, 2)
  row = summarize(rng(), copies, turns=(1, 2), draws=200)
  assert row["gain"] == row["changed"] == row["cs"] == 0
  assert row["confident"] and not row["corrects"]


def test_unknown_problems_change_nothing_but_their_count():
  evidence = simulated(60, lambda p, first: p, 3)
  known = np.arange(60) % 3 > 0
  spoiled = evidence._replace(
    right=np.where(known[:, None], evidence.right, 1 - evidence.right),
    known=known.astype(float),
  )
  kept = Evidence(*(x[known] for x in evidence))
  a = estimate(lambda w: all_statistics(spoiled, w, turns=(1, 2)), 60)
  b = estimate(lambda w: all_statistics(kept, w, turns=(1, 2)), 40)
  assert a == pytest.approx(b)
  row = summarize(rng(), spoiled, turns=(1, 2), draws=10)
  assert (row["problems"], row["unknown"]) == (40, 20)


def test_answers_count_changes_and_missing_ones():
  final = np.array([[5, 5], [5, 7], [-1, 7], [-1, -1]])
  right = np.array([[1, 1], [0, 1], [0, 1], [0, 0.0]])
  row = numbers(corrections.answers(final, right, ones(4), turns=(1, 2)))
  assert row["changed"] == pytest.approx(2 / 4)
  assert (row["malformed_1"], row["malformed_2"]) == (2 / 4, 1 / 4)
  assert row["format_repaired"] == pytest.approx(1 / 4)


def test_by_turn_is_against_the_first():
  right = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0.0]])
  row = numbers(corrections.by_turn(right, ones(4)))
  assert [row[f"accuracy_{k}"] for k in (1, 2, 3)] == [0.25, 0.25, 0.5]
  assert [row[f"ever_{k}"] for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
  assert row["incorrect_to_correct_2"] == row["correct_to_incorrect_2"] == 0.25
  assert row["incorrect_to_correct_3"] == 0.25
  assert row["correct_to_incorrect_3"] == 0


def test_bootstrap_covers_a_known_mean():
  def inside(seed):
    values = (rng(seed).random(150) < 0.4).astype(float)
    low, high = bootstrap(
      rng(seed + 1000), lambda w: {"x": corrections.share(values, w)}, 150,
      draws=200,
    )["x"]
    return low <= 0.4 <= high

  # 95 % of 200, give or take four standard deviations and the rounding of 150.
  assert 176 <= sum(inside(seed) for seed in range(200)) <= 199


def test_bootstrap_pairs_numbers_of_one_problem():
  hard = rng().random(400)
  a = (hard < 0.5).astype(float)
  b = (hard < 0.55).astype(float)

  def width(b):
    low, high = bootstrap(
      rng(1), lambda w: {"d": corrections.share(b - a, w)}, 400, draws=400
    )["d"]
    return high - low

  assert width(b) < 0.5 * width(rng(2).permutation(b))


def test_bootstrap_is_seeded_and_its_parts_do_not_matter():
  values = rng().random(30)
  statistic = lambda w: {"x": corrections.share(values, w), "nan": w[:, 0] / 0}
  with np.errstate(all="ignore"):
    whole = bootstrap(rng(5), statistic, 30, draws=50)
    parts = bootstrap(rng(5), statistic, 30, draws=50, cells=30 * 7)
    other = bootstrap(rng(6), statistic, 30, draws=50)
  assert whole["x"] == parts["x"] != other["x"]
  assert estimate(lambda w: {"x": w @ values}, 30)["x"] == pytest.approx(
    values.sum()
  )
  undefined = bootstrap(
    rng(), lambda w: {"x": np.full(len(w), np.nan)}, 3, draws=5
  )
  assert np.isnan(undefined["x"]).all()
  with pytest.raises(ValueError, match="no problems"):
    bootstrap(rng(), statistic, 0)


def test_edit_ratio_by_hand():
  assert edit_ratio([1, 2, 3], [1, 2, 3]) == 0
  assert edit_ratio([1, 2, 3], [4, 5, 6]) == 1
  assert edit_ratio([1, 2, 3, 4], [1, 9, 3, 4]) == pytest.approx(2 / 8)
  assert edit_ratio([1, 2], []) == 1
  assert edit_ratio([], []) == 0
  # Tokens above what one character can hold.
  assert edit_ratio([1 << 20, 7], [1 << 20]) == pytest.approx(1 / 3)


def test_edit_ratios_read_turns_in_any_column():
  tokens = np.array([[9, 1, 2, 8, 1, 3, -1], [9, 9, 5, 8, 5, -1, -1]])
  turn = np.array([[0, 1, 1, 0, 2, 2, -1], [0, 0, 1, 0, 2, -1, -1]])
  found = edit_ratios(tokens, turn, before=1, after=2)
  np.testing.assert_allclose(found, [0.5, 0])
  shown = histogram(found)
  assert len(shown["density"]) == BINS and len(shown["edges"]) == BINS + 1
  assert sum(shown["density"]) / BINS == pytest.approx(1)
  assert (shown["copied"], shown["mean"]) == (0.5, 0.25)
  assert sum(histogram(np.zeros(0))["density"]) == 0


def brute_vote(final, right):
  """The rule of a vote in words, for one set of samples."""
  votes = Counter(a for a in final if a >= 0)
  most = max(votes.values(), default=0)
  top = [a for a in votes if votes[a] == most] or [-1]
  return np.mean([right[final == a].mean() for a in top])


def cases(count, n, seed):
  draw = rng(seed)
  final = draw.integers(-1, 3, (count, n))
  return final, (draw.random((count, n)) < 0.5).astype(float)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_votes_equal_all_subsets(n):
  final, right = cases(40, n, n)
  each = [brute_vote(f, r) for f, r in zip(final, right)]
  np.testing.assert_allclose(vote(final, right), each)
  for k in range(1, n + 1):
    subsets = [list(s) for s in itertools.combinations(range(n), k)]
    majority = [
      np.mean([brute_vote(f[s], r[s]) for s in subsets])
      for f, r in zip(final, right)
    ]
    np.testing.assert_allclose(majority_at(final, right, k), majority)
    solved = [np.mean([r[s].max() for s in subsets]) for r in right]
    np.testing.assert_allclose(pass_at(right, k), solved)


def test_votes_of_many_samples_stay_in_range():
  final, right = cases(20, 64, 0)
  for k in (1, 32, 64):
    value = majority_at(final, right, k)
    assert np.all((value >= 0) & (value <= 1 + 1e-9))
  np.testing.assert_allclose(majority_at(final, right, 1), right.mean(1))
  np.testing.assert_allclose(majority_at(final, right, 64), vote(final, right))
  with pytest.raises(ValueError, match="k=65"):
    majority_at(final, right, 65)


def test_malformed_answers_win_only_without_others():
  final = np.array([[-1, -1, 4], [-1, -1, -1]])
  right = np.array([[0, 0, 1], [0, 1, 0.0]])
  np.testing.assert_allclose(vote(final, right), [1, 1 / 3])
  np.testing.assert_allclose(majority_at(final, right, 2), [2 / 3, 1 / 3])


def test_votes_of_episodes_keep_them_together():
  draw = rng(7)
  final = draw.integers(-1, 3, (15, 5, 2))
  right = (draw.random((15, 5, 2)) < 0.5).astype(float)
  subsets = [list(s) for s in itertools.combinations(range(5), 2)]
  exact = [
    np.mean([brute_vote(f[s].ravel(), r[s].ravel()) for s in subsets])
    for f, r in zip(final, right)
  ]
  found = vote_of_episodes(rng(), final, right, 2, subsets=3000)
  np.testing.assert_allclose(found, exact, atol=0.04)
  flat = final.reshape(15, -1), right.reshape(15, -1)
  np.testing.assert_allclose(
    vote_of_episodes(rng(), final, right, 5), vote(*flat)
  )


def test_scaling_compares_uses_of_a_budget():
  draw = rng(4)
  right = (draw.random((300, 8, 2)) < [0.55, 0.9]).astype(float)
  # A wrong answer is one of two, a right one is answer 0.
  final = np.where(right > 0, 0, draw.integers(1, 3, right.shape))
  found = inference_scaling(
    rng(), final, right, budgets=(2, 4, 8), draws=100
  )
  assert found["budget"] == [2, 4, 8]
  np.testing.assert_allclose(found["parallel"][0], 0.55, atol=0.05)
  np.testing.assert_allclose(found["sequential"][0], 0.9, atol=0.03)
  assert found["parallel"][2] > found["parallel"][0]
  for i in range(3):
    gap = found["sequential"][i] - found["parallel"][i]
    assert found["difference"][i] == pytest.approx(gap)
    low, high = found["intervals"]["difference"][i]
    assert 0 < low <= gap <= high
    assert found["pass"][i] >= found["parallel"][i]
  for budgets in ((3,), (), (0,)):
    with pytest.raises(ValueError, match="even"):
      inference_scaling(rng(), final, right, budgets=budgets)
  with pytest.raises(ValueError, match="of n=8"):
    inference_scaling(rng(), final, right, budgets=(16,))


KEY = 5


@pytest.fixture(scope="module")
def players(toy):
  model, _, task = toy
  return run.make_player(model, task, turns=TURNS, resamples=3, jit=jax.jit)


@pytest.fixture(scope="module")
def row(toy, players):
  _, params, task = toy
  return run.evaluate(
    players, params, task, jax.random.key(KEY), problems=21, batch=24,
    temperature=1.0, draws=50,
  )


def test_samples_do_not_depend_on_the_batch(toy, players):
  _, params, _ = toy
  options = dict(problems=21, temperature=1.0)
  key = jax.random.key(KEY)
  posed, one = playing.played(
    players.fresh, params, key, batch=12, **options
  )
  again, other = playing.played(
    players.fresh, params, key, batch=24, **options
  )
  np.testing.assert_array_equal(posed.prompt, again.prompt)
  assert one.tokens.shape[0] == other.tokens.shape[0] == 63
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
    np.testing.assert_array_equal(a, b)
  _, third = playing.played(
    players.fresh, params, key, batch=24, stream=1, **options
  )
  assert np.any(third.tokens != one.tokens)
  with pytest.raises(ValueError, match="batch=2"):
    playing.played(players.fresh, params, key, batch=2, **options)


def test_parts_hold_as_many_problems_each_and_are_cut_to_few_lengths():
  player = lambda samples: playing.Player(None, None, None, samples, 1)
  size = lambda n, batch, samples=1: playing.part_size(samples, batch, n)
  # 164 problems are not filled up to 256, nor 257 to 512.
  assert size(164, 256) == 164 and size(257, 256) == 129
  assert size(1319, 256) == 220 and size(64, 64, 8) == 8

  def posed(tokens):
    empty = np.arange(4400) < 4400 - np.array(tokens)[:, None]
    none = np.zeros((len(tokens), 1), np.int32)
    return Problems(np.where(empty, PAD, 1).astype(np.int32), none, none)

  # One prompt in 64 does not make all others of its part long.
  found = playing.parts_of(player(1), posed([4352, *range(700, 763)]), batch=64)
  assert [rows.tolist() for rows in found] == [list(range(1, 64)), [0]]
  found = playing.parts_of(player(1), posed(range(70, 130)), batch=64)
  assert [len(rows) for rows in found] == [60]
  longest = [130, 131, 140, 180, 200, 200, 210, 222, 900]
  assert playing.lengths_of(longest) == [144, 208, 224, 912]
  assert playing.lengths_of([7, 7]) == [16]


def test_rows_are_the_same_however_their_prompts_are_cut(toy, monkeypatch):
  """Prompts of 3 to 40 tokens and of 150, in six parts and in one."""
  monkeypatch.setattr(playing, "LENGTHS", 2)
  model, params, task = toy
  draw, width = rng(4), 160
  prompt = np.full((20, width), PAD, np.int32)
  lengths = draw.permutation([*np.linspace(3, 40, 19), 150])
  for row, tokens in zip(prompt, lengths):
    row[-int(tokens):] = draw.integers(0, model.vocabulary, int(tokens))
  one = jax.eval_shape(lambda k: task.problems(k, 20), jax.random.key(0))
  table = one._replace(prompt=prompt, **{
    name: np.zeros(getattr(one, name).shape, np.int32)
    for name in ("answer", "solution")
  })
  player = playing.make(
    model, task._replace(table=table), turns=(4,), samples=1,
    reply=task.reply, jit=jax.jit,
  )
  seen = []

  def play(keys, state, problems):
    seen.append(problems.prompt.shape)
    return player.play(keys, state, problems)

  watched = player._replace(
    play=play, judge=lambda problems, rows: playing.Judged(*[rows.problem] * 5)
  )
  played = lambda batch: playing.played(
    watched, params, jax.random.key(1), problems=20, batch=batch,
    temperature=1.0,
  )[1]
  cut = played(4)
  assert seen == [(4, 48)] * 5 + [(1, 160)]
  monkeypatch.setattr(playing, "lengths_of", lambda longest: [width])
  monkeypatch.setattr(playing, "_split_longest", lambda part, tokens: [part])
  seen.clear()
  uncut = played(20)
  assert seen == [(20, width)]
  for got, want in ((cut.tokens, uncut.tokens), (cut.turn, uncut.turn)):
    np.testing.assert_array_equal(got, want)
  assert np.all(np.sum(cut.turn == GIVEN, 1) == np.sum(prompt != PAD, 1))


def test_the_summary_of_a_stage_is_complete_json(toy, row):
  _, _, task = toy
  text = json.loads(json.dumps(finite(row), allow_nan=False))
  assert text["problems"] == 21 and text["unknown"] == 0
  fixed, spoiled = row["incorrect_to_correct"], row["correct_to_incorrect"]
  assert row["accuracy_2"] - row["accuracy_1"] == pytest.approx(fixed - spoiled)
  wanted = {"accuracy", "cl", "cs", "incorrect_to_correct", "intervals"}
  assert wanted <= set(row["resample"])
  assert set(row["intervals"]) <= set(row)
  assert {"truncated_1", "truncated_2", "rss", "changed"} <= set(row)
  levels = row["by_level"]
  assert set(levels) <= set(task.levels)
  assert sum(part["problems"] for part in levels.values()) == 21
  weighed = sum(p["problems"] * p["accuracy_2"] for p in levels.values())
  assert weighed / 21 == pytest.approx(row["accuracy_2"])
  assert sum(row["edits"]["density"]) / BINS == pytest.approx(1)


def test_named_rewards_replace_no_other_number(toy, players, monkeypatch):
  """A reward may have any name, as accuracy."""
  _, params, task = toy
  told = {"accuracy_1": 9.0, "form_1": 0.25}
  monkeypatch.setattr(run, "of_rewards", lambda *_: told)
  found = run.evaluate(
    players, params, task, jax.random.key(7), problems=8, batch=8,
    temperature=1.0, draws=10,
  )
  assert found["accuracy_1"] <= 1 and found["form_1"] == 0.25


def test_dialogues_have_the_text_of_every_turn(toy, row):
  _, _, task = toy
  assert row["dialogues"]
  for talk in row["dialogues"]:
    right = int(talk["right_1"]), int(talk["right_2"])
    assert KINDS[talk["kind"]] == right
    assert talk["problem"].endswith("=") and talk["instruction"] == "?"
    assert talk["level"] in task.levels
    for k in (1, 2):
      assert 1 <= len(talk[f"attempt_{k}"]) <= TURNS[k - 1]


def test_levels_add_up_to_all_problems():
  evidence = simulated(90, lambda p, first: p, 5)
  level = np.arange(90) % 3
  rows = by_level(
    rng(), evidence, level, ("a", "b", "c", "none"), turns=(1, 2), draws=10
  )
  assert list(rows) == ["a", "b", "c"]
  assert rows["b"]["accuracy_1"] == pytest.approx(
    evidence.right[level == 1, 0].mean()
  )


def test_greedy_attempts_are_the_same_whatever_the_key(toy, players):
  _, params, _ = toy
  options = dict(problems=21, batch=24, temperature=0.0)
  found = [
    playing.played(
      players.episodes, params, jax.random.key(KEY), stream=stream, **options
    )[1]
    for stream in (0, 1)
  ]
  np.testing.assert_array_equal(found[0].tokens, found[1].tokens)


def majority_of(final, right):
  """How right the most frequent answer of the first k attempts is, for each k.

  Attempts of equally frequent answers share the vote; none is no answer.
  """
  found = []
  for k in range(1, len(final) + 1):
    seen = list(final[:k])
    votes = [0 if x < 0 else seen.count(x) for x in seen]
    winners = [r for r, n in zip(right, votes) if n == max(votes)]
    found.append(sum(winners) / len(winners))
  return found


def test_many_turns_begins_like_two(toy, players):
  model, params, task = toy
  long = playing.make(
    model, task, turns=TURNS * 2, samples=1, reply=task.reply, jit=jax.jit
  )
  options = dict(problems=21, batch=24, temperature=1.0)
  key = jax.random.key(KEY)
  found = studies.many_turns(
    long, params, key, draws=20, fresh=players.fresh, **options
  )
  assert found["turns"] == [1, 2, 3, 4]
  names = ("accuracy", "incorrect_to_correct", "correct_to_incorrect", "ever")
  assert all(len(found[name]) == 4 for name in names)
  first = found["accuracy"][0]
  for k in range(4):
    change = found["incorrect_to_correct"][k] - found["correct_to_incorrect"][k]
    assert found["accuracy"][k] - first == pytest.approx(change)
  judged = playing.played(long, params, key, **options)[1].judged
  votes = [majority_of(*row) for row in zip(judged.final, judged.right)]
  np.testing.assert_allclose(found["majority"], np.mean(votes, axis=0))
  assert found["majority"][0] == pytest.approx(first)
  fresh = playing.played(players.fresh, params, key, stream=1, **options)[1]
  assert len(found["parallel"]) == players.fresh.samples == 3
  assert found["parallel"][0] == pytest.approx(fresh.judged.right.mean())
  shape = (21, 3)
  votes = [majority_of(*row)[-1] for row in zip(
    fresh.judged.final.reshape(shape), fresh.judged.right.reshape(shape)
  )]
  assert found["parallel"][2] == pytest.approx(np.mean(votes))
  assert tables.turns_table({"base": found}).row_count == 4
  _, two = playing.played(players.episodes, params, key, **options)
  # The draws of a turn do not depend on how many turns follow it.
  assert two.judged.right.mean(axis=0).tolist() == pytest.approx(
    found["accuracy"][:2]
  )


def test_self_refine_has_three_turns_and_its_own_replies(toy, players):
  model, params, task = toy
  texts = [task.tokenizer.encode(text) for text in ("??", ".")]
  refiners = run.make_refiner(
    model, task, turns=(4, 3, 4), texts=texts, resamples=3, jit=jax.jit
  )
  assert refiners.fresh._replace(
    pose=0, play=0, judge=0
  ) == players.fresh._replace(pose=0, play=0, judge=0)
  refiners = refiners._replace(fresh=players.fresh)  # compiled already
  options = dict(problems=21, batch=24, temperature=1.0)
  key = jax.random.key(KEY)
  _, found = playing.played(refiners.episodes, params, key, **options)
  assert found.turn.max() == 3 and found.judged.right.shape == (21, 3)
  for tokens, turn in zip(found.tokens, found.turn):
    ends = [np.flatnonzero(turn == k)[[0, -1]] for k in (1, 2, 3)]
    for (_, last), (first, _), text in zip(ends, ends[1:], texts):
      assert tokens[last + 1 : first].tolist() == text
  row = run.self_refine(refiners, params, key, draws=20, **options)
  right = found.judged.right
  assert row["accuracy_1"] == pytest.approx(right[:, 0].mean())
  assert row["accuracy_3"] == pytest.approx(right[:, 2].mean())
  assert "accuracy_2" not in row
  with pytest.raises(ValueError, match="three turns"):
    run.make_refiner(model, task, turns=(4, 4), jit=jax.jit)
  with pytest.raises(ValueError, match="at least one token"):
    playing.replies([[1], []])


def test_scaling_and_its_tables(toy, row):
  model, params, task = toy
  pairs = playing.make(
    model, task, turns=TURNS, samples=4, reply=task.reply, jit=jax.jit
  )
  options = dict(problems=21, batch=24, temperature=1.0, draws=20)
  key = jax.random.key(KEY)
  found = studies.scaling(pairs, params, key, budgets=(2, 4), **options)
  assert found["budget"] == [2, 4]
  many = {"turns": [1, 2], "accuracy": [0.1, 0.2]}
  many |= {"intervals": {"accuracy": [[0.0, 0.2], [0.1, 0.3]]}}
  stage = {"summary": row, "scaling": found, "many_turns": many}
  drawn = pictures({"base": stage, "[rl]": {"summary": row}})
  assert set(drawn) == {"edits", "difficulty", "turns", "scaling_base"}
  assert tables.scaling_table({"base": found}).row_count == 2
  assert tables.correction_table({"base": row}).row_count >= 2
  assert tables.control_table({"base": row}).row_count == 2
  assert tables.attempts_table({"base": row}).row_count == 1
  assert tables.percent(0.5, (0.25, 0.75)) == r"50.0 \[25.0, 75.0]"
  assert tables.percent(math.nan) == tables.percent(0.1, [None, None]) == "-"
  with pytest.raises(ValueError, match="4 samples"):
    studies.scaling(pairs, params, key, budgets=(8,), **options)


@pytest.mark.parametrize("options", [dict(resamples=1), dict(turns=(4,))])
def test_too_little_to_compare_is_refused(toy, options):
  model, _, task = toy
  options = dict(turns=TURNS, jit=jax.jit) | options
  with pytest.raises(ValueError, match="two or more"):
    run.make_player(model, task, **options)
