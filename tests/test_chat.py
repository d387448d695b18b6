"""A user's own rows: every form, every mistake, and what becomes of them."""

import ast
import json
import re

import datasets
import fakes
import jax
import jax.numpy as jnp
import mains
import numpy as np
import pytest

from sitrain.evaluate import samples, studies
from sitrain.evaluate.player import Judged, Played, Player
from sitrain.judge import verifier
from sitrain.methods import given_pairs
from sitrain.models.huggingface import tokenizer
from sitrain.runtime import reading_matter, test_sets
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError, accepted, call
from sitrain.tasks import chat as chats
from sitrain.tasks import messages, sources, tables
from sitrain.types import PAD, Problems

MARKED = (  # every message with its role, and room for the next answer
  "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
  "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}[assistant]{% endif %}"
)
REFUSING = (
  "{% if messages[0].role == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}" + MARKED
)
SILENT = "{% set messages = messages | rejectattr('role', 'eq', 'system') %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  found = tmp_path_factory.mktemp("own") / "tokenizer"
  tokenizer.train_bpe(["How many legs? 8 please"] * 4, found, size=280)
  return found


@pytest.fixture(scope="module")
def chat_of(folder):
  """chat_of(template) of the tiny tokenizer."""

  def make(template):
    path = folder.parent / f"{abs(hash(template))}.jinja"
    path.write_text(template)
    return tokenizer.load(folder, template=str(path))

  return make


@pytest.fixture(scope="module")
def chat(chat_of):
  return chat_of(MARKED)


@pytest.fixture
def write(tmp_path):
  """write(rows) -> the path of a new file .jsonl."""

  def make(rows, name="my.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(tmp_path / name)

  return make


def prompt_of(chat, task, i=0):
  return chat.tokenizer.decode(np.array(fakes.strip(task.table.prompt[i])))


LEGS = [{"question": f"Legs of {n} spiders?", "answer": 8 * n, "n": n}
        for n in range(1, 11)]
TALK = [
  {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
  {"role": "user", "content": [{"type": "text", "text": "6*7?"}]},
]


@pytest.mark.parametrize(("row", "options", "prompt"), [
  ({"prompt": "a", "answer": "b"}, {}, "[user]a[assistant]"),
  ({"messages": TALK, "answer": "42"}, {"system": "S"},
   "[system]S[user]Hi[assistant]Yes?<|end|>[user]6*7?[assistant]"),
  ({"prompt": TALK, "answer": "42"}, {},
   "[user]Hi[assistant]Yes?<|end|>[user]6*7?[assistant]"),
  # A row's own system message stands in the place of the option's.
  ({"question": "a", "system": "own", "answer": "b"}, {"system": "S"},
   "[system]own[user]a[assistant]"),
  ({"question": "a", "answer": "b"}, {"system": "S", "system_as": "user"},
   "[user]S\n\na[assistant]"),
  ({"q": "a", "a": 7}, {"fields": "prompt=q, answer=a"}, "[user]a[assistant]"),
  # In front of the first question, also where the assistant has begun.
  ({"messages": TALK[1:], "answer": "42"}, {"system": "S", "system_as": "user"},
   "[assistant]Yes?<|end|>[user]S\n\n6*7?[assistant]"),
  ({"question": "a", "answer": 10**400}, {}, "[user]a[assistant]"),
  ({"messages": [*TALK[:2]]}, {"chat_ends": "answer"}, "[user]Hi[assistant]"),
])
def test_every_form_of_a_row_becomes_a_prompt(
  chat, write, row, options, prompt
):
  task = chats.make(chat, source=write([row]), **options)
  assert prompt_of(chat, task) == prompt
  assert task.texts.rows[0].answer and task.texts.fields == [row]


SAID = [{"role": "assistant", "content": "8"}]
LIKED = {"chosen": [TALK[0], *SAID], "rejected": [TALK[0], TALK[1]]}
IN_CHAT = {"messages": [{"role": "system", "content": "S"}, TALK[0], *SAID]}


def stored(folder, kind, rows):
  """Writes rows in the form that `kind` ends in; returns the source."""
  path = folder / kind
  if kind.endswith(".jsonl"):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  elif kind.endswith(".json"):
    path.write_text(json.dumps(rows))
  else:
    table = datasets.Dataset.from_list(rows)
    write = {"csv": table.to_csv, "parquet": table.to_parquet}
    write.get(kind.rpartition(".")[2], table.save_to_disk)(path)
  return str(path)


# The columns of a table hold null where another row has a field.
@pytest.mark.parametrize(("kind", "row", "prompt"), [
  *((kind, {"question": "Hi", "answer": 8, "n": None}, "[user]Hi[assistant]")
    for kind in ("a.jsonl", "a.json", "a.csv", "a.parquet", "saved")),
  *((kind, row, prompt) for kind in ("a.jsonl", "a.parquet", "saved")
    for row, prompt in (
      (LIKED, "[user]Hi[assistant]"),
      ({"prompt": [TALK[0]], "chosen": SAID, "rejected": [TALK[1]]},
       "[user]Hi[assistant]"),
      (IN_CHAT | {"system": None}, "[system]S[user]Hi[assistant]"),
    )),
])
def test_rows_are_the_same_in_every_file_form(
  chat, tmp_path, kind, row, prompt
):
  datasets.disable_progress_bars()
  more = row | {"n": 7}  # A field of this row alone.
  found = chats.make(
    chat, source=stored(tmp_path, kind, [row | {"n": None}, more]),
    chat_ends="answer",
  )
  assert prompt_of(chat, found) == prompt_of(chat, found, 1) == prompt
  assert [one.answer for one in found.texts.rows] == ["8", "8"]
  end, encode = chat.eos[0], chat.tokenizer.encode
  pair = "chosen" in row
  want = [*encode("8"), end, *([*encode("Yes?"), end] if pair else ())]
  assert fakes.strip(found.table.solution[1]) == want


def test_answers_are_given_turns_and_pairs_are_two(chat, write):
  plain = chats.make(chat, source=write([{"prompt": "a", "answer": "b"}]))
  end = chat.eos[0]
  encode = chat.tokenizer.encode
  assert fakes.strip(plain.table.solution[0]) == [*encode("b"), end]
  asked = [{"role": "user", "content": "a"}]
  said = lambda text: [{"role": "assistant", "content": text}]
  for row in (
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": asked, "chosen": said("b"), "rejected": said("c")},
    {"prompt": "a", "chosen": asked + said("b"), "rejected": asked + said("c")},
    {"chosen": asked + said("b"), "rejected": asked + said("c")},
  ):
    task = chats.make(chat, source=write([row]))
    assert prompt_of(chat, task) == "[user]a[assistant]"
    want = [*encode("b"), end, *encode("c"), end]
    assert fakes.strip(task.table.solution[0]) == want


@pytest.mark.parametrize(("row", "options", "said"), [
  ({"text": "a"}, {}, "row 2 of my.jsonl: no field 'prompt' or 'question' or "
   r"'messages' \(it has 'text'\): name the question as fields='prompt="),
  ({"prompt": " ", "answer": "b"}, {}, "row 2 .*field 'prompt' is empty"),
  ({"prompt": ["a"], "answer": "b"}, {}, "row 2 .*message 1 lacks role"),
  ({"prompt": "a"}, {}, "row 2 of my.jsonl has no answer to compare with: add"),
  ({"messages": TALK[:2]}, {}, "row 2 .*ends with the assistant.*chat_ends="),
  ({"messages": []}, {}, "row 2 .*no list of messages"),
  ({"messages": [{"role": "bot", "content": "a"}]}, {}, "of role 'bot'"),
  ({"messages": [TALK[0], {"role": "system", "content": "a"}]}, {},
   "message 2 is of role 'system', which stands first"),
  ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, {},
   "row 2 .*message 1 is a list"),
  ({"prompt": "a", "chosen": "b"}, {}, "row 2 .*'rejected' is missing"),
  ({"prompt": "a", "chosen": "b", "rejected": "b"}, {}, "are the same text"),
  ({"prompt": "a", "rejected": "b", "chosen": [TALK[0], TALK[1]]}, {},
   "answer other messages than the prompt"),
  ({"prompt": "a", "answer": "b<|end|>"}, {}, "row 2.*ends a turn"),
  (None, {"fields": "promt=q"}, r"'promt=q' \(do you mean 'prompt'\?\)"),
  (None, {"fields": "system=sys,level=anser", "reward": "exact"},
   r"no row has 'sys': name one of answer, prompt"),
  (None, {"fields": "level=anser"}, r"'anser' \(do you mean 'answer'\?\)"),
  ({"messages": [TALK[0], {
    "role": "assistant", "content": None, "tool_calls": [{"type": "function"}],
  }, TALK[0]]}, {}, "row 2 .*message 2 has tool_calls, which would be left"),
  (None, {"part": "test"}, "held_out=0.0 with part='test'"),
  (None, {"cut": "never"}, "cut='never': choose one of judge, zero"),
  (None, {"reward": "exact", "device_reward": "file:a.py"}, "set one of them"),
])
def test_what_cannot_be_read_is_one_line_with_row_and_fix(
  chat, write, row, options, said
):
  good = {"prompt": "a", "answer": "b"}
  with pytest.raises(ValueError, match=said) as error:
    chats.make(chat, source=write([good, row or good]), **options)
  assert "\n" not in str(error.value)


def test_a_line_names_no_option_whose_value_is_a_word_of_it(chat, write):
  """"drop the row" says nothing of long_prompts="drop"."""
  source = write([{"prompt": "a"}])
  given = {"source": source, "long_prompts": "drop", "split": ""}
  with pytest.raises(ConfigError) as error:
    call(chats.make, "task", given, chat)
  assert str(error.value).startswith("config.task: row 1 of my.jsonl has no")
  with pytest.raises(ConfigError, match=r"config.task.source: .* b\.jsonl"):
    call(chats.make, "task", given | {"source": "b.jsonl"}, chat)


def test_a_template_without_system_messages_is_named_with_the_fix(
  chat_of, write
):
  path = write([{"prompt": "a", "answer": "b"}])
  said = "row 1 of my.jsonl: the chat template refuses .*System role not .*"
  with pytest.raises(ValueError, match=said + "set system_as='user'"):
    chats.make(chat_of(REFUSING), source=path, system="S")
  with pytest.raises(ValueError, match="leaves out message 1 of system, user"):
    chats.make(chat_of(SILENT + MARKED), source=path, system="S")
  task = chats.make(
    chat_of(REFUSING), source=path, system="S", system_as="user"
  )
  assert len(task.table.prompt) == 1


def test_a_part_is_held_out_and_its_questions_are_asked_nowhere_else(
  chat, write
):
  rows = [*LEGS, LEGS[4]]  # The fifth row is held out, and stands there twice.
  options = dict(source=write(rows), held_out=0.2)
  train, test = (chats.make(chat, part=p, **options) for p in ("train", "test"))
  asked = [{row.message for row in task.texts.rows} for task in (train, test)]
  assert not asked[0] & asked[1]
  assert sorted(asked[1]) == ["Legs of 10 spiders?", "Legs of 5 spiders?"]
  assert train.texts.notes == ["11 rows read from " + options["source"],
                               "3 are held out"]
  few = write(LEGS[:4])
  with pytest.raises(ValueError, match="held_out=0.2 needs 5 rows or more"):
    chats.make(chat, source=few, held_out=0.2, part="test")


def test_prepare_changes_and_drops_rows(chat, write, tmp_path):
  file = tmp_path / "own.py"
  file.write_text(
    "def prepare(row):\n"
    "  return row | {'answer': row['n']} if row['n'] % 2 else None\n"
    "def wrong(row):\n  return row['m']\n"
    "def text(row):\n  return 'a'\n"
    "def quits(row):\n  raise SystemExit\n"
  )
  options = dict(source=write(LEGS))
  task = chats.make(chat, prepare=f"file:{file}", **options)
  assert [row.answer for row in task.texts.rows] == ["1", "3", "5", "7", "9"]
  assert "5 dropped by prepare" in task.texts.notes[1]
  said = "prepare=.* fails for row 1 of my.jsonl: KeyError: 'm' .own.py, line 4"
  with pytest.raises(ValueError, match=said):
    chats.make(chat, prepare=f"file:{file}:wrong", **options)
  with pytest.raises(ValueError, match="returns a str for row 1 .*as a dict"):
    chats.make(chat, prepare=f"file:{file}:text", **options)
  with pytest.raises(ValueError, match="for row 1 of my.jsonl: SystemExit"):
    chats.make(chat, prepare=f"file:{file}:quits", **options)


def test_shots_stand_before_the_question_and_are_not_asked(chat, write):
  shots = write(LEGS[:2], "shots.jsonl")
  task = chats.make(chat, source=write(LEGS[:3]), shots=shots, system="S")
  assert prompt_of(chat, task) == (
    "[system]S[user]Legs of 1 spiders?[assistant]8<|end|>"
    "[user]Legs of 2 spiders?[assistant]16<|end|>"
    "[user]Legs of 3 spiders?[assistant]"
  )
  assert task.texts.notes[1] == "2 dropped: they are among the shots"


def test_weights_are_shares_of_the_problems(chat, write):
  a, b = write(LEGS[:2], "a.jsonl"), write(LEGS, "b.jsonl")
  task = chats.make(chat, source=f"{a}*0.75,{b}*0.25")
  # b has ten rows, a quarter of forty.
  count = [task.texts.rows[i].level for i in task.texts.kept]
  assert count.count(a) == 30 and count.count(b) == 10
  assert len(task.table.prompt) == 40 and task.levels == (a, b)
  assert np.bincount(task.texts.kept)[:2].tolist() == [15, 15]
  both = chats.make(chat, source=f"{a},{b}")
  assert len(both.table.prompt) == 12
  with pytest.raises(ValueError, match="every source a weight"):
    sources.parse("a.jsonl*0.5,b.jsonl")
  with pytest.raises(ValueError, match="leave out a.jsonl, of weight 0"):
    sources.parse("a.jsonl*0")
  assert sources.parse("data/*.jsonl") == [("data/*.jsonl", 0.0)]


def test_csv_is_a_table(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text('\ufeffprompt,answer\n"Name, please",Ann\n"two\nlines",\n')
  rows = list(tables.whole_rows(str(path)))
  assert rows == [{"prompt": "Name, please", "answer": "Ann"},
                  {"prompt": "two\nlines", "answer": ""}]
  for text, said in (
    ("a,b\n1,2,3\n", "row 1 of .*more values than the first line"),
    ("a,b,a\n1,2,3\n", "the name 'a' twice, so that one of the columns"),
    ("a,b\n1\n", "row 1 of .*fewer values"), ('a\n"b\n', "a.csv is no CSV"),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
      list(tables.whole_rows(str(path)))


def dialogue(chat, task, *turns, row=0):
  """Episodes of one row; a turn that ends in / was cut."""
  ids = [
    chat.tokenizer.encode(said.rstrip("/"))
    + [chat.eos[0]] * (not said.endswith("/"))
    for said in turns
  ]
  prompt = fakes.strip(task.table.prompt[row])
  replies = [chat.again("Again.")] * (len(turns) - 1)
  return fakes.pack([fakes.transcribe(prompt, ids, replies)])


def judged(task, episodes, turns):
  problems = jax.tree.map(lambda x: np.asarray(x)[:1], task.table)
  return verifier.verify(on_host(task), problems, episodes, turns)


OWN = """
seen = []
def right(prompts, texts, rows, turn):
  seen.append((prompts, texts, [row["n"] for row in rows], turn))
  return [float(t == str(row["answer"])) for t, row in zip(texts, rows)]
def short(texts):
  return [None if t == "?" else -len(t) for t in texts]
"""


def test_rewards_see_prompt_text_row_and_turn(chat, write, tmp_path):
  (tmp_path / "own.py").write_text(OWN)
  name = f"file:{tmp_path}/own.py"
  task = chats.make(
    chat, source=write(LEGS), reward=f"{name}:right,{name}:short*0.1"
  )
  assert task.rewards == ("right", "short") and task.turn_length == 1
  found = judged(task, dialogue(chat, task, "no", "8"), 2)
  np.testing.assert_allclose(found.reward, [[-0.2, 0.9]], rtol=1e-6)
  assert found.parts["short"].tolist() == [[-2, -1]]
  seen = chats.own_functions.load(f"{name}:right", "").__globals__["seen"]
  first = "[user]Legs of 1 spiders?[assistant]"
  assert seen[0] == ([first], ["no"], [1], 1)
  again = first + "no<|end|>[user]Again.[assistant]"
  assert seen[1] == ([again], ["8"], [1], 2)
  # One part is not known, so the sum is not; and it is finite.
  found = judged(task, dialogue(chat, task, "?", "8"), 2)
  assert found.known.tolist() == [[0, 1]] and found.reward[0, 0] == 0
  rows = dialogue(chat, task, "?", "8")
  metrics = verifier.verdict_metrics(task, rows, found)
  assert {"judge/right_2", "judge/short_2", "judge/unknown_1"} <= set(metrics)
  assert float(metrics["judge/unknown_1"].total) == 1
  # Of weight 0 it masks nothing, and is in no mean of its own.
  task = chats.make(
    chat, source=write(LEGS), reward=f"{name}:right,{name}:short*0"
  )
  found = judged(task, dialogue(chat, task, "?", "8"), 2)
  assert found.known.tolist() == [[1, 1]]
  assert found.reward.tolist() == [[0, 1]]
  metrics = verifier.verdict_metrics(task, rows, found)
  assert [float(x) for x in metrics["judge/short_1"]] == [0, 0]
  assert [float(x) for x in metrics["judge/short_2"]] == [-1, 1]
  assert [float(x) for x in metrics["judge/reward_1"]] == [0, 1]


@pytest.mark.parametrize(("cut", "reward", "known"), [
  ("judge", 1.0, 1.0), ("zero", 0.0, 1.0), ("unknown", 0.0, 0.0),
])
def test_a_turn_that_was_cut_is_judged_as_the_option_says(
  chat, write, tmp_path, cut, reward, known
):
  (tmp_path / "own.py").write_text("def f(texts):\n  return [1] * len(texts)\n")
  task = chats.make(
    chat, source=write(LEGS), reward=f"file:{tmp_path}/own.py:f", cut=cut
  )
  found = judged(task, dialogue(chat, task, "8/"), 1)
  assert (found.reward[0, 0], found.known[0, 0]) == (reward, known)
  exact = chats.make(chat, source=write(LEGS), cut="judge")
  assert judged(exact, dialogue(chat, exact, "8/"), 1).reward[0, 0] == 0
  assert judged(exact, dialogue(chat, exact, "8"), 1).reward[0, 0] == 1


def test_messages_between_attempts_go_by_the_turn(chat, write):
  task = chats.make(chat, source=write(LEGS), again="One.\n---\nTwo.")
  read = lambda turns: task.reply(
    jnp.zeros((1, 1), jnp.int32), dialogue(chat, task, *turns),
    jnp.array([len(turns)]),
  ).tokens[0]
  end = [chat.eos[0]]
  assert fakes.strip(read(["a"])) == chat.again("One.")
  assert fakes.strip(read(["a", "b/"])) == end + chat.again("Two.")
  assert fakes.strip(read(["a", "b", "c"])) == chat.again("Two.")


DEVICE = """
import jax.numpy as jnp
def same(tokens, answer):
  width = answer.shape[1]
  tokens = jnp.pad(tokens, ((0, 0), (0, width)), constant_values=-1)
  same = jnp.all(tokens[:, :width] == answer, axis=1)
  return jnp.where(tokens[:, 0] == -1, jnp.nan, same)
def short(tokens, turn):
  return -jnp.sum(tokens >= 0, axis=1) * turn
def scalar(tokens):
  return 1.0
def branch(tokens):
  return tokens[:, 0] if tokens[0, 0] > 0 else tokens[:, 1]
"""


def test_rewards_on_the_device_are_traced_with_the_rows(chat, write, tmp_path):
  (tmp_path / "own.py").write_text(DEVICE)
  name = f"file:{tmp_path}/own.py"
  options = dict(source=write([*LEGS, {"prompt": "no answer"}]))
  task = chats.make(
    chat, device_reward=f"{name}:same,{name}:short*0.5", **options
  )
  assert not task.on_host and task.rewards == ("same", "short")
  episodes = dialogue(chat, task, "8", "")
  rows = jnp.asarray(task.table.answer[:1])
  found = jax.jit(task.verify, static_argnums=2)(rows, episodes, 2)
  assert found.reward[0, 0] == 0.5 and found.known.tolist() == [[1, 0]]
  assert found.parts["short"].tolist() == [[-1, 0]]
  final = task.final(dialogue(chat, task, "8", "8/"), 2)
  assert final[0, 0] >= 0 and final[0, 1] == -1
  with pytest.raises(ValueError, match=r"scalar of own.py returns .*\[5\]"):
    chats.make(chat, device_reward=f"{name}:scalar", **options)
  with pytest.raises(ValueError, match="branch of own.py cannot be traced"):
    chats.make(chat, device_reward=f"{name}:branch", **options)


def test_samples_are_marked_by_the_rewards_of_their_turn(chat, write, tmp_path):
  (tmp_path / "own.py").write_text(
    "def f(prompts, texts, turn):\n"
    "  assert all(('Again' in p) == (turn == 2) for p in prompts)\n"
    "  return [None if t == '?' else turn / 2 for t in texts]\n"
  )
  task = chats.make(
    chat, source=write(LEGS), reward=f"file:{tmp_path}/own.py:f", cut="zero"
  )
  both = fakes.pack([
    fakes.transcribe(
      fakes.strip(task.table.prompt[0]),
      [[*chat.tokenizer.encode(a), chat.eos[0]], chat.tokenizer.encode(b)
       + [chat.eos[0]] * end], [chat.again("Again.")],
    )
    for a, b, end in (("x", "y", True), ("?", "z", False))
  ])
  played = Played(np.asarray(both.tokens), np.asarray(both.turn), ())
  (record,) = samples.records(
    {"chat": on_host(task)}, task.table, np.array([0]), played, samples=2,
    turns=2,
  )
  assert record["statuses"] == ["wrong", "unknown"]
  assert record["rewards"] == [0.5, 0.0] and record["known"] == [1, 0]
  later = record["attempts_2"]
  assert later["statuses"] == ["right", "cut"] and later["right"] == [1, 0]
  assert record["id"] == "row 1 of my.jsonl"


def test_given_pairs_needs_pairs_that_fit(chat, write):
  model = {"policy": None}
  options = dict(problems=2, turns=(4,))
  lone = chats.make(chat, source=write(LEGS))
  with pytest.raises(ValueError, match="rows with chosen and rejected"):
    given_pairs.make(model, lone, (), **options)
  pair = chats.make(chat, source=write([
    {"prompt": "a", "chosen": "b", "rejected": "much too long for it"}
  ]))
  with pytest.raises(ValueError, match=r"turn 2 of 1 of 1 given .*row 1"):
    given_pairs.make(model, pair, (), **options)
  with pytest.raises(ValueError, match="of one turn"):
    given_pairs.make(model, pair, (), problems=2, turns=(4, 4))


def test_given_pairs_puts_the_chosen_row_first(chat, write):
  task = chats.make(chat, source=write([
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": "d", "chosen": "e", "rejected": "f"},
  ]))
  method = given_pairs.make(
    {"policy": fakes.bigram(16)}, task, (), problems=2, turns=(8,)
  )
  posed = Problems(*map(jnp.asarray, task.table))
  keys = jax.random.split(jax.random.key(0), 2)
  rows = method.generate(keys, (), posed)
  texts = [
    chat.tokenizer.decode(tokens[turn == 1])
    for tokens, turn in zip(np.asarray(rows.tokens), np.asarray(rows.turn))
  ]
  assert texts == ["b<|end|>", "c<|end|>", "e<|end|>", "f<|end|>"]
  verdict, _ = method.judge((), (), posed, rows)
  assert verdict.reward[:, 0].tolist() == [1, 0, 1, 0]
  assert verdict.known.all()


def test_what_is_read_is_shown_with_borders(chat, write):
  task = chats.make(chat, source=write(LEGS), system="S")
  lines = []
  reading_matter.show(
    task, first=1, count=1, limits={"one": (5, 5), "two": (1,)},
    write=lambda what: lines.append(getattr(what, "plain", "")), colours=False,
  )
  shown = "\n".join(lines)
  assert "problem 2: row 2 of my.jsonl, answer '16'" in shown
  joined = [line.replace("│", "") for line in lines]
  assert "[system]S[user]Legs of 2 spiders?[assistant]" in joined
  assert any(line.startswith("⟦") and line.endswith("⟧") for line in lines)
  assert "10 of 10 given turns 1 are longer than 1 tokens" in shown
  assert "-- read after turn 1" in lines and "turn 2: the policy" in shown


def test_pieces_join_to_the_text_where_a_character_has_several_tokens(chat):
  text = "é \U0001f577 legs"
  ids = chat.tokenizer.encode(text)
  found = reading_matter.pieces(chat.tokenizer, ids)
  assert len(found) == len(ids) and "".join(found) == text
  assert found.count("") >= 3  # of the spider's four bytes


def test_transcripts_and_padding_are_for_reading(chat, write):
  assert messages.transcript([TALK[0]]) == "Hi"
  task = chats.make(chat, source=write([{"messages": TALK, "answer": "1"}]))
  assert task.texts.rows[0].message == "user: Hi\nassistant: Yes?\nuser: 6*7?"
  assert (task.table.prompt[:, -1] != PAD).all()


def is_python(block):
  try:
    return bool(ast.parse(block))
  except SyntaxError:
    return False


def test_the_page_of_the_docs_names_what_there_is_and_its_code_runs(
  chat, write, tmp_path
):
  page = (mains.ROOT / "docs" / "own.md").read_text()
  named = set(re.findall(r"config\.task\.(\w+)", page)) - {"name"}
  assert named <= set(accepted(chats.make)) and len(named) > 8
  own, device, prepare = filter(
    is_python, re.findall(r"```python\n(.*?)```", page, re.S)
  )
  files = {"rewards": own, "device": device, "rows": prepare}
  for name, source in files.items():
    (tmp_path / f"{name}.py").write_text(source)
  at = lambda name: f"file:{tmp_path}/{name}"
  path = write([{"question": "1+1?", "solution": "so #### 2"}])
  options = dict(source=path, prepare=at("rows.py:prepare"))
  both = f"{at('rewards.py:right')},{at('rewards.py:short')}*0.5"
  task = chats.make(chat, reward=both, **options)
  found = judged(task, dialogue(chat, task, "It is 2"), 1)
  assert found.reward.tolist() == [[1.5]]
  task = chats.make(chat, device_reward=at("device.py:low"), **options)
  assert judged(task, dialogue(chat, task, "2"), 1).known.tolist() == [[1]]


def test_of_another_source_nothing_is_held_out():
  config = {
    "task": {"name": "chat", "source": "a", "held_out": 0.2, "part": "train"},
    "evaluate": {"task": {"part": "test"}},
  }
  assert test_sets.retasked(config)["task"]["part"] == "test"
  other = test_sets.retasked(config, source="b")["task"]
  assert other == {"name": "chat", "source": "b"}


def test_a_test_set_is_judged_by_several_rewards(chat, folder, write):
  config = {
    "task": {"name": "chat", "source": write(LEGS)}, "evaluate": {"task": {}},
    "model": {}, "tokenizer": {"path": str(folder)},
  }
  tasks = test_sets.tasks_of(config, "", verifiers=("exact", "number"))
  paid = {
    name: float(judged(task, dialogue(chat, task, "So: 8"), 1).reward[0, 0])
    for name, task in tasks.items()
  }
  assert paid == {"exact": 0, "number": 1}
  with pytest.raises(ValueError, match="squad_exact, squad_f1, rouge_l"):
    test_sets.tasks_of(config, "", verifiers=("exact", "f1"))


def test_the_main_shows_rows_of_any_task_and_loads_no_model(ask, write):
  words = [
    "--config=configs/chat.py:quick", f"--config.task.source={write(LEGS)}",
  ]
  done = ask(*words, "--of=evaluate", module="sitrain.data")
  assert done.code == 0, done.err
  joined = done.out.replace("│", "")
  assert "8 are not held out" in joined and "Legs of 5 spiders?" in joined
  done = ask(*words, "--of=tusk", module="sitrain.data")
  assert done.code == 2
  assert "--of='tusk': did you mean 'task'?" in done.err.splitlines()[-1]


def test_scaling_of_a_table_with_fewer_rows_than_are_asked_for(monkeypatch):
  rows = np.arange(3 * 2 * 2).reshape(6, 2)
  judged = Judged(rows % 2, np.ones((6, 2)), rows, 0 * rows, rows % 2)
  found = Played((), (), judged)
  monkeypatch.setattr(studies, "played", lambda *_, **more: ((), found))
  player = Player((), (), (), samples=2, turns=2)
  row = studies.scaling(
    player, (), jax.random.key(0), budgets=(2,), problems=64, temperature=1.0,
    draws=5,
  )
  assert row["sequential"] == [1.0] and row["parallel"] == [0.0]
