"""A user's own rows as a task: questions, chats or pairs, and own rewards.

A row is {prompt, answer}, {question, answer}, {messages: [...]} or {prompt,
chosen, rejected}. Without a reward of the user a text is right where its answer
is that of the row.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sitrain.tasks import (
  device_rewards,
  matching,
  messages,
  own_functions,
  rewards,
  text,
)
from sitrain.tasks import sources as mixtures
from sitrain.tasks.messages import Example
from sitrain.tasks.rewards import Given, Reward
from sitrain.tasks.text import Row
from sitrain.tasks.wording import wording
from sitrain.types import Chat, Episodes, Task, Verdict

AGAIN = """There might be an error in your answer above. Correct the error, if \
there is one, and write the whole answer again."""
NEXT = "\n---\n"  # between the messages after turn 1, 2, ...
CUTS = ("judge", "zero", "unknown")
PARTS = ("all", "train", "test")
SYSTEMS = ("system", "user")


class Found(NamedTuple):
  """The rows of a task, and what was left out."""

  examples: list[Example]
  source: list[int]  # of each, its place in the mixture
  notes: list[str]  # a line each


def make(
  chat: Chat,
  *,
  source: str,
  split: str = "",
  limit: int = 0,
  fields: str = "",
  prepare: str = "",
  part: str = "all",
  held_out: float = 0.0,
  chat_ends: str = "refuse",
  system: str = "",
  system_as: str = "system",
  shots: str = "",
  again: str = AGAIN,
  reward: str = "",
  device_reward: str = "",
  extract: str = "",
  cut: str = "judge",
  seconds: float = 60.0,
  pool: bool = False,
  workers: int = 2,
  memory: int = 1024,
  prompt_length: int = 0,
  long_prompts: str = "refuse",
) -> Task:
  """The rows of `source` in the form of `chat`.

  Args:
    chat: how text becomes token ids.
    source: as in tables.read, or a mixture: "a.jsonl*0.7,b.jsonl*0.3".
    split: of a folder or a data set of the hub.
    limit: only the first rows of each source; 0: all.
    fields: what theirs are called, as "prompt=problem,answer=solution"; also
      messages, system, chosen, rejected, level, name.
    prepare: file:PATH.py:FUNCTION of (row), which returns the row to use, or
      None to drop it.
    part: "train" leaves out what `held_out` keeps back, "test" has only that.
    held_out: the share of the rows that is kept back, spread over each source.
    chat_ends: "refuse" chats that end with the assistant, or "answer": their
      last message is the answer.
    system: of rows without one; a text, or "file:" and a path.
    system_as: "system", or "user": in front of the first question, for
      templates that have no system message.
    shots: a source of solved rows that stand before every question.
    again: the message between two attempts, or several with a line of ---
      between them, after turn 1, 2, and so on; or "file:" and a path.
    reward: one of matching.KINDS, or file:PATH.py:FUNCTION as in rewards.py;
      also several, with weights: "exact,file:a.py:polite*0.2". "" is "exact".
    device_reward: instead, functions of token arrays; see device_rewards.py.
    extract: a regular expression, whose last match in a text is its answer for
      all of matching.KINDS but "number"; "" takes the whole text.
    cut: a turn that was cut at its limit is shown to functions ("judge"; those
      of matching.KINDS give 0), earns 0 ("zero"), or is not known ("unknown").
    seconds: that a call of a reward may take, with all texts of a wave; in a
      pool, that of one text.
    pool: whether functions run in processes, text by text.
    workers, memory: processes, and MiB of each.
    prompt_length, long_prompts: as in text.make.

  Raises ValueError, with the row and the fix, for rows that lack what they
  need, templates that refuse them, and functions that are none.
  """
  _check(part=(part, PARTS), cut=(cut, CUTS))
  if reward and device_reward:
    raise ValueError("reward and device_reward: set one of them")
  pattern = matching.pattern_of(extract)
  own_device = device_rewards.parse(device_reward)
  on_host = "" if own_device else reward or "exact"
  own = rewards.parse("reward", on_host)
  found = read(
    source=source, split=split, limit=limit, fields=fields, prepare=prepare,
    part=part, held_out=held_out, chat_ends=chat_ends, system=system,
    system_as=system_as, shots=shots,
  )
  examples = found.examples
  own = [_bound(one, examples, pattern) for one in own]
  prompts = [_prompt(chat, example) for example in examples]
  fitting = text.fitting_prompts(
    prompts, limit=prompt_length, long_prompts=long_prompts
  )
  kept = mixtures.mixed(fitting, found.source, mixtures.parse(source))
  limits = rewards.Limits(seconds, pool, workers, memory)
  task = text.of_prompts(
    chat,
    text.Texts(
      [_row(example) for example in examples], kept, (),
      functools.partial(matching.claim, pattern=pattern),
      [*found.notes, *_counted(examples, fitting, kept)],
      [example.row for example in examples],
    ),
    prompts, prompt_length=prompt_length,
    verify=_verifier(chat, own, rewards.scorer(own, limits), examples, cut),
    reply=text.replier(chat, wording(again).split(NEXT)),
  )
  names = tuple(one.name for one in own) if len(own) > 1 else ()
  # Reference answers are no measure of what the policy has to write.
  length = task.turn_length if on_host == "exact" and not extract else 1
  task = task._replace(rewards=names, turn_length=length)
  if not own_device:
    return task
  answers = [chat.tokenizer.encode(example.answer) for example in examples]
  return device_rewards.on_device(
    task, chat, own_device, answers, cut=cut
  )


def rows(
  *, source: str, split: str = "", limit: int = 0, fields: str = "",
  prepare: str = "", part: str = "all", held_out: float = 0.0,
  chat_ends: str = "refuse", system: str = "", system_as: str = "system",
  shots: str = "",
) -> list[Row]:
  """The rows of `make` as texts, to train a tokenizer on."""
  found = read(
    source=source, split=split, limit=limit, fields=fields, prepare=prepare,
    part=part, held_out=held_out, chat_ends=chat_ends, system=system,
    system_as=system_as, shots=shots,
  )
  return [_row(example) for example in found.examples]


def _check(**options: tuple[str, tuple[str, ...]]) -> None:
  for name, (value, choices) in options.items():
    if value not in choices:
      raise ValueError(
        f"{name}={value!r}: choose one of {', '.join(choices)}"
      )


def read(
  *, source: str, split: str, limit: int, fields: str, prepare: str,
  part: str, held_out: float, chat_ends: str, system: str, system_as: str,
  shots: str,
) -> Found:
  """All examples of `make`, from their files."""
  _check(
    part=(part, PARTS), chat_ends=(chat_ends, messages.ENDS),
    system_as=(system_as, SYSTEMS),
  )
  if not 0.0 <= held_out < 1.0 or part == "test" and not held_out:
    raise ValueError(
      f"held_out={held_out} with part={part!r}: set the share of the rows that"
      " is kept back for a test, such as 0.2"
    )
  names, given = messages.names_of(fields), mixtures.parse(source)
  change = _prepare(prepare)
  solved = _shots(shots, names) if shots.strip() else ()
  form = dict(
    names=names, shots=solved, chat_ends=chat_ends,
    system=wording(system) if system.strip() else "",
  )
  whole: list[tuple[Example, int, bool]] = []
  lines, dropped = mixtures.read(source, split=split, limit=limit), 0
  place = dict.fromkeys(range(len(given)), 0)
  for line in lines:
    test = _kept_back(place[line.source], held_out)
    place[line.source] += 1
    row = change(line.row, line.where)
    if row is None:
      dropped += 1
      continue
    level = given[line.source].name if len(given) > 1 else "all"
    one = messages.example(row, line.where, level=level, **form)
    if system_as == "user":
      one = one._replace(messages=_without_system(one.messages))
    whole.append((one, line.source, test))
  messages.check_named(fields, names, [one.row for one, *_ in whole])
  notes = [f"{len(lines)} rows read from {source}"]
  if dropped:
    notes.append(f"{dropped} dropped by prepare={prepare}")
  chosen, more = _part(whole, part, solved)
  if not chosen:
    remedy = "give more rows, or leave out fewer"
    if part == "test" and not any(test for *_, test in whole):
      remedy = f"held_out={held_out} needs {-int(-1 // held_out)} rows or more"
    raise ValueError(
      f"source={source!r}: no row is left of {len(lines)} "
      f"({'; '.join([*notes[1:], *more])}): {remedy}"
    )
  return Found(
    [one for one, _, _ in chosen], [number for _, number, _ in chosen],
    [*notes, *more],
  )


def _kept_back(i: int, share: float) -> bool:
  """Whether row i of a source is among those kept back, evenly spaced."""
  upto = lambda n: int(n * share + 1e-9)
  return upto(i + 1) > upto(i)


def _prepare(name: str) -> Callable[[dict, str], Any]:
  """(row, where) -> the row that the user's function makes of it, or None."""
  if not name:
    return lambda row, where: row
  try:
    function = own_functions.load(name, "prepare")
  except ValueError as error:
    raise ValueError(f"prepare={name!r}: {error}") from error

  def change(row: dict, where: str) -> Any:
    try:
      found = function(dict(row))
    except own_functions.ERRORS as error:
      raise ValueError(
        f"prepare={name!r} fails for {where}: {own_functions.last_line(error)}:"
        " mend it, or return None to drop the row"
      ) from error
    if found is not None and not isinstance(found, dict):
      raise ValueError(
        f"prepare={name!r} returns a {type(found).__name__} for {where}: return"
        " the row as a dict, or None to drop it"
      )
    return found

  return change


def _shots(source: str, names: Any) -> tuple[dict, ...]:
  """The messages of solved rows: a question and its answer each."""
  found: list[dict] = []
  for line in mixtures.read(source, split="", limit=0):
    one = messages.example(
      line.row, line.where, names=names, system="", shots=(),
      chat_ends="answer", level="",
    )
    if not one.solutions:
      raise ValueError(f"shots: {line.where} has no answer: add one")
    if one.messages[0]["role"] in ("system", "developer"):
      raise ValueError(
        f"shots: {line.where} has a system message: set the option system"
      )
    found += [*one.messages, {"role": "assistant", "content": one.solutions[0]}]
  return tuple(found)


def _without_system(dialogue: tuple) -> tuple:
  """The system message in front of the first question's text."""
  first, *rest = dialogue
  if first["role"] not in ("system", "developer"):
    return dialogue
  at = next((i for i, one in enumerate(rest) if one["role"] == "user"), 0)
  content = f"{first['content']}\n\n{rest[at]['content']}"
  return (*rest[:at], rest[at] | {"content": content}, *rest[at + 1 :])


def _part(
  whole: list[tuple[Example, int, bool]], part: str, shots: Sequence[dict]
) -> tuple[list[tuple[Example, int, bool]], list[str]]:
  """The rows of a part, and notes on those that it lacks.

  A question that is kept back is asked nowhere else, and a shot is none.
  """
  shown = {one["content"] for one in shots if one["role"] == "user"}
  asked = lambda one: tuple(m["content"] for m in one.messages)
  left = [row for row in whole if row[0].messages[-1]["content"] not in shown]
  notes = []
  if len(left) < len(whole):
    notes.append(f"{len(whole) - len(left)} dropped: they are among the shots")
  if part == "all":
    return left, notes
  test = {asked(one) for one, _, back in left if back}
  if part == "test":
    chosen = [row for row in left if row[2]]
    return chosen, [*notes, f"{len(left) - len(chosen)} are not held out"]
  chosen = [row for row in left if asked(row[0]) not in test]
  return chosen, [*notes, f"{len(left) - len(chosen)} are held out"]


def _bound(one: Reward, examples: Sequence[Example], pattern: Any) -> Reward:
  """A reward of this package, for the answers of these rows."""
  if one.own.name:
    return one
  answers = {example.where: example.answer for example in examples}
  function = matching.bound(one.name, answers, pattern)
  return one._replace(own=one.own._replace(function=function))


def _prompt(chat: Chat, example: Example) -> list[int]:
  try:
    return chat.dialogue(example.messages)
  except ValueError as error:
    fix = "give another by tokenizer.template, or drop the row by prepare"
    if example.messages[0]["role"] == "system":
      fix = "set system_as='user', or give another by tokenizer.template"
    raise ValueError(f"{example.where}: {error}: {fix}") from error


def _row(example: Example) -> Row:
  return Row(
    messages.transcript(example.messages), (), example.solutions,
    example.level, example.answer, example.name or example.where,
  )


def _counted(
  examples: Sequence[Example], fitting: Sequence[int], kept: Sequence[int]
) -> list[str]:
  """Notes on long prompts and on the mixture."""
  notes = []
  if long := len(examples) - len(fitting):
    notes.append(f"{long} dropped: their prompts are longer than prompt_length")
  if len(kept) != len(fitting):
    names = sorted({examples[i].level for i in kept})
    shares = ", ".join(
      f"{sum(examples[i].level == name for i in kept)} of {name}"
      for name in names
    )
    notes.append(f"{len(kept)} problems by the weights: {shares}")
  return notes


def _verifier(
  chat: Chat, own: Sequence[Reward], score: Callable[[Given], dict],
  examples: Sequence[Example], cut: str,
) -> Callable[..., Verdict]:
  """`Task.verify`: what the rewards give for every turn, on the host."""
  reads = any("prompts" in one.asks for one in own)

  def given(numbers: Any, episodes: Episodes, turn: int) -> tuple[Given, Any]:
    written, ended = text.turn_tokens(episodes, turn, chat.eos)
    shown = [
      b for b, tokens in enumerate(written)
      if ended[b] or len(tokens) and cut == "judge"
    ]
    before = [_before(episodes, b, turn) if reads else () for b in shown]
    which = [examples[int(numbers[b])] for b in shown]
    return Given(
      prompts=[chat.tokenizer.decode(ids) if reads else "" for ids in before],
      texts=[chat.tokenizer.decode(written[b]) for b in shown],
      rows=[one.row for one in which], turn=turn,
      where=[one.where for one in which], ended=[ended[b] for b in shown],
    ), shown

  def verify(answer: Any, episodes: Episodes, turns: int) -> Verdict:
    numbers = np.asarray(answer)[:, 0]
    blank = np.nan if cut == "unknown" else 0.0
    parts = {
      one.name: np.full((len(numbers), turns), blank, np.float32)
      for one in own
    }
    for k in range(turns):
      asked, shown = given(numbers, episodes, k + 1)
      for name, value in score(asked).items():
        parts[name][shown, k] = value
    return Verdict(*rewards.total(own, parts, np))

  return verify


def _before(episodes: Any, b: int, turn: int) -> np.ndarray:
  """The tokens that stand before a turn of a row."""
  tokens, mark = np.asarray(episodes.tokens)[b], np.asarray(episodes.turn)[b]
  return tokens[: int(np.argmax(mark == turn))]
