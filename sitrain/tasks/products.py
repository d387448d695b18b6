"""Products of two numbers of two digits, with a calculator to call.

`37*84=` is answered by `3108<end>`, or first by a call, `<calc>37*84</calc>`,
to which the policy reads `3108`, or `<bad>` if it is no expression; another
turn follows. A small model learns to copy long before it learns to multiply, so
that it pays to call. The task's own reply is computed on the device, for the
corpus and for whole runs in one program; config.task.environment="calculator"
answers on the host instead (docs/environments.md).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import roles
from sitrain.tasks.attempt import attempt, judge_turns
from sitrain.tasks.draw import draw, integers_below
from sitrain.types import PAD, Episodes, Problems, Reply, Task, Verdict

NAMES = (*"0123456789*=", "<calc>", "</calc>", "<bad>", "<end>")
TIMES, EQUALS, CALL, CLOSE, BAD, END = range(10, 16)
CALLED, ANSWER = 7, 5  # tokens of a call, and of the longest answer
PLACES = 10 ** np.arange(3, -1, -1, dtype=np.int32)


def make(*, calls: float = 0.3, mistake: float = 0.2) -> Task:
  """Products of numbers from 10 to 99.

  Args:
    calls: share of the corpus that calls the calculator; the others answer at
      once.
    mistake: share of these calls in which a digit is wrong.

  `solution` holds the turns of the corpus. A turn gets reward 1 iff it is the
  right answer, a call 0. `final` of a turn is the number that it answers, -1
  for a call. Raises ValueError for shares that are none.
  """
  for name, value in (("calls", calls), ("mistake", mistake)):
    if not 0.0 <= value <= 1.0:
      raise ValueError(f"{name}={value}: set a number from 0 to 1")
  return Task(
    problems=lambda key, n: draw(
      key, n, lambda chance: _problem(chance, calls, mistake), size=6
    ),
    verify=_verify,
    reply=_reply,
    final=_final,
    level=lambda problems: problems.answer[:, 0] * 0,
    levels=("all",),
    eos=(CLOSE, END),
    turn_length=CALLED,
    tokenizer=roles.tokenizer(NAMES),
    table=(),
    on_host=False,
  )


def _problem(chance: Float[Array, " 6"], calls, mistake) -> Problems:
  """One problem, without the leading axis; its answer is the product."""
  one, other = 10 + integers_below(chance[:2], 90)
  asked = _digits(jnp.stack([one, other]), 2).reshape(4)
  prompt = jnp.stack([*asked[:2], TIMES, *asked[2:], EQUALS])
  place = jnp.arange(4) == integers_below(chance[4], 4)
  wrong = place & (chance[3] < mistake)
  # A digit from 1 on, as a number does not begin with 0.
  asked = jnp.where(wrong, 1 + integers_below(chance[5], 9), asked)
  called = 10 * asked[0] + asked[1], 10 * asked[2] + asked[3]
  call = jnp.stack([CALL, *asked[:2], TIMES, *asked[2:], CLOSE])
  value = jnp.where(chance[2] < calls, called[0] * called[1], one * other)
  answer = jnp.append(_number(value), END)
  call = jnp.where(chance[2] < calls, call, PAD)
  solution = roles.pack(jnp.concatenate([call, answer]))
  return Problems(
    prompt.astype(jnp.int32), (one * other)[None].astype(jnp.int32),
    solution.astype(jnp.int32),
  )


def _digits(number, count):
  return number[..., None] // PLACES[4 - count :] % 10


def _number(number) -> Int[Array, "*B 4"]:
  """The digits of a number below 10,000, PAD in place of leading zeros."""
  return jnp.where(number[..., None] >= PLACES, _digits(number, 4), PAD)


def _number_read(walk: Int[Array, "B N"]) -> Int[Array, " B"]:
  """The number that a turn of `ANSWER` + 1 tokens answers, else -1."""
  length = jnp.sum(walk != PAD, axis=1)
  place = jnp.arange(walk.shape[1])
  digit = (walk >= 0) & (walk < 10)
  inside = place < length[:, None] - 1
  last = jnp.take_along_axis(
    walk, jnp.maximum(length - 1, 0)[:, None], axis=1
  )[:, 0]
  formed = jnp.all(digit | ~inside, axis=1) & (last == END)
  formed &= (length > 1) & (length <= ANSWER) & (walk[:, 0] > 0)
  power = jnp.maximum(length[:, None] - 2 - place, 0)
  value = jnp.sum(jnp.where(inside, walk * 10**power, 0), axis=1)
  return jnp.where(formed, value, -1)


def _final(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
  return jnp.stack([
    _number_read(attempt(episodes, k + 1, ANSWER + 1)) for k in range(turns)
  ], axis=1)


def _verify(answer, episodes: Episodes, turns: int) -> Verdict:
  right = lambda walk: _number_read(walk) == answer[:, 0]
  return judge_turns(right, episodes, turns, ANSWER + 1)


def _reply(answer, episodes: Episodes, turn: Int[Array, " B"]) -> Reply:
  """What the calculator says to a call; another turn ends the episode."""
  own = jnp.where(episodes.turn == turn[:, None], 1, PAD)
  walk = attempt(episodes._replace(turn=own), 1, CALLED + 1)
  digits = walk[:, jnp.array([1, 2, 4, 5])]
  formed = jnp.all((digits >= 0) & (digits < 10), axis=1)
  formed &= (walk[:, 3] == TIMES) & (walk[:, 6] == CLOSE)
  formed &= (digits[:, 0] > 0) & (digits[:, 2] > 0) & (walk[:, 0] == CALL)
  a, b, c, d = digits.T
  reply = _number(jnp.where(formed, (10 * a + b) * (10 * c + d), 0))
  bad = jnp.full_like(reply, PAD).at[:, 0].set(BAD)
  tokens = roles.pack(jnp.where(formed[:, None], reply, bad))
  return Reply(tokens.astype(jnp.int32), _is_no_call(walk))


def _is_no_call(walk: Int[Array, "B N"]) -> Bool[Array, " B"]:
  return ~jnp.any(walk == CALL, axis=1)
