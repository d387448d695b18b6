"""Countdown by search: an attempt goes down dead ends, and says so.

Prompts are those of countdown.py. An attempt is the text of a depth-first
search: steps as there; `<bad@k>` where step k has turned out to be a dead end,
and then another step k (with another first number, if k is 1), and so on;
`<end>` behind the steps that reach the target, such as
`3+5=08+4=12<bad@1>3*5=15-4=11<bad@2>+4=19<end>`.

Source: search traces against direct solutions at equal compute, as in "To
Backtrack or Not to Backtrack" (2025, arXiv:2504.07052), whose traces end a
branch when it is exhausted. Here an oracle ends it after one attempt and tells
the step to go back to, so that traces are short: every `<bad@k>` is true, and
no branch is left that leads to the target.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.tasks import countdown, roles
from sitrain.tasks.countdown import PART, STOP
from sitrain.tasks.countdown_table import (
  Attempts,
  begins_like,
  check_size,
  ends_of,
  first_dead_step,
)
from sitrain.tasks.draw import integers_below, task_of
from sitrain.types import PAD, Problems, Task


class Trace(NamedTuple):
  """Options of a trace."""

  numbers: int
  width: int  # digits of a number
  dead_ends: int  # at the most


def make(
  *,
  numbers: int = 3,
  largest: int = 9,
  dead_ends: int = 3,
  copied: float = 0.10,
) -> Task:
  """`numbers` numbers of 1 to `largest`, verified on the device.

  dead_ends, copied: the base corpus. A search tries an attempt at random among
  all that it has not yet found dead, until it reaches the target: after 0 to
  dead_ends dead ends, each number equally likely, the next attempt is a right
  one. The first attempt of `solution` is such a search, the second a copy with
  probability copied, else another one.

  The last line of an attempt is what is left when each `<bad@k>` takes the
  steps from k on away. Reward 1 iff it is a right attempt of countdown.py and
  `<end>` follows; what was left on the way is not judged, and neither is
  whether it was bad. `final` codes the last line, -1 where there is none.
  Direct solutions in the same form are those with dead_ends=0. Raises
  ValueError for impossible options.
  """
  if not 0 <= dead_ends <= 9:
    raise ValueError(f"dead_ends={dead_ends} is out of range: use 0 to 9")
  options = countdown.Options(numbers, largest, 1.0, copied, 0.0, 0.0)
  countdown.check(options)
  check_size(numbers)
  trace = Trace(numbers, len(str(largest)), dead_ends)
  last = partial(last_line, trace=trace)
  return task_of(
    partial(_problem, options=options, trace=trace),
    lambda answer, walk: countdown.right(answer, last(walk), options),
    lambda walk: countdown.code(last(walk), options),
    size=countdown.draws_of(options) + 2 * draws_of(trace) + 1,
    alphabet=countdown.ALPHABET,
    eos=(STOP,),
    again=countdown.AGAIN,
    length=(dead_ends + 1) * (ends_of(numbers, trace.width)[-1] + 1),
    level=lambda problems: problems.answer[:, -1],
    levels=tuple(f"{n}_products" for n in range(numbers)),
  )._replace(tokenizer=roles.tokenizer(countdown.NAMES))


def draws_of(trace: Trace) -> int:
  """The draws that a search takes: its length, and each line."""
  return trace.dead_ends + 2


def _problem(
  chance: Float[Array, " size"], options: countdown.Options, trace: Trace
) -> Problems:
  """One problem, without the leading axis."""
  own, each = countdown.draws_of(options), draws_of(trace)
  chance, one, other, (look,) = jnp.split(
    chance, [own, own + each, own + 2 * each]
  )
  posed = countdown.problem(chance, options)
  numbers, target = posed.answer[: trace.numbers], posed.answer[trace.numbers]
  every = countdown.all_attempts(numbers, target, trace.width)
  first, fresh = (search(draws, every, trace) for draws in (one, other))
  second = jnp.where(look < options.copied, first, fresh)
  solution = roles.pack(jnp.concatenate([first, second]))
  return posed._replace(solution=solution)


def search(
  chance: Float[Array, " draws"], every: Attempts, trace: Trace
) -> Int[Array, " L"]:
  """The text of one search, PAD behind it.

  `chance` are the draws, uniform in [0, 1).
  """
  steps = ends_of(trace.numbers, trace.width)
  ends, column = jnp.array([0, *steps]), jnp.arange(every.tokens.shape[1])
  wanted = integers_below(chance[0], trace.dead_ends + 1)
  open_, start, done = every.valid, jnp.int32(0), jnp.bool_(False)
  lines = []
  for line, draw in enumerate(chance[1:]):
    fits = jnp.where(line >= wanted, open_ & every.right, open_)
    tried = countdown.one_of(draw, fits)
    text = every.tokens[tried]
    dead = first_dead_step(every, text, steps)
    met = every.right[tried]
    verdict = jnp.where(met, STOP, PART - 1 + dead)
    written = jnp.append(jnp.where(column >= start, text, PAD), verdict)
    lines.append(jnp.where(done, PAD, written))
    # Goes on below the last step that can still lead to the target.
    start = ends[dead - 1]
    open_ &= begins_like(every, text, start)
    open_ &= ~begins_like(every, text, ends[jnp.minimum(dead, len(steps))])
    done |= met
  return roles.pack(jnp.concatenate(lines))


def last_line(
  walk: Int[Array, "B N"], trace: Trace
) -> Int[Array, "B L"]:
  """What is left of each attempt, with one place more than a direct one.

  All PAD where it is no search: where it goes back before a step that it has
  not written, and where a line is longer than a direct attempt.
  """
  ends = ends_of(trace.numbers, trace.width)
  length = ends[-1] + 2
  begins, behind = (jnp.array(x) for x in ([0, *ends[:-1]], ends))

  def read(state, token):
    line, place, sound = state
    step = token - PART
    back = (step >= 0) & (step < len(ends))
    step = jnp.clip(step, 0, len(ends) - 1)
    ended = (place > 0) & (line[place - 1] == STOP)
    full = place == ends[-1]
    fits = jnp.where(token == STOP, full, ~full)
    sound &= jnp.where(back, place >= behind[step], fits) & ~ended
    moved = jnp.where(back, begins[step], jnp.minimum(place + 1, length))
    put = jnp.where(jnp.arange(length) == place, token, line)
    is_there = token != PAD
    new = jnp.where(back, line, put), moved, sound
    return jax.tree.map(
      lambda a, b: jnp.where(is_there, a, b), new, state
    ), None

  def one(walk):
    start = jnp.full(length, PAD, walk.dtype), jnp.int32(0), jnp.bool_(True)
    (line, place, sound), _ = jax.lax.scan(read, start, walk)
    kept = (jnp.arange(length) < place) & sound
    return jnp.where(kept, line, PAD)

  return jax.vmap(one)(walk)
