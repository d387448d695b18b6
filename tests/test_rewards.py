"""Reward functions of a user: each mistake is one line with the row."""

import math
import pathlib
import pickle
import sys
import threading

import fakes
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.runtime import fields, glossary, sources
from sitrain.runtime.options import ConfigError
from sitrain.tasks import limited, matching, own_functions, rewards
from sitrain.tasks.rewards import Given, Limits
from sitrain.types import Problems

HERE = Limits(seconds=5.0, pool=False, workers=1, memory=512)
WHERE = ("row 3 of a.jsonl", "row 7 of a.jsonl")


def given(*texts, rows=({"answer": "4"}, {}), turn=1):
  count = len(texts)
  return Given(
    ("q",) * count, texts, rows[:count], turn, WHERE[:count], (True,) * count
  )


@pytest.fixture
def write(tmp_path):
  """write(source) -> the name of the function `f` of a new file."""

  def make(source, function="f"):
    number = len(list(tmp_path.iterdir()))
    (tmp_path / f"own{number}.py").write_text(source)
    return f"file:{tmp_path}/own{number}.py:{function}"

  return make


def scored(name, what, limits=HERE, **more):
  return rewards.scorer(rewards.parse("reward", name), limits)(what)


def test_functions_name_what_they_read_and_give_numbers_or_none(write):
  name = write(
    "def f(rows, texts, turn):\n"
    "  return [len(t) + turn if r else None for t, r in zip(texts, rows)]\n"
  )
  (found,) = scored(name, given("abc", "de", turn=2)).values()
  assert found[0] == 5 and math.isnan(found[1])
  every = write("def f(**given):\n  return [len(given)] * 2\n")
  assert list(scored(every, given("a", "b")).values())[0].tolist() == [4, 4]
  arrays = write("import numpy as np\ndef f(texts):\n  return np.ones(2)\n")
  assert list(scored(arrays, given("a", "b")).values())[0].tolist() == [1, 1]


@pytest.mark.parametrize(("body", "said"), [
  ("return [1.0]", "returns 1 rewards for 2 texts: return one for each"),
  ("return 1.0", "returns 1.0: return a list"),
  ("return 'ab'", "returns a str"),
  ("return {0: 1, 1: 2}", "returns a dict"),
  ("return [0.0, float('nan')]", "returns nan for row 7 of a.jsonl: return a"),
  ("return [float('-inf'), 0]", "returns -inf for row 3 of a.jsonl"),
  ("return [0, '1']", r"returns a str \('1'\) for row 7"),
  ("return [0, [1]]", "returns a list .* for row 7"),
  ("return [0, 1e39]", "returns 1e.39 for row 7"),
  ("return [10**400, 0]", "returns a huge number for row 3"),
  ("return [bytearray(b'1'), 0]", "returns a bytearray .* for row 3"),
  ("return frozenset([0.0, 1.0])", "returns a frozenset"),
  ("return bytearray(b'ab')", "returns a bytearray"),
  # It would end the run as if all had been well, with the exit code 0.
  ("import sys; sys.exit()", "fails for row 3 of a.jsonl: SystemExit "),
  # The rewards of a list in another order, or of one of two texts.
  ("texts.sort(reverse=True); return [float(t == 'a') for t in texts]",
   "fails for row 3 .*it changes the list texts, .*in another order"),
  ("texts.pop(); return [0.0]", "fails for row 3.*changes the list texts"),
  ("return [r['answer'] == 4 for r in rows]",
   r"f of own0.py \(turn 1\) fails for row 7 of a.jsonl: KeyError: 'answer' "
   r"\(own0.py, line 2\): mend it"),
  # Alone no row fails: all are named.
  ("return [1 / (2 - len(texts))] * len(texts)",
   "fails for row 3 of a.jsonl, row 7 of a.jsonl: ZeroDivisionError"),
])
def test_a_wrong_result_is_one_line_with_the_row(write, body, said):
  name = write(f"def f(texts, rows):\n  {body}\n")
  with pytest.raises(ValueError, match=said) as error:
    scored(name, given("a", "b"))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(("source", "said"), [
  ("def f(completions, **more):\n  pass\n", "asks for 'completions': name any"),
  ("def f(prompts, completions, **more):\n  pass\n", "for 'completions'"),
  ("def f(a, /):\n  pass\n", "asks for 'a'"),
  ("class f:\n  pass\n", "f of own0.py is a class: write a function"),
  ("import functools\nf = functools.partial(max)\n", "f: that is a partial"),
  ("from pickle import dumps, Unpickler as f\n", "that is a|is imported from"),
  ("from difflib import get_close_matches as f\n", "imported from difflib"),
  ("import sys\nsys.exit(0)\n", "own0.py, line 2, raises SystemExit: 0"),
  ("def f():\n  pass\n", "reads nothing"),
  ("async def f(texts):\n  pass\n", "is async"),
  ("def f(texts):\n  yield 1\n", "yields"),
  ("def g(texts):\n  pass\n", "has no function f: .*'g'|choose one of g"),
  ("1 / 0\n", "own0.py, line 1, raises ZeroDivisionError"),
  ("def f(:\n", "own0.py, line 1, raises SyntaxError"),
])
def test_what_is_no_reward_is_refused_before_anything_is_loaded(
  write, source, said
):
  with pytest.raises(ValueError, match=f"reward='file:.*{said}"):
    rewards.parse("reward", write(source))


def test_what_a_reward_does_to_its_rows_is_seen_by_nobody(write):
  spoils = write(
    "def f(rows):\n  for row in rows:\n    row['answer']['is'] = row.pop('n')\n"
    "  return [0.0] * len(rows)\n"
  )
  reads = write(
    "def g(rows):\n  return [row['answer']['is'] for row in rows]\n", "g"
  )
  row = {"answer": {"is": 4}, "n": 9, "lock": threading.Lock()}
  what = given("a", "b", rows=(row, row))  # two samples of a problem
  for _ in range(2):
    found = scored(f"{spoils},{reads}", what._replace(
      rows=({"answer": {"is": 4}, "n": 9},) * 2
    ))
    assert found["g"].tolist() == [4, 4]
  assert scored(reads, what)["g"].tolist() == [4, 4]


def test_a_reward_is_logged_by_the_name_that_is_given(write):
  one = "low, high = (lambda texts, x=x: [x] * len(texts) for x in (1, 2))\n"
  low = write(one, "low")
  names = [x.name for x in rewards.parse("reward", f"{low},{low[:-3]}high")]
  assert names == ["low", "high"]
  with pytest.raises(ValueError, match="reward=' , ' names nothing"):
    rewards.parse("reward", " , ")


def test_a_missing_file_and_an_unknown_word_are_refused(tmp_path):
  with pytest.raises(ValueError, match="there is no file"):
    rewards.parse("reward", f"file:{tmp_path}/none.py:f")
  with pytest.raises(ValueError, match="exact, number"):
    rewards.parse("reward", "exakt")


LOOP = "def f(texts):\n  while True:\n    pass\n"
# The engine of regular expressions holds the interpreter: no thread ends it.
REGEX = "import re\ndef f(texts):\n  re.match('(a+)+$', 'a' * 40 + 'b')\n"
CAUGHT = (
  "import time\ndef f(texts):\n  try:\n    time.sleep(60)\n"
  "  except Exception:\n    return [0.0] * len(texts)\n"
)


@pytest.mark.parametrize("source", [LOOP, REGEX, CAUGHT])
def test_a_function_that_hangs_is_ended_and_never_earns_zeros(write, source):
  name = write(source)
  with pytest.raises(ValueError, match="longer than 0.2 seconds for 2 texts "):
    scored(name, given("a", "b"), HERE._replace(seconds=0.2))


def test_in_another_thread_too_a_hang_ends():
  found = []

  def run():
    try:
      limited.call(threading.Event().wait, 0.1)
    except limited.Overdue as error:
      found.append(error)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join(20)
  assert found


def test_a_pool_gives_unknown_for_hangs_and_deaths_and_the_line_of_errors(
  write, caplog
):
  name = write(
    "import os, time\n"
    "def f(texts, rows):\n"
    "  if texts[0] == 'hang': time.sleep(60)\n"
    "  if texts[0] == 'die': os._exit(3)\n"
    "  return [1 / rows[0].get('by', 1)]\n"
  )
  pool = Limits(seconds=1.0, pool=True, workers=2, memory=512)
  what = Given(
    ("",) * 4, ("hang", "die", "a", "b"), ({}, {}, {}, {"by": 2}), 1,
    ("row 1", "row 2", "row 3", "row 4"), (True,) * 4,
  )
  caplog.set_level("WARNING", "sitrain")
  (found,) = scored(name, what, pool).values()
  assert np.isnan(found[:2]).all() and found[2:].tolist() == [1.0, 0.5]
  (said,) = (record.getMessage() for record in caplog.records)
  assert "row 1 took longer than 1 seconds" in said and "of 1 other" in said
  bad = what._replace(rows=({}, {}, {}, {"by": 0}))._replace(
    texts=("a", "a", "a", "b")
  )
  with pytest.raises(ValueError, match="fails for row 4: ZeroDivisionError.*5"):
    scored(name, bad, pool)


def test_rows_that_no_process_can_get_are_one_line(write):
  name = write("def f(texts):\n  return [1.0]\n")
  what = given("a", rows=({"call": lambda: 0},))
  with pytest.raises(ValueError, match="rows cannot be sent .*pool=False"):
    scored(name, what, HERE._replace(pool=True))


def test_a_function_travels_to_a_process_by_its_file(write):
  name = write("def f(texts):\n  return [3.0]\n")
  (one,) = rewards.parse("reward", name)
  sent, module = pickle.dumps(one), one.own.function.__module__
  assert sys.modules.pop(module)  # A process of a pool does not know it.
  assert pickle.loads(sent).own.function(["a"]) == [3.0]


def test_weights_names_and_sums(write):
  a = write("def f(texts):\n  return [1, None]\n")
  b = write("def g(texts):\n  return [3, 4]\n", "g")
  found = rewards.parse("reward", f"{a}*0.5, {b}*-2")
  assert [one.name for one in found] == ["f", "g"]
  parts = rewards.scorer(found, HERE)(given("a", "b"))
  total, known, named = rewards.total(found, parts, np)
  assert total.tolist() == [0.5 - 6, 0.0] and known.tolist() == [1, 0]
  # Each is logged as it is, without its weight.
  assert named["g"].tolist() == [3, 4]
  # One of weight 0 is only logged, and so no turn depends on it.
  found = rewards.parse("reward", f"{a}*0, {b}")
  for xp in (np, jnp):
    total, known, named = rewards.total(found, parts, xp)
    assert total.tolist() == [3, 4] and known.tolist() == [1, 1]
    np.testing.assert_array_equal(named["f"], [1, np.nan])
  (alone,) = rewards.parse("reward", a)
  assert rewards.total([alone], {"f": np.ones(2)}, np)[2] == {}


def test_names_of_metrics_are_not_overwritten(write):
  one = "def reward(texts):\n  return [1]\n"
  a, b = write(one, "reward"), write(one, "reward")
  names = [r.name for r in rewards.parse("reward", f"{a},{b}")]
  assert names == ["own0_reward", "own1_reward"]
  # That of an environment would take its place.
  c = write("def environment(texts):\n  return [1]\n", "environment")
  names = [r.name for r in rewards.parse("reward", f"{c},exact")]
  assert names == ["own2_environment", "exact"]
  with pytest.raises(ValueError, match="would both be logged as"):
    rewards.parse("reward", f"{a},{a}")
  of_turns = {entry[0] for entry in glossary.JUDGE if entry[0].endswith("_K")}
  own = of_turns - {"judge/NAME_K"}
  assert own <= {f"judge/{name}_K" for name in rewards.TAKEN}


def test_exact_and_number_compare_with_the_answer():
  answers = {"r": "The Answer: \u201c42\u201d"}
  judge = lambda kind, answers, text, pattern="": matching.bound(
    kind, answers, matching.pattern_of(pattern)
  )(Given((), (text,), ({},), 1, ("r",), (True,)))[0]
  assert judge("exact", {"r": "Paris"}, " **paris**. ") == 1
  assert judge("exact", {"r": "Paris"}, "It is Paris.") == 0
  assert judge("exact", {"r": "5"}, ".5") == judge("exact", {"r": "5"}, "-5")
  assert judge("exact", {"r": "5"}, ".5") == 0
  found = r"answer: (.*)"
  assert judge("exact", {"r": "42"}, "answer: 1\nanswer: 42.", "answer: (\\d+)")
  assert not judge("exact", answers, "no answer here", found)
  assert judge("number", {"r": "1,200"}, "That makes 1200 in all.") == 1
  with pytest.raises(ValueError, match="r has no number in its answer"):
    matching.bound("number", {"r": "Paris"}, "")
  with pytest.raises(ValueError, match="r has no answer to compare with"):
    matching.bound("exact", {"r": " "}, "")
  with pytest.raises(ValueError, match="no regular expression"):
    matching.pattern_of("(")


def test_a_text_that_was_cut_is_never_exact():
  judge = matching.bound("exact", {"r": "4"}, "")
  cut = Given((), ("4",), ({},), 1, ("r",), (False,))
  assert judge(cut) == [0.0]


def test_the_files_of_rewards_are_part_of_a_runs_identity(tmp_path):
  file = tmp_path / "own.py"
  file.write_text("def f(texts):\n  return [1]\n")
  options = {"reward": f"exact,file:{file}:f*0.5", "system": "no file:here"}
  first = sources.files_of("task", options)
  assert list(first) == ["task.reward"]
  file.write_text("def f(texts):\n  return [2]\n")
  second = sources.files_of("task", options)
  old, new = (x["task.reward"]["fingerprint"] for x in (first, second))
  assert old != new


def test_what_a_linked_file_imports_is_part_of_a_runs_identity(tmp_path):
  (tmp_path / "lib").mkdir()
  (tmp_path / "lib" / "own.py").write_text("from near import f\n")
  (tmp_path / "own.py").symlink_to(tmp_path / "lib" / "own.py")
  prints = []
  for value in (1, 2):
    (tmp_path / "lib" / "near.py").write_text(f"VALUE = {value}\n")
    found = sources.files_of("task", {"reward": f"file:{tmp_path}/own.py:f"})
    prints.append(found["task.reward"]["fingerprint"])
  assert prints[0] != prints[1]


def test_the_files_of_folders_and_patterns_are_part_of_a_runs_identity(
  tmp_path
):
  """A reward may read fields that no prompt shows."""
  (tmp_path / "set").mkdir()
  one, other = tmp_path / "set" / "a.jsonl", tmp_path / "b.jsonl"
  task = fakes.task((), again=[], eos=(1,), prompt=[[2]])
  task = task._replace(table=Problems(*np.zeros((3, 1, 1))))
  prints = []
  for text in ("{}", '{"tests": 1}'):
    for file in (one, other):
      file.write_text(text)
    prints.append([
      sources.rows_of(task, source)["fingerprint"] for source in (
        f"{tmp_path}/set", f"{tmp_path}/*.jsonl",
        f"{tmp_path}/set*0.5,{tmp_path}/b.jsonl*.5",
      )
    ])
  assert all(old != new for old, new in zip(*prints))


def test_lists_of_paths_become_absolute_one_by_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("a.jsonl", "b.jsonl", "r.py"):
    pathlib.Path(name).write_text("")
  config = {"task": {
    "source": "a.jsonl*0.7,b.jsonl*.3", "prepare": "file:r.py:g",
    "reward": "exact,file:r.py:f*0.2, file:r.py",
  }}
  here = str(tmp_path)
  assert fields.placed(config)["task"] == {
    "source": f"{here}/a.jsonl*0.7,{here}/b.jsonl*.3",
    "prepare": f"file:{here}/r.py:g",
    "reward": f"exact,file:{here}/r.py:f*0.2,file:{here}/r.py",
  }


def test_a_file_is_loaded_once_and_its_neighbours_are_found(tmp_path):
  (tmp_path / "helper_of_rewards.py").write_text("VALUE = 3\n")
  (tmp_path / "own.py").write_text(
    "from helper_of_rewards import VALUE\nseen = []\n"
    "def f(texts):\n  seen.append(1)\n  return [VALUE + len(seen)]\n"
  )
  one, two = (
    own_functions.load(f"file:{tmp_path}/own.py:f", "f") for _ in range(2)
  )
  assert one([]) == [4] and two([]) == [5]


def test_files_and_functions_of_like_names_are_told_apart(tmp_path):
  """Else a run would be judged by another function than the named one."""
  for number, name in enumerate(("a-b.py", "a_b.py", "own.py")):
    (tmp_path / name).write_text(
      f"def make():\n  def f(texts):\n    return [{number}.0]\n  return f\n"
      "made = make()\ndef f(texts):\n  return [-1.0]\n"
    )
  found = [
    rewards.parse("reward", f"file:{tmp_path}/{name}.py:made")[0].own
    for name in ("a-b", "a_b", "own")
  ]
  assert [own.function([""]) for own in found] == [[0.0], [1.0], [2.0]]
  sent = pickle.loads(pickle.dumps(found))  # as to a process of a pool
  assert [own.function([""]) for own in sent] == [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize("late", [False, True])
def test_neighbours_of_one_name_in_two_folders_are_refused(tmp_path, late):
  name = f"neighbour_{late}"
  for number in (1, 2):
    folder = tmp_path / str(number)
    folder.mkdir()
    (folder / f"{name}.py").write_text(f"VALUE = {number}\n")
    text = f"def f(texts):\n  from {name} import VALUE\n  return [VALUE]\n"
    if not late:
      text = f"from {name} import VALUE\ndef f(texts):\n  return [VALUE]\n"
    (folder / "own.py").write_text(text)
  one = own_functions.load(f"file:{tmp_path}/1/own.py:f", "f")
  with pytest.raises(ValueError, match=rf"own.py imports {name}, which is"):
    own_functions.load(f"file:{tmp_path}/2/own.py:f", "f")
  assert one([]) == [1]


def test_jnp_scalars_are_numbers(write):
  name = write("def f(texts):\n  import jax.numpy as jnp\n"
               "  return [jnp.float32(2.0)] * 2\n")
  assert list(scored(name, given("a", "b")).values())[0].tolist() == [2, 2]


@pytest.mark.parametrize("name", ["seconds", "reply_seconds"])
def test_no_longer_times_are_asked_for_than_can_be_waited_for(name):
  with pytest.raises(ConfigError, match=f"config.task.{name}=inf"):
    fields.check_ranges({"task": {name: math.inf}})
