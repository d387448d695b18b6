"""The corridor maze: a task whose attempts show whether they failed.

There are some doors, each leads to a corridor of rooms, and one corridor ends
in the exit. Finding the right door needs as many steps of look-ahead as a
corridor has rooms, so a small model guesses; the last token of the first
attempt shows whether it failed.

Prompt, all of one length: the labels of the doors in random order; for each of
the rooms 0..9 its successor (the next room; `+` exit or `-` dead end for the
last room of a corridor; `.` for a room that is not used); the hint (the right
door or `.`); `=`. Attempt: the rooms in order, and the terminal.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks.attempt import ends_once
from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
  integers_below,
  second_attempt,
  task_of,
)
from sitrain.types import Problems, Task

ALPHABET = "0123456789+-=?."
LABELS = 10  # the digits, whose ids are their values
EXIT, END, EQUALS, AGAIN, NOTHING = (ALPHABET.index(c) for c in "+-=?.")
LEVELS = ("unhinted", "hinted")
SYMBOLS = (
  ("0-9", "a room; the problem begins with the doors, then names for each of"
   " the rooms 0 to 9 the room behind it"),
  (".", "a room that is not used, or no hint"),
  ("+", "the exit"), ("-", "a dead end"), ("?", "try again"),
  ("=", "the end of the problem; the hint, the right door, stands before it"),
)


class Options(NamedTuple):
  """The options of `make`."""

  doors: int
  rooms: int
  hinted: float
  exit_share: float
  copied: float
  corrupted: float


def make(
  *,
  doors: int = 2,
  rooms: int = 4,
  hinted: float = 0.5,
  exit_share: float = 1 / 3,
  copied: float = 0.10,
  corrupted: float = 0.15,
) -> Task:
  """Mazes of `doors` corridors of `rooms` rooms, verified on the device.

  hinted: share of problems whose prompt names the right door. With 0, too, the
  prompt has a place for the hint.
  exit_share, copied, corrupted: the base corpus. Its first attempt walks to the
  exit with probability exit_share, else along a random corridor. Its second is
  a copy, a copy with one wrong room, or else (most often) another corridor than
  the first one's, whether the first was right or wrong. `solution` has both.

  Answer fields: the doors as in the prompt, ten successors, the right door, and
  1 if it was hinted. Reward 1 iff the first room is a door, every step follows
  the table, the terminal is `+` and nothing follows it. `final` codes the
  tokens of an attempt of at most rooms + 1 tokens that ends with its only
  terminal; everything else is -1. Raises ValueError for impossible options.
  """
  options = Options(doors, rooms, hinted, exit_share, copied, corrupted)
  _check(options)
  return task_of(
    partial(_problem, options=options),
    partial(_right, doors=doors),
    _code,
    size=LABELS + doors + 8,
    alphabet=ALPHABET,
    eos=(EXIT, END),
    again=AGAIN,
    length=rooms + 1,
    level=lambda problems: problems.answer[:, -1],
    levels=LEVELS,
  )


def drawing(prompt: str) -> str:
  """The corridors of a prompt as text, a line each; "" where it is none."""
  doors, table = prompt[: -LABELS - 2], prompt[-LABELS - 2 : -2]
  digits = ALPHABET[:LABELS]
  if len(table) < LABELS or not doors or set(doors) - set(digits):
    return ""
  lines = []
  for door in doors:
    walk = [door]
    while walk[-1] in digits and len(walk) <= LABELS:
      walk.append(table[int(walk[-1])])
    lines.append(" > ".join(walk))
  hint = prompt[-2]
  return "\n".join([*lines, f"hint: {hint}" if hint in digits else "no hint"])


def _check(options: Options) -> None:
  doors, rooms = options.doors, options.rooms
  if doors < 2:
    raise ValueError(f"doors={doors} leaves no choice: use 2 or more")
  if rooms < 1:
    raise ValueError(f"rooms={rooms} makes no corridor: use 1 or more")
  if doors * rooms > LABELS:
    raise ValueError(
      f"doors={doors} times rooms={rooms} needs {doors * rooms} labels and "
      f"there are {LABELS}: lower one of them"
    )
  check_probability("hinted", options.hinted)
  check_probability("exit_share", options.exit_share)
  check_corpus(options.copied, options.corrupted)


def _problem(chance: Float[Array, " size"], options: Options) -> Problems:
  """One problem, without the leading axis."""
  doors, rooms, hinted = options[:3]
  label, order, (door, hint), corpus = jnp.split(
    chance, (LABELS, LABELS + doors, LABELS + doors + 2)
  )
  labels = jnp.argsort(label).astype(jnp.int32)
  corridors = labels[: doors * rooms].reshape(doors, rooms)
  right = integers_below(door, doors)
  terminal = jnp.where(jnp.arange(doors) == right, EXIT, END)
  walks = jnp.concatenate([corridors, terminal[:, None]], axis=1)
  table = jnp.full(LABELS, NOTHING, jnp.int32)
  table = table.at[corridors].set(walks[:, 1:])
  entries = corridors[jnp.argsort(order), 0]
  is_hinted = hint < hinted
  clue = jnp.where(is_hinted, corridors[right, 0], NOTHING)
  ends = jnp.stack([clue, jnp.int32(EQUALS)])
  facts = jnp.stack([corridors[right, 0], is_hinted.astype(jnp.int32)])
  return Problems(
    prompt=jnp.concatenate([entries, table, ends]),
    answer=jnp.concatenate([entries, table, facts]),
    solution=_solution(corpus, walks, right, options),
  )


def _solution(
  chance: Float[Array, "6"],
  walks: Int[Array, "doors steps"],
  right: Int[Array, ""],
  options: Options,
) -> Int[Array, " L"]:
  """Two attempts of the base corpus."""
  exits, door, other, place, shift, look = chance
  is_exit = exits < options.exit_share
  chosen = jnp.where(is_exit, right, integers_below(door, options.doors))
  first = walks[chosen]
  shift_by = 1 + integers_below(other, options.doors - 1)
  fresh = walks[(chosen + shift_by) % options.doors]
  # Every room but one has another successor, so another label here is wrong.
  step = integers_below(place, options.rooms)
  label = (first[step] + 1 + integers_below(shift, LABELS - 1)) % LABELS
  spoiled = first.at[step].set(label)
  shares = {"copied": options.copied, "corrupted": options.corrupted}
  second = second_attempt(look, first, fresh, spoiled, **shares)
  return jnp.concatenate([first, second])


def _right(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], doors: int
) -> Bool[Array, " B"]:
  """Right attempts; `walk` has one place more than a right one needs."""
  rooms, end = walk[:, :-2], walk[:, -2]
  table = answer[:, doors : doors + LABELS]
  is_room = (rooms >= 0) & (rooms < LABELS)
  follows = jnp.take_along_axis(table, jnp.where(is_room, rooms, 0), axis=1)
  by_table = is_room & (follows == walk[:, 1:-1])
  by_door = jnp.any(answer[:, :doors] == walk[:, :1], axis=1)
  stops = (end == EXIT) & (walk[:, -1] < 0)
  return by_door & jnp.all(by_table, axis=1) & stops


def _code(walk: Int[Array, "B N"]) -> Int[Array, " B"]:
  """The tokens as digits of one number, PAD as 0; at most 16 ** 6."""
  base = len(ALPHABET) + 1
  power = base ** jnp.arange(walk.shape[1] - 1, dtype=jnp.int32)
  code = jnp.sum((walk[:, :-1] + 1) * power, axis=1)
  known = jnp.all(walk < len(ALPHABET), axis=1) & (walk[:, -1] < 0)
  return jnp.where(known & ends_once(walk, (EXIT, END)), code, -1)
