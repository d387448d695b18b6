"""Strings under constraints that a program checks, and all of their solutions.

Prompt: two or three constraints and `:`, such as `#5+ab-c:`; left-padded. `#5`:
five letters; `%2`: two vowels; `+ab`: it has `ab`; `^a`, `$a`: it begins or
ends with `a`; `-c`: it has no `c`. Attempt: letters and `<end>`.

Source: a character-sized form of checkable instructions, as IFEval has them
(Zhou et al. 2023, arXiv:2311.07911) and Light-IF trains on them (2025,
arXiv:2508.03178). Here they are symbols, not sentences, and never contradict
each other.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import roles
from sitrain.tasks.attempt import attempt, ends_once
from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
  integers_below,
  second_attempt,
  task_of,
)
from sitrain.types import PAD, Episodes, Problems, Task, Verdict

LETTERS, KINDS = "aeiobcdfgh", "#%+^$-"
VOWELS = 4  # the first letters, whose ids are their places
CHARACTERS = LETTERS + "0123456789" + KINDS + ":"
NAMES = roles.names_of(CHARACTERS, parts=len(KINDS))
ZERO, FIRST_KIND = len(LETTERS), len(LETTERS) + 10
COLON, OK, BAD, RETRY, END, PART = (
  NAMES.index(name)
  for name in (":", "<ok>", "<bad>", "<retry>", "<end>", "<bad@1>")
)
LONGEST = 7  # counts of solutions are exact in float32 up to here


class Options(NamedTuple):
  """The options of `make`."""

  constraints: tuple[int, int]
  longest: int
  mistake: float
  copied: float
  corrupted: float


class Rule(NamedTuple):
  """The constraints of one problem; PAD: there is none of the kind."""

  length: Int[Array, ""]
  vowels: Int[Array, ""]
  pair: Int[Array, " 2"]
  first: Int[Array, ""]
  last: Int[Array, ""]
  without: Int[Array, ""]


def make(
  *,
  constraints: tuple[int, int] = (2, 3),
  longest: int = 6,
  mistake: float = 0.15,
  copied: float = 0.10,
  corrupted: float = 0.15,
  point: float = 0.0,
  feedback: str = "none",
) -> Task:
  """Problems of `constraints[0]` to `constraints[1]` constraints.

  mistake, copied, corrupted: the base corpus. Its first attempt is a solution,
  uniform among all strings of at most `longest` letters that solve the problem,
  in which each letter is replaced, and the last left out, with probability
  mistake. Its second is a copy, a copy with one letter replaced, or else drawn
  like the first, whether the first was right or wrong. `solution` has both.

  Reward 1 iff the attempt has 1 to `longest` letters and one `<end>`, and all
  constraints hold; and `point` for each that holds in an attempt of that form.
  feedback: see roles.with_feedback; `<bad@k>`: constraint k is the first that
  does not hold, `<bad>`: the form is wrong. Answer fields: the number of
  constraints, their kinds, the arguments of all six kinds. `final` codes the
  string. Raises ValueError for impossible options.
  """
  options = Options(constraints, longest, mistake, copied, corrupted)
  _check(options, point)
  low, high = constraints
  task = task_of(
    partial(_problem, options=options),
    partial(_right, options=options),
    partial(_code, options=options),
    size=17 + 5 * longest,
    alphabet=CHARACTERS,
    eos=(END,),
    again=RETRY,
    length=longest + 1,
    level=lambda problems: problems.answer[:, 0] - low,
    levels=tuple(f"{n}_constraints" for n in range(low, high + 1)),
  )._replace(tokenizer=roles.tokenizer(NAMES))
  if point:
    verify = partial(_verify_points, options=options, point=point)
    task = task._replace(verify=verify, rewards=("right", "points"))
  return roles.with_feedback(
    task, partial(_diagnose, options=options), feedback
  )


def critic(
  *,
  constraints: tuple[int, int] = (2, 3),
  longest: int = 6,
  mistake: float = 0.15,
  copied: float = 0.10,
  corrupted: float = 0.15,
) -> Task:
  """Attempts and critiques of them in turn: see roles.with_critic.

  A critique is `<ok>`, `<bad>` or `<bad@k>`, with k as in `make`.
  """
  options = Options(constraints, longest, mistake, copied, corrupted)
  task = make(**options._asdict())
  return roles.with_critic(task, partial(_diagnose, options=options))


def _check(options: Options, point: float) -> None:
  low, high = options.constraints
  if not 1 <= low <= high <= len(KINDS):
    raise ValueError(
      f"constraints={options.constraints} is no range: give (fewest, most) "
      f"with 1 <= fewest <= most <= {len(KINDS)}"
    )
  if not 2 <= options.longest <= LONGEST:
    raise ValueError(
      f"longest={options.longest} is out of range: use 2 to {LONGEST}"
    )
  if not 0 <= point * high < 1:
    raise ValueError(
      f"point={point} makes {high} constraints worth as much as a right "
      f"attempt: use at least 0 and less than {1 / high:.3g}"
    )
  check_probability("mistake", options.mistake)
  check_corpus(options.copied, options.corrupted)


def _problem(chance: Float[Array, " size"], options: Options) -> Problems:
  """One problem, without the leading axis.

  Constraints are read off a random string, so that there is a solution.
  """
  low, high = options.constraints
  longest, kinds = options.longest, len(KINDS)
  (count, size, place, missing), order, letter, corpus = jnp.split(
    chance, (4, 4 + kinds, 4 + kinds + longest)
  )
  count = low + integers_below(count, high + 1 - low)
  size = 2 + integers_below(size, longest - 1)
  letter = integers_below(letter, len(LETTERS))
  used = jnp.arange(longest) < size
  absent = jnp.all(
    (letter[:, None] != jnp.arange(len(LETTERS))) | ~used[:, None], axis=0
  )
  nth = integers_below(missing, jnp.sum(absent))
  place = integers_below(place, size - 1)
  arguments = jnp.stack([
    size, jnp.sum(used & (letter < VOWELS)), letter[place], letter[place + 1],
    letter[0], letter[size - 1], jnp.argmax(jnp.cumsum(absent) > nth),
  ]).astype(jnp.int32)
  order = jnp.argsort(order)[:high].astype(jnp.int32)
  order = jnp.where(jnp.arange(high) < count, order, PAD)
  answer = jnp.concatenate([count[None], order, arguments])
  return Problems(
    prompt=_prompt(order, arguments),
    answer=answer,
    solution=_solution(corpus, rule_of(answer), options),
  )


def _prompt(order, arguments):
  """The constraints in order; PAD at the start."""
  none = jnp.int32(PAD)
  shown = [
    (ZERO + arguments[0], none), (ZERO + arguments[1], none),
    (arguments[2], arguments[3]), *((a, none) for a in arguments[4:]),
  ]
  shown = jnp.stack([jnp.stack(pair) for pair in shown])
  written = jnp.concatenate(
    [FIRST_KIND + order[:, None], shown[jnp.maximum(order, 0)]], axis=1
  )
  written = jnp.where(order[:, None] == PAD, PAD, written).reshape(-1)
  written = jnp.append(written, COLON)
  return written[jnp.argsort(written != PAD, stable=True)].astype(jnp.int32)


def rule_of(answer: Int[Array, " A"]) -> Rule:
  """The constraints of one problem."""
  order, arguments = answer[1:-7], answer[-7:]
  given = jnp.any(order[:, None] == jnp.arange(len(KINDS)), axis=0)
  of = lambda kind, value: jnp.where(given[kind], value, PAD)
  return Rule(
    of(0, arguments[0]), of(1, arguments[1]), of(2, arguments[2:4]),
    of(3, arguments[4]), of(4, arguments[5]), of(5, arguments[6]),
  )


def _solution(chance, rule: Rule, options: Options) -> Int[Array, " L"]:
  """Two attempts of the base corpus, the second right after the first."""
  size = 1 + options.longest
  (place, by, look), *draws = jnp.split(
    chance, [3 + k * size for k in range(4)]
  )
  tables = ways(rule, options.longest)
  first, fresh = (
    _with_mistakes(
      sample(rule, tables, draws[2 * k]), draws[2 * k + 1], options.mistake
    )
    for k in range(2)
  )
  place = integers_below(place, jnp.sum(first != PAD))
  other = 1 + integers_below(by, len(LETTERS) - 1)
  spoiled = first.at[place].set((first[place] + other) % len(LETTERS))
  shares = {"copied": options.copied, "corrupted": options.corrupted}
  second = second_attempt(look, first, fresh, spoiled, **shares)
  ended = jnp.pad(
    jnp.stack([first, second]), ((0, 0), (0, 1)), constant_values=END
  )
  return roles.pack(ended.reshape(-1))


def _with_mistakes(text, chance, mistake: float):
  """Each letter is another, and the last is missing, with that probability."""
  wrong = chance < mistake
  other = 1 + integers_below(chance / max(mistake, 1e-9), len(LETTERS) - 1)
  place, count = jnp.arange(text.shape[0]), jnp.sum(text != PAD)
  text = jnp.where(
    wrong[:-1] & (text != PAD), (text + other[:-1]) % len(LETTERS), text
  )
  gone = (place == count - 1) & (count > 1) & wrong[-1]
  return jnp.where(gone, PAD, text)


def ways(rule: Rule, longest: int) -> Float[Array, "R V 3"]:
  """How many strings of r letters complete one, exact up to 2 ** 24.

  v: its vowels so far. The last axis: whether its last letter begins the pair
  (1), it has the pair (2), or neither (0). The first letter is not looked at.
  """
  vowels = jnp.arange(longest + 1)
  fits = (rule.vowels == PAD) | (vowels == rule.vowels)
  found = (rule.pair[0] == PAD) | (jnp.arange(3) == 2)
  none_left = (fits[:, None] & found).astype(jnp.float32)
  every = partial(jax.vmap, in_axes=(None, None, None, None, 0))

  def one_more(table, left):
    at = jax.vmap(every(_after), in_axes=(None, None, None, 0, None))
    table = jnp.sum(at(rule, table, left, vowels, jnp.arange(3)), axis=2)
    return table, table

  _, others = jax.lax.scan(one_more, none_left, jnp.arange(1, longest + 1))
  return jnp.concatenate([none_left[None], others])


def _after(rule: Rule, table, left, vowels, pair) -> Float[Array, " letters"]:
  """The completions that begin with each letter; `left` counts it."""
  letter = jnp.arange(len(LETTERS))
  usable = letter != rule.without
  usable &= (rule.last == PAD) | (left > 1) | (letter == rule.last)
  return jnp.where(
    usable, table[_add(table, vowels, letter), _pair(rule, pair, letter)], 0.0
  )


def _add(table, vowels, letter):
  return jnp.minimum(vowels + (letter < VOWELS), table.shape[0] - 1)


def _pair(rule: Rule, pair, letter):
  """What is found of the pair after one more letter."""
  begun = jnp.where(letter == rule.pair[0], 1, 0)
  done = (pair == 2) | ((pair == 1) & (letter == rule.pair[1]))
  return jnp.where(done, 2, begun)


def _first_letters(rule: Rule, tables) -> Float[Array, "longest letters"]:
  """The solutions of every length that begin with each letter."""
  letter, zero = jnp.arange(len(LETTERS)), jnp.int32(0)
  sizes = jnp.arange(1, len(tables))
  starts = jax.vmap(lambda n: _after(rule, tables[n - 1], n, zero, zero))(sizes)
  fits = (rule.first == PAD) | (letter == rule.first)
  fits = fits & ((rule.length == PAD) | (sizes == rule.length))[:, None]
  return jnp.where(fits, starts, 0.0)


def solutions(
  answer: Int[Array, "P A"], longest: int
) -> Float[Array, " P"]:
  """How many strings of at most `longest` letters solve each problem."""
  def count(one):
    rule = rule_of(one)
    return jnp.sum(_first_letters(rule, ways(rule, longest)))

  return jax.vmap(count)(answer)


def sample(
  rule: Rule, tables: Float[Array, "R V 3"], chance: Float[Array, " R"]
) -> Int[Array, " longest"]:
  """One of all solutions, each with the same probability; PAD behind it.

  `tables` are those of `ways`; `chance` is uniform in [0, 1).
  """
  starts = _first_letters(rule, tables)
  size = 1 + _choose(jnp.sum(starts, axis=1), chance[0])

  def one_more(found, given):
    k, draw = given
    left = size - k
    after = _after(rule, tables[jnp.maximum(left - 1, 0)], left, *found)
    letter = _choose(jnp.where(k == 0, starts[size - 1], after), draw)
    vowels, pair = found
    found = _add(tables[0], vowels, letter), _pair(rule, pair, letter)
    return found, jnp.where(left > 0, letter, PAD)

  given = (jnp.arange(len(tables) - 1), chance[1:])
  zero = jnp.int32(0)
  return jax.lax.scan(one_more, (zero, zero), given)[1]


def _choose(weights, chance):
  """A place, with a probability in proportion to its weight."""
  upto = jnp.cumsum(weights)
  return jnp.argmax(upto > chance * upto[-1]).astype(jnp.int32)


def _read(walk: Int[Array, "B N"], longest: int):
  """Numbers of letters [B], and whether an attempt has the right form [B]."""
  letters = jnp.sum((walk >= 0) & (walk < len(LETTERS)), axis=1)
  count = jnp.sum(walk != PAD, axis=1)
  fits = ends_once(walk, (END,)) & (letters == count - 1)
  return letters, fits & (letters > 0) & (letters <= longest)


def _holds(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Bool[Array, "B C"]:
  """Which constraints hold, in the order of the prompt; where none is: True."""
  letters, _ = _read(walk, options.longest)
  size, vowels, one, two, first, last, without = answer[:, -7:].T
  at_end = jnp.maximum(letters - 1, 0)[:, None]
  final = jnp.take_along_axis(walk, at_end, axis=1)[:, 0]
  pairs = (walk[:, :-1] == one[:, None]) & (walk[:, 1:] == two[:, None])
  kinds = jnp.stack([
    letters == size,
    jnp.sum((walk >= 0) & (walk < VOWELS), axis=1) == vowels,
    jnp.any(pairs, axis=1), walk[:, 0] == first, final == last,
    jnp.all(walk != without[:, None], axis=1),
  ], axis=1)
  order = answer[:, 1:-7]
  holds = jnp.take_along_axis(kinds, jnp.maximum(order, 0), axis=1)
  return holds | (order == PAD)


def _right(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Bool[Array, " B"]:
  holds = jnp.all(_holds(answer, walk, options), axis=1)
  return _read(walk, options.longest)[1] & holds


def _diagnose(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Int[Array, "B 1"]:
  """`<ok>`, `<bad@k>` of the first constraint that is broken, or `<bad>`."""
  holds = _holds(answer, walk, options)
  part = PART + jnp.argmin(holds, axis=1)
  said = jnp.where(jnp.all(holds, axis=1), OK, part)
  fits = _read(walk, options.longest)[1]
  return jnp.where(fits, said, BAD)[:, None].astype(jnp.int32)


def _verify_points(
  answer, episodes: Episodes, turns: int, options: Options, point: float
) -> Verdict:
  right, points = [], []
  for k in range(turns):
    walk = attempt(episodes, k + 1, options.longest + 2)
    holds = _holds(answer, walk, options) & (answer[:, 1:-7] != PAD)
    fits = _read(walk, options.longest)[1]
    right.append(_right(answer, walk, options).astype(jnp.float32))
    points.append(point * fits * jnp.sum(holds, axis=1))
  parts = {
    "right": jnp.stack(right, axis=1), "points": jnp.stack(points, axis=1)
  }
  reward = parts["right"] + parts["points"]
  return Verdict(reward, jnp.ones_like(reward), parts)


def _code(walk: Int[Array, "B N"], options: Options) -> Int[Array, " B"]:
  """The string as the digits of one number, or -1."""
  _, fits = _read(walk, options.longest)
  code = jnp.zeros(len(walk), jnp.int32)
  for token in walk.T:
    is_letter = (token >= 0) & (token < len(LETTERS))
    code = jnp.where(is_letter, code * (len(LETTERS) + 1) + token + 1, code)
  return jnp.where(fits, code, -1)
