"""Credit for turns of one state and for segments, against loops in Python."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import advantage, anchors, segments
from sitrain.types import GIVEN, PAD, ROOT, Episodes

PROBLEMS, SAMPLES, TURNS = 3, 8, 3
ROWS = PROBLEMS * SAMPLES


def array(x):
  return jnp.asarray(x, jnp.float32)


def episodes_of(tokens, turn, problem):
  integers = lambda x: jnp.asarray(x, jnp.int32)
  zeros = np.zeros(np.shape(tokens))
  return Episodes(
    integers(tokens), integers(turn), array(zeros), integers(zeros),
    integers(problem), jnp.full(len(tokens), ROOT),
  )


@pytest.fixture(scope="module")
def rows():
  """Ragged rows of few tokens, with pads inside; some end before turn 3.

  A problem's prompt is its own, but for two problems with one prompt.
  """
  rng = np.random.default_rng(0)
  tokens, turn = np.full((2, ROWS, 24), PAD)
  problem = np.repeat(np.arange(PROBLEMS), SAMPLES)
  for b in range(ROWS):
    text = [(7, GIVEN), (problem[b] // 2, GIVEN)]
    for k in range(1, rng.integers(1, TURNS + 1) + 1):
      if k > 1:
        text += [(t, GIVEN) for t in rng.integers(0, 2, rng.integers(1, 3))]
      text += [(t, k) for t in rng.integers(0, 2, rng.integers(1, 3))]
    columns = np.sort(rng.choice(24, len(text), replace=False))
    tokens[b, columns], turn[b, columns] = np.array(text).T
  return episodes_of(tokens, turn, rng.permutation(problem))


def slow_states(rows, state):
  """{(row, turn from 0): what is compared} of the turns that were written."""
  found = {}
  for b in range(len(rows.tokens)):
    row = [
      (int(t), int(k)) for t, k in zip(rows.tokens[b], rows.turn[b])
      if k != PAD
    ]
    for k in range(1, max(k for _, k in row) + 1):
      own = [i for i, (_, turn) in enumerate(row) if turn == k]
      before = [i for i, (_, turn) in enumerate(row) if 0 < turn < k]
      start = before[-1] + 1 if before and state == "reply" else 0
      text = tuple(t for t, _ in row[start : own[0]])
      found[b, k - 1] = int(rows.problem[b]), text
  return found


@pytest.mark.parametrize("state", anchors.STATES)
def test_turns_have_one_id_iff_their_states_are_equal(rows, state):
  find = jax.jit(anchors.anchors, static_argnums=1, static_argnames="state")
  ids = np.asarray(find(rows, TURNS, state=state))
  assert ids.min() >= 0 and ids.max() < ids.size
  want = slow_states(rows, state)
  for one, text in want.items():
    for other, its in want.items():
      assert (ids[one] == ids[other]) == (text == its), (one, other)
  sizes = collections.Counter(want.values()).values()
  assert min(sizes) == 1 and max(sizes) > 3
  numbers = {}
  for (_, k), text in want.items():
    numbers.setdefault(text, set()).add(k)
  # An equal reply may come before different turns, and an equal text may not.
  assert any(len(x) > 1 for x in numbers.values()) == (state == "reply")


def test_a_token_is_no_padding_and_long_texts_are_read_to_their_end():
  """A prefix is no equal of what it begins, nor are texts that end unlike."""
  long = np.arange(40) % 5
  tokens, turn = np.full((2, 4, 44), PAD)
  for b, text in enumerate((long, long[:-1], [*long[:-1], 9], long)):
    tokens[b, : len(text) + 1], turn[b, : len(text)] = [*text, 8], GIVEN
    turn[b, len(text)] = 1
  rows = episodes_of(tokens, turn, [0, 0, 0, 0])
  ids = anchors.anchors(rows, 1, state="text")[:, 0].tolist()
  assert ids[0] == ids[3] and len(set(ids)) == 3


def compare(name, values):
  """An estimate of a group, in NumPy."""
  values = np.array(values)
  gap = values - values.mean()
  if name == "group_mean" or len(values) < 2:
    return gap
  return gap / (values.std(ddof=1) + 1e-6)


def slow_two_levels(reward, known, states, problem, name, discount, weight):
  """GiGPO's advantages of all turns of rows whose rewards are all known."""
  whole = {}
  for b, k in states:
    whole.setdefault(b, []).append(k)
  whole = {
    b: sorted(turns) for b, turns in whole.items()
    if all(known[b, k] for k in turns)
  }
  episode, step, places = {}, {}, {}
  for b, turns in whole.items():
    episode.setdefault(problem[b], []).append((b, reward[b, turns].sum()))
    for k in turns:
      ahead = sum(
        discount ** (j - k) * reward[b, j] for j in turns if j >= k
      )
      step.setdefault(states[b, k], []).append(((b, k), ahead))
  gains = np.zeros(reward.shape)
  for group in episode.values():
    own = compare(name, [x for _, x in group])
    for (b, _), gain in zip(group, own):
      gains[b, whole[b]] += gain
  for group in step.values():
    own = compare(name, [x for _, x in group])
    for (place, _), gain in zip(group, own):
      gains[place] += weight * gain
      places[place] = len(group) > 1
  return gains, places


@pytest.mark.parametrize("state, name, discount", [
  ("text", "group_mean", 0.9), ("text", "group_normalise_sample", 1.0),
  ("reply", "group_mean", 0.5), ("reply", "group_normalise_sample", 0.9),
])
def test_the_two_levels_of_gigpo(rows, state, name, discount):
  """Unknown turns, states of one turn, and a problem of equal rewards."""
  rng = np.random.default_rng(1)
  problem = np.asarray(rows.problem)
  reward = rng.integers(0, 3, (ROWS, TURNS)) * 0.5
  states = slow_states(rows, state)
  written = np.zeros(reward.shape, bool)
  written[tuple(zip(*states))] = True
  known = rng.random(reward.shape) < 0.9
  # A row whose first turn alone is known, and one whose first is not.
  long = np.flatnonzero(written[:, 2] & (problem != 1))
  known[long[:2]] = [[True, False, True], [False, True, True]]
  reward[problem == 1] = 1.0
  reward = np.where(known & written, reward, np.nan)
  counted = np.cumprod(known & written, axis=1) > 0
  anchor = anchors.anchors(rows, TURNS, state=state)
  gain, found = anchors.two_levels(
    array(reward), jnp.asarray(counted), jnp.asarray(written), rows.problem,
    anchor, estimate=advantage.ESTIMATES[name], discount=discount, weight=0.7,
  )
  want, places = slow_two_levels(
    reward, known, states, problem, name, discount, 0.7
  )
  np.testing.assert_allclose(gain, want, rtol=1e-4, atol=1e-5)
  assert {*zip(*np.nonzero(np.asarray(found)))} == {*places}
  assert not np.all(known[written]) and not all(places.values())
  shared = np.asarray(anchors.accompanied(anchor, found))
  assert {*zip(*np.nonzero(shared))} == {x for x in places if places[x]}


def test_equal_rows_have_no_advantage(rows):
  """Whatever their states are, if all turns of a problem pay the same."""
  turns = jnp.max(rows.turn, axis=1) * 0 + 1
  written = jnp.arange(TURNS) < turns[:, None]
  anchor = anchors.anchors(rows, TURNS, state="text")
  gain, _ = anchors.two_levels(
    jnp.ones((ROWS, TURNS)), written, written, rows.problem, anchor,
    estimate=advantage.group_normalise_sample, discount=0.9, weight=1.0,
  )
  np.testing.assert_allclose(gain, 0, atol=1e-6)


# Two turns with `9` as the end of a segment; their numbers, three at the most.
TOKENS = np.array([
  [1, 2, 9, 3, 9, 4, 5, 6, 9, 9, 7, PAD],
  [1, 9, 9, 3, 3, 3, PAD, PAD, PAD, PAD, PAD, PAD],
])
TURN = np.array([
  [0, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2, PAD],
  [0, 0, 1, 1, 1, 1, PAD, PAD, PAD, PAD, PAD, PAD],
])
SEGMENT = np.array([
  [0, 1, 1, 2, 2, 0, 0, 3, 3, 3, 3, 0],
  [0, 0, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0],
])


def test_segments_end_at_their_marks_and_with_their_turn():
  number = lambda most: segments.segment_numbers(
    jnp.asarray(TOKENS), jnp.asarray(TURN), (9,), most
  )
  np.testing.assert_array_equal(number(3), SEGMENT)
  all_of_them = SEGMENT.copy()
  all_of_them[0, 9], all_of_them[0, 10] = 4, 5
  np.testing.assert_array_equal(number(8), all_of_them)


def test_segments_are_counted_anew_in_every_turn():
  value = array(np.arange(12).reshape(2, 2, 3) + 1)
  found = segments.value_of_segment(
    value, jnp.asarray(TOKENS), jnp.asarray(TURN), (9,)
  )
  np.testing.assert_array_equal(found, [
    [0, 1, 1, 2, 2, 0, 0, 4, 4, 5, 6, 0], [0, 0, 7, 8, 8, 8, 0, 0, 0, 0, 0, 0],
  ])
  short = segments.value_of_segment(
    value[:, :, :2], jnp.asarray(TOKENS), jnp.asarray(TURN), (9,)
  )
  assert short[0, 10] == 5 and short[0, 9] == 5


@pytest.fixture(scope="module")
def segmented():
  """(reward, known, segments, groups): ragged, of one row, and equal ones."""
  rng = np.random.default_rng(2)
  group = np.array([0, 1, 0, 0, 2, 1, 0, 1, 3, 3])
  segment = np.zeros((10, 12), int)
  for b in range(10):
    lengths = rng.integers(1, 4, rng.integers(1, 4))
    text = np.repeat(np.arange(len(lengths)) + 1, lengths)
    segment[b, 1 : 1 + len(text)] = text
  reward = rng.integers(0, 3, (10, 3)) * 0.5
  known = rng.random((10, 3)) < 0.8
  reward[group == 3] = 1.0
  return np.where(known, reward, np.nan), known, segment, group


@pytest.mark.parametrize("discount", [0.0, 0.5])
def test_rewards_of_segments_go_to_their_tokens(segmented, discount):
  reward, known, segment, group = segmented
  credit = segments.segment_credit(
    array(reward), array(known), jnp.asarray(segment), jnp.asarray(group),
    estimate=advantage.group_normalise_sample, discount=discount,
  )
  gain, mask = segments.segment_tokens(*credit, jnp.asarray(segment))
  value = {}
  for b in range(10):
    own = range(segment[b].max())
    for s in own:
      later = [j for j in own if j >= s] if discount else [s]
      if all(known[b, j] for j in later):
        value[b, s] = sum(discount ** (j - s) * reward[b, j] for j in later)
  want, trained = np.zeros((2, *segment.shape))
  for (b, s), x in value.items():
    others = [
      v for (c, t), v in value.items() if t == s and group[c] == group[b]
    ]
    at = segment[b] == s + 1
    spread = np.std(others, ddof=1) + 1e-6 if len(others) > 1 else 1.0
    want[b, at], trained[b, at] = (x - np.mean(others)) / spread, 1
  np.testing.assert_array_equal(mask, trained)
  np.testing.assert_allclose(gain, want, rtol=1e-4, atol=1e-5)
  assert np.all(want[(group == 2)] == 0) and np.any(want[group < 2])
  assert not np.all(mask == (segment > 0)), "all segments were known"
  if not discount:
    np.testing.assert_allclose(want[group == 3], 0, atol=1e-6)


def test_a_verdict_of_a_step_opens_the_gate_for_its_sign_alone():
  gain = np.array([[2.0, -2.0, 0.0], [-1.0, 3.0, -0.5]])
  right = np.array([[1, 1, 1], [0, 0, 1]], bool)
  known = np.array([[1, 1, 1], [1, 1, 0]])
  gate = lambda x, known=known: segments.gated(
    array(x), jnp.asarray(right), array(known)
  )
  np.testing.assert_array_equal(gate(gain), [[2, 0, 0], [-1, 0, 0]])
  # A right step of a good row, but nothing is known of the verdict.
  np.testing.assert_array_equal(gate(abs(gain)), [[2, 2, 0], [0, 0, 0]])
  # Of whole rows: a good one, and a bad one.
  of_rows = gate(np.array([[1.5], [-0.5]]), np.ones((2, 3)))
  np.testing.assert_array_equal(of_rows, [[1.5] * 3, [-0.5, -0.5, 0]])
  np.testing.assert_array_equal(gate(0 * gain), 0)
