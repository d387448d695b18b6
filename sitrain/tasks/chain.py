"""Chained modular arithmetic with written steps: both attempts can improve.

Prompt: operands of one digit, joined by `+`, `-` or `*`, and `=`; left-padded.
It is evaluated from left to right, without precedence, modulo `modulus`.
Attempt: the running value after each operation and `;`, such as `749;` for
`3+4*2-5=` modulo 10.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import chain_mending, roles
from sitrain.tasks.attempt import attempt, ends_once
from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
  corrected_attempt,
  integers_below,
  second_attempt,
  task_of,
)
from sitrain.types import PAD, Episodes, Problems, Task, Verdict

ALPHABET = "0123456789+-*=;?"
DIGITS = 10  # the digits, whose ids are their values
PLUS, MINUS, TIMES, EQUALS, STOP, AGAIN = (ALPHABET.index(c) for c in "+-*=;?")
SYMBOLS = (
  ("3+4*2=", "the problem, to be worked out from left to right, modulo 10 by"
   " default"),
  ("749;", "an attempt: the value after each operation"), ("?", "try again"),
)
OK, BAD, FIX, PART = (
  roles.renamed(ALPHABET, parts=1).index(name)
  for name in ("<ok>", "<bad>", "<fix>", "<bad@1>")
)


class Options(NamedTuple):
  """The options of `make`."""

  operations: tuple[int, int]
  modulus: int
  mistake: float
  copied: float
  corrupted: float
  corrected: float


def make(
  *,
  operations: tuple[int, int] = (2, 4),
  modulus: int = 10,
  mistake: float = 0.15,
  copied: float = 0.40,
  corrupted: float = 0.15,
  steps: bool = False,
  feedback: str = "none",
) -> Task:
  """Chains of `operations[0]` to `operations[1]` operations, both included.

  mistake, copied, corrupted: the base corpus. In its first attempt each step is
  wrong with probability mistake, and the next ones continue from the written
  value. Its second is a copy, a copy with one step replaced by a wrong one (the
  steps after it stay), or else a fresh attempt drawn like the first, whether
  the first was right or wrong. `solution` has both.

  Answer fields: the value, the number of operations, operands and operators.
  Reward 1 iff there is one digit for each operation, the last is the value, and
  `;` ends the attempt: intermediate values need not be right. `final` is the
  last digit of an attempt of 1 to operations[1] digits and `;`, else -1.
  steps: whether operations[1] + 1 more rewards are named, step_1 and so on: 1
  iff token k of the attempt is the value that follows from the one written
  before it, or behind the last value `;`. They are not added up.
  feedback: see roles.with_feedback; `<bad@k>`: step k is the first whose value
  is wrong, `<bad>`: the form is. With feedback `;` is the token `<end>`. Raises
  ValueError for impossible options.
  """
  options = Options(operations, modulus, mistake, copied, corrupted, 0.0)
  roles.check_feedback(feedback)
  task = _task(options)
  if steps:
    names = (f"step_{k + 1}" for k in range(operations[1] + 1))
    task = task._replace(
      verify=partial(_verify_steps, options=options), rewards=("right", *names)
    )
  if feedback == "none":
    return task
  return roles.with_feedback(
    _with_roles(task, options), partial(diagnose, options=options), feedback
  )


def critic(
  *,
  operations: tuple[int, int] = (2, 4),
  modulus: int = 10,
  mistake: float = 0.15,
  copied: float = 0.10,
  corrupted: float = 0.15,
  corrected: float = 0.50,
) -> Task:
  """Attempts and critiques of them in turn: see roles.with_critic.

  A critique is `<ok>`, `<bad>` or `<bad@k>`, with k as in `make`. In `solution`
  a wrong first attempt, its critique and `<fix>` are followed by the right one
  with probability corrected, which keeps the steps before k; else by one as in
  `make`.
  """
  options = Options(operations, modulus, mistake, copied, corrupted, corrected)
  return roles.with_critic(
    _with_roles(_task(options), options), partial(diagnose, options=options),
    longest=1,
  )


def mending(
  *,
  operations: tuple[int, int] = (2, 4),
  modulus: int = 10,
  mistake: float = 0.15,
  copied: float = 0.40,
  corrupted: float = 0.15,
) -> Task:
  """Chains whose attempts may take values back: see chain_mending.py.

  `<fix>` behind a value withdraws it, and the next one stands in its place. An
  attempt has 3 * operations[1] + 1 tokens at the most and is judged without
  what was withdrawn, which the corpus, that of `make`, never is. Rewards are
  named as in `make` with steps=True, of the values that stand, and three more
  of all that are written: `slips`, the share of them that are wrong; `mended`,
  of the wrong ones those behind which `<fix>` and a right value stand;
  `doubted`, of the right ones those that are withdrawn. They are NaN where
  there are no such values.
  """
  options = Options(operations, modulus, mistake, copied, corrupted, 0.0)
  task = _with_roles(_task(options), options)
  high = operations[1]
  return chain_mending.with_withdrawals(
    task, partial(_verify_steps, options=options),
    partial(_due, options=options), fix=FIX, values=DIGITS,
    longest=3 * high + 1, steps=high + 1,
  )


def _task(options: Options) -> Task:
  _check(options)
  low, high = options.operations
  return task_of(
    partial(_problem, options=options),
    _right,
    _value,
    size=6 * high + 5,
    alphabet=ALPHABET,
    eos=(STOP,),
    again=AGAIN,
    length=high + 1,
    level=lambda problems: problems.answer[:, 1] - low,
    levels=tuple(f"{n}_operations" for n in range(low, high + 1)),
  )


def _with_roles(task: Task, options: Options) -> Task:
  names = roles.renamed(ALPHABET, parts=options.operations[1])
  return task._replace(tokenizer=roles.tokenizer(names))


def _check(options: Options) -> None:
  low, high = options.operations
  if not 1 <= low <= high:
    raise ValueError(
      f"operations={options.operations} is no range: give (fewest, most) with "
      "1 <= fewest <= most"
    )
  if not 3 <= options.modulus <= DIGITS:
    raise ValueError(
      f"modulus={options.modulus} is out of range: use 3 to {DIGITS}, for "
      "values have one digit, and a step can be wrong in two ways"
    )
  check_probability("mistake", options.mistake)
  check_probability("corrected", options.corrected)
  check_corpus(options.copied, options.corrupted)


def _problem(chance: Float[Array, " size"], options: Options) -> Problems:
  """One problem, without the leading axis."""
  low, high = options.operations
  (length,), digit, sign, corpus = jnp.split(
    chance, (1, high + 2, 2 * high + 2)
  )
  count = low + integers_below(length, high + 1 - low)
  operand = integers_below(digit, DIGITS)
  operator = PLUS + integers_below(sign, TIMES + 1 - PLUS)
  value = _run(operand, operator, jnp.zeros(high, jnp.int32), options.modulus)
  # Even places are operands, odd ones operators; the end is right-aligned.
  place = jnp.arange(2 * high + 2) - 2 * (high - count)
  pairs = jnp.stack([operand, jnp.append(operator, EQUALS)], axis=1).reshape(-1)
  pairs = pairs.at[2 * count + 1].set(EQUALS)
  used = lambda x, n: jnp.where(jnp.arange(x.shape[0]) < n, x, PAD)
  return Problems(
    prompt=jnp.where(place < 0, PAD, pairs[jnp.maximum(place, 0)]),
    answer=jnp.concatenate([
      jnp.stack([value[count - 1], count]),
      used(operand, count + 1), used(operator, count),
    ]),
    solution=_solution(corpus, operand, operator, count, value, options),
  )


def _solution(
  chance: Float[Array, " rest"],
  operand: Int[Array, " N"],
  operator: Int[Array, " operations"],
  count: Int[Array, ""],
  value: Int[Array, " operations"],
  options: Options,
) -> Int[Array, " L"]:
  """Two attempts of the base corpus, the second right after the first."""
  (place, shift, look), twice = jnp.split(chance, (3,))
  slips = _slips(*twice.reshape(2, 2, -1), options)
  modulus = options.modulus
  first, fresh = (_run(operand, operator, slip, modulus) for slip in slips)
  step = integers_below(place, count)
  before = jnp.where(step > 0, first[step - 1], operand[0])
  true = _step(before, operator[step], operand[step + 1], modulus)
  # A value that differs from both the written and the right one, so that it is
  # always wrong: at a random distance, skipping the right value.
  gap = (true - first[step]) % modulus
  far = 1 + integers_below(shift, jnp.where(gap > 0, modulus - 2, modulus - 1))
  far = far + ((gap > 0) & (far >= gap))
  spoiled = first.at[step].set((first[step] + far) % modulus)
  shares = {"copied": options.copied, "corrupted": options.corrupted}
  # The right values are those of a wrong attempt up to its first wrong step.
  second = corrected_attempt(
    look, value,
    lambda chance: second_attempt(chance, first, fresh, spoiled, **shares),
    corrected=options.corrected,
  )
  both = jnp.full(2 * operator.shape[0] + 2, PAD, jnp.int32)
  # The second attempt is written over the pads of the first.
  for start, values in ((0, first), (count + 1, second)):
    place = start + jnp.arange(operator.shape[0])
    both = both.at[place].set(values).at[start + count].set(STOP)
  return jnp.where(jnp.arange(both.shape[0]) < 2 * count + 2, both, PAD)


def _slips(
  wrong: Float[Array, "2 N"], by: Float[Array, "2 N"], options: Options
) -> Int[Array, "2 N"]:
  """The error of each step; 0 where it is right."""
  off = 1 + integers_below(by, options.modulus - 1)
  return jnp.where(wrong < options.mistake, off, 0)


def _step(
  value: Int[Array, ""],
  operator: Int[Array, ""],
  operand: Int[Array, ""],
  modulus: int,
) -> Int[Array, ""]:
  results = jnp.stack([value + operand, value - operand, value * operand])
  return results[operator - PLUS] % modulus


def _run(
  operand: Int[Array, " N"],
  operator: Int[Array, " operations"],
  slips: Int[Array, " operations"],
  modulus: int,
) -> Int[Array, " operations"]:
  """The running values, each off by its slip."""

  def step(value, given):
    sign, number, slip = given
    value = (_step(value, sign, number, modulus) + slip) % modulus
    return value, value

  given = (operator, operand[1:], slips)
  return jax.lax.scan(step, operand[0], given)[1]


def _value(walk: Int[Array, "B N"]) -> Int[Array, " B"]:
  """Last digit of a well-formed attempt; `walk` has one place more."""
  n = jnp.sum(walk != PAD, axis=1)
  is_digit = (walk >= 0) & (walk < DIGITS)
  digits = jnp.sum(is_digit, axis=1)
  fits = ends_once(walk, (STOP,)) & (digits == n - 1) & (digits > 0)
  last = jnp.take_along_axis(walk, jnp.maximum(n - 2, 0)[:, None], axis=1)[:, 0]
  return jnp.where(fits & (n < walk.shape[1]), last, -1)


def _right(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"]
) -> Bool[Array, " B"]:
  value = _value(walk)
  steps = jnp.sum(walk != PAD, axis=1) - 1
  return (value >= 0) & (value == answer[:, 0]) & (steps == answer[:, 1])


def _verify_steps(
  answer: Int[Array, "B A"], episodes: Episodes, turns: int, options: Options
) -> Verdict:
  high = options.operations[1]
  walks = [attempt(episodes, k + 1, high + 2) for k in range(turns)]
  over_turns = lambda one: jnp.stack(
    [one(walk).astype(jnp.float32) for walk in walks], axis=1
  )
  right = over_turns(lambda walk: _right(answer, walk))
  steps = over_turns(lambda walk: _follows(answer, walk, options))
  parts = {f"step_{k + 1}": steps[:, :, k] for k in range(high + 1)}
  return Verdict(right, jnp.ones_like(right), {"right": right} | parts)


def _due(
  answer: Int[Array, "B A"],
  before: Int[Array, "B N"],
  number: Int[Array, "B N"],
  options: Options,
) -> Int[Array, "B N"]:
  """The value of each step, counted from 0, behind the value before it.

  That before step 0 is not looked at. PAD behind the last step of a problem.
  """
  high, count = options.operations[1], answer[:, 1:2]
  at = jnp.clip(number, 0, high - 1)
  pick = lambda x: jnp.take_along_axis(x, at, axis=1)
  operand, operator = answer[:, 2 : high + 3], answer[:, high + 3 :]
  before = jnp.where(number == 0, operand[:, :1], before)
  true = jax.vmap(jax.vmap(partial(_step, modulus=options.modulus)))(
    before, pick(operator), pick(operand[:, 1:])
  )
  return jnp.where(number < count, true, PAD)


def _follows(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Bool[Array, "B S"]:
  """Which tokens are what has to follow the one before: a value, then `;`."""
  high, count = options.operations[1], answer[:, 1:2]
  operand = answer[:, 2 : high + 3]
  before = jnp.concatenate([operand[:, :1], walk[:, : high - 1]], axis=1)
  number = jnp.broadcast_to(jnp.arange(high), before.shape)
  true = _due(answer, before, number, options)
  place = jnp.arange(high + 1)
  true = jnp.where((before >= 0) & (before < DIGITS), true, PAD - 1)
  due = jnp.where(place < count, jnp.pad(true, ((0, 0), (0, 1))), STOP)
  return (walk[:, : high + 1] == due) & (place <= count)


def diagnose(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Int[Array, "B 1"]:
  """`<ok>`, `<bad@k>` of the first wrong step, or `<bad>`.

  A step is wrong whose value does not follow from the one written before.
  """
  high, count = options.operations[1], answer[:, 1]
  used = jnp.arange(high) < count[:, None]
  follows = _follows(answer, walk, options)[:, :high]
  part = PART + jnp.argmax(~follows & used, axis=1)
  fits = (_value(walk) >= 0) & (jnp.sum(walk != PAD, axis=1) == count + 1)
  message = jnp.where(_right(answer, walk), OK, jnp.where(fits, part, BAD))
  return message[:, None].astype(jnp.int32)
