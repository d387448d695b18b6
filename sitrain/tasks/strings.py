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
from sitrain.tasks.string_solutions import (
  KINDS,
  LETTERS,
  LONGEST,
  VOWELS,
  Rule,
  rule_of,
  sample,
  ways,
)
from sitrain.types import PAD, Episodes, Problems, Task, Verdict

CHARACTERS = LETTERS + "0123456789" + KINDS + ":"
NAMES = roles.names_of(CHARACTERS, parts=len(KINDS))
ZERO, FIRST_KIND = len(LETTERS), len(LETTERS) + 10
COLON, OK, BAD, RETRY, END, PART = (
  NAMES.index(name)
  for name in (":", "<ok>", "<bad>", "<retry>", "<end>", "<bad@1>")
)


class Options(NamedTuple):
  """The options of `make`."""

  constraints: tuple[int, int]
  longest: int
  mistake: float
  copied: float
  corrupted: float


def make(
  *,
  constraints: tuple[int, int] = (2, 3),
  longest: int = 6,
  mistake: float = 0.15,
  copied: float = 0.10,
  corrupted: float = 0.15,
  point: float = 0.0,
  feedback: str = "none",
  tag: str = "",
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
  does not hold, `<bad>`: the form is wrong. tag: see roles.with_tag. Answer
  fields: the number of constraints, their kinds, the arguments of all six
  kinds. `final` codes the string. Raises ValueError for impossible options.
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
  task = roles.with_feedback(
    task, partial(_diagnose, options=options), feedback
  )
  return roles.with_tag(task, tag)


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
  return roles.with_critic(
    task, partial(_diagnose, options=options), longest=1
  )


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
  message = jnp.where(jnp.all(holds, axis=1), OK, part)
  fits = _read(walk, options.longest)[1]
  return jnp.where(fits, message, BAD)[:, None].astype(jnp.int32)


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
