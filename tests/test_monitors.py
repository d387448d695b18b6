"""Monitors against enumeration and against numbers worked out by hand."""

import io
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from sitrain.evaluate import (
  behaviours,
  calibration,
  diversity,
  exploration,
  monitors,
  samples,
  tables,
)
from sitrain.evaluate.player import Judged
from sitrain.evaluate.votes import pass_at
from sitrain.judge import copies
from sitrain.types import PAD, Episodes, Verdict

RNG = np.random.default_rng(0)


def marks(problems=24, n=7):
  """Samples of problems: ragged by unknown ones, some all right or wrong."""
  right = (RNG.random((problems, n)) < 0.5).astype(float)
  right[0], right[1] = 0.0, 1.0
  known = (RNG.random((problems, n)) < 0.8).astype(float)
  known[0], known[2], known[3] = 1.0, 0.0, 1.0  # of 2 nothing is known
  response = RNG.integers(0, 4, (problems, n))
  response[4] = 1  # all are copies
  return right, known, response


def subsets(known, k):
  return list(itertools.combinations(np.flatnonzero(known), k))


@pytest.mark.parametrize("k,least", [(1, 1), (3, 1), (3, 2), (4, 3), (7, 2)])
def test_pass_at_least_equals_all_subsets(k, least):
  right, known, response = marks()
  found = exploration.pass_at_least(right, known, response, k, least)
  for i, value in enumerate(found):
    every = subsets(known[i], k)
    hits = [
      len({response[i, j] for j in one if right[i, j]}) >= least
      for one in every
    ]
    want = np.mean(hits) if every else np.nan
    np.testing.assert_allclose(value, want, err_msg=str(i))
  assert np.isnan(found[2]) and found[0] == 0
  everyone = np.ones_like(known)
  other = np.arange(right.size).reshape(right.shape)
  np.testing.assert_allclose(
    exploration.pass_at_least(right, everyone, other, k, 1), pass_at(right, k)
  )


@pytest.mark.parametrize("k,top", [(1, 1), (3, 1), (3, 2), (4, 4), (5, 2)])
def test_reward_at_equals_all_subsets_and_orders(k, top):
  """Equal scores stand in every order, each equally likely."""
  right, known, _ = marks(problems=12, n=6)
  score = RNG.integers(0, 3, right.shape).astype(float)
  score[3] = 1.0
  score[known == 0] = np.nan
  found = exploration.reward_at(score, right, known, k, top)
  for i, value in enumerate(found):
    hits = [
      right[i, list(order[:top])].all()
      for one in subsets(known[i], k)
      for order in itertools.permutations(one)
      if all(score[i, a] >= score[i, b] for a, b in itertools.pairwise(order))
    ]
    # Each subset has as many orders as its ties allow: weigh them.
    weight = [
      1 / math.prod(
        math.factorial(sum(score[i, j] == s for j in one)) for s in range(3)
      )
      for one in subsets(known[i], k)
      for order in itertools.permutations(one)
      if all(score[i, a] >= score[i, b] for a, b in itertools.pairwise(order))
    ]
    want = np.average(hits, weights=weight) if hits else np.nan
    np.testing.assert_allclose(value, want, err_msg=str(i))
  assert np.isnan(found[2])


def test_the_balance_score_by_hand():
  right = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0.0],
                    [1, 0, 1, 1]])
  known = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0],
                    [1, 0, 1, 1.0]])
  response = np.array([[0, 1, 1, 2], [3, 4, 5, 6], [0, 1, 2, 3], [0, 1, 2, 3],
                       [7, 7, 8, 8]])
  every = np.ones_like(right)
  found = exploration.balance(right, known, response, every, wanted=4)
  # Two of four wanted in four rows; four of four; none; unknown; two in three.
  want = [2 / 4 * 2 / 4, 1.0, 0.0, np.nan, 2 / 4 * 2 / 3]
  np.testing.assert_allclose(found, want)
  # A filter that keeps right rows, and one that keeps nothing.
  kept = exploration.balance(right, known, response, right, wanted=2)
  np.testing.assert_allclose(kept, [2 / 3, 1.0, 0.0, np.nan, 2 / 3])
  none = exploration.balance(right, known, response, 0 * right, wanted=2)
  np.testing.assert_allclose(none, [0, 0, 0, np.nan, 0])


def test_copies_and_balance_of_a_step_by_hand():
  """Two problems of three samples and two turns, on both kinds of arrays."""
  rows = [
    # first, second, reward of both; one verdict is not known, one turn missing.
    ([1, 2], [1, 2], 0, 0), ([1, 2], [2, 1], 0, 1), ([5], [5, 5], 1, 1),
    ([3], [3], 1, 1), ([0, 0], [0], 0, 1), ([4, 4], [], 0, 0),
  ]
  tokens, turn = np.full((6, 7), 9, np.int32), np.full((6, 7), PAD, np.int32)
  for b, (first, second, *_) in enumerate(rows):
    text = [8] * (b % 2 + 1) + first + [8] + second
    marks = [0] * (b % 2 + 1) + [1] * len(first) + [0] + [2] * len(second)
    tokens[b, : len(text)], turn[b, : len(text)] = text, marks
  reward = np.array([[r[2], r[3]] for r in rows], np.float32)
  known = np.ones_like(reward)
  known[5, 1], reward[5, 1], known[1, 0] = 0, np.nan, 0
  own = np.array([[1, 1]] * 5 + [[1, 0]], bool)
  # Wrong at first, and known: rows 0 and 4 (5 wrote no second turn). In turn 1
  # one of two known samples is right, and one of three; in turn 2 two of three
  # (both different), and two of two.
  want = {
    "judge/copied_2": (1, 2),
    "judge/balance_1": (1 / 3 / 2 + 1 / 3 / 3, 2),
    "judge/balance_2": (2 / 3 * 2 / 3 + 2 / 3 * 2 / 2, 2),
  }
  for put in (np.asarray, jnp.asarray):
    zero = put(np.zeros_like(turn))
    episodes = Episodes(put(tokens), put(turn), zero, zero, zero, zero)
    verdict = Verdict(put(reward), put(known))
    found = copies.copy_metrics(episodes, verdict, put(own), 3)
    assert found.keys() == want.keys()
    for name, (total, count) in want.items():
      assert float(found[name].total) == pytest.approx(total), name
      assert float(found[name].count) == count, name
    alone = copies.copy_metrics(episodes, verdict, put(own), 1)
    assert list(alone) == ["judge/copied_2"]
    text = np.asarray(copies.hashes(episodes, 2))
    ids = [tuple(part) for row in rows for part in row[:2]]
    pairs = set(zip(ids, text.reshape(-1).tolist()))
    assert len(pairs) == len(set(ids)) == len({x for _, x in pairs})
  assert isinstance(alone["judge/copied_2"].total, np.float32 | jax.Array)


def test_many_texts_have_a_hash_each():
  """All of up to three of 24 tokens, and long ones that differ in one token."""
  short = [
    list(one) for n in (1, 2, 3)
    for one in itertools.product(range(24), repeat=n)
  ]
  long = RNG.integers(0, 50000, 200).tolist()
  other = [long[:i] + [long[i] + 1] + long[i + 1 :] for i in range(200)]
  swap = [long[:i] + long[i : i + 2][::-1] + long[i + 2 :] for i in range(199)]
  texts = [*short, long, *other, *swap]
  tokens = np.full((len(texts), 200), PAD, np.int32)
  for row, text in zip(tokens, texts):
    row[: len(text)] = text
  turn = np.where(tokens == PAD, PAD, 1).astype(np.int32)
  zero = np.zeros_like(turn)
  found = copies.hashes(Episodes(tokens, turn, zero, zero, zero, zero), 1)
  assert len(np.unique(found)) == len({tuple(text) for text in texts})


@pytest.mark.parametrize("call", [
  lambda r: exploration.pass_at_least(r, r, r.astype(int), 4, 1),
  lambda r: exploration.pass_at_least(r, r, r.astype(int), 2, 3),
  lambda r: exploration.reward_at(r, r, r, 2, 0),
  lambda r: exploration.balance(r, r, r.astype(int), r, wanted=0),
])
def test_impossible_numbers_are_refused(call):
  with pytest.raises(ValueError, match="need 1 <=|give 1 or more"):
    call(np.ones((2, 3)))


def test_calibration_by_hand():
  p = np.array([[0.9, 0.8, 0.3], [0.1, 0.6, 0.2]])
  right = np.array([[1, 0, 1], [0, 1, 1.0]])
  known = np.array([[1, 1, 1], [1, 1, 0.0]])
  found = calibration.summarize(p, right, known, bins=2)
  # 0.1 0.3 0.6 | 0.8 0.9, with 0 1 1 | 0 1 right.
  gaps = [abs(1 / 3 - 2 / 3), abs(0.85 - 0.5)]
  assert found["rows"] == 5 and found["reliability"]["count"] == [3, 2]
  assert found["ece"] == pytest.approx((3 * gaps[0] + 2 * gaps[1]) / 5)
  assert found["rms"] == pytest.approx(
    math.sqrt((3 * gaps[0] ** 2 + 2 * gaps[1] ** 2) / 5)
  )
  errors = [0.1**2, 0.8**2, 0.7**2, 0.1**2, 0.4**2]
  assert found["brier"] == pytest.approx(sum(errors) / 5)
  # Right 0.9 0.3 0.6 against wrong 0.8 0.1: 2 + 1 + 1 of 6 pairs.
  assert found["auroc"] == pytest.approx(4 / 6)
  assert found["sure"] == pytest.approx(2 / 3)
  width = calibration.by_width(*calibration.rows_of(p, right, known), bins=2)
  np.testing.assert_allclose(width.count, [2, 3])
  np.testing.assert_allclose(width.accuracy, [1 / 2, 2 / 3])
  np.testing.assert_allclose(width.confidence, [0.2, (0.9 + 0.8 + 0.6) / 3])


def test_calibration_of_equal_confidences_does_not_depend_on_their_order():
  p = np.full(40, 0.7)
  right = (np.arange(40) < 28).astype(float)
  for order in (np.arange(40), RNG.permutation(40)):
    found = calibration.summarize(p, right[order], np.ones(40))
    assert found["ece"] == pytest.approx(0, abs=1e-12)
    assert found["auroc"] == 0.5
  sure = np.array([0.0, 1.0, 1.0])
  assert calibration.summarize(sure, sure, sure * 0 + 1)["brier"] == 0
  assert calibration.by_width(sure, sure).count.tolist() == [1, 2]


def test_what_nothing_defines_is_nan_and_not_0():
  none = calibration.summarize(np.ones(3), np.ones(3), np.zeros(3))
  for name in ("accuracy", "ece", "rms", "brier", "auroc", "sure"):
    assert math.isnan(none[name]), name
  assert none["rows"] == 0 and none["reliability"]["count"] == []
  low = calibration.summarize(np.full(2, 0.4), np.ones(2), np.ones(2))
  assert math.isnan(low["auroc"]) and math.isnan(low["sure"])
  assert low["brier"] == pytest.approx(0.36)
  for bad in (1.1, -0.1, np.nan):
    with pytest.raises(ValueError, match="from 0 to 1"):
      calibration.summarize(np.array([bad, 0.5]), np.ones(2), np.ones(2))
    # What is not known may be anything.
    calibration.summarize(np.array([bad, 0.5]), np.ones(2), np.eye(2)[1])
  assert math.isnan(diversity.likeness(["a"]))
  assert math.isnan(diversity.repeated_mistakes(["a"], ["a"], [False]))
  assert math.isnan(behaviours.means([])["verification"])


def test_likeness_and_repeats_by_hand():
  # "abcd" and "abxd": 6 of 8 letters stay, so 1 - 2/8.
  assert diversity.likeness(["abcd", "abxd"]) == pytest.approx(0.75)
  assert diversity.likeness([[1, 2], [1, 2], [3, 4]]) == pytest.approx(1 / 3)
  assert diversity.likeness(["same"] * 40) == 1  # 780 pairs, 195 are compared
  before = ["0123456789" * 2, "0123456789" * 2, "wrong", "right", ""]
  after = ["0123456789" * 2 + "!", "9876543210" * 2, "wrong", "right", ""]
  wrong = [True, True, True, False, True]
  found = diversity.repeated_mistakes(before, after, wrong)
  assert found == pytest.approx(2 / 3)  # the last has no second attempt
  assert diversity.repeats("abcd", "abcx") is False  # 2 of 8
  assert diversity.repeats("abcd", "abcx", near=0.25)


BEHAVING = {
  "Let me check: 3*5=15. This is not correct, not equal to 16.": (3, 0, 0, 0),
  "Wait, that doesn't work. Let's try again.": (0, 3, 0, 0),
  "Step 1: first we need to find 6*4. Next, add.": (0, 0, 3, 0),
  "Working backwards, to get 24, we need 6*4.": (0, 0, 0, 2),
  "The waiter checks step by step in the first place.": (0, 0, 0, 0),
  "3+5=08<bad@2>-4=04<bad@1>3*5=15<end>": (2, 2, 0, 0),
  "12;<bad@1>": (1, 0, 0, 0),
  "<goal> 15 5+ 3= 8<no><back><from> 15+ 4 5* 3= 15<yes>": (2, 1, 1, 1),
  "": (0, 0, 0, 0),
}


def test_monitors_of_a_test_set_by_hand():
  """Three problems of four samples; a verdict lacks, and one has no answer."""
  texts = [["a1", "a1", "a2", "b1"], ["c", "c", "c", "c"], ["d", "", "e", "f"]]
  right = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0.0]])
  known = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1.0]])
  final = np.array([[0, 0, 0, 1], [2, 2, 2, 2], [3, -1, 4, 5]])
  cells = [
    {"texts": t, "right": r.tolist(), "known": k.tolist()}
    for t, r, k in zip(texts, right, known)
  ]
  table = Judged(right, known, final, 0 * right, right)
  found = monitors.summarize(cells, table)
  assert found["balance"] == pytest.approx(
    np.mean([2 / 4 * 2 / 4, 0, 1 / 4 * 1 / 3])
  )
  # The third problem has fewer than four known samples.
  assert found["pass@4-2"] == pytest.approx(1 / 2)
  assert "pass@4-4" not in found and "copied" not in found
  # By votes 3, 3, 3, 1 the first two are right; of the second all are wrong.
  assert found["reward@4-2"] == pytest.approx(1 / 2)
  # Three that agree and are right are followed by one of two others: its right
  # one by half of the orders. Samples without an answer come last.
  good = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1.0]])
  ids = np.array([[4, 5, 5, 5, 6], [-1, -1, 1, 1, 2]])
  ranked = monitors.summarize(
    [{"texts": list("abcde")}] * 2,
    Judged(good, np.ones((2, 5)), ids, 0 * good, good),
  )
  assert ranked["reward@5-4"] == pytest.approx(1 / 4)
  assert ranked["reward@5-2"] == 1.0
  told = found["calibration"]
  # Votes: right with 3/4, wrong with 1; the third is not known.
  assert told["rows"] == 2 and told["auroc"] == 0.0
  assert told["brier"] == pytest.approx((0.25**2 + 1) / 2)
  written = [[x for x in row if x] for row in texts]
  want = np.mean([diversity.likeness(row) for row in written])
  assert found["likeness"] == pytest.approx(want)
  assert set(found["behaviours"]) == set(behaviours.PATTERNS)
  after = [
    dict(cell, texts=[*map(str.upper, t[:1]), *t[1:]])
    for cell, t in zip(cells, texts)
  ]
  # Wrong: b1, c four times, f, and "", after which there is nothing. Of these
  # only the first c is changed.
  later = monitors.summarize(after, table, cells)
  assert later["copied"] == pytest.approx(5 / 6)
  alone = [dict(cell, texts=cell["texts"][:1]) for cell in cells]
  one = Judged(*(x[:, :1] for x in table))
  assert set(monitors.summarize(alone, one)) == {"behaviours"}
  row = samples.summarize(
    RNG, [{"level": "x", "finals": list(map(str, f)), "truncated": [0] * 4,
           "attempts_2": b | {"finals": ["x"] * 4, "truncated": [0] * 4}, **a}
          for a, b, f in zip(cells, after, final)],
    verifiers=["exact"], turns=(1, 2), ks=(1, 2), draws=5,
  )
  assert row["monitors"][1]["copied"] == pytest.approx(5 / 6)
  row |= {"task": "toy", "temperature": 1.0, "samples": 4}
  shown = io.StringIO()
  for table in tables.samples_tables(row):
    Console(file=shown, width=120).print(table)
  assert "pass@4-2" in shown.getvalue() and "votes: ece" in shown.getvalue()


def test_behaviours_by_hand():
  for text, want in BEHAVING.items():
    found = behaviours.count(text)
    assert tuple(found.values()) == want, (text, found)
    assert behaviours.count(text.upper()) == found or "<" in text
  means = behaviours.means(list(BEHAVING)[:2])
  assert means["verification"] == 1.5 and means["subgoals"] == 0
