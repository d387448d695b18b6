"""The form of a dialogue in token ids, read off a chat template.

Episodes keep the ids that the policy wrote, so a template is needed only for
what stands around its turns: the first prompt, and what stands between the end
token of a turn and the next turn. Both are found by rendering short dialogues,
and a template for which they cannot be told apart is refused.

What a template does to the text of a turn does not matter, since no turn is
rendered: white space that it strips stays as the policy wrote it, and so does
reasoning, which has to be allowed by name (see `make`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sitrain.types import Chat, Tokenizer

# No chat form: the message, the answer and its end token, each on its own line.
PLAIN = (
  "{% for message in messages %}{{ message.content }}"
  "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}"
  "{% endfor %}"
)
# Some templates write the date into the prompt. It is always this one, so that
# a resumed run reads the same prompts.
_DAY = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"

# What comes before a template that writes reasoning (`<think>`) or none, by its
# variable enable_thinking; whoever renders it may still give another value.
_THINKING = """\
{% if enable_thinking is not defined %}{% set enable_thinking = VALUE %}\
{% endif %}{{ '' }}"""
THINKING = ("default", "on", "off")

_MESSAGES = ("What is 6 * 7?", "Name a colour,\nplease.")
_AGAIN = "There might be an error above. Answer again."
_ANSWER = "Forty-two."
_TURNS = 8  # of the longest dialogue that is checked
# Different beginnings, as the end of a prompt may form one token with some.
_ANSWERS = (
  _ANSWER, "6 * 7 = 42\n\nThe answer is 42", "The answer", "an answer", "I",
  "\\boxed{42}", "def f():", " \n indented:\n  1.\n\n ",
)
_THOUGHT = "Six sevens."
# Reasoning that the prompt opens, or that is written where there was none.
_OPENED = re.compile(r"<think>\s*(</think>\s*)?\Z")
_EMPTY = re.compile(r"\A<think>\s*</think>\s*")

Render = Callable[[Sequence[str]], str]


def make(
  source: Any,
  tokenizer: Tokenizer,
  template: str,
  *,
  reasoning: str,
  ends: tuple[int, ...] = (),
) -> Chat:
  """Chat in the form of a jinja `template`.

  Args:
    source: a tokenizer of transformers.
    tokenizer: its text functions.
    template: a chat template. Where it says strftime_now, the day is fixed.
    reasoning: "refuse" raises for templates that show a later turn less, or
      other, reasoning (`<think>...</think>`) than was written; "keep" takes
      them, and later turns then see all the reasoning of the earlier ones.
    ends: more tokens that end a turn.

  `eos` begins with the end token that the template writes; the tokenizer's own
  and `ends` follow. Special tokens that
  stand in a message as text become special tokens, as in transformers. Raises
  ValueError for a template that fails, that does not write a longer dialogue
  as a continuation of a shorter one, in text and in token ids, that writes a
  later turn in another way than the first, that writes no end token after an
  answer, or the beginning-of-sequence token twice.
  """
  if reasoning not in ("refuse", "keep"):
    raise ValueError(f"reasoning={reasoning!r}: set 'refuse' or 'keep'")
  if "strftime_now" in template:
    template = _DAY + template
  render = _renderer(source, template)
  _check_text(render, reasoning)
  _check_later_turns(render)
  first, _ = _after(render, _MESSAGES[0], _ANSWER, _AGAIN)
  end = _end(source, tokenizer, first)
  _check_tokens(source, render, tokenizer.encode)

  def ask(message: str) -> list[int]:
    return tokenizer.encode(render([message]))

  def again(message: str) -> list[int]:
    # The end token is encoded, too, as tokens depend on the text before them.
    text, _ = _after(render, _MESSAGES[0], _ANSWER, message)
    return tokenizer.encode(text)[1:]

  def dialogue(messages: Sequence[Mapping[str, str]]) -> list[int]:
    return tokenizer.encode(_prompt_of(source, template, messages))

  eos = tuple(dict.fromkeys((end, source.eos_token_id, *ends)))
  return Chat(tokenizer, eos, ask, again, dialogue)


def with_thinking(source: Any, template: str, thinking: str) -> str:
  """A template that writes prompts with reasoning switched "on" or "off".

  As `apply_chat_template(enable_thinking=...)` of transformers; "default" is
  what the template does without it. Raises ValueError for a template whose
  prompts do not depend on that variable.
  """
  if thinking not in THINKING:
    raise ValueError(
      f"thinking={thinking!r}: choose one of {', '.join(THINKING)}"
    )
  if thinking == "default":
    return template
  own = {x: _THINKING.replace("VALUE", x) + template for x in ("true", "false")}
  shown = [_renderer(source, form)(_MESSAGES[:1]) for form in own.values()]
  if shown[0] == shown[1]:
    raise ValueError(
      f"thinking={thinking!r}: the prompts of this chat template do not depend"
      " on enable_thinking: leave thinking out, or give a template, as a file,"
      " that reads it"
    )
  return own["true" if thinking == "on" else "false"]


def _renderer(source: Any, template: str) -> Render:
  """From texts, of user and assistant in turns, to the text of a prompt."""
  def render(texts: Sequence[str]) -> str:
    roles = ("user", "assistant")
    dialogue = [
      {"role": roles[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    try:
      return _rendered(source, template, dialogue)
    except Exception as error:  # a template can raise any exception
      why = " ".join(str(error).split()) or type(error).__name__
      raise ValueError(
        f"the chat template fails for {len(texts)} message(s) of user and "
        f"assistant in turns ({why}): mend it, or give another by template"
      ) from error

  return render


def _rendered(
  source: Any, template: str, messages: Sequence[Mapping[str, str]]
) -> str:
  return source.apply_chat_template(
    [dict(message) for message in messages], chat_template=template,
    tokenize=False, add_generation_prompt=True,
  )


def _prompt_of(
  source: Any, template: str, messages: Sequence[Mapping[str, str]]
) -> str:
  """The text of messages of any roles, up to the next turn.

  Raises ValueError where the template refuses one, or leaves out the text of a
  system or user message.
  """
  roles = ", ".join(message["role"] for message in messages)
  try:
    text = _rendered(source, template, messages)
  except Exception as error:  # a template can raise any exception
    why = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(
      f"the chat template refuses the messages {roles} ({why})"
    ) from error
  for number, message in enumerate(messages, 1):
    # Of an assistant's message some templates leave out the reasoning.
    content = message["content"].strip()
    if message["role"] != "assistant" and content not in text:
      raise ValueError(
        f"the chat template leaves out message {number} of {roles}, or changes "
        f"its text {content[:30]!r}"
      )
  return text


def _after(
  render: Render, first: str, answer: str, again: str
) -> tuple[str, bool]:
  """The text from the end token of an answer on.

  Also whether the template treats reasoning of earlier turns in its own way.
  White space around the answer is ignored: the policy's own is kept.
  """
  prompt, dialogue = render([first]), render([first, answer, again])
  head = prompt if dialogue.startswith(prompt) else _OPENED.sub("", prompt)
  if not dialogue.startswith(head):
    raise ValueError(
      "the chat template writes the first message of a longer dialogue in "
      f"another way than alone ({_difference(prompt, dialogue)}): give a "
      "template, as a file, in which a dialogue only ever grows"
    )
  rest = dialogue[len(head):].lstrip()
  bare, answer = _EMPTY.sub("", rest), answer.strip()
  if not bare.startswith(answer):
    raise ValueError(
      f"the chat template writes the answer {answer!r} as {bare[:40]!r}: give "
      "a template, as a file, that writes answers right after the prompt, as "
      "they are"
    )
  return bare[len(answer):].lstrip(), prompt != head or bare != rest


def _difference(one: str, other: str) -> str:
  """The first difference of two texts."""
  same = next(
    (i for i, (a, b) in enumerate(zip(one, other)) if a != b), len(other)
  )
  return f"{one[same:same + 30]!r} became {other[same:same + 30]!r}"


def _check_text(render: Render, reasoning: str) -> None:
  """Raises ValueError unless a longer dialogue continues the shorter one."""
  found = [
    _after(render, first, answer, _AGAIN)
    for first in _MESSAGES
    for answer in _ANSWERS
  ]
  if len({after for after, _ in found}) > 1:
    raise ValueError(
      "what the chat template writes after an answer depends on the answer or "
      "on the first message: give a template, as a file, in which it does not"
    )
  thought = f"<think>\n{_THOUGHT}\n</think>\n\n{_ANSWER}"
  dropped = _THOUGHT not in render([_MESSAGES[0], thought, _AGAIN])
  if reasoning == "refuse" and (dropped or any(own for _, own in found)):
    raise ValueError(
      "the chat template changes or drops the reasoning (<think>...</think>) "
      "of earlier turns, but here a second turn reads all of the first, with "
      "its reasoning, as the sampled token ids are kept: accept that by "
      "reasoning='keep', or give another template as a file"
    )


def _check_later_turns(render: Render) -> None:
  """Raises ValueError unless every later turn is written like the second."""
  first, prompt = _MESSAGES[0], render(_MESSAGES[:1])
  after, _ = _after(render, first, _ANSWER, _AGAIN)
  for turns in range(2, _TURNS):
    dialogue = render([first, *(_ANSWER, _AGAIN) * turns])
    head = prompt if dialogue.startswith(prompt) else _OPENED.sub("", prompt)
    rest = dialogue.removeprefix(head)
    for turn in range(1, turns + 1):
      # A prompt's opened reasoning is left out before answers without any.
      between = after if turn == turns else _OPENED.sub("", after)
      bare = _EMPTY.sub("", rest.lstrip())
      found = bare.removeprefix(_ANSWER).lstrip()
      if not bare.startswith(_ANSWER) or not found.startswith(between):
        raise ValueError(
          f"the chat template writes turn {turn} of {turns + 1} in another way "
          f"than the first of two ({_difference(_ANSWER + after, bare)}): give "
          "a template, as a file, in which every turn is written alike"
        )
      rest = found.removeprefix(between)


def _end(source: Any, tokenizer: Tokenizer, after: str) -> int:
  """The token that ends a turn: the first of what follows an answer."""
  ids = tokenizer.encode(after)
  special = {*source.all_special_ids, *source.added_tokens_decoder}
  if not ids or ids[0] not in special:
    raise ValueError(
      f"the chat template writes {after[:30]!r} after an answer, which begins "
      "with no special token, so that no turn would end: write {{ eos_token }} "
      "there, in a template that you give as a file, or use template='plain'"
    )
  return ids[0]


def _check_tokens(
  source: Any, render: Render, encode: Callable[[str], list[int]]
) -> None:
  """Raises ValueError unless the ids of a dialogue are those of its parts.

  Only for answers without white space around them: that may merge with what
  the template writes, and is kept as the policy wrote it.
  """
  start = source.bos_token_id
  for first in _MESSAGES:
    for answer in (text for text in _ANSWERS if text == text.strip()):
      text, dialogue = render([first]), render([first, answer, _AGAIN])
      prompt, whole = encode(text), encode(dialogue)
      after = encode(_after(render, first, answer, _AGAIN)[0])
      if start is not None and prompt[:2] == [start, start]:
        raise ValueError(
          "the chat template writes the beginning-of-sequence token twice: "
          "write {{ bos_token }} once, in a template that you give as a file"
        )
      if dialogue.startswith(text) and whole[: len(prompt)] != prompt:
        raise ValueError(
          f"the end of the prompt, {text[-20:]!r}, makes one token with the "
          "answer: end it with a line break or a special token, in a template "
          "that you give as a file"
        )
      if whole[-len(after):] != after:
        raise ValueError(
          "what follows an answer becomes other tokens after the answer than "
          "alone: begin it with a special token, in a template that you give "
          "as a file"
        )
