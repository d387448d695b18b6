"""Tic-tac-toe: two seats, a move a turn, and rewards when a game is over.

Prompt: `=`. A turn is one token, the number of a square: 012 is the first line
of the board, 345 the second, 678 the third. The text of a game is `=` and the
moves of both seats in turn, so both seats read the same text; the place of a
move gives its seat.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import characters
from sitrain.tasks.attempt import attempt
from sitrain.tasks.draw import draw
from sitrain.types import PAD, Episodes, Problems, Reply, Task, Verdict

ALPHABET = "012345678="
SQUARES = 9
BEGIN = ALPHABET.index("=")
SYMBOLS = (
  ("012", "the squares of the first line; 345 the second, 678 the third"),
  ("=", "the start of a game"),
)
LINES = np.array([
  (0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8),
  (2, 4, 6),
])
OPPONENTS = ("self", "random")
PAID = ("all", "last")
LEVELS = ("first", "second")  # the seat of the policy against another
INVALID, AFTER_INVALID = -1.5, 0.5  # for the seat that moved, and the other
CHANCES = 2**20  # values of the numbers that choose the opponent's moves


class Game(NamedTuple):
  """A game of one row after its moves."""

  owner: Int[Array, " 9"]  # of each square: the seat, 0 or 1; PAD: free
  count: Int[Array, ""]  # moves that were made, an invalid one among them
  over: Bool[Array, ""]
  score: Float[Array, " 2"]  # of each seat; 0 before the end, and for a draw
  valid: Bool[Array, " 9"]  # whether move k was made and is legal


def make(*, opponent: str = "self", paid: str = "all") -> Task:
  """Games that the policy plays against itself, or against random moves.

  opponent: "self": turn k is a move of seat (k - 1) % 2, and its reward is the
  final score of that seat: 1 for a win, -1 for a loss, 0 for a draw and for a
  game that ran out of turns. An invalid move ends the game, with -1.5 for its
  seat and 0.5 for the other (Liu et al. 2025, SPIRAL). "random": the problem
  gives the policy's seat, every turn is a move of it, replies are random legal
  moves, and the reward of every turn is 1 for a win, else 0.

  `solution` is a random legal game of both seats, `final` the square of a valid
  move. Answer fields: the seat of the policy, then numbers that choose the
  opponent's moves. Raises ValueError for an unknown opponent, and for self-play
  that pays the last turn alone, as it is of one seat.
  """
  if opponent not in OPPONENTS:
    raise ValueError(
      f"opponent={opponent!r}: choose one of {', '.join(OPPONENTS)}"
    )
  alone = opponent == "self"
  if paid not in PAID[: 1 if alone else 2]:
    raise ValueError(
      f"paid={paid!r}: choose 'all', or against opponent='random' also 'last'"
    )
  return Task(
    problems=lambda key, n: draw(
      key, n, partial(_problem, alone=alone), size=1 + 2 * SQUARES
    ),
    verify=_verify_both if alone else partial(_verify_one, paid=paid),
    reply=_end if alone else _respond,
    final=_final,
    level=lambda problems: problems.answer[:, 0],
    levels=LEVELS[:1] if alone else LEVELS,
    eos=tuple(range(SQUARES)),
    turn_length=1,
    tokenizer=characters.make(ALPHABET),
    table=(),
    on_host=False,
  )


def _problem(chance: Float[Array, " size"], alone: bool) -> Problems:
  """One problem, without the leading axis."""
  seat = jnp.where(alone, 0, chance[0] < 0.5).astype(jnp.int32)
  numbers = (chance[1 : 1 + SQUARES] * CHANCES).astype(jnp.int32)
  order = jnp.argsort(chance[1 + SQUARES :]).astype(jnp.int32)
  begin = jnp.array([PAD, BEGIN], jnp.int32)
  # Where the policy has the second seat, the first move is in the prompt.
  empty = play_out(jnp.full(1, PAD))
  opened = jnp.stack([jnp.int32(BEGIN), _legal(empty, numbers[0])])
  made = play_out(order).valid
  return Problems(
    prompt=jnp.where(seat == 1, opened, begin),
    answer=jnp.concatenate([seat[None], numbers]),
    solution=jnp.where(made, order, PAD),
  )


def play_out(moves: Int[Array, " N"]) -> Game:
  """The game after these moves, PAD where there are no more.

  Moves after the end of a game are ignored.
  """
  game = Game(
    jnp.full(SQUARES, PAD, jnp.int32), jnp.int32(0), jnp.bool_(False),
    jnp.zeros(2), jnp.zeros(SQUARES, bool),
  )
  one = lambda k, game: _move(game, k, moves[k])
  return jax.lax.fori_loop(0, min(SQUARES, moves.shape[0]), one, game)


def _move(
  game: Game, k: Int[Array, ""], square: Int[Array, ""]
) -> Game:
  """The game after move k (from 0)."""
  seat = k % 2
  made = (square != PAD) & ~game.over
  place = jnp.clip(square, 0, SQUARES - 1)
  legal = (square == place) & (game.owner[place] == PAD)
  valid = made & legal
  owner = game.owner.at[place].set(jnp.where(valid, seat, game.owner[place]))
  won = valid & jnp.any(jnp.all(owner[LINES] == seat, axis=1))
  sign = jnp.where(jnp.arange(2) == seat, 1.0, -1.0)
  lost = jnp.where(jnp.arange(2) == seat, INVALID, AFTER_INVALID)
  score = jnp.where(won, sign, jnp.where(made & ~legal, lost, game.score))
  return Game(
    owner, game.count + made,
    game.over | won | (made & ~legal) | (made & (k == SQUARES - 1)), score,
    game.valid.at[k].set(valid),
  )


def _legal(game: Game, number: Int[Array, ""]) -> Int[Array, ""]:
  """The free square that a number chooses."""
  free = game.owner == PAD
  nth = number % jnp.maximum(jnp.sum(free), 1)
  return jnp.argmax(jnp.cumsum(free) == nth + 1).astype(jnp.int32)


def _games(episodes: Episodes) -> Game:
  """The games of all rows, from the tokens after `=` in any column."""
  text_mask = (episodes.turn != PAD).astype(jnp.int32)
  text = attempt(episodes._replace(turn=text_mask), 1, 1 + SQUARES)
  return jax.vmap(play_out)(text[:, 1:])


def _opponents(answer: Int[Array, "B A"], games: Game) -> Int[Array, " B"]:
  """The move of the opponent in games that are not over."""
  number = jnp.take_along_axis(
    answer[:, 1:], jnp.minimum(games.count, SQUARES - 1)[:, None], axis=1
  )[:, 0]
  return jax.vmap(_legal)(games, number)


def _answered(answer: Int[Array, "B A"], episodes: Episodes) -> Game:
  """The games after the opponent's move, where they were not over before.

  A move that ends the game is not written to the row.
  """
  games = _games(episodes)
  own = games.count % 2 == answer[:, 0]
  square = jnp.where(games.over | own, PAD, _opponents(answer, games))
  # Where no move is made, `count` may be one past the last.
  return jax.vmap(_move)(games, games.count, square)


def _end(answer, episodes: Episodes, turn) -> Reply:
  """No tokens: the other seat moves at once, unless the game is over."""
  return Reply(
    jnp.zeros((turn.shape[0], 0), jnp.int32), _games(episodes).over
  )


def _respond(answer, episodes: Episodes, turn) -> Reply:
  square = _opponents(answer, _games(episodes))
  return Reply(square[:, None], _answered(answer, episodes).over)


def _verify_both(answer, episodes: Episodes, turns: int) -> Verdict:
  score = _games(episodes).score
  reward = score[:, jnp.arange(turns) % 2]
  return Verdict(reward, jnp.ones_like(reward))


def _verify_one(
  answer, episodes: Episodes, turns: int, paid: str
) -> Verdict:
  score = _answered(answer, episodes).score
  own = jnp.take_along_axis(score, answer[:, :1], axis=1)
  number, last = jnp.arange(1, turns + 1), jnp.max(episodes.turn, axis=1)
  won = (own == 1.0) & ((paid == "all") | (number == last[:, None]))
  return Verdict(won.astype(jnp.float32), jnp.ones(won.shape))


def _final(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
  """The square of the move of every turn if it was valid, else -1."""
  valid = _games(episodes).valid
  column = jnp.arange(episodes.turn.shape[1])

  def square_of(turn):
    before = jnp.sum(
      jnp.cumsum(episodes.turn == turn, axis=1) == 0, axis=1, keepdims=True
    )
    earlier = (column < before) & (episodes.turn != PAD)
    place = jnp.sum(earlier, axis=1) - 1  # `=` is no move
    square = attempt(episodes, turn, 1)[:, 0]
    place = jnp.clip(place, 0, SQUARES - 1)[:, None]
    own = jnp.take_along_axis(valid, place, axis=1)[:, 0]
    return jnp.where(own & (square != PAD), square, -1)

  return jax.vmap(square_of, out_axes=1)(jnp.arange(1, turns + 1))
