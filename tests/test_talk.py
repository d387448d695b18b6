"""sitrain talk: typed problems, what is shown of them, and a tiny model."""

import io
from types import SimpleNamespace

import jax
import mains
import numpy as np
import pytest
from rich.console import Console

from sitrain.configs import quickstart
from sitrain.models import decoder
from sitrain.runtime import (
  build,
  conversation,
  sharding,
  typed,
)
from sitrain.runtime.options import ConfigError
from sitrain.tasks import gsm8k, maze
from sitrain.types import PAD, Chat, Episodes, Tokenizer

talk = mains.imported("sitrain.talk")
FLAGS = dict(
  workdir="", stage="", which="last", temperature=0.0, top_k=0, top_p=1.0,
  problems=0, seed=1, mesh=[], turns=0,
)


def row(task, *texts, turns):
  """An episode of the texts, each with the number of its turn."""
  tokens = [task.tokenizer.encode(text) for text in texts]
  turn = [k for text, k in zip(tokens, turns) for _ in text]
  flat = [[PAD] + [t for text in tokens for t in text] + [PAD]]
  mark = np.array([[PAD, *turn, PAD]])
  none = np.zeros(mark.shape)
  return Episodes(np.array(flat), mark, none, none, np.zeros(1), np.zeros(1))


STORY = ("932-18+..470.=", "9021-", "?", "9874+")


def stories(task):
  """A dialogue as it grows."""
  turns = (0, 1, 0, 2)
  for count in range(1, 5):
    yield row(task, *STORY[:count], turns=turns[:count])


def test_plain_lines_come_and_go():
  said, task = [], maze.make()
  source = io.StringIO("one\n\n  two \n:quit\nthree\n")
  screen = conversation.plain(source, said.append, maze.drawing)
  assert list(screen.lines(0)) == ["one", "two"]
  assert list(screen.lines(2)) == ["", ""]
  for rows in stories(task):
    screen.grow(task, rows)
  assert not said  # nothing before its end
  screen.end(task, rows, [False, None])
  assert said == [
    "problem      932-18+..470.=",
    "             9 > 0 > 2 > 1 > -\n             3 > 8 > 7 > 4 > +\n"
    "             no hint",
    "attempt 1    9021-  (wrong)", "instruction  ?",
    "attempt 2    9874+  (unknown)", "",
  ]


def terminal_of(meanings=(), typed=()):
  """A screen in a terminal of 100 columns; (screen, its text so far)."""
  console = Console(
    file=io.StringIO(), force_terminal=True, width=100, color_system="standard"
  )
  lines = iter(typed)

  def ask(prompt):
    for line in lines:
      return line
    raise EOFError

  screen = conversation.terminal(console, meanings, maze.drawing, ask)
  return screen, console.file.getvalue


def test_a_terminal_shows_attempts_as_they_are_written():
  screen, shown = terminal_of()
  task, sizes = maze.make(), []
  for rows in stories(task):
    screen.grow(task, rows)
    sizes.append(len(shown()))
  # The instruction comes with what follows it.
  assert sizes[0] < sizes[1] == sizes[2] < sizes[3]
  screen.end(task, rows, [False, True])
  text = shown()
  for part in STORY:
    assert part in text
  assert text.count("9021-") == 1 and text.count("no hint") == 1
  # Gone is red and struck (9;31), new is green and underlined (4;32).
  changed = text[text.index("changed"):]
  assert "\x1b[9;31m021-\x1b[0m\x1b[4;32m874+\x1b[0m" in changed
  assert "\x1b[31mattempt 1    wrong" in text
  assert "\x1b[32mattempt 2    right" in text
  screen.grow(task, rows)  # The next dialogue begins anew.
  assert shown().count("no hint") == 2


def test_a_terminal_asks_until_the_end():
  screen, shown = terminal_of(
    [("+", "the exit")], [" 12 ", ":help", "", ":q", "no"]
  )
  assert list(screen.lines(0)) == ["12", ""]
  assert "the exit" in shown() and shown().count("Ctrl-D") == 2
  assert list(terminal_of(typed=["12"])[0].lines(0)) == ["12"]
  assert list(terminal_of(typed=["", "", ""])[0].lines(2)) == ["", ""]


def test_what_a_model_writes_cannot_steer_a_terminal():
  assert conversation.visible("a\x1b[2J\x07\n\tb\x9b") == (
    "a\u241b[2J\u2407\n\tb\ufffd"
  )
  task = maze.make()
  evil = Tokenizer(task.tokenizer.encode, lambda tokens: "\x1b[2J", 15)
  (*_, rows) = stories(task)
  texts = conversation.texts_of(task._replace(tokenizer=evil), rows)
  assert not [text for text in texts.values() if "\x1b" in text]


def test_half_a_character_is_not_shown():
  screen, shown = terminal_of()
  task, (*_, rows) = maze.make(), stories(maze.make())
  for text in ("ab\ufffd", "ab\u00e9"):
    own = Tokenizer(task.tokenizer.encode, lambda tokens, text=text: text, 15)
    screen.grow(task._replace(tokenizer=own), rows)
  assert "\ufffd" not in shown() and "ab" in shown() and "\u00e9" in shown()


def chat_of(said):
  tokenizer = Tokenizer(lambda text: list(map(ord, text)), str, 999)
  ask = lambda text: said.append(text) or [1, 2]
  return Chat(
    tokenizer, (3,), ask, lambda text: [],
    lambda messages: said.append(messages) or [4],
  )


@pytest.mark.parametrize("options, want", [
  ({"name": "gsm8k", "source": "x"}, gsm8k.ASK.format(problem="2+2?")),
  ({"name": "gsm8k", "source": "x", "ask": "Q {problem}"}, "Q 2+2?"),
  ({"name": "mbpp", "ask": "{problem} {tests}"}, "2+2?"),
  ({"name": "chat", "source": "x"}, "2+2?"),
  ({"name": "chat", "system": "Be brief.", "system_as": "user"},
   "Be brief.\n\n2+2?"),
  ({"name": "chat", "system": "Be brief."}, [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
  ]),
])
def test_a_typed_problem_has_the_form_of_the_task(monkeypatch, options, want):
  said = []
  monkeypatch.setattr(typed, "chat_of", lambda *given: chat_of(said))
  config = {"task": options, "evaluate": {}}
  typed.encoder(config, "", maze.make())("2+2?")
  assert said == [want]


def test_typed_symbols_are_a_problem_without_an_answer():
  task = maze.make()
  encode = typed.encoder({"task": {"name": "maze"}, "evaluate": {}}, "", task)
  tokens = encode(STORY[0])
  found = typed.problem(task, tokens)
  assert found.prompt.shape == (1, 16)
  assert found.prompt[0].tolist() == [PAD, PAD, *tokens]
  assert found.answer.shape == (1, 14) and not found.answer.any()
  with pytest.raises(ValueError, match="no token for 'a'"):
    encode("abc")
  for count in (0, 9):
    with pytest.raises(ConfigError, match=f"of {count} tokens: give 1 to 8"):
      typed.check_length([1] * count, 8)


def test_a_model_talks_about_typed_and_own_problems(monkeypatch):
  """A tiny model without a run, on streams of text."""
  config = build.plain(quickstart.get_config("quick"))
  monkeypatch.setattr(
    talk.requested_policy, "load", lambda config, plan, model, mesh: (
      jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0)), ""
    ),
  )
  monkeypatch.setattr(
    talk.requested_policy, "check_size", lambda *args, **options: None
  )
  plan = talk.plan_of(config, SimpleNamespace(**FLAGS))
  assert len(plan.turns) == 2
  with pytest.raises(ConfigError, match="--turns=5: .* has limits for 2"):
    talk.plan_of(config, SimpleNamespace(**FLAGS | {"turns": 5}))
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1)
  with jax.set_mesh(mesh):
    model = talk.loaded(config, plan, mesh)

    def said_of(text, problems=0):
      target = io.StringIO()
      screen = conversation.screen(config, io.StringIO(text), target)
      talk.talk(model, screen, plan._replace(problems=problems))
      return target.getvalue().split("\n\n")

    typed_one, own = said_of(STORY[0]), said_of("", 2)
    assert typed_one[0].startswith(f"problem      {STORY[0]}\n")
    assert "attempt 2 " in typed_one[0] and "right" not in typed_one[0]
    assert "note: problems of this task have 14 tokens, this one has 5" in (
      said_of(STORY[0][:5])[0]
    )
    assert all("(right)" in x or "(wrong)" in x for x in own[:2])
    assert own[-1].startswith("right: attempt 1 ") and "of 2" in own[-1]
    # The same problem again, typed: the same attempts, as it is greedy.
    (prompt,) = [x.split()[1] for x in own[0].splitlines()[:1]]
    again = said_of(prompt)[0].splitlines()
    bare = [x.rpartition("  (")[0] or x for x in own[0].splitlines()]
    assert again == bare
    with pytest.raises(ConfigError, match="1 of the problems above"):
      said_of(f"abc\n{STORY[0]}\n")
