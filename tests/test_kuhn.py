"""Kuhn poker against hands in Python, its value against a linear program."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attempt_texts import close, draw, texts
from scipy.optimize import linprog

from sitrain.evaluate import dialogues
from sitrain.rollout import contexts
from sitrain.runtime import progress
from sitrain.tasks import kuhn, kuhn_values
from sitrain.types import GIVEN, PAD, ROOT, Episodes, Problems

TASK = kuhn.make()
ENDS = {
  "pp": lambda sign: sign, "bp": lambda sign: 1, "bb": lambda sign: 2 * sign,
  "pbp": lambda sign: -1, "pbb": lambda sign: 2 * sign,
}


def slow(moves, cards):
  """Chips of the first seat at the end of a hand, None before it."""
  for k, move in enumerate(moves):
    if moves[:k] in ENDS:
      break
    if move not in "pb":
      return -1.5 if k % 2 == 0 else 1.5
  ends = [end for end in ENDS if moves.startswith(end)]
  sign = 1 if "JQK".index(cards[0]) > "JQK".index(cards[1]) else -1
  return ENDS[ends[0]](sign) if ends else None


def expected(first, second, moves="", cards=None):
  """The exact value of a pair of strategies: {(history, card): P(bet)}."""
  if cards is None:
    deals = itertools.permutations("JQK", 2)
    return sum(expected(first, second, "", deal) for deal in deals) / 6
  if (end := slow(moves, cards)) is not None:
    return end
  seat = len(moves) % 2
  bet = Fraction((first, second)[seat][moves, cards[seat]])
  return sum(
    share * expected(first, second, moves + move, cards)
    for share, move in ((1 - bet, "p"), (bet, "b")) if share
  )


def named(table):
  """A table as a dict by history and card."""
  return {
    (h, card): Fraction(float(p)).limit_denominator(10**4)
    for h, row in zip(kuhn_values.HISTORIES, table)
    for card, p in zip("JQK", row)
  }


@pytest.fixture(scope="module")
def matrix():
  """Payoffs of all pure strategies, hand by hand."""
  seats = [
    [named(table) for table in kuhn_values.pure_strategies(s)]
    for s in range(2)
  ]
  assert all(len({tuple(p.items()) for p in seat}) == 64 for seat in seats)
  return np.array([
    [float(expected(first, second)) for second in seats[1]]
    for first in seats[0]
  ])


def test_the_value_of_the_game_is_that_of_the_linear_program(matrix):
  size = len(matrix)
  solved = linprog(
    [0] * size + [-1], A_ub=np.hstack([-matrix.T, np.ones((size, 1))]),
    b_ub=np.zeros(size), A_eq=[[1] * size + [0]], b_eq=[1],
    bounds=[(0, 1)] * size + [(None, None)],
  )
  np.testing.assert_allclose(solved.x[-1], -1 / 18, atol=1e-9)
  value = jax.jit(jax.vmap(
    jax.vmap(kuhn_values.value, (None, 0)), (0, None)
  ))
  first, second = map(kuhn_values.pure_strategies, range(2))
  np.testing.assert_allclose(value(first, second), matrix, atol=1e-6)


def test_equilibria_cannot_be_exploited_and_others_can(matrix):
  worth = jax.jit(lambda x: (
    kuhn_values.value(x, x), kuhn_values.exploitability(x)
  ))
  for alpha in (Fraction(0), Fraction(1, 5), Fraction(1, 3)):
    table = kuhn_values.equilibrium(float(alpha))
    exact = named(table)
    assert expected(exact, exact) == Fraction(-1, 18)
    value, loss = worth(table)
    np.testing.assert_allclose([value, loss], [-1 / 18, 0], atol=1e-6)
  with pytest.raises(ValueError, match="alpha=0.4 .*0 to 1/3"):
    kuhn_values.equilibrium(0.4)
  half = np.full((4, 3), 0.5, np.float32)
  mean = np.full(64, 1 / 64)  # of all pure strategies: bets half of the time
  loss = ((matrix @ mean).max() - (mean @ matrix).min()) / 2
  np.testing.assert_allclose(worth(half)[1], loss, atol=1e-6)
  assert loss > 0.4


def rows_of(hands):
  """A row for each (seat, card, moves), a turn for each own move."""
  tokens, turn = np.full((2, len(hands), 6), PAD, np.int32)
  for b, (seat, card, moves) in enumerate(hands):
    text = card + ":" + moves
    tokens[b, : len(text)] = [kuhn.ALPHABET.index(c) for c in text]
    marks = [k // 2 + 1 if k % 2 == seat else GIVEN for k in range(len(moves))]
    turn[b, : len(text)] = [GIVEN, GIVEN, *marks]
  zeros, count = np.zeros_like(tokens), np.arange(len(hands), dtype=np.int32)
  return Episodes(
    tokens, turn, zeros * 0.0, zeros, count, np.full_like(count, ROOT)
  )


def test_rewards_and_replies_are_those_of_a_slow_game():
  """All hands of both seats, with other seats that always pass or bet."""
  hands, answers, want, ended, replies = [], [], [], [], []
  for seat, cards, bets in itertools.product(
    range(2), itertools.permutations("JQK", 2), range(2)
  ):
    other = "pb"[bets]
    for own in itertools.product("pbJ:", repeat=2):
      moves, written = "", ""
      mine = iter(own)
      first = cards if seat == 0 else cards[::-1]
      while slow(moves, first) is None:
        moves += next(mine) if len(moves) % 2 == seat else other
        if len(moves) % 2 != seat or slow(moves, first) is None:
          written = moves
        if len(moves) % 2 != seat:  # the policy's turn has just ended
          score = slow(written, first)
          then = slow(written + other, first) if score is None else score
          hands.append((seat, cards[0], written))
          answers.append([
            seat, *map("JQK".index, cards), 5, 5,
            *[bets * kuhn.SCALE] * 12,
          ])
          ended.append(then is not None)
          want.append((then or 0) * (1 - 2 * seat))
          replies.append(kuhn.ALPHABET.index(other) if score is None else PAD)
  answers, rows = jnp.array(answers), rows_of(hands)
  verdict = jax.jit(TASK.verify, static_argnums=2)(answers, rows, 2)
  np.testing.assert_array_equal(verdict.reward, np.array([want, want]).T)
  assert set(want) >= {-2, -1.5, -1, 0, 1, 2}
  said = jax.jit(TASK.reply)(answers, rows, jnp.ones(len(hands), jnp.int32))
  np.testing.assert_array_equal(said.done, ended)
  np.testing.assert_array_equal(said.tokens[:, 0], replies)
  finals = np.asarray(jax.jit(TASK.final, static_argnums=1)(rows, 2))
  own = [moves[seat::2] for seat, _, moves in hands]
  assert finals.tolist() == [
    [kuhn.ALPHABET.index(m) if m in "pb" else -1 for m in moves]
    + [-1] * (2 - len(moves)) for moves in own
  ]


@jax.jit
def given(problems):
  """Which turn wrote each token of given hands, and what they win."""
  rows = contexts.given(
    problems, reply=TASK.reply, turns=(1, 1), eos=TASK.eos
  )
  return rows.turn, TASK.verify(problems.answer, rows, 2).reward[:, 0]


@pytest.mark.parametrize("opponent", kuhn.OPPONENTS)
def test_hands_of_the_corpus_are_worth_what_their_strategies_are(opponent):
  task = kuhn.make(opponent=opponent, expert=1.0)
  problems = draw(task, 8192)
  turn, reward = map(np.asarray, given(problems))
  length = np.sum(np.asarray(problems.solution) != PAD, axis=1)
  np.testing.assert_array_equal(np.sum(turn > 0, axis=1), length)
  seat = np.asarray(task.level(problems))
  assert close(seat, 0.5) and {1, 2} == set(length[seat == 0])
  other = kuhn_values.equilibrium() if opponent == "equilibrium" else (
    np.full((4, 3), 0.5)
  )
  own, other = named(kuhn_values.equilibrium()), named(other)
  for k, exact in enumerate((expected(own, other), -expected(other, own))):
    found = reward[seat == k]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - float(exact)) < 4.5 * error
    assert error < 0.03
  # The second move of the other seat is a draw of its own.
  called = [
    won == 2 for won, prompt in zip(reward, texts(task, problems.prompt))
    if prompt == "K:p"
  ]
  assert close(called, 0.4 if opponent == "equilibrium" else 0.5)


def test_another_table_changes_the_opponent_and_nothing_else():
  problems = draw(TASK, 512)
  table = np.zeros((4, 3), np.float32)
  table[0] = 0, 1, 0
  changed = jax.jit(kuhn.against)(problems, table)
  assert isinstance(changed, Problems)
  np.testing.assert_array_equal(
    changed.answer[:, :-12], problems.answer[:, :-12]
  )
  pairs = np.asarray(problems.answer[:, :3]).tolist()
  for (seat, card, other), text in zip(pairs, texts(TASK, changed.prompt)):
    opening = "" if seat == 0 else "b" if other == 1 else "p"
    assert text == "JQK"[card] + ":" + opening
  assert {tuple(pair[1:]) for pair in pairs} == {
    deal for deal in itertools.permutations(range(3), 2)
  }
  known = texts(TASK, kuhn.information_sets())
  assert len(set(known)) == 12 and known[5] == "K:p"
  assert set(texts(TASK, problems.prompt)) == set(known[:9])


def test_a_hand_of_one_turn_is_shown_at_the_end_of_a_run():
  rows = rows_of([(1, "K", "pb"), (0, "Q", "pbp")])
  shown = [
    progress.dialogue_text(
      dialogues.dialogue(TASK, tokens, turn) | {"right_1": 1, "right_2": 0}
    ).split("\n")
    for tokens, turn in zip(rows.tokens, rows.turn)
  ]
  assert shown[0] == ["problem      K:p", "attempt 1    b  (right)", ""]
  assert shown[1] == [
    "problem      Q:", "attempt 1    p  (right)", "instruction  b",
    "attempt 2    p  (wrong)", "",
  ]


@pytest.mark.parametrize("options,message", [
  ({"opponent": "self"}, "opponent='self': choose one of random.*against"),
  ({"expert": 1.5}, "expert=1.5 .*0 to 1"),
])
def test_impossible_options_name_the_fix(options, message):
  with pytest.raises(ValueError, match=message):
    kuhn.make(**options)
