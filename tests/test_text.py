"""Tasks of text: rows, prompts, replies, verdicts, and where they run."""

import collections
import functools
import json
import math

import fakes
import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from transformers import AutoTokenizer, GenerationConfig

from sitrain.methods import imitation, single_turn
from sitrain.methods.verbs import frozen_of, pose_from
from sitrain.models import logprobs, reading
from sitrain.models.huggingface import tokenizer
from sitrain.rollout.contexts import given
from sitrain.runtime import build
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError
from sitrain.runtime.recording import check_numbers
from sitrain.runtime.snapshot import NotFinite
from sitrain.runtime.start import order_key
from sitrain.tasks import gsm8k, text, word_problems
from sitrain.tasks.rows import take_rows
from sitrain.tasks.text import Grade, Row
from sitrain.tasks.verifiers.grading import gsm8k_answer
from sitrain.tasks.wording import wording
from sitrain.types import PAD, Mean, Problems, TrainState

KEY = jnp.array([0, 7], jnp.uint32)


def table_of(size):
  number = np.arange(size, dtype=np.int32)[:, None]
  return Problems(number, number, number)


def test_rows_of_an_epoch_come_once_in_any_stride():
  table = table_of(7)
  take = jax.jit(take_rows, static_argnums=3)
  fine = [int(take(table, KEY, i, 1).prompt[0, 0]) for i in range(21)]
  coarse = [take(table, KEY, i, 3).prompt[:, 0].tolist() for i in range(7)]
  assert sum(coarse, []) == fine
  assert take(table, KEY, 0, 21).prompt[:, 0].tolist() == fine
  epochs = [fine[i : i + 7] for i in (0, 7, 14)]
  assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 3
  other = take(table, KEY + 1, 0, 7).prompt[:, 0].tolist()
  assert other != epochs[0] and sorted(other) == list(range(7))


def test_stages_of_other_sizes_take_each_row_once_an_epoch():
  """A stage counts from its own first step, in an order of its own."""
  size, seen = 12, []
  posed = fakes.task(None, again=[1], eos=(3,), prompt=[1])
  task = posed._replace(table=table_of(size))
  for number, (first, count) in enumerate([(0, 3), (5, 4), (7, 6)]):
    frozen = frozen_of(task, order_key(0, number)) | {"first": first}
    state = TrainState(jnp.int32(0), frozen, {}, (), {}, ())
    pose = jax.jit(pose_from(task, count))
    rows = [
      pose(KEY, state._replace(step=jnp.int32(first + i))).prompt[:, 0].tolist()
      for i in range(size // count)
    ]
    assert sorted(sum(rows, [])) == list(range(size))
    seen.append(sum(rows, []))
  assert len(set(map(tuple, seen))) == 3


def test_a_table_without_rows_is_refused():
  with pytest.raises(ValueError, match="no rows"):
    take_rows(table_of(0), KEY, 0, 1)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
  """A tokenizer of word problems in the plain form."""
  rows = word_problems.rows(count=300)
  texts = [t for row in rows for t in (row.message, *row.solutions)]
  folder = tmp_path_factory.mktemp("chat") / "tokenizer"
  tokenizer.train_bpe([*texts, word_problems.AGAIN], folder, size=400)
  return tokenizer.load(folder)


def grade(texts, rows):
  kinds = {"yes": Grade(1, 1, "right"), "no": Grade(0, 1, "wrong")}
  return [kinds.get(said, Grade(0, 0, "timeout")) for said in texts]


ROWS = [
  Row("Is it so?", (), ("yes", "no"), "b", "yes"),
  Row("And why is it so, pray?", ("no",), ("yes",), "a", "no"),
]


def task_of(chat, rows=ROWS, **more):
  options = dict(
    again="Again.", grade=grade, claim=lambda said: said.strip("?"),
    prompt_length=0, long_prompts="refuse",
  )
  return text.make(chat, rows, **options | more)


def test_prompts_have_the_message_and_given_attempts(chat):
  task = task_of(chat)
  encode, end = chat.tokenizer.encode, chat.eos[0]
  want = [
    chat.ask("Is it so?"),
    [*chat.ask("And why is it so, pray?"), *encode("no"), end,
     *chat.again("Again.")],
  ]
  assert [fakes.strip(row) for row in task.table.prompt] == want
  assert (task.table.prompt[:, -1] != PAD).all()  # left-padded
  solution = [*encode("yes"), end, *encode("no"), end]
  assert fakes.strip(task.table.solution[0]) == solution
  assert task.levels == ("a", "b")
  assert task.level(task.table).tolist() == [1, 0]


def rows_of(chat, *dialogues):
  """Episodes of (attempt, attempt) texts; one that ends in / was cut."""

  def turn(said):
    whole = not said.endswith("/")
    return chat.tokenizer.encode(said.strip("/")) + [chat.eos[0]] * whole

  return fakes.pack([
    fakes.transcribe(chat.ask("x"), [turn(said) for said in each],
                     [chat.again("Again.")])
    for each in dialogues
  ])


def test_verdicts_are_per_turn_and_cuts_are_wrong(chat):
  task = task_of(chat)
  episodes = rows_of(chat, ("no", "yes"), ("yes/", "what"))
  verdict = task.verify(np.array([[0], [1]]), episodes, 2)
  assert verdict.reward.tolist() == [[0, 1], [0, 0]]
  # The text that was cut is known to be wrong, the odd one is not.
  assert verdict.known.tolist() == [[1, 1], [1, 0]]
  final = task.final(episodes, 2)
  assert final[:, 0].tolist() == [text.answer_id("no"), -1]
  assert final[0, 1] == text.answer_id("yes") >= 0


@pytest.fixture(scope="module")
def special(chat, tmp_path_factory):
  """A chat with two end tokens and the special token <|im_start|>."""
  folder = tmp_path_factory.mktemp("special")
  tokenizer.train_bpe(["What? #### 72"] * 3, folder, size=270)
  source = AutoTokenizer.from_pretrained(folder)
  source.add_special_tokens({"pad_token": "<|im_start|>", "sep_token": "<|x|>"})
  source.save_pretrained(folder)
  ends = source.convert_tokens_to_ids([source.eos_token, "<|x|>"])
  GenerationConfig(eos_token_id=ends).save_pretrained(folder)
  return tokenizer.load(folder)


@pytest.mark.parametrize("verifier", ["strict", "lenient", "device"])
def test_a_turn_may_end_in_any_end_token(special, tmp_path, verifier):
  """And what special tokens stand in it, the verifiers see as they are."""
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps({"question": "How?", "answer": "#### 72"}))
  task = gsm8k.make(
    special, source=str(path), split="", ask="{problem}", verifier=verifier
  )
  assert len(task.eos) == 2
  rows = fakes.pack([
    fakes.transcribe(
      special.ask("x"), [special.tokenizer.encode(said) + end], []
    )
    for said in ("#### 72", "#### 7<|im_start|>2")
    for end in ([task.eos[0]], [task.eos[1]], [])
  ])
  answer = jnp.repeat(jnp.asarray(task.table.answer), len(rows.tokens), 0)
  reward = task.verify(answer, rows, 1).reward[:, 0]
  assert reward.tolist() == [1, 1, 0, 0, 0, 0]
  said = task.reply(answer, rows, jnp.ones(6, int))
  begins = [row[0] == task.eos[0] for row in said.tokens.tolist()]
  assert begins == [False, False, True] * 2  # only a cut turn is ended


LONG = [
  # Turns of 6 and 3 tokens, ends included, and of 2 and 3.
  Row("a", (), ("12345", "67"), "all", "1"),
  Row("b", (), ("1", "67"), "all", ""),
]


def test_a_given_turn_longer_than_its_limit_is_not_imitated(chat):
  """Its rest would be trained as what follows the cut."""
  task = task_of(chat, LONG * 3 + LONG[1:] * 9)
  assert task.turn_length == 3
  make = functools.partial(imitation.make, fakes.SILENT, problems=2)
  for turns, words in (
    ((4, 6), r"turns=\(4, 6\): turn 1 of 3 of 15 given solutions has more than"
     r" 4 tokens \(first in row 1, the longest has 6\): raise turns"),
    ((5, 3), "turn 1 of 3 of 15"), ((4,), "turn 1 of 3"), ((6, 2), "need 3"),
  ):
    with pytest.raises(ValueError, match=words):
      make(task=task, optimizer=None, turns=turns)
  for turns in ((6, 3), (6,), (7, 9, 3)):
    make(task=task, optimizer=None, turns=turns)
  # Reinforcement learning writes its own turns.
  single_turn.make(
    fakes.SILENT, task, None, problems=2, samples=2, turns=(4,)
  )


def test_a_task_without_solutions_teaches_nothing(chat):
  task = task_of(chat, [ROWS[0]._replace(solutions=())])
  with pytest.raises(ValueError, match="no solutions to imitate"):
    imitation.make(fakes.SILENT, task, None, problems=2, turns=(9,))


def test_a_given_turn_has_no_end_token(chat):
  with pytest.raises(ValueError, match="row 2: a given turn holds '<|end|>'"):
    task_of(chat, [ROWS[0], ROWS[1]._replace(solutions=("a<|end|>b",))])


@pytest.mark.parametrize("field, value, words", [
  ("message", 5, "row 2: message is the number 5"),
  ("message", [{"role": "user", "content": "a"}], "a list of chat messages"),
  ("message", "a\ud800", "half of a character"),
  ("solutions", "yes", "row 2: solutions is text, where a list of texts"),
  ("given", ("a", 1), "row 2: given has an element 2 that is the number 1"),
  ("answer", 42, "row 2: answer is the number 42"),
  ("level", 1.0, "row 2: level is the number 1.0"),
  ("name", b"a", "row 2: name is bytes"),
])
def test_rows_of_other_tasks_hold_text_too(chat, field, value, words):
  with pytest.raises(ValueError, match=words):
    task_of(chat, [ROWS[0], ROWS[1]._replace(**{field: value})])


def test_replies_end_a_turn_that_was_cut(chat):
  task = task_of(chat)
  episodes = rows_of(chat, ("no",), ("yes/",))
  reply = task.reply(jnp.zeros((2, 1), int), episodes, jnp.array([1, 1]))
  again = chat.again("Again.")
  assert fakes.strip(reply.tokens[0]) == again
  assert fakes.strip(reply.tokens[1]) == [chat.eos[0], *again]
  assert not np.any(reply.done)


@pytest.mark.parametrize("more, words", [
  ({"rows": []}, "no rows"),
  ({"rows": [ROWS[0]._replace(message=" ")]}, "empty"),
  ({"prompt_length": 4}, "1 of 2|2 of 2"),
  ({"long_prompts": "cut"}, "'refuse' or 'drop'"),
])
def test_invalid_rows_are_refused(chat, more, words):
  with pytest.raises(ValueError, match=words):
    task_of(chat, **more)


def test_long_prompts_may_be_dropped(chat):
  short = len(chat.ask(ROWS[0].message))
  task = task_of(chat, prompt_length=short, long_prompts="drop")
  assert task.table.answer.tolist() == [[0]] and task.levels == ("b",)


def test_wordings_come_from_a_file_too(tmp_path):
  path = tmp_path / "ask.txt"
  path.write_text("Do this: {problem}\n")
  assert wording(f"file:{path}", "{problem}") == "Do this: {problem}"
  with pytest.raises(ValueError, match="lacks {problem}"):
    wording("Do this.", "{problem}")
  with pytest.raises(ValueError, match="cannot be read"):
    wording(f"file:{tmp_path / 'none.txt'}")


def test_word_problems_are_a_function_of_the_seed_and_solvable():
  rows = word_problems.rows(count=400, mistake=0.0, copied=0.0, corrupted=0.0)
  assert rows == word_problems.rows(
    count=400, mistake=0.0, copied=0.0, corrupted=0.0
  )
  assert rows[:50] != word_problems.rows(count=50, seed=1)
  kinds = collections.Counter(row.level for row in rows)
  assert 0.6 < kinds["trial"] / 400 < 0.8
  for row in rows:
    found = [gsm8k_answer(said) for said in row.solutions]
    if row.level == "sum":
      assert found == [row.answer] * 2
    else:  # exactly one of the two tries fits, and says so
      assert sorted(x == row.answer for x in found) == [False, True]
      fits = [" is not " not in said for said in row.solutions]
      assert fits == [x == row.answer for x in found]


def test_the_corpus_has_its_probability_of_mistakes():
  rows = word_problems.rows(count=2000, trials=0.0, mistake=0.2)
  right = np.mean(
    [gsm8k_answer(row.solutions[0]) == row.answer for row in rows]
  )
  # Two steps, each right with .8; two mistakes may cancel.
  assert 0.60 < right < 0.70
  same = np.mean([row.solutions[0] == row.solutions[1] for row in rows])
  assert 0.1 < same < 0.6


def test_a_host_task_cannot_be_traced(chat):
  task = on_host(task_of(chat))
  episodes = rows_of(chat, ("no", "yes"))
  answer = jnp.array([[0]])
  assert task.verify(answer, episodes, 2).reward.tolist() == [[0, 1]]
  with pytest.raises(ValueError, match="on the host"):
    jax.eval_shape(lambda a, e: task.verify(a, e, 2), answer, episodes)


def quick_config(**stage):
  from sitrain.configs import word_problems as module

  config = build.plain(module.get_config("quick"))
  config["stage"]["stage1"].update(stage)
  return config


def test_a_fused_stage_of_a_host_task_is_refused(tmp_path):
  config = quick_config(fused=True)
  task = on_host(build.task_from(config, str(tmp_path)))
  model = build.model_from(config, task)
  run = build.run_from(config, task, model, loops.mesh_of(1))
  with pytest.raises(ConfigError, match="stage1.fused=True.*on the host"):
    build.stages_from(config, task, run)


def test_a_text_task_needs_a_tokenizer(tmp_path):
  config = quick_config()
  config["tokenizer"] = {"path": "", "size": 0}
  with pytest.raises(ConfigError, match="config.tokenizer"):
    build.task_from(config, str(tmp_path))


def test_a_tokenizer_that_another_try_left_behind_wedges_nothing(
  tmp_path, monkeypatch
):
  config = quick_config()
  (tmp_path / "run" / "tokenizer").mkdir(parents=True)  # Killed at once.
  made = lambda: build.task_from(config, str(tmp_path / "run"))
  assert 256 < made().tokenizer.size <= config["tokenizer"]["size"]
  # Nothing has begun: the next command may have other settings.
  config["tokenizer"] = config["tokenizer"] | {"size": 270}
  assert made().tokenizer.size == 270
  # The same command trains none again, and neither does a run that has begun.
  monkeypatch.setattr(tokenizer, "train_bpe", None)
  assert made().tokenizer.size == 270
  (tmp_path / "run" / "metrics.jsonl").write_text("")
  config["tokenizer"] = config["tokenizer"] | {"size": 300}
  assert made().tokenizer.size == 270


def test_a_tokenizer_without_a_workdir_leaves_nothing_behind(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert build.task_from(quick_config()).tokenizer.size > 256
  assert list(tmp_path.iterdir()) == []


def test_tokens_of_a_turn_are_found_in_any_column(chat):
  episodes = rows_of(chat, ("no", "yes"))
  moved = episodes._replace(
    tokens=np.pad(episodes.tokens, ((0, 0), (2, 0)), constant_values=PAD),
    turn=np.pad(episodes.turn, ((0, 0), (2, 0)), constant_values=PAD),
  )
  for k in (1, 2):
    rows, ended = text.turn_tokens(moved, k, chat.eos)
    answer = chat.tokenizer.decode(rows[0])
    assert ended == [True] and answer == ("no", "yes")[k - 1]


def measured(**values):
  """Means of steps by name, `verb__what`; of None nothing was counted."""
  def mean(x):
    total = np.array([0.0 if v is None else v for v in x], np.float32)
    return Mean(total, np.array([v is not None for v in x], np.float32))

  return {name.replace("__", "/"): mean(x) for name, x in values.items()}


def test_a_sampler_that_disagrees_stops_the_run():
  gaps = measured(generate__sampler_gap=[0.01, 0.3, None])
  check_numbers("a", 0, jax.tree.map(lambda x: x[:1], gaps), 0.1)
  check_numbers("a", 0, measured(learn__nll=[1.0]), 0.1)  # nothing sampled
  check_numbers("a", 0, measured(generate__sampler_gap=[None]), 0.1)
  with pytest.raises(ValueError, match="0.3 nat.*config.run.max_sampler_gap"):
    check_numbers("a", 0, gaps, 0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [
  "learn/gradient_norm", "learn/parameter_norm", "generate/sampler_gap",
  "learn/nll", "learn/value_error",
])  # fmt: skip
def test_what_is_no_number_stops_the_run_at_its_step(name, bad):
  """Whatever the method measures; the gap, too, which nothing is above."""
  told = measured(**{name: [1.0, bad, 2.0], "curate/kept": [None] * 3})
  check_numbers("a", 6, jax.tree.map(lambda x: x[:1], told), 2.0)
  words = rf"step 8 of a: .* is {bad}: lower config.stage.a.optimizer.learn"
  with pytest.raises(NotFinite, match=words) as error:
    check_numbers("a", 6, told, 2.0)
  assert "\n" not in str(error.value) and "checkpoint" in str(error.value)


def test_the_first_thing_that_is_no_number_is_named():
  """Of the first step, and of it what comes first: the rest follows from it."""
  told = measured(
    learn__gradient_norm=[math.nan] * 2, judge__reward_1=[1.0, math.nan],
    generate__sampler_gap=[0.0, 0.0],
  )
  with pytest.raises(NotFinite, match="step 1 of a: the norm of the gradient"):
    check_numbers("a", 0, told, 1.0)
  later = jax.tree.map(lambda x: x[1:], told)
  words = "step 1 of a: judge/reward_1 is nan: it comes from the rewards that"
  with pytest.raises(NotFinite, match=words):
    check_numbers("a", 0, later, 1.0)


def test_scores_of_parts_are_scores_of_all_rows(toy, monkeypatch):
  model, params, task = toy
  problems = jax.jit(task.problems, static_argnums=1)(jax.random.key(3), 6)
  episodes = given(problems, reply=task.reply, turns=(3, 3), eos=task.eos)
  scores = lambda: jax.jit(functools.partial(
    logprobs.score_rows, model, temperature=0.7
  ))(params, episodes)
  whole = scores()
  # So little memory that every row is a part.
  monkeypatch.setattr(reading, "ATTENTION_ELEMENTS", 1)
  parts = scores()
  np.testing.assert_allclose(parts.logprob, whole.logprob, atol=1e-5)
  assert np.abs(whole.logprob).max() > 0.1
