"""Rows of a user's data set as dialogues: what is asked, and what is given.

A row has a question (`prompt` or `question`, a text or a list of messages) or a
whole chat (`messages`), and may have an `answer`, or a `chosen` and a
`rejected` one.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sitrain.tasks import fields

# What a field is called where the option `fields` does not say it.
NAMES = {
  "prompt": ("prompt", "question"), "answer": ("answer",),
  "messages": ("messages",), "system": ("system",), "chosen": ("chosen",),
  "rejected": ("rejected",), "level": (), "name": ("id",),
}
ROLES = ("system", "user", "assistant", "tool", "developer")
ENDS = ("refuse", "answer")

Message = Mapping[str, str]  # role and content


class Example(NamedTuple):
  """A row as a dialogue, which ends where the policy is to answer."""

  messages: tuple[Message, ...]
  answer: str  # "" where there is none
  solutions: tuple[str, ...]  # given turns: the answer, or chosen and rejected
  level: str
  name: str
  row: Mapping[str, Any]  # as it was read, or as `prepare` returned it
  where: str  # "row 7 of a.jsonl"


def names_of(text: str) -> dict[str, tuple[str, ...]]:
  """NAMES with those of the option: "prompt=problem,answer=solution".

  Raises ValueError for other names on the left.
  """
  found = dict(NAMES)
  for part in text.split(",") if text.strip() else ():
    ours, equals, theirs = (word.strip() for word in part.partition("="))
    if ours not in NAMES or not equals or not theirs:
      near = difflib.get_close_matches(ours, NAMES, n=1)
      hint = f" (do you mean {near[0]!r}?)" if near and ours != near[0] else ""
      raise ValueError(
        f"fields={text!r}: {part.strip()!r}{hint}: write OURS=THEIRS, where "
        f"OURS is one of {', '.join(NAMES)}"
      )
    found[ours] = (theirs,)
  return found


def check_named(
  text: str, names: Mapping[str, tuple[str, ...]],
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Raises ValueError for a field that the option names and that no row has.

  Most may be missing, so that without it a name with a mistake would be none.
  """
  known = sorted({str(name) for row in rows for name in row})
  for ours, theirs in names.items():
    if rows and theirs != NAMES[ours] and theirs[0] not in known:
      near = difflib.get_close_matches(theirs[0], known, n=1)
      hint = f" (do you mean {near[0]!r}?)" if near else ""
      raise ValueError(
        f"fields={text!r}: no row has {theirs[0]!r}{hint}: name one of"
        f" {', '.join(known)}"
      )


def example(
  row: Mapping[str, Any], where: str, *, names: Mapping[str, tuple[str, ...]],
  system: str, shots: Sequence[Message], chat_ends: str, level: str,
) -> Example:
  """A row as a dialogue.

  `system` stands in front of rows without a system message of their own, and
  `shots` behind it. `chat_ends` says what happens to a chat that ends with the
  assistant: "refuse", or "answer": its last message is the answer. `level` is
  that of rows without one. Raises ValueError that begins with `where`.
  """
  get = lambda name: next(
    (row[n] for n in names[name] if row.get(n) is not None), None
  )
  text = lambda name: fields.read(
    get(name), fields.text_or_number, f"{where}: field {names[name]}"
  )
  messages, answer = _asked(row, where, names, get), text("answer")
  solutions: tuple[str, ...] = ()
  if get("chosen") is not None or get("rejected") is not None:
    messages, solutions = _pair(messages, get("chosen"), get("rejected"), where)
    answer = answer or solutions[0]
  if not messages:
    raise ValueError(f"{where}: {_missing(row, names)}")
  if messages[-1]["role"] == "assistant":
    *messages, last = messages
    if chat_ends == "refuse" or answer or not messages:
      raise ValueError(
        f"{where}: the chat ends with the assistant, and there is nothing to "
        "answer: end it with a message of the user, or set chat_ends='answer' "
        "to take its last message as the answer"
      )
    answer = last["content"]
  if not solutions and answer.strip():
    solutions = (answer,)
  own = [{"role": "system", "content": text("system")}] if get("system") else []
  return Example(
    _joined([*own, *messages], system, shots, where), answer, solutions,
    text("level") or level, text("name"), row, where,
  )


def _asked(row, where, names, get) -> list[Message]:
  """The messages of a row's chat or question; none if it has neither."""
  if get("messages") is not None:
    return dialogue(get("messages"), f"{where}: field {names['messages'][0]!r}")
  found = get("prompt")
  if found is None:
    return []
  name = next(n for n in names["prompt"] if row.get(n) is not None)
  if isinstance(found, (list, tuple)):
    return dialogue(found, f"{where}: field {name!r}")
  asked = fields.read(found, fields.text_or_number, f"{where}: field {name!r}")
  if not asked.strip():
    raise ValueError(f"{where}: field {name!r} is empty: leave the row out")
  return [{"role": "user", "content": asked}]


def _missing(row: Mapping[str, Any], names: Mapping) -> str:
  known = ", ".join(map(repr, sorted(map(str, row)))) or "none"
  wanted = [n for ours in ("prompt", "messages") for n in names[ours]]
  return (
    f"no field {' or '.join(map(repr, wanted))} (it has {known}): name the "
    "question as fields='prompt=THEIRS', or drop the row by prepare"
  )


def dialogue(value: Any, where: str) -> list[Message]:
  """A list of {role, content}; ValueError for what is none."""
  if not isinstance(value, (list, tuple)) or not value:
    raise ValueError(
      f"{where} is no list of messages: write "
      '[{"role": "user", "content": "..."}]'
    )
  found = []
  for number, message in enumerate(value, 1):
    at = f"{where}: message {number}"
    if not isinstance(message, dict) or not {"role", "content"} <= {*message}:
      raise ValueError(f"{at} lacks role or content: write both")
    if message["role"] not in ROLES:
      raise ValueError(
        f"{at} is of role {message['role']!r}: choose one of {', '.join(ROLES)}"
      )
    if message["role"] in ("system", "developer") and number > 1:
      raise ValueError(
        f"{at} is of role {message['role']!r}, which stands first or nowhere: "
        "move it to the front"
      )
    if message.get("tool_calls"):
      raise ValueError(
        f"{at} has tool_calls, which would be left out: write them into its"
        " content as the model is to write them, or drop the row by prepare"
      )
    content = fields.read(_content(message["content"]), fields.text, at)
    if not content.strip() and message["role"] != "assistant":
      raise ValueError(f"{at} is empty: write its text, or leave it out")
    found.append({"role": message["role"], "content": content})
  return found


def _content(value: Any) -> Any:
  """The text of a list of text parts; what else it is stays."""
  is_text = lambda part: (
    isinstance(part, dict) and part.get("type") == "text"
    and isinstance(part.get("text"), str)
  )
  if isinstance(value, list) and value and all(map(is_text, value)):
    return "".join(part["text"] for part in value)
  return value


def _pair(
  asked: list[Message], chosen: Any, rejected: Any, where: str
) -> tuple[list[Message], tuple[str, str]]:
  """(the messages before them, the texts of the chosen and the rejected)."""
  heads, texts = [], []
  for name, value in (("chosen", chosen), ("rejected", rejected)):
    at = f"{where}: {name!r}"
    if value is None:
      raise ValueError(f"{at} is missing: a pair has both, drop the row")
    if isinstance(value, str):
      *head, last = [{"role": "assistant", "content": value}]
    else:
      *head, last = dialogue(value, at)
    if last["role"] != "assistant" or not last["content"].strip():
      raise ValueError(f"{at} ends with no text of the assistant: give one")
    texts.append(last["content"])
    heads.append(head)
  if texts[0] == texts[1]:
    raise ValueError(
      f"{where}: 'chosen' and 'rejected' are the same text: drop the row"
    )
  before = asked or heads[0]
  if any(head and head != before for head in heads):
    raise ValueError(
      f"{where}: 'chosen' and 'rejected' answer other messages than the prompt "
      "has: the messages before the last one must be the same"
    )
  return before, (texts[0], texts[1])


def _joined(
  messages: list[Message], system: str, shots: Sequence[Message], where: str
) -> tuple[Message, ...]:
  """The system message, the shots, and the rest of the dialogue."""
  heads = [m for m in messages if m["role"] in ("system", "developer")]
  if len(heads) > 1:
    raise ValueError(
      f"{where}: it has a system message in its field and in its messages: "
      "leave one out"
    )
  if not heads and system:
    heads = [{"role": "system", "content": system}]
  rest = [m for m in messages if m not in heads]
  if rest[-1:] and rest[-1]["role"] == "assistant" or not rest:
    raise ValueError(f"{where}: the dialogue has no question: add one")
  return (*heads, *shots, *rest)


def transcript(messages: Sequence[Message]) -> str:
  """A dialogue for reading: the question alone, or all roles and texts."""
  if [m["role"] for m in messages] == ["user"]:
    return messages[0]["content"]
  return "\n".join(f"{m['role']}: {m['content']}" for m in messages)
