"""Functions of tasks whose problems are drawn from a key."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import characters
from sitrain.tasks.attempt import attempt, judge_turns
from sitrain.types import Episodes, Key, Problems, Reply, Task, Verdict


def task_of(
  problem: Callable[[Float[Array, " size"]], Problems],
  right: Callable[..., Bool[Array, " B"]],
  final: Callable[[Int[Array, "B N"]], Int[Array, " B"]],
  *,
  size: int,
  alphabet: str,
  eos: tuple[int, ...],
  again: int,
  length: int,
  level: Callable[[Problems], Int[Array, " P"]],
  levels: tuple[str, ...],
) -> Task:
  """A task of drawn problems that is verified on the device.

  problem, size: what `draw` takes.
  right: (answer [B A], walk [B N]) -> [B], whether attempts are right.
  final: walk [B N] -> [B], the codes of their answers, -1 for none.
  again: the correction instruction, one token.
  length: tokens of the longest right attempt; a walk has one place more.
  """

  def verify(
    answer: Int[Array, "B A"], episodes: Episodes, turns: int
  ) -> Verdict:
    of_answer = lambda walk: right(answer, walk)
    return judge_turns(of_answer, episodes, turns, length + 1)

  def final_of_turns(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
    each = [attempt(episodes, k + 1, length + 1) for k in range(turns)]
    return jnp.stack([final(walk) for walk in each], axis=1)

  return Task(
    problems=lambda key, n: draw(key, n, problem, size=size),
    verify=verify,
    reply=constant_reply([again]),
    final=final_of_turns,
    level=level,
    levels=levels,
    eos=eos,
    turn_length=length,
    tokenizer=characters.make(alphabet),
    table=(),
    on_host=False,
  )


def draw(
  key: Key,
  n: int,
  problem: Callable[[Float[Array, " size"]], Problems],
  *,
  size: int,
) -> Problems:
  """`n` problems, problem i a function of fold_in(key, i) and nothing else.

  `problem` maps `size` draws, uniform in [0, 1), to one problem without the
  leading axis. All numbers are drawn at once, because every further call of the
  generator adds to the time of compilation.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
  chance = jax.vmap(lambda one: jax.random.uniform(one, (size,)))(keys)
  return jax.vmap(problem)(chance)


def integers_below(
  chance: Float[Array, "*N"], n: int | Int[Array, ""]
) -> Int[Array, "*N"]:
  """Integers from 0 to n - 1, of draws that are uniform in [0, 1).

  The bias is below n / 2 ** 23.
  """
  return jnp.floor(chance * n).astype(jnp.int32)


def constant_reply(ids: Sequence[int]) -> Callable[..., Reply]:
  """The same reply to every turn: the correction instruction, or nothing."""

  def reply(
    answer: Int[Array, "B A"], episodes: Episodes, turn: Int[Array, " B"]
  ) -> Reply:
    tokens = jnp.asarray(ids, jnp.int32)
    tokens = jnp.broadcast_to(tokens, (answer.shape[0], len(ids)))
    return Reply(tokens, jnp.zeros(turn.shape, bool))

  return reply


def second_attempt(
  chance: Float[Array, ""],
  first: Int[Array, " N"],
  fresh: Int[Array, " N"],
  spoiled: Int[Array, " N"],
  *,
  copied: float,
  corrupted: float,
) -> Int[Array, " N"]:
  """The second attempt of a corpus that teaches no self-correction.

  It is `first` with probability `copied`, `spoiled` with probability
  `corrupted`, and else `fresh`, whether the first attempt was right or wrong;
  `chance` is uniform in [0, 1).
  """
  rest = jnp.where(chance < copied + corrupted, spoiled, fresh)
  return jnp.where(chance < copied, first, rest)


def corrected_attempt(
  chance: Float[Array, ""],
  mended: Int[Array, " N"],
  other: Callable[[Float[Array, ""]], Int[Array, " N"]],
  *,
  corrected: float,
) -> Int[Array, " N"]:
  """`mended` with probability `corrected`, else other(chance).

  `chance` and what `other` gets are uniform in [0, 1).
  """
  if corrected >= 1:
    return mended
  rest = jnp.clip((chance - corrected) / (1 - corrected), 0, 1)
  return jnp.where(chance < corrected, mended, other(rest))


def check_probability(name: str, value: float) -> None:
  """Raises ValueError unless the option is a probability."""
  if not 0 <= value <= 1:
    raise ValueError(
      f"{name}={value} is no probability: give a number from 0 to 1"
    )


def check_corpus(copied: float, corrupted: float) -> None:
  """Raises ValueError unless the options of `second_attempt` are possible."""
  check_probability("copied", copied)
  check_probability("corrupted", corrupted)
  if copied + corrupted > 1:
    raise ValueError(
      f"copied={copied} and corrupted={corrupted} add up to more than 1: "
      "lower one, as the rest is the probability of a fresh attempt"
    )
