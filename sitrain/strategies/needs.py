"""Whether a task is one that a strategy can answer, before a model is loaded.

A strategy takes a turn for an attempt. Where a turn is a move in a game or a
call of a tool its numbers would be wrong in silence, so it is refused there.
What a task replies is looked at on attempts of its own base corpus.
"""

import jax
import jax.numpy as jnp

from sitrain.rollout import by_turn, contexts
from sitrain.types import PAD, Problems, Reply, Task

LOOKED_AT = 32  # problems at the most


def kind_of_reply(task: Task, problems: Problems) -> str:
  """What the task replies to a first attempt.

  "host": something that is computed on the host. "instruction": the same to
  every attempt, and another attempt follows. "nothing": the next turn begins at
  once. "end": every episode ends. "attempt": it depends on the attempt.
  """
  if by_turn.on_host(task.reply):
    return "host"
  few = jax.tree.map(lambda x: jnp.asarray(x)[:LOOKED_AT], problems)
  # A loop is one program: see tasks.rows.some_problems.
  reply = jax.tree.map(
    lambda x: x[0],
    jax.lax.map(lambda few: _replies(task, few), jax.tree.map(
      lambda x: x[None], few
    )),
  )
  if bool(reply.done.all()):
    return "end"
  # Padding of a reply has no place of its own.
  tokens = contexts.pack_left(reply.tokens) if reply.tokens.size else (
    reply.tokens
  )
  if bool(reply.done.any()) or bool((tokens != tokens[:1]).any()):
    return "attempt"
  return "instruction" if bool((tokens != PAD).any()) else "nothing"


def _replies(task: Task, problems: Problems) -> Reply:
  """What is said to the first given turns, and to attempts that end at once."""
  limit = max(problems.solution.shape[1], 1)
  given = contexts.given(
    problems, reply=task.reply, turns=(limit,), eos=task.eos
  )
  rows = contexts.begin(problems, 1)
  end = jnp.full((len(problems.prompt), 1), task.eos[0], jnp.int32)
  at_once = contexts.append(rows, end, 1)
  # A row without a given turn ends at once, too.
  has = jnp.any(given.turn == 1, axis=1)[:, None]
  width = max(given.tokens.shape[1], at_once.tokens.shape[1])
  given, at_once = (contexts.widen(x, width) for x in (given, at_once))
  given = given._replace(
    tokens=jnp.where(has, given.tokens, at_once.tokens),
    turn=jnp.where(has, given.turn, at_once.turn),
  )
  both = contexts.stack(given, at_once)
  answer = problems.answer[both.problem]
  return task.reply(answer, both, jnp.ones_like(both.problem))


def has_verdicts(task: Task) -> bool:
  """Whether every second turn of the policy is a verdict on its attempt."""
  return task.accepts != ()


def check(
  name: str, needs: str, task: Task, kind: str, *, feedback: bool
) -> None:
  """Raises ValueError where a strategy cannot answer the problems of a task.

  `kind`: see kind_of_reply. `feedback`: the task's replies say whether an
  attempt was right, so that the first turn is an attempt all the same.
  """
  if needs == "verdicts":
    if not has_verdicts(task):
      raise ValueError(
        f"{name} needs a task whose policy writes the verdicts <ok> and <bad> "
        "as turns of its own, such as stack_machine.critic"
      )
    return
  if kind == "host":
    raise ValueError(
      f"{name}: an environment answers the turns of this task, so a turn is no "
      "attempt: use sitrain sample"
    )
  game = kind == "attempt" and not feedback
  if game or kind == "nothing" and not has_verdicts(task):
    raise ValueError(
      f"{name}: what follows a turn of this task is no instruction to try "
      "again but a move in a game, or what a tool found, so a turn is no "
      "attempt: use sitrain sample"
    )
  # A verdict is what stands between drafts, too.
  judged = needs == "drafts" and has_verdicts(task) and kind == "nothing"
  if needs in ("instruction", "drafts") and kind != "instruction" and (
    not judged
  ):
    why = {
      "attempt": "its replies tell what its verifier found",
      "nothing": "the turn after an attempt is no attempt",
      "end": "its episodes have one turn",
    }[kind]
    known = "verify_and_revise, " if has_verdicts(task) else ""
    raise ValueError(
      f"{name} needs a task with a fixed instruction to try again, and {why}: "
      f"use {known}self_consistency or best_of_n"
    )
