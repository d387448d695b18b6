"""Role tokens, and turns in which attempts are judged, critiqued and mended.

Each is one token: `<end>` ends an attempt; `<ok>`, `<bad@k>` (part k is the
first that is wrong) and `<bad>` (no more is known) end a diagnosis; `<retry>`
asks for another attempt; `<fix>` begins the one after a critique. A diagnosis
of an attempt is a row of tokens, PAD behind them, and `<ok>` alone where the
attempt is right.
"""

import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sitrain.tasks.attempt import attempt
from sitrain.tasks.characters import UNKNOWN
from sitrain.types import PAD, Episodes, Reply, Task, Tokenizer, Verdict

ROLES = ("<ok>", "<bad>", "<fix>", "<retry>", "<end>")
FEEDBACK = ("none", "verdict", "full")
Diagnose = Callable[[Array, Array], Array]  # (answer [B A], walk [B N]) -> B F


def names_of(
  characters: str, *, words: tuple[str, ...] = (), parts: int = 0
) -> tuple[str, ...]:
  """The tokens of a task: characters, words, roles, `<bad@1>` to `parts`."""
  return (
    *characters, *words, *ROLES, *(f"<bad@{k}>" for k in range(1, parts + 1)),
  )


def renamed(alphabet: str, *, parts: int) -> tuple[str, ...]:
  """The tokens of a task with roles, ids of its characters as without them.

  The last two characters of `alphabet` are what ends an attempt and what asks
  for another: they become `<end>` and `<retry>`.
  """
  rest = (role for role in ROLES if role not in ("<end>", "<retry>"))
  numbered = (f"<bad@{k}>" for k in range(1, parts + 1))
  return (*alphabet[:-2], "<end>", "<retry>", *rest, *numbered)


def tokenizer(names: tuple[str, ...]) -> Tokenizer:
  """Tokenizer whose ids are places in `names`, as `characters.make`.

  Raises ValueError for a repeated name, and in `encode` for text without one.
  """
  ids = {name: i for i, name in enumerate(names)}
  if len(ids) < len(names):
    raise ValueError(f"names {names} repeat one: list it once")
  longest_first = sorted(names, key=len, reverse=True)
  one = re.compile("|".join(map(re.escape, longest_first)))

  def encode(text: str) -> list[int]:
    found, place = [], 0
    while place < len(text):
      match = one.match(text, place)
      if not match:
        raise ValueError(
          f"no token for {text[place]!r} at place {place} of {text!r}: use "
          f"only {' '.join(names)}"
        )
      found.append(ids[match.group()])
      place = match.end()
    return found

  def decode(tokens: Any) -> str:
    flat = [int(token) for token in np.asarray(tokens).reshape(-1)]
    known = range(len(names))
    return "".join(
      names[t] if t in known else UNKNOWN for t in flat if t != PAD
    )

  return Tokenizer(encode, decode, len(names))


def pack(tokens: Int[Array, "*B N"]) -> Int[Array, "*B N"]:
  """The same tokens without PAD between them; it follows them."""
  order = jnp.argsort(tokens == PAD, axis=-1, stable=True)
  return jnp.take_along_axis(tokens, order, axis=-1)


def check_feedback(feedback: str) -> None:
  """Raises ValueError for a kind of feedback that does not exist."""
  if feedback not in FEEDBACK:
    raise ValueError(
      f"feedback={feedback!r}: choose one of {', '.join(FEEDBACK)}"
    )


def with_feedback(task: Task, diagnose: Diagnose, feedback: str) -> Task:
  """The task with a reply that tells what is wrong with an attempt.

  feedback: "none": `<retry>`. "verdict": `<bad>` and `<retry>`. "full": the
  diagnosis and `<retry>`. With feedback a right attempt ends the episode.
  Raises ValueError for another.
  """
  check_feedback(feedback)
  ok, bad, retry = _ids(task, "<ok>", "<bad>", "<retry>")

  def reply(answer, episodes: Episodes, turn: Int[Array, " B"]) -> Reply:
    rows = turn.shape[0]
    again = jnp.full((rows, 1), retry, jnp.int32)
    if feedback == "none":
      return Reply(again, jnp.zeros(rows, bool))
    diagnosis = diagnose(answer, _latest(episodes, turn, task.turn_length + 1))
    done = diagnosis[:, 0] == ok
    if feedback == "verdict":
      diagnosis = jnp.full((rows, 1), bad, jnp.int32)
    return Reply(pack(jnp.concatenate([diagnosis, again], axis=1)), done)

  return task._replace(reply=reply)


def with_tag(task: Task, tag: str) -> Task:
  """The task with one more token, a control tag, at the end of its prompts.

  "" adds none. Raises ValueError for a text that is not one token.
  """
  if not tag:
    return task
  ids = task.tokenizer.encode(tag)
  if len(ids) != 1:
    raise ValueError(f"tag={tag!r}: set it to one token, such as '<ok>'")

  def problems(key, n):
    posed = task.problems(key, n)
    end = jnp.full((n, 1), ids[0], posed.prompt.dtype)
    return posed._replace(prompt=jnp.concatenate([posed.prompt, end], axis=1))

  return task._replace(problems=problems)


def with_critic(task: Task, diagnose: Diagnose, *, longest: int) -> Task:
  """The task in which the policy critiques its own attempts.

  Turns are an attempt, a critique of it, an attempt, and so on. After the
  critique `<ok>` the episode ends; after another the policy reads `<fix>` and
  attempts again. The reward of a critique is 1 iff it is the whole diagnosis.
  `solution` has the two attempts of the task, each with its diagnosis, and only
  the first if that is right. `final` of a critique is that of its attempt.
  `accepts` says which are `<ok>`. longest: tokens of the longest diagnosis.
  """
  ok, bad, fix, end = _ids(task, "<ok>", "<bad>", "<fix>", "<end>")
  parts = [i for i in range(task.tokenizer.size) if _is_part(task, i)]
  length = task.turn_length + 1

  def problems(key, n):
    posed = task.problems(key, n)
    ended = posed.solution == end
    number = jnp.cumsum(ended, axis=1) - ended
    first, second = (
      pack(jnp.where(number == k, posed.solution, PAD)) for k in range(2)
    )
    diagnosis = [
      diagnose(posed.answer, _fit(walk, length)) for walk in (first, second)
    ]
    rest = jnp.concatenate([second, diagnosis[1]], axis=1)
    rest = jnp.where(diagnosis[0][:, :1] == ok, PAD, rest)
    both = jnp.concatenate([first, diagnosis[0], rest], axis=1)
    return posed._replace(solution=pack(both))

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    rewards = []
    for k in range(1, turns + 1):
      walk = attempt(episodes, k if k % 2 else k - 1, length)
      diagnosis = diagnose(answer, walk)
      right = diagnosis[:, 0] == ok
      if k % 2 == 0:
        given = attempt(episodes, k, diagnosis.shape[1] + 1)
        right = jnp.all(given == _fit(diagnosis, given.shape[1]), axis=1)
      rewards.append(right)
    reward = jnp.stack(rewards, axis=1).astype(jnp.float32)
    return Verdict(reward, jnp.ones_like(reward))

  def is_ok(given):
    return (given[:, 0] == ok) & (given[:, 1] == PAD)

  def reply(answer, episodes: Episodes, turn: Int[Array, " B"]) -> Reply:
    critique = turn % 2 == 0
    done = critique & is_ok(_latest(episodes, turn, 2))
    return Reply(jnp.where(critique, fix, PAD)[:, None].astype(jnp.int32), done)

  def accepts(episodes: Episodes, turns: int):
    given = [is_ok(attempt(episodes, k + 1, 2)) for k in range(turns)]
    return jnp.stack(given, axis=1) & (jnp.arange(turns) % 2 == 1)

  def final(episodes: Episodes, turns: int):
    found = task.final(episodes, turns)
    return found[:, jnp.arange(turns) // 2 * 2]

  return task._replace(
    problems=problems, verify=verify, reply=reply, final=final,
    eos=(end, ok, bad, *parts), turn_length=max(task.turn_length, longest),
    rewards=(), accepts=accepts,
  )


def _latest(episodes, turn, length):
  """The tokens [B length] of turn [B] of every row."""
  own = jnp.where(episodes.turn == turn[:, None], 1, PAD)
  return attempt(episodes._replace(turn=own), 1, length)


def _fit(tokens, width):
  """The first `width` columns, with PAD where there are fewer."""
  more = max(0, width - tokens.shape[1])
  return jnp.pad(tokens, ((0, 0), (0, more)), constant_values=PAD)[:, :width]


def _ids(task, *names):
  return [task.tokenizer.encode(name)[0] for name in names]


def _is_part(task, token):
  return task.tokenizer.decode([token]).startswith("<bad@")
