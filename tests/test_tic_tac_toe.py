"""Tic-tac-toe against a game in Python, move by move."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.evaluate import player
from sitrain.rollout import contexts
from sitrain.rollout.play import play
from sitrain.tasks import tic_tac_toe
from sitrain.types import GIVEN, PAD, ROOT, Episodes

LINES = ["012", "345", "678", "036", "147", "258", "048", "246"]
BOTH, ONE = tic_tac_toe.make(), tic_tac_toe.make(opponent="random")


def slow(moves):
  """(whether it is over, the score of each seat) of a game."""
  board = {}
  for k, square in enumerate(moves):
    seat = k % 2
    if square in board or not 0 <= square <= 8:
      return True, (-1.5, 0.5) if seat == 0 else (0.5, -1.5)
    board[square] = seat
    if any(all(board.get(int(s)) == seat for s in x) for x in LINES):
      return True, (1.0, -1.0) if seat == 0 else (-1.0, 1.0)
  return len(board) == 9, (0.0, 0.0)


def rows_of(games, mark=lambda k: k + 1, shift=0):
  """A row for each list of moves, `shift` columns of padding before it."""
  tokens, turn = np.full((2, len(games), 12 + shift), PAD, np.int32)
  for b, moves in enumerate(games):
    text = slice(shift, shift + 1 + len(moves))
    tokens[b, text] = [tic_tac_toe.BEGIN, *moves]
    turn[b, text] = [GIVEN, *map(mark, range(len(moves)))]
  zeros = np.zeros_like(tokens)
  return Episodes(
    tokens, turn, zeros * 0.0, zeros, np.arange(len(games), dtype=np.int32),
    np.full(len(games), ROOT, np.int32),
  )


@pytest.fixture(scope="module")
def games():
  """Random games, most of them legal, cut where they are over."""
  rng = np.random.default_rng(0)
  found = [[0, 3, 1, 4, 2], [4, 4], [9], [0, 1, 2, 4, 3, 5, 7, 6, 8]]
  for _ in range(200):
    moves = []
    while not slow(moves)[0] and rng.random() < 0.97:
      free = [s for s in range(9) if s not in moves]
      legal = rng.random() < 0.93
      moves.append(int(rng.choice(free) if legal else rng.integers(10)))
    found.append(moves or [4])
  return found


@pytest.mark.parametrize("shift", [0, 3])
def test_rewards_and_ends_are_those_of_a_slow_game(games, shift):
  rows, answer = rows_of(games, shift=shift), jnp.zeros((len(games), 10), int)
  verdict = jax.jit(BOTH.verify, static_argnums=2)(answer, rows, 9)
  done = jax.jit(BOTH.reply)(answer, rows, jnp.ones(len(games), int)).done
  finals = jax.jit(BOTH.final, static_argnums=1)(rows, 9)
  for b, moves in enumerate(games):
    over, score = slow(moves)
    assert bool(done[b]) == over
    want = [score[k % 2] for k in range(9)]
    np.testing.assert_array_equal(verdict.reward[b], want)
    broken = over and -1.5 in score
    squares = moves[:-1] + [-1] if broken else moves
    assert finals[b].tolist() == squares + [-1] * (9 - len(squares))
  scores = {slow(moves)[1] for moves in games if slow(moves)[0]}
  assert len(scores) == 5, "not every end of a game came up"


def test_solutions_are_complete_legal_games():
  problems = jax.jit(BOTH.problems, static_argnums=1)(jax.random.key(0), 400)
  wins = {1.0: 0, -1.0: 0, 0.0: 0}
  for row in np.asarray(problems.solution):
    moves = row[row != PAD].tolist()
    over, score = slow(moves)
    assert over and not slow(moves[:-1])[0] and -1.5 not in score
    wins[score[0]] += 1
  # Of random games the first seat wins 58.5 %, the second 28.8 %.
  assert 0.50 < wins[1.0] / 400 < 0.67 and 0.21 < wins[-1.0] / 400 < 0.37
  rows = contexts.given(
    problems, reply=BOTH.reply, turns=(1,) * 9, eos=BOTH.eos
  )
  length = np.sum(np.asarray(problems.solution) != PAD, axis=1)
  np.testing.assert_array_equal(np.sum(rows.turn > 0, axis=1), length)


@pytest.fixture(scope="module")
def small():
  from sitrain.models import decoder

  model = decoder.Decoder(
    vocabulary=BOTH.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
    head_size=8, mlp_size=8,
  )
  return model, fakes.parameters(model, 5)


def played(small, task, turns, count=200):
  model, params = small

  def run(key):
    problems = task.problems(key, count)
    rows = play(
      jax.random.split(key, count), model, params, problems, samples=1,
      reply=task.reply, turns=turns, eos=task.eos, temperature=1.0,
    )
    return problems, rows, task.verify(problems.answer, rows, len(turns))

  return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(2)))


def test_self_play_stops_where_a_game_is_over(small):
  _, rows, verdict = played(small, BOTH, (1,) * 9)
  for b in range(len(rows.tokens)):
    moves = rows.tokens[b][rows.turn[b] > 0].tolist()
    over, score = slow(moves)
    assert over and not any(slow(moves[:k])[0] for k in range(len(moves)))
    assert verdict.reward[b].tolist() == [score[k % 2] for k in range(9)]


def test_the_other_seat_makes_random_legal_moves(small):
  problems, rows, verdict = played(small, ONE, (1,) * 5, 400)
  seats, replied, won, unseen = problems.answer[:, 0], [], 0, 0
  assert 150 < seats.sum() < 250
  for b, seat in enumerate(seats):
    text = rows.tokens[b][rows.turn[b] != PAD].tolist()
    marks = rows.turn[b][rows.turn[b] != PAD].tolist()
    moves = text[1:]
    whose = [m > 0 for m in marks[1:]]
    assert whose == [k % 2 == seat for k in range(len(moves))]
    over, score = slow(moves)
    # A move of the other that ends the game does not stand in the row.
    unseen += not over
    assert over or whose[-1]
    won += score[seat] == 1.0
    assert set(verdict.reward[b]) == {float(over and score[seat] == 1.0)}
    replied += [m for m, mine in zip(moves, whose) if not mine]
    given = [k for k, mine in enumerate(whose) if not mine]
    assert all(moves[k] not in moves[:k] for k in given)
  assert won and unseen
  assert min(np.bincount(replied, minlength=9)) > len(replied) / 20


def test_an_ended_episode_keeps_its_result(small):
  """In evaluations, so that a game of fewer turns counts as well."""
  problems, rows, verdict = played(small, ONE, (1,) * 5)
  judge = player.make_judge(ONE, 5)
  judged = jax.tree.map(np.asarray, jax.jit(judge)(problems, rows))
  assert np.all(judged.known == 1)
  np.testing.assert_array_equal(judged.right, verdict.reward)
  short = ~np.any(rows.turn == 2, axis=1)
  assert short.any()
  np.testing.assert_array_equal(
    judged.final[short], judged.final[short][:, :1].repeat(5, 1)
  )
  # If the last turn alone is paid, the rewards of a row add up to 1 for a win.
  last = tic_tac_toe.make(opponent="random", paid="last")
  paid = jax.jit(last.verify, static_argnums=2)(problems.answer, rows, 5)
  paid = np.asarray(paid.reward)
  np.testing.assert_array_equal(paid.sum(axis=1), verdict.reward[:, 0])
  won = verdict.reward[:, 0] > 0
  np.testing.assert_array_equal(
    paid[won].argmax(axis=1) + 1, rows.turn[won].max(axis=1)
  )


def test_another_opponent_is_refused():
  with pytest.raises(ValueError, match="paid='last': choose 'all', or"):
    tic_tac_toe.make(paid="last")
  with pytest.raises(ValueError, match="opponent='best': choose one of self"):
    tic_tac_toe.make(opponent="best")
