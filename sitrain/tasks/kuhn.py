"""Kuhn poker: three cards, two seats, one bet, and what the other holds hidden.

Each seat puts in a chip and gets one of J, Q and K. They move in turn: `p`
passes (and gives up against a bet), `b` bets a chip (and calls a bet). After
two passes, or a call, the higher card wins.

Prompt: the card of the policy's seat, `:`, and the move of the first seat if
the policy has the second; left-padded. A turn is one token, `p` or `b`.

Source: Kuhn 1950, as the game of self-play in SPIRAL (Liu et al. 2025,
arXiv:2506.24119). There both seats are the policy. Here a row is the text of
one seat, as everything in a row is seen by what follows it, and the other seat
plays by a table of probabilities that stands in the problem: `against` sets it,
such as to the policy's own, scored on the 12 texts of `information_sets`.
`kuhn_values` has the exact value and exploitability of such a table.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import characters
from sitrain.tasks.attempt import attempt
from sitrain.tasks.draw import check_probability, draw, integers_below
from sitrain.tasks.kuhn_values import (
  CARDS,
  DEALS,
  HISTORIES,
  SEAT_OF,
  Strategy,
  equilibrium,
)
from sitrain.types import PAD, Episodes, Problems, Reply, Task, Verdict

ALPHABET = CARDS + ":pb"
SYMBOLS = (
  ("J Q K", "the card of the policy"), ("p", "pass"), ("b", "bet"),
)
COLON, PASS, BET = (ALPHABET.index(c) for c in ":pb")
OPPONENTS = ("random", "equilibrium")
LEVELS = ("first", "second")  # the seat of the policy
INVALID = -1.5  # chips; worse than to give up, which is always possible
SCALE = 2**20  # probabilities and draws are integers below it
MOVES = 3  # of the longest game


class Game(NamedTuple):
  """A hand after its moves."""

  history: Int[Array, ""]  # place in HISTORIES; PAD: the hand is over
  score: Float[Array, ""]  # chips of the first seat; 0 before the end


def make(*, opponent: str = "random", expert: float = 0.0) -> Task:
  """Hands of the policy, in both seats, against another.

  opponent: "random": passes and bets alike; "equilibrium": in the equilibrium
  with alpha = 1/3. The reward of every turn is the chips won or lost at the
  end: 1 or 2; -1.5 for a move that is none; 0 for a hand that ran out of turns.
  So an evaluation counts won hands as right. A hand has one or two turns.

  `solution` has the moves of a hand in which the policy's seat plays the
  equilibrium with probability expert, else at random. `final` is the move of
  a turn. Answer fields: the seat of the policy, its card, the other, two draws
  of the other seat, and its probabilities to bet. Raises ValueError for an
  unknown opponent.
  """
  if opponent not in OPPONENTS:
    raise ValueError(
      f"opponent={opponent!r}: choose one of {', '.join(OPPONENTS)}; for "
      "self-play give the problems the policy's own table by kuhn.against"
    )
  check_probability("expert", expert)
  table = equilibrium() if opponent == "equilibrium" else np.full((4, 3), 0.5)
  return Task(
    problems=lambda key, n: draw(
      key, n, partial(_problem, table=table, expert=expert), size=7
    ),
    verify=_verify,
    reply=_respond,
    final=_final,
    level=lambda problems: problems.answer[:, 0],
    levels=LEVELS,
    eos=(PASS, BET),
    turn_length=1,
    tokenizer=characters.make(ALPHABET),
    table=(),
    on_host=False,
  )


def against(problems: Problems, strategy: Strategy) -> Problems:
  """The same deals and draws with another opponent.

  `solution` is left as it is: its second move may then not be reached.
  """
  count = problems.answer.shape[0]
  bets = jnp.broadcast_to(_integers(strategy), (count, 12))
  answer = problems.answer.at[:, -12:].set(bets)
  return problems._replace(prompt=jax.vmap(_prompt)(answer), answer=answer)


def information_sets() -> Int[np.ndarray, "12 4"]:
  """All texts that a seat can read before it moves; left-padded prompts.

  In the order of a table of kuhn_values: by history, then by card.
  """
  texts = [card + ":" + moves for moves in HISTORIES for card in CARDS]
  ids = [[ALPHABET.index(c) for c in text] for text in texts]
  return np.array([[PAD] * (4 - len(row)) + row for row in ids], np.int32)


def _integers(strategy) -> Int[Array, " 12"]:
  return jnp.round(jnp.asarray(strategy) * SCALE).astype(jnp.int32).reshape(-1)


def _problem(
  chance: Float[Array, " 7"], table: np.ndarray, expert: float
) -> Problems:
  """One problem, without the leading axis."""
  seat = (chance[0] < 0.5).astype(jnp.int32)
  cards = jnp.asarray(DEALS, jnp.int32)[integers_below(chance[1], len(DEALS))]
  draws = integers_below(chance[2:4], SCALE)
  answer = jnp.concatenate([seat[None], cards, draws, _integers(table)])
  own = jnp.where(chance[4] < expert, jnp.asarray(equilibrium()), 0.5)
  moves = jnp.where(seat == 1, _opponents(answer, 0), PAD)
  moves = jnp.stack([moves, *jnp.full(MOVES - 1, PAD)])
  played = []
  for k in range(2):
    history = play_out(moves, jnp.float32(1)).history
    chosen = jnp.where(chance[5 + k] < own[history, cards[0]], BET, PASS)
    mine = (history != PAD) & (jnp.asarray(SEAT_OF)[history] == seat)
    played.append(jnp.where(mine, chosen, PAD))
    moves = _put(moves, played[-1])
    moves = _put(moves, _opponents_after(answer, moves))
  return Problems(
    prompt=_prompt(answer), answer=answer, solution=jnp.stack(played)
  )


def _prompt(answer: Int[Array, " A"]) -> Int[Array, " 3"]:
  seat, card = answer[:2]
  text = jnp.stack([card, jnp.int32(COLON), _opponents(answer, 0)])
  none = jnp.stack([jnp.int32(PAD), card, jnp.int32(COLON)])
  return jnp.where(seat == 1, text, none).astype(jnp.int32)


def _put(moves, move):
  """The moves with one more, unless it is PAD."""
  place = jnp.minimum(jnp.sum(moves != PAD), MOVES - 1)
  return moves.at[place].set(jnp.where(move == PAD, moves[place], move))


def play_out(moves: Int[Array, " 3"], sign: Float[Array, ""]) -> Game:
  """The hand after these moves, PAD where there are no more.

  `sign` is 1 where the first seat has the higher card, else -1. Moves after the
  end of a hand are ignored.
  """
  history, score = jnp.int32(0), jnp.float32(0)
  # By history, after a pass and a bet: what follows, and the score if nothing.
  follows = jnp.array([[1, 2], [PAD, 3], [PAD, PAD], [PAD, PAD]], jnp.int32)
  scores = jnp.stack([
    jnp.zeros(2), jnp.stack([sign, 0.0]), jnp.stack([1.0, 2 * sign]),
    jnp.stack([-1.0, 2 * sign]),
  ])
  for move in moves:
    legal = (move == PASS) | (move == BET)
    bet = (move == BET).astype(jnp.int32)
    lost = jnp.where(jnp.asarray(SEAT_OF)[history] == 0, INVALID, -INVALID)
    live = (history != PAD) & (move != PAD)
    score = jnp.where(
      live, jnp.where(legal, scores[history, bet], lost), score
    )
    after = jnp.where(legal, follows[history, bet], PAD)
    history = jnp.where(live, after, history)
  return Game(history, score)


def _opponents(
  answer: Int[Array, " A"], history: int | Int[Array, ""]
) -> Int[Array, ""]:
  """The move of the other seat."""
  bets = answer[-12:].reshape(len(HISTORIES), len(CARDS))[history, answer[2]]
  # After "pb" it moves for the second time.
  number = answer[3 + (jnp.asarray(history) == HISTORIES.index("pb"))]
  return jnp.where(number < bets, BET, PASS).astype(jnp.int32)


def _opponents_after(answer, moves) -> Int[Array, ""]:
  """The move of the other seat where it is to move, else PAD."""
  history = play_out(moves, jnp.float32(1)).history
  own = jnp.asarray(SEAT_OF)[history] == answer[0]
  none = (history == PAD) | own
  return jnp.where(none, PAD, _opponents(answer, jnp.maximum(history, 0)))


def _moves(episodes: Episodes) -> Int[Array, "B 3"]:
  """What both seats have played, from the tokens after `:` in any column."""
  text_mask = (episodes.turn != PAD).astype(jnp.int32)
  text = attempt(episodes._replace(turn=text_mask), 1, 2 + MOVES)
  return text[:, 2:]


def _answered(answer, episodes: Episodes) -> tuple[Array, Game]:
  """The other seat's next move [B], PAD for none, and the hands after it.

  A move that ends the hand is not written to the row.
  """
  def one(answer, moves):
    move = _opponents_after(answer, moves)
    higher = (answer[1] > answer[2]) == (answer[0] == 0)
    sign = jnp.where(higher, 1.0, -1.0)
    return move, play_out(_put(moves, move), sign)

  return jax.vmap(one)(answer, _moves(episodes))


def _respond(answer, episodes: Episodes, turn: Int[Array, " B"]) -> Reply:
  move, game = _answered(answer, episodes)
  return Reply(move[:, None], game.history == PAD)


def _verify(answer, episodes: Episodes, turns: int) -> Verdict:
  score = _answered(answer, episodes)[1].score
  own = jnp.where(answer[:, 0] == 0, score, -score)
  reward = jnp.broadcast_to(own[:, None], (len(own), turns))
  return Verdict(reward, jnp.ones_like(reward))


def _final(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
  """The move of every turn, -1 where it is none."""
  move = jnp.concatenate(
    [attempt(episodes, k + 1, 1) for k in range(turns)], axis=1
  )
  legal: Bool[Array, "B K"] = (move == PASS) | (move == BET)
  return jnp.where(legal, move, -1)
