"""Environments on the host: what they are asked, and what may go wrong."""

import functools
import pathlib
import re
import shutil
import sys
import threading
import time

import fakes
import jax
import jax.numpy as jnp
import loops
import mains
import numpy as np
import optax
import pytest

from sitrain.curate.select import token_mask
from sitrain.evaluate import player as playing
from sitrain.evaluate import samples as test_samples
from sitrain.methods import grpo, imitation
from sitrain.rollout import stops
from sitrain.runtime import environments, samples, sharding, typed, watch
from sitrain.runtime.checks import check_environment
from sitrain.runtime.environments import attach, options_of_task
from sitrain.runtime.host import HostOnly, on_host, shapes_only
from sitrain.runtime.options import ConfigError
from sitrain.runtime.plan.programs import names_of
from sitrain.runtime.replies import LATE, call_all
from sitrain.runtime.stage import compile_loop
from sitrain.tasks import characters, products
from sitrain.tasks import text as texts_of
from sitrain.tasks.dialogue import Dialogue, dialogue_of, form_of_chat
from sitrain.tasks.environments import calculator, interpreter
from sitrain.tasks.text import Grade, Row, Texts
from sitrain.train import init_state
from sitrain.types import GIVEN, PAD, Chat, Problems, Tokenizer

END = 1
LETTERS = characters.make("~|<>[]abcdefghijklmnopqrstuvwxyz0123456789 .:'*/")
CHAT = Chat(
  LETTERS, (END,),
  lambda text: LETTERS.encode(f"<{text}>"),
  lambda text: LETTERS.encode(f"[{text}]"),
)
ROWS = [Row(f"what is {n}", (), (), "all", str(n), f"id{n}") for n in range(9)]


def text_task(verdict=1.0):
  task = fakes.task(
    fakes.constant_verdict(verdict), again=[0], eos=(END,), prompt=[[2, 3]]
  )
  return task._replace(
    tokenizer=LETTERS, texts=Texts(ROWS, range(9), None, str)
  )


def attached(reply, *, reward=None, chat=CHAT, task=None, **options):
  """The task of an environment that is a function."""
  told = environments.Options(environment="mine", **options)
  made = environments.Environment(reply, reward, "Mine")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(environments, "environment_of", lambda *given: made)
    return attach(task or text_task(), told, "task", chat)


def rows_of(*dialogues):
  """Episodes of (turns, replies), as texts; `|` ends a turn."""
  packed = [
    fakes.transcribe(
      CHAT.ask(ROWS[b].message), list(map(LETTERS.encode, turns)),
      [LETTERS.encode(text) for text in (*replies, *[""] * len(turns))],
    ) for b, (turns, replies) in enumerate(dialogues)
  ]
  return jax.tree.map(np.asarray, fakes.pack(packed))


def ask(task, rows, turn=1, alive=None):
  """Texts that the rows read, and which are done."""
  count = len(rows.problem)
  alive = np.ones(count, bool) if alive is None else np.array(alive)
  told = task.reply.answer(
    np.arange(count)[:, None], rows, turn, alive, np.arange(count) + 5
  )
  return [LETTERS.decode(row) for row in told.tokens], told.done.tolist()


def test_an_environment_reads_text_and_writes_messages():
  seen = []

  def reply(dialogue):
    seen.append(dialogue)
    return None if dialogue.row.answer == "1" else f"n{dialogue.seed}"

  task = attached(reply, reply_workers=1)
  rows = rows_of((["ab|", "c|"], ["[r 1]"]), (["d|"], []), (["ef"], []))
  texts, done = ask(task, rows)
  # The third was cut at its limit: an end comes first, so the form stays.
  assert texts == ["[n5]", "", "|[n7]"] and done == [False, True, False]
  assert [one.turns for one in seen] == [("ab",), ("d",), ("ef",)]
  assert [one.ended for one in seen] == [True, True, False]
  assert seen[0].prompt == "what is 0" and seen[0].row == ROWS[0]
  texts, done = ask(task, rows, 2, [True, False, False])
  assert seen[-1] == Dialogue(
    "what is 0", ("ab", "c"), ("r 1",), ROWS[0], (0,), True, 5
  )
  assert done == [False, True, True] and texts[1:] == ["", ""]
  counted = task.reply.counted()
  assert counted["environment/over"] == (1.0, 4.0)
  assert counted["environment/errors"] == (0.0, 4.0)
  assert task.reply.counted()["environment/over"] == (0.0, 0.0)


def test_the_text_of_a_reply_is_read_back_from_its_tokens():
  """Also after a cut turn, and where it looks like the form."""
  form = form_of_chat(CHAT)
  for text in ("", "a", "[a]", "]", "| 7"):
    for ended in (True, False):
      assert form.read(form.write(text, ended)) == text
  tokens = np.array(LETTERS.encode("<q>ab[c]d|"))
  mark = np.array([0, 0, 0, 1, 1, 0, 0, 0, 2, 2])
  seen = dialogue_of(form, text_task(), np.array([2]), tokens, mark, 2, 3)
  assert seen.turns == ("ab", "d") and seen.replies == ("c",)
  # A problem that somebody has typed is not that of any row.
  posed = typed.problem(text_task(), LETTERS.encode("<q>"))
  answer = np.asarray(posed.answer)[0]
  seen = dialogue_of(form, text_task(), answer, tokens, mark, 2, 3)
  assert seen.row == () and seen.prompt == "<q>" and seen.fields == {}
  own = text_task()
  own = own._replace(texts=own.texts._replace(fields=[{"n": n} for n in ROWS]))
  given = dialogue_of(form, own, np.array([4]), tokens, mark, 2, 3)
  assert given.row == ROWS[4] and given.fields["n"] == ROWS[4]


def test_an_environment_can_be_talked_to_and_sampled_with_its_replies():
  """Nothing is compiled: players are made, and a line is said."""
  task, limits = attached(lambda dialogue: "ok"), (4, 4)
  made = playing.make(
    fakes.bigram(LETTERS.size), task, turns=limits, samples=1, reply=task.reply,
    jit=jax.jit,
  )
  assert made.turns == 2
  sample = mains.imported("sitrain.sample")
  stage = {name: {"method": {"turns": limits[:n]}} for n, name in
           enumerate(("one", "two"), start=1)}
  config = {"evaluate": {"turns": limits}, "stage": stage}
  said = lambda task, turns, stage="": sample.unanswered(
    config, turns, task, stage
  )
  assert "--turns=2 samples all of them" in said(task, 1)
  assert said(task, 2) == said(text_task(), 1) == said(task, 2, "two") == ""
  assert said(text_task(), 1, "one") == said(text_task(), 2, "two") == ""
  assert said(text_task(), 1, "two") == (
    "--turns=1: two has trained 2 turns, and only the first is sampled:"
    " --turns=2 samples the next, too"
  )


def test_samples_of_a_test_set_have_the_rewards_of_whole_dialogues():
  """A row that its environment ended is marked by its last turn.

  What the environment takes off makes no answer wrong, and a turn that a string
  ended was not cut.
  """
  seen = []

  def reward(dialogue):
    seen.append((dialogue.turns, dialogue.replies))
    return -0.25 if len(dialogue.turns) > 1 else 0.0

  task = attached(lambda dialogue: "ok", reward=reward, stop="/")
  task = on_host(task._replace(
    table=Problems(np.full((9, 1), 2), np.arange(9)[:, None], np.zeros((9, 0))),
    texts=task.texts._replace(grade=()),
  ))
  rows = rows_of((["a/", "b|"], ["|[ok]"]), (["c|"], []))
  (one, two) = test_samples.records(
    {"own": task}, task.table, np.array([0, 1]),
    playing.Played(rows.tokens, rows.turn, ()), samples=1, turns=2,
  )
  assert set(seen) == {
    (("a/",), ()), (("a/", "b"), ("ok",)), (("c",), ())
  }
  assert one["statuses"] == one["attempts_2"]["statuses"] == ["right"]
  assert one["truncated"] == [0] and one["known"] == [1]
  assert one["attempts_2"]["rewards"] == [0.75]
  assert two["attempts_2"]["texts"] == ["c"]
  assert two["attempts_2"]["statuses"] == two["statuses"] == ["right"]


def boom(dialogue):
  if dialogue.row.answer == "1":
    raise KeyError("no such key")
  return "ok"


THREE = ((["a|"], []), (["b|"], []), (["c|"], []))


def test_an_error_is_told_ends_the_row_or_stops_the_run(caplog):
  rows = rows_of(*THREE)
  texts, done = ask(quiet(boom), rows)
  assert texts == ["[ok]", "[error: k: no such key]", "[ok]"] and not any(done)
  assert caplog.text.count("row 2 of the data (id1): Mine raises") == 1
  task = quiet(boom, reply_errors="end")
  texts, done = ask(task, rows)
  assert texts[1] == "[error: k: no such key]" and done == [False, True, False]
  counted = task.reply.counted()
  assert counted["environment/errors"] == (1.0, 3.0)
  assert counted["environment/over"] == (0.0, 3.0)
  with pytest.raises(ValueError, match=r"^row 2 .*no such key.*reply_errors"):
    ask(quiet(boom, reply_errors="stop"), rows)


def quiet(reply, **options):
  """Errors are named by a letter: this tokenizer has no capitals."""

  def named(dialogue):
    try:
      return reply(dialogue)
    except KeyError as error:
      raise type("k", (Exception,), {})(*error.args) from error

  return attached(named, **options)


def test_errors_that_no_policy_should_read_stop_the_run():
  rows = rows_of(*THREE)
  for value, words in ((84, "int '84'"), (["x"], "list"), (b"x", "bytes")):
    with pytest.raises(ValueError, match=f"^row 1 .*returned {words}.*None"):
      ask(attached(lambda dialogue, value=value: value), rows)
  with pytest.raises(ValueError, match="^all 3 replies failed; row 1"):
    ask(attached(lambda dialogue: 1 / 0), rows)
  with pytest.raises(ValueError, match="Mine replied 'Ä'.*no token for"):
    ask(attached(lambda dialogue: "Ä"), rows)
  half = "^row 1 .*reply of Mine holds half of a character"
  with pytest.raises(ValueError, match=half):
    ask(attached(lambda dialogue: "\ud800"), rows)


def test_a_long_reply_is_cut_and_counted(caplog):
  task = attached(lambda dialogue: "x" * 20, reply_tokens=10)
  texts, done = ask(task, rows_of((["a|"], []), (["b"], [])))
  assert texts == ["[" + "x" * 7 + "]", "|[" + "x" * 7 + "]"]
  assert "22 tokens and is cut at config.task.reply_tokens=10" in caplog.text
  assert caplog.text.count("is cut") == 1 and not any(done)
  counted = task.reply.counted()
  assert counted["environment/cut"] == (2.0, 2.0)
  # Nor has it ever ended a dialogue: the limit of turns does.
  assert counted["environment/over"] == (0.0, 2.0)
  task.reply.counted()
  assert caplog.text.count("Mine ended none of the dialogues") == 1


def test_of_a_huge_reply_only_what_may_fit_is_tokenized():
  read = []
  counting = LETTERS._replace(
    encode=lambda text: read.append(len(text)) or LETTERS.encode(text)
  )
  chat = CHAT._replace(
    tokenizer=counting, again=lambda text: counting.encode(f"[{text}]")
  )
  task = attached(
    lambda dialogue: "x" * 10**6, reply_tokens=10, chat=chat,
    task=text_task()._replace(tokenizer=counting),
  )
  texts, _ = ask(task, rows_of((["a|"], [])))
  assert texts == ["[" + "x" * 7 + "]"] and max(read) < 10**4


def test_calls_are_answered_in_order_and_a_late_one_is_left(caplog):
  gate, hung = threading.Event(), []

  def work(i):
    if i == 2:
      gate.wait(20)
    if i == 3:
      raise SystemExit(1)
    time.sleep(0.002 * (5 - i))
    return i * i

  began = time.monotonic()
  found = call_all(work, range(5), seconds=0.2, workers=2, hung=hung)
  assert time.monotonic() - began < 10
  assert [one.value for one in found] == [0, 1, None, None, 16]
  assert found[2].error == LATE and isinstance(found[3].error, SystemExit)
  assert len(hung) == 1
  # Too many that hang are an error; here they would take every thread.
  with pytest.raises(RuntimeError, match="3 calls hang"):
    call_all(lambda i: gate.wait(20), range(9), seconds=0.05, workers=2,
             hung=hung)
  gate.set()
  assert call_all(work, [], seconds=1.0, workers=2, hung=[]) == []
  gate.clear()
  stuck = attached(
    lambda dialogue: gate.wait(20), reply_seconds=0.05, reply_workers=1
  )
  with pytest.raises(ValueError, match="^row 1 .*id0.: Mine: 2 calls hang"):
    ask(stuck, rows_of(*THREE))
  gate.set()
  # A reply that is late is an error like others.
  task = attached(
    lambda dialogue: time.sleep(0.5) if dialogue.row.answer == "1" else "ok",
    reply_seconds=0.1,
  )
  texts, _ = ask(task, rows_of(*THREE))
  assert texts == ["[ok]", "[error: it took too long]", "[ok]"]
  assert "longer than config.task.reply_seconds=0.1" in caplog.text
  assert task.reply.counted()["environment/late"] == (1.0, 3.0)


def test_rewards_of_turns_are_added_to_the_verdict():
  """Each by name; None is not known, and so is a turn with an error behind."""

  def reward(dialogue):
    return None if dialogue.turns[-1] == "c" else len(dialogue.turns) * 0.25

  task = attached(lambda dialogue: "ok", reward=reward)
  rows = rows_of(
    (["a|", "b|"], ["[ok]"]), (["c|"], []), (["d|"], ["[error]"])
  )
  tokens, turn = (np.concatenate([x, np.full((3, 9), PAD)], axis=1)
                  for x in (rows.tokens, rows.turn))
  end = int((turn[2] != PAD).sum())
  error = LETTERS.encode("[error]")
  tokens[2, end : end + 7], turn[2, end : end + 7] = error, GIVEN
  rows = rows._replace(tokens=tokens, turn=turn)
  verdict = task.verify(np.arange(3)[:, None], rows, 2)
  np.testing.assert_allclose(verdict.reward, [[1.25, 1.5], [1, 1], [1.25, 1]])
  np.testing.assert_array_equal(verdict.known, [[1, 1], [0, 1], [0, 1]])
  assert set(verdict.parts) == set(task.rewards) == {"answer", "environment"}
  for bad, words in (
    (lambda dialogue: 1 / 0, r"row 1.*, turn 1: reward of Mine raises ZeroDiv"),
    (lambda dialogue: "x", "returned 'x': return a finite number"),
    (lambda dialogue: np.nan, "returned nan"),
    (lambda dialogue: "0.5", "returned '0.5': return a finite number"),
    (lambda dialogue: 1e39, r"returned 1e\+39"),
    (lambda dialogue: 10**400, "returned 10{59}: return"),
    (lambda dialogue: sys.exit(), "reward of Mine raises SystemExit"),
    (lambda dialogue: time.sleep(20), "took longer than .*reply_seconds=0.2"),
  ):
    with pytest.raises(ValueError, match=words):
      attached(lambda dialogue: "ok", reward=bad, reply_seconds=0.2).verify(
        np.arange(3)[:, None], rows, 2
      )


def test_a_reward_has_no_seed():
  """It would not be the one of the reply: 0 once judged another secret."""
  draw = lambda dialogue: float(np.random.default_rng(dialogue.seed).random())
  task = attached(lambda dialogue: f"{draw(dialogue)}"[:4], reward=draw)
  rows = rows_of((["a|", "b|"], ["[ok]"]))
  assert ask(task, rows)[0] == ["[0.80]"]
  with pytest.raises(ValueError, match="reward of Mine .*NoSeedInReward"):
    task.verify(np.zeros((1, 1), int), rows, 2)


def test_a_turn_that_a_string_ended_is_judged_as_one_that_ended():
  """With the end token that the reply begins with, or where none follows."""
  seen = []

  def grade(texts, rows):
    seen.extend(texts)
    return [Grade(float(text == "42/"), 1.0, "") for text in texts]

  task = texts_of.make(
    CHAT, ROWS, again="again", grade=grade, claim=str, prompt_length=0,
    long_prompts="refuse",
  )
  task = attached(lambda dialogue: "ok", task=task, stop="/")
  rows = rows_of(
    (["a/", "42/"], ["|[ok]"]), (["b|", "42"], ["[ok]"]), (["42|"], [])
  )
  verdict = task.verify(np.arange(3)[:, None], rows, 2)
  # The second row was cut in its second turn.
  assert seen == ["a/", "b", "42", "42/"]
  assert verdict.reward.tolist() == [[0, 1], [0, 0], [0, 0]]
  final = task.final(rows, 2)
  assert (final >= 0).tolist() == [[True, True], [True, False], [True, False]]


def test_strings_that_end_turns_keep_the_spaces_of_their_tokens():
  """Like SentencePiece: a first token loses its space. Ä is of two tokens."""
  pieces = ("~", "|", " the", " end", "the", "end", "\ufffd", " ", "Ä")
  ids = {"the end": [2, 3], "end": [5], "Ä": [6, 6], "": []}
  decode = lambda tokens: "".join(pieces[i] for i in tokens).removeprefix(" ")
  task = text_task()._replace(tokenizer=Tokenizer(ids.get, decode, 9))
  found = environments._stops("the end", task, "task.stop")
  assert stops.ended(
    found, jnp.array([[4, 3, PAD], [4, 5, PAD], [4, 7, 5], [2, 3, PAD]]),
    jnp.ones((4, 3), int), 1,
  )[:, 0].tolist() == [True, False, True, True]
  with pytest.raises(ConfigError, match="'Ä' end inside of its letters"):
    environments._stops("end,Ä", task, "task.stop")


MINE = '''
class Echo:
  def __init__(self, times=1):
    if times < 1:
      raise ValueError(f"times={times}: set 1 or more")
    self.times = times
  def reply(self, dialogue):
    return dialogue.turns[-1] * self.times
class Silent:
  pass
def plain(dialogue):
  return dialogue.missing
def maker(*, word="x"):
  return lambda dialogue: word

async def waits(dialogue):
  return "x"

class Waits:
  async def reply(self, dialogue):
    return "x"

class Scores:
  def reply(self, dialogue):
    return "x"

  def reward(self, dialogue, turn):
    return 1.0

class Quits:
  def __init__(self):
    raise SystemExit(0)

  def reply(self, dialogue):
    return "x"
'''


def test_an_environment_is_found_by_its_name(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(MINE)
  rows = rows_of(*THREE)

  def made(name, **options):
    task = {"name": "x", "environment": f"file:{file}{name}"}
    if options:
      task["environment_options"] = options
    rest, own = options_of_task(task, "task")
    assert rest == {"name": "x"}
    return attach(text_task(), own, "task", CHAT)

  assert ask(made(":Echo", times=2), rows)[0][0] == "[aa]"
  assert ask(made(":maker", word="y"), rows)[0][0] == "[y]"
  with pytest.raises(ValueError, match=r"AttributeError.*\(mine.py, line 12\)"):
    ask(made(":plain"), rows)
  for name, options, words in (
    (":Ehco", {}, "did you mean 'Echo'"),
    ("", {}, "no function reply"),
    (":Silent", {}, r"Silent has no reply\(dialogue\)"),
    (":Echo", {"time": 2}, "time.*times"),
    (":Echo", {"times": 0}, "times=0"),
    (":plain", {"a": 1}, "takes no options"),
    (":Waits", {}, "reply of Waits is async: write it with def"),
    (":waits", {}, "reply of waits is async"),
    (":Scores", {}, "reward of Scores cannot be called with a dialogue alone"),
    (":Quits", {}, "mine.py, line .*raises SystemExit"),
  ):
    with pytest.raises(ConfigError, match=words):
      made(name, **options)


@pytest.mark.parametrize("given, words", (
  ({"environment": "calculater"}, "did you mean 'calculator'"),
  ({"environment": "calculator", "reply_tokens": 0}, "reply_tokens=0"),
  ({"environment": "calculator", "reply_tokens": 3}, "takes 3: set 35"),
  ({"environment": "calculator", "reply_errors": "ignore"}, "tell, end, stop"),
  ({"environment": "calculator", "reply_seconds": "1"}, "give a float"),
  ({"reply_tokens": 5}, "reply_tokens is of an environment"),
  ({"environment": "calculator", "stop": "</calc>,"}, "stop: a string .*empty"),
))
def test_options_of_an_environment_are_checked(given, words):
  with pytest.raises(ConfigError, match=words):
    _, own = options_of_task(given, "task")
    attach(text_task(), own, "task", CHAT)


def calculated(text):
  reply = calculator.make().reply
  return reply(Dialogue("", (text,), (), (), (), True, 0))


@pytest.mark.parametrize("text, want", (
  ("12*7", "84"), ("84/2", "42"), ("1/3", "0.333333333333"),
  ("1,000*3", "3000"), ("3 ^ 2", "9"), ("12×7", "84"), ("-(2+3)", "-5"),
  ("2**100", str(2**100)), ("7%4", "3"), ("0.1+0.2", "0.3"),
  ("9**9**9", "error: the number is too large"),
  ("2.5**9999", "error: the number is too large"),
  ("1/0", "error: division by zero"), ("", "error: nothing to calculate"),
  ("(1+2", "error: this is no expression"),
  ("__import__('os')", "error: only numbers, brackets and + - * / // % ** "
   "are known"),
  ("(-8)**0.5", "error: the root of a negative number"),
  ("(" * 90 + "1" + ")" * 90, "error: more than 20 brackets in brackets"),
  ("(" * 20 + "1" + ")" * 20, "1"), ("-" * 199 + "1", "-1"),
  ("-2**2", "-4"), ("2**-1", "0.5"), ("2**3**2", "512"), ("1 2", "error: this "
   "is no expression"), ("7//2*2", "6"), ("1" * 201, "error: longer than 200 "
   "characters"), ("1j", "error: only numbers, brackets and + - * / // % ** "
   "are known"),
))
def test_the_calculator(text, want):
  assert calculated(f"so <calc>{text}</calc>") == want


def test_what_is_no_call_ends_the_dialogue():
  assert calculated("the answer is 84") is None
  assert calculated("<calc>2+2") == "4"  # The end token cut its end off.
  priced = calculator.make(cost=0.5, error="?")
  dialogue = Dialogue("", ("<calc>x</calc>",), (), (), (), True, 0)
  assert priced.reply(dialogue) == "?" and priced.reward(dialogue) == -0.5
  assert priced.reward(dialogue._replace(turns=("4",))) == 0.0


TASK = products.make(calls=0.5, mistake=0.3)
TURNS = (7, 7)


@functools.cache
def host_task():
  own = environments.Options(
    environment="calculator", environment_options={"error": "<bad>",
    "cost": 0.25}, reply_tokens=5,
  )
  return on_host(attach(TASK, own, "task", None))


def test_the_calculator_says_what_the_task_says_on_the_device():
  """On the corpus, its mistakes, and turns that are no calls."""
  posed = TASK.problems(jax.random.key(0), 200)
  made = imitation.make(
    {"policy": None}, TASK, None, problems=200, turns=TURNS
  )
  rows = made.generate((), (), posed)
  rng = np.random.default_rng(0)
  tokens = np.array(rows.tokens)
  own = np.array(rows.turn) == 1
  noise = own & (rng.random(tokens.shape) < 0.1) & (
    np.arange(200)[:, None] % 2 == 0
  )
  tokens[noise] = rng.integers(1, 12, noise.sum())
  rows = rows._replace(tokens=jnp.asarray(tokens))
  first = jnp.ones(200, jnp.int32)
  want = jax.device_get(TASK.reply(posed.answer, rows, first))
  got = host_task().reply.answer(
    np.asarray(posed.answer), jax.device_get(rows), 1, np.ones(200, bool),
    np.zeros(200),
  )
  np.testing.assert_array_equal(got.done, want.done)
  # Where there is `<calc>` but no form both say <bad>, or what it is worth.
  same = (got.tokens[:, :4] == want.tokens[:, :4]).all(axis=1)
  plain = ~noise.any(axis=1)
  assert same[plain & ~want.done].all() and (plain & ~want.done).sum() > 20
  verdict = TASK.verify(posed.answer, rows, 2)
  last = np.where(want.done, 0, 1)
  right = np.asarray(verdict.reward)[np.arange(200), last]
  assert 0.8 < right[plain].mean() < 1.0


OPTIMIZER = optax.sgd(0.1)
KEY = jax.random.key(1, impl="threefry2x32")


def begin(params):
  both = loops.copy(params), loops.copy(params)
  state = init_state(
    {"policy": both[0]}, OPTIMIZER, held={"reference": both[1]}
  )
  return jax.device_put(state, sharding.replicated(loops.mesh_of(1)))


def method_of(model):
  return grpo.make(
    {"policy": model}, host_task(), OPTIMIZER, problems=4, samples=4,
    turns=TURNS, discount=1.0,
  )


def run(toy, waves, samples_every=0):
  """(state, metrics) of two staged steps."""
  model, params, _ = toy
  method = method_of(model)
  stage = loops.stage_of(
    method, OPTIMIZER, fused=False, parts=loops.PARTS | {"waves": waves},
    task=host_task(),
  )
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    begin(params),
  )
  run = loops.run_of(model, mesh=loops.mesh_of(1))
  run = run._replace(watch=watch.Watch(samples_every=samples_every, samples=8))
  return compile_loop(run, stage, abstract)(begin(params), KEY)


def test_a_stage_asks_the_host(toy):
  """Two steps of GRPO; waves change nothing."""
  host_task().reply.counted()  # What other tests have asked.
  state, told = run(toy, 2)
  one, said = run(toy, 1, samples_every=1)
  said, shown = samples.taken(said)
  dialogues = samples.records(
    loops.stage_of((), OPTIMIZER, task=host_task()), shown, 0, 1
  )
  read = [turn["given"] for _, rows in dialogues for row in rows
          for turn in row["turns"][1:]]
  assert read and all(read)  # what the calculator replied
  for x, y in zip(*map(jax.tree.leaves, (state.params, one.params))):
    np.testing.assert_allclose(x, y, atol=1e-6)
  for name in set(told) - {"environment/seconds"}:
    np.testing.assert_allclose(
      said[name].total, told[name].total, rtol=1e-4, atol=1e-4, err_msg=name
    )
  asked = told["environment/over"].count
  assert np.all(asked == 16) and np.all(told["environment/errors"].total == 0)
  called = 1 - told["judge/ended_2"].total / told["judge/ended_2"].count
  assert np.all(called > 0.1) and np.all(called < 0.95)
  assert int(state.step) == 2
  assert float(told["generate/sampler_gap"].total[0]) < 1e-3
  cost = told["judge/environment_1"]
  np.testing.assert_allclose(cost.total, -0.25 * called * 16, atol=1e-4)


def test_no_loss_falls_on_what_the_host_wrote(toy):
  """Only own tokens are trained on, and no target of a given one is read."""
  model, params, _ = toy
  method = method_of(model)
  call, answer = [12, 1, 2, 10, 3, 4, 13], [4, 0, 8, 15]
  packed = [
    fakes.transcribe([1, 2, 10, 3, 4, 11], [call, answer], [[4, 0, 8]]),
    fakes.transcribe([1, 2, 10, 3, 4, 11], [answer], []),
  ]
  rows = fakes.pack(packed, problem=[0, 0])
  posed = Problems(
    jnp.array([[1, 2, 10, 3, 4, 11]]), jnp.array([[408]]), jnp.array([[PAD]])
  )
  answers = np.array([[408], [408]])
  verdict = host_task().verify(answers, jax.device_get(rows), 2)
  np.testing.assert_allclose(verdict.reward, [[-0.25, 1], [1, 0]])
  verdict = verdict._replace(
    known=verdict.known * np.array([[1, 1], [1, 0]], np.float32)
  )
  state = begin(params)

  def batch_of(rows):
    verdict_ = jax.tree.map(jnp.asarray, verdict)
    return method.curate(KEY, state, posed, rows, verdict_)[0]

  batch = batch_of(rows)
  given = np.asarray(rows.turn) == GIVEN
  assert given[0, 13:16].all() and not np.asarray(batch.mask)[given].any()
  np.testing.assert_array_equal(
    batch.mask, token_mask(rows.turn, jnp.asarray(verdict.known) > 0)
  )
  own = np.asarray(batch.targets.advantage)
  assert (own[0, 6:13] != 0).all() and (own[0, 13:16] == 0).all()

  def gradient(targets):
    one = batch._replace(targets=targets)
    total = lambda params: sum(
      mean.total for mean in method.loss(params, state, one)[0].values()
    )
    return jax.tree.leaves(jax.grad(total)(state.params))

  # Whatever stands on given tokens is not read.
  spoilt = jax.tree.map(
    lambda x: jnp.where(given, 1e3, x), batch.targets
  )
  for x, y in zip(gradient(batch.targets), gradient(spoilt)):
    np.testing.assert_allclose(x, y, atol=1e-6)


def test_a_stage_that_cannot_ask_is_refused(toy):
  model, params, _ = toy
  task, models = host_task(), {"policy": model}
  options = dict(problems=4, samples=4)
  stage = lambda method: loops.stage_of(method, OPTIMIZER, task=task)
  one = grpo.make(models, task, OPTIMIZER, turns=TURNS[:1], **options)
  with pytest.raises(ConfigError, match="answers between turns: give two"):
    check_environment("stage.a", stage(one), TURNS[:1])
  both = grpo.make(models, task, OPTIMIZER, turns=TURNS, offline=1, **options)
  with pytest.raises(ConfigError, match="not played turn by turn"):
    check_environment("stage.a", stage(both), TURNS)
  fine = grpo.make(models, task, OPTIMIZER, turns=TURNS, **options)
  check_environment("stage.a", stage(fine), TURNS)
  staged = stage(fine)._replace(fused=False)
  assert names_of(staged) == ("pose", "begin", "go_on", "join", "learn")
  with pytest.raises(ValueError, match="slots=2: set it to 0"):
    grpo.make(models, task, OPTIMIZER, turns=TURNS, slots=2, **options)
  # Nothing is answered by the shape of a reply alone.
  posed = TASK.problems(KEY, 2)
  generate = lambda: fine.generate(
    jax.random.split(KEY, 2), begin(params), posed
  )
  with pytest.raises(HostOnly):
    jax.eval_shape(generate)
  with shapes_only():
    assert jax.eval_shape(generate).tokens.shape == (8, 6 + 14 + 5)


def test_the_environments_of_the_docs_answer(tmp_path):
  page = pathlib.Path(__file__).parent.parent / "docs" / "environments.md"
  blocks = re.findall(
    r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.S
  )
  assert [name for name, _ in blocks] == ["my_env.py", "search.py"]
  for name, code in blocks:
    (tmp_path / name).write_text(code)

  def made(name, options):
    _, own = options_of_task({
      "environment": f"file:{tmp_path / name}",
      "environment_options": str(options),
    }, "task")
    return environments.environment_of(own, "task")

  guess = made("my_env.py:Guess", {"most": 2})
  row = ROWS[5]
  seen = lambda *turns: Dialogue("", turns, (), row, (5,), True, 0)
  assert guess.reply(seen("9")) == "Too high."
  assert guess.reply(seen("9", "x")) == "Answer with a number."
  assert guess.reply(seen("9", "5")) is None
  assert guess.reply(seen("9", "8", "7")) is None
  assert guess.reward(seen("9")) == 0.0 and guess.reward(seen("9", "5")) < 0
  with pytest.raises(ConfigError, match="write a dictionary"):
    made("my_env.py:Guess", "most=2")
  pytest.importorskip("rank_bm25")
  (tmp_path / "notes").mkdir()
  folder = {"folder": str(tmp_path / "notes")}
  with pytest.raises(ConfigError, match="no .txt file"):
    made("search.py:Search", folder)
  (tmp_path / "notes" / "a.txt").write_text(
    "Paris is the capital of France.\n\nThe Seine.\n\nBerlin lies there."
  )
  search = made("search.py:Search", folder)
  asked = seen("<search>capital of France</search>")
  assert search.reply(asked) == "Paris is the capital of France."
  assert search.reply(seen("Paris")) is None


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")
def test_the_interpreter_prints_and_is_bounded():
  reply = interpreter.make(seconds=1.0, characters=60).reply

  def ran(code):
    return reply(Dialogue("", (code,), (), (), (), True, 0))

  assert ran("the answer is 3") is None
  assert ran("<code>12*7</code>") == "84"
  assert ran("<code>\n```python\nx = 2\nprint(x, x + 1)\n```") == "2 3"
  assert ran("<code>1/0</code>") == (
    "ZeroDivisionError: division by zero (line 1)"
  )
  assert ran("<code>def f(:</code>") == "SyntaxError: invalid syntax (line 1)"
  assert ran("<code>x = 1</code>") == "(no output)"
  assert ran("<code>print(1)\nwhile True: pass</code>") == (
    "1\nTimeoutError: more than 1 seconds"
  )
  long = ran("<code>print('a' * 10**6)</code>")
  assert "characters left out" in long and len(long) < 110
  told = ran("<code>open('/etc/shadow')</code>")
  assert told.startswith("FileNotFoundError")
  with pytest.raises(ValueError, match="seconds=0"):
    interpreter.make(seconds=0.0)
