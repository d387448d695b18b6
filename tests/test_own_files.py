"""A user's own task and method files, and what is said where they are wrong.

They are those of docs/core.md, with one change each. Nothing is trained: a task
is tried when it is made, and what fails later is wrapped.
"""

import pathlib
import re

import fakes
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from absl import flags

from sitrain.runtime import (
  batches,
  build,
  errors,
  fields,
  options,
  overrides,
  own,
)
from sitrain.runtime.options import ConfigError
from sitrain.runtime.origins import check_role_sources
from sitrain.runtime.start import Role
from sitrain.runtime.task import task_from, task_of_stage
from sitrain.tasks import own_functions
from sitrain.types import (
  Batch,
  Mean,
  Method,
  Problems,
  TrainState,
  Verdict,
)

CORE = (pathlib.Path(__file__).parent.parent / "docs" / "core.md").read_text()
METHOD, TASK = (
  next(b for b in re.findall(r"```python\n(.*?)```", CORE, re.S) if word in b)
  for word in ("verbs.forwards(score", "-> Task")
)
QUICK = (
  "--config=configs/quickstart.py:quick", "--config.model.layers=1",
  "--config.stages=('stage2',)", "--config.stage.stage2.start=init",
  "--config.stage.stage2.held.reference=init",
)


def prepared(workdir, *words):
  """What the main builds of a command line before it begins."""
  known, words = flags.FlagValues(), ["main", *QUICK, *words]
  overrides.define("", flag_values=known, sys_argv=words)
  overrides.parse(words, known)
  config = fields.placed(build.plain(known["config"].value))
  return build.prepare(config, str(workdir), loops.mesh_of(1))


def changed(text, *changes):
  for old, new in changes:
    assert text.count(old) >= 1, old
    text = text.replace(old, new, 1)
  return text


def on_host(problems):
  return problems._replace(**{
    name: np.asarray(x) for name, x in problems._asdict().items()
  })


def line_of(text, part):
  """The number of the line that has `part`."""
  return text[: text.index(part)].count("\n") + 1


def test_the_files_of_the_documentation_run(tmp_path):
  (tmp_path / "my_task.py").write_text(TASK)
  (tmp_path / "my_method.py").write_text(METHOD)
  names = [f"file:{tmp_path}/my_{kind}.py:make" for kind in ("task", "method")]
  ready = prepared(
    tmp_path, f"--config.task.name={names[0]}", "--config.task.most=5",
    f"--config.stage.stage2.method.name={names[1]}",
  )
  task = ready.task
  posed = task.problems(jnp.zeros(2, jnp.uint32), 3)
  rows = own._attempts(on_host(posed), 13)
  text = task.tokenizer.decode(posed.prompt[0]), int(posed.answer[0, 0])
  assert re.fullmatch(r"[0-5]\+[0-5]=", text[0])
  assert (int(text[0][0]) + int(text[0][2])) % 10 == text[1]
  # The turns of `rows` are an end alone. Here the first of them is right.
  tokens = np.concatenate(
    [rows.tokens[:, :4], posed.answer, rows.tokens[:, 4:]], axis=1
  )
  turn = np.concatenate([rows.turn, rows.turn[:, -1:]], axis=1)
  turn[:, 5] = 1
  reward = task.verify(
    posed.answer, rows._replace(tokens=tokens, turn=turn), 2
  ).reward
  np.testing.assert_array_equal(reward, [[1, 0]] * 3)


VERIFY = "reward = (final(episodes, turns) == answer).astype(jnp.float32)"
ON_HOST = ("on_host=False", "on_host=True")
MEND = "mend verify: verify(answer [B A], episodes, turns) returns Verdict("
# What is changed in the file, the part of the line that is named, and the rest.
WRONG = {
  "problems raise": (
    [("digit = (one + other) % 10", "digit = {}['sum']")], "{}['sum']",
    "raises KeyError: 'sum'; mend problems: problems(key, n) returns Problems",
  ),
  "level raises": (
    [("problems.answer[:, 0] % 2", "problems.levels")], "problems.levels",
    "AttributeError: 'Problems' object has no attribute 'levels'; mend level",
  ),
  "verify raises": ([(VERIFY, "1 // 0")], "1 // 0", MEND),
  "verify raises on the host": (
    [(VERIFY, "1 // 0"), ON_HOST], "1 // 0", MEND
  ),
  "shapes do not fit": (
    [("== answer)", "== answer[:3])")], "answer[:3]", MEND,
  ),
  "reply raises": (
    [("constant_reply([AGAIN])", "lambda *row: row[7]")], "row[7]",
    "raises IndexError: tuple index out of range; mend reply: reply(answer",
  ),
  "final raises": (
    [("jnp.where(formed", "jnp.were(formed")], "jnp.were",
    "raises AttributeError: module 'jax.numpy' has no attribute 'were'; mend",
  ),
  "make raises": (
    [("  return Task(", "  return {}['a']\n  return Task(")], "{}['a']",
    "raises KeyError: 'a'",
  ),
  "make refuses": (
    [("  return Task(", "  raise ValueError('most=9: no')\n  return Task(")],
    "raise Val", ": most=9: no",
  ),
  "a field of Task is missing": (
    [("    eos=(END,), turn_length=2,", "    eos=(END,),")], "return Task(",
    "raises TypeError: Task.__new__() missing 1 required positional argument",
  ),
  "plain Python on the device": (
    [(VERIFY, "reward = float(answer[0, 0])")], "float(",
    "verify is traced, so write it in jax.numpy, or set on_host=True",
  ),
  "no verdict": (
    [("return Verdict(reward, known=jnp.ones_like(reward))", "return reward")],
    "def verify", ": verify returns a ",
  ),
  "a verdict of rows": (
    [("Verdict(reward, known=", "Verdict(reward[:, 0], known=")], "def verify",
    ": verify returns reward of shape [4] where [4, 2] are asked for: return V",
  ),
  "parts without names": (
    [("jnp.ones_like(reward))", "reward, parts={'short': reward})")],
    "def verify", "the parts ['short'] where Task.rewards has []",
  ),
  "a reply without done": (
    [("constant_reply([AGAIN])", "lambda answer, rows, turn: answer")],
    "lambda answer", ": reply returns a ",
  ),
  "padding behind a prompt": (
    [("other, EQUALS])", "other, -1])")], "problems=lambda",
    ": problems returns a prompt has PAD behind a token",
  ),
  "a token that there is not": (
    [("EQUALS, AGAIN, END = range(10, 14)",
      "AGAIN, END, EQUALS = range(10, 14)"),
     (' = "0123456789+=?;"', ' = "0123456789+?;"')],
    "problems=lambda", ": problems returns prompt has tokens from ",
  ),
  "another number of problems": (
    [("draw(key, n, problem", "draw(key, 3, problem")], "problems=lambda",
    ": problems returns prompts of shape [3] where [4] are asked for",
  ),
  "a level that there is not": (
    [("[:, 0] % 2", "[:, 0] * 0 + 2")], "level=lambda",
    ": level returns 2 to 2 where levels has 2",
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_task_is_one_line_with_its_field_and_place(case, tmp_path):
  changes, part, rest = WRONG[case]
  text = changed(TASK, *changes)
  (tmp_path / "my_task.py").write_text(text)
  name = f"file:{tmp_path}/my_task.py:make"
  with pytest.raises(ConfigError) as info:
    task_from({"task": {"name": name}})
  message = errors.one_line(info.value)
  place = f"config.task: my_task.py, line {line_of(text, part)}"
  assert message.startswith(place) and rest in message, message
  assert "\n" not in str(info.value) and len(message) < 400, message


def test_fields_of_a_task_that_cannot_be(tmp_path):
  for i, (old, new, words) in enumerate((
    ("eos=(END,)", "eos=()", "eos=() of the Task: give a tuple with the ids"),
    ("levels=(", "levels=[],__=(", "unexpected keyword argument '__'"),
    ('levels=("even", "odd")', "levels=()", "levels=() of the Task: give"),
    ("turn_length=2", "turn_length=0", "turn_length=0 of the Task: give tok"),
    ("table=()", "table=[1]", "table=[1] of the Task: give Problems, or ()"),
    ("final=final", "final=1", "final=1 of the Task: give a function final("),
  )):
    (tmp_path / f"t{i}.py").write_text(changed(TASK, (old, new)))
    with pytest.raises(ConfigError, match=re.escape(words)) as info:
      task_from({"task": {"name": f"file:{tmp_path}/t{i}.py:make"}})
    assert str(info.value).startswith("config.task: ")


def test_the_field_is_that_of_the_part_that_names_the_file(tmp_path):
  (tmp_path / "my_task.py").write_text(changed(TASK, (VERIFY, "1 // 0")))
  own_task = {"name": f"file:{tmp_path}/my_task.py:make"}
  config = {"task": {"name": "maze"}, "evaluate": {"task": own_task}}
  with pytest.raises(ConfigError, match=r"^config.evaluate.task: my_task.py,"):
    task_from(config, part="evaluate")
  with pytest.raises(ConfigError, match=r"^config.stage.a.task: my_task.py,"):
    task_of_stage(config, "stage.a", own_task, "")
  config = {"task": own_task, "evaluate": {}}
  with pytest.raises(ConfigError, match=r"^config.task: my_task.py,"):
    task_from(config, part="evaluate")


def test_a_tokenizer_is_trained_on_the_rows_of_the_file(tmp_path):
  (tmp_path / "texts.py").write_text("def make(chat):\n  return chat\n")
  config = {"task": {"name": f"file:{tmp_path}/texts.py"}, "model": {}}
  words = "config.tokenizer.size: texts.py, line 1: its file has no function"
  with pytest.raises(ConfigError, match=words):
    task_from(config | {"tokenizer": {"size": 300}})


def test_what_fails_in_the_middle_of_a_run_names_the_task(
  tmp_path, monkeypatch
):
  """The trial has four rows. A method calls it, whose errors are named, too."""
  late = "1 // (5 - len(answer))\n    " + VERIFY
  text = changed(TASK, (VERIFY, late), ON_HOST)
  (tmp_path / "my_task.py").write_text(text)
  task = task_from({"task": {"name": f"file:{tmp_path}/my_task.py:make"}})
  posed = on_host(task.problems(jnp.zeros(2, jnp.uint32), 5))
  with (
    pytest.raises(ConfigError, match=r"^config.task: my_task.py, line \d+, "),
    options.naming("stage.base", ".method"),
  ):
    task.verify(posed.answer, own._attempts(posed, 13), 2)
  with pytest.raises(own_functions.OwnError) as info:
    task.verify(posed.answer, own._attempts(posed, 13), 2)
  # The command line is wrong before the run begins, not afterwards.
  for begun, code in ((False, 2), (True, 1)):
    monkeypatch.setattr(errors._BEGUN, "is_set", lambda begun=begun: begun)
    assert errors.code_of(info.value) == code


def test_a_drawn_task_of_the_host_needs_stages_that_are_not_fused(tmp_path):
  (tmp_path / "my_task.py").write_text(changed(TASK, ON_HOST))
  name = f"--config.task.name=file:{tmp_path}/my_task.py:make"
  with pytest.raises(ConfigError, match="stage2.fused=True: .*set it to False"):
    prepared(tmp_path / "run", name)
  ready = prepared(tmp_path / "run", name, "--config.stage.stage2.fused=False")
  assert ready.task.on_host and ready.task.table == ()


def test_verbs_of_an_own_method_name_their_line():
  namespace = {"jnp": jnp, "Batch": Batch}
  code = compile("\n".join((
    "def raises(*args): return jnp.ones(3) + jnp.ones(4)",
    "def alone(*args): return 1.0",
  )), "mine.py", "exec")
  exec(code, namespace)  # noqa: S102 It is our own text.
  alone = namespace["alone"]
  made = own.own_method(
    Method(*[alone] * 6, wanted=alone), "stage.base.method"
  )
  for verb, words in (
    ("pose", "return Problems"),
    ("generate", "return Episodes, or {name: Episodes}"),
    ("judge", r"return \(verdict, metrics\)"),
    ("refresh", "return TrainState"),
    ("curate", r"return \(Batch, metrics\)"),
    ("loss", r"return \({name: Mean}, metrics\)"),
    ("wanted", "return for each problem whether it teaches something"),
  ):
    line = f"^config.stage.base.method: mine.py, line 2: {verb} returns a float"
    with pytest.raises(own_functions.OwnError, match=f"{line}: {words}"):
      getattr(made, verb)()
  right = {"nll": Mean(1.0, 1.0)}, {}
  kept = own.own_method(made._replace(loss=lambda: right), "stage.base.method")
  assert kept.loss() == right
  assert own.own_method(made._replace(wanted=()), "x").wanted == ()


def test_what_is_wanted_is_told_of_every_problem():
  problems = Problems(*np.zeros((3, 4, 1), np.int32))
  rows = fakes.pack(
    [fakes.transcribe([0], [[1, 2]], [])] * 8, problem=np.repeat(range(4), 2)
  )
  verdict = Verdict(*np.ones((2, 8, 1), np.float32))
  method = Method(
    pose=lambda key, state: problems,
    generate=lambda keys, state, problems: rows,
    judge=lambda *round: (verdict, {}),
    refresh=lambda state, *round: state,
    curate=lambda *round: (rows, {}),
    loss=lambda *round: ({}, {}),
  )
  state = TrainState((), {}, {}, (), {}, ())
  count = lambda wanted: batches.count(
    method._replace(wanted=wanted), state
  ).problems
  right = np.ones(4, bool)
  assert count(()) == count(lambda *round: right) == 4
  for wrong, found in (
    (right[:3], r"bool \[3\]"), (right[:, None], r"bool \[4, 1\]"),
    (np.ones(4, np.float32), r"float32 \[4\]"),
  ):
    words = f"^wanted returns {found} for 4 problems: return an array of bool"
    with pytest.raises(ValueError, match=words):
      count(lambda *round, wrong=wrong: wrong)


def test_a_role_needs_a_source_that_has_it():
  run = loops.run_of(())
  roles = {name: Role((), name, "", ()) for name in ("policy", "init")}
  run = run._replace(roles={"critic": roles["policy"], "judge": roles["init"]})
  stage = lambda name, trained, start="init", **held: loops.stage_of(
    (), (), name=name, trained=trained, start=start, held=held
  )
  before = [stage("base", ("policy",)), stage("reward", ("judge",))]
  check = lambda one: check_role_sources("stage.rl", run, one, before)
  for right in (
    stage("rl", ("policy", "critic"), "base/last", reference="base/best"),
    stage("rl", ("policy",), judge="reward/last", reference="init"),
    stage("rl", ("policy",), "/a/run/reward/last", judge="/a/run/base/last"),
  ):
    check(right)
  for wrong, words in (
    (stage("rl", ("policy",), judge="base/last"),
     "rl.held.judge='base/last': that stage trains no 'judge': name one that "
     "does, or set config.roles.judge.start to 'policy'"),
    (stage("rl", ("policy",), "reward/last"),
     "rl.start='reward/last': that stage trains no 'policy': name one that"),
    (stage("rl", ("critic",), "reward/last"),
     "rl.start='reward/last': that stage trains no 'critic': name one that"),
  ):
    with pytest.raises(ConfigError, match=words):
      check(wrong)
