"""What is wrong is said in one line that names the field, before anything runs.

Each case names what the line has to say. None of these may reach the compiler.
"""

import json
import sys

import jax
import loops
import pytest
from absl import flags

from sitrain.configs import quickstart
from sitrain.runtime import build, fields, overrides

QUICK = ("--config=configs/quickstart.py:quick", "--config.model.layers=1")
TEXT = ("--config=configs/score_gsm8k.py:quick",)
BASE, TWO = "--config.stage.base.", "--config.stage.stage2."


def parsed(*words):
  """The config of a command line, as the main hands it on."""
  known, words = flags.FlagValues(), ["main", *words]
  overrides.define("", flag_values=known, sys_argv=words)
  overrides.parse(words, known)
  return fields.placed(build.plain(known["config"].value))


def refused(prepare, *said):
  """What `prepare` raises is one line that has all of it."""
  with pytest.raises((ValueError, OSError)) as info:
    prepare()
  line = str(info.value)
  assert "\n" not in line and len(line) < 1000, line
  for word in said:
    assert word in line, line


# The command line, and what is said of it: no data, model or device is needed.
AT_ONCE = {
  "a word for a number": ((*QUICK, "--config.seed=abc"), ("seed=abc", "int")),
  "half a list": (
    (*QUICK, "--config.evaluate.turns=(5,"), ("turns=(5,: give a list", "(5, "),
  ),
  "half a step": ((*QUICK, f"{BASE}steps=1.5"), ("base.steps=1.5", "whole")),
  "no flag": ((*QUICK, f"{BASE}fused=maybe"), ("fused=maybe", "True or False")),
  "a word for fields": (
    (*QUICK, "--config.task=maze"), ("task=maze", "fields"),
  ),
  "a folder": (("--config=configs",), ("is a folder", "quickstart.py")),
  "no python": (("--config=README.md",), ("README.md: line", "SyntaxError")),
  "no config": (("--config.seed=1",), ("--config is missing",)),
  "a trace that ends before it begins": (
    (*QUICK, "--config.run.profile_steps=(5, 2)"),
    ("profile_steps=(5, 2): give the first step to trace",),
  ),
  "an empty config": (("--config=",), ("--config is empty: say which",)),
  "no stage": (
    (*QUICK, "--config.stages=('abc',)"),
    ("names 'abc', which is no config.stage: choose one of base, stage1",),
  ),
  "no option of a stage": (
    (*QUICK, "--config.stage.stage1.learning_rate=1"),
    ("did you mean --config.stage.stage1.optimizer.learning_rate?",),
  ),
  "steps": ((*QUICK, f"{BASE}steps=-2"), ("base.steps=-2: set 1 or more",)),
  "learning rate nan": (
    (*QUICK, f"{BASE}optimizer.learning_rate=nan"), ("learning_rate=nan",),
  ),
  "learning rate 1e30": (
    (*QUICK, f"{BASE}optimizer.learning_rate=1e30"),
    ("learning_rate=1e+30: set a number from 0 to 100",),
  ),
  "learning rate -1": (
    (*QUICK, f"{BASE}optimizer.learning_rate=-1"), ("learning_rate=-1.0: set",),
  ),
  "discount": (
    (*QUICK, f"{TWO}method.discount=1.5"), ("discount=1.5: set a number",)
  ),
  "temperature 0": (
    (*QUICK, f"{TWO}method.temperature=0"), ("temperature=0: set a number",)
  ),
  "temperature -1": (
    (*QUICK, f"{TWO}method.temperature=-1"), ("temperature=-1: set",),
  ),
  "evaluation's temperature": (
    (*QUICK, "--config.evaluate.temperature=-1"), ("temperature=-1.0: set",),
  ),
  "problems": (
    (*QUICK, f"{TWO}method.problems=-8"), ("problems=-8: set 1 or",),
  ),
  "samples": ((*QUICK, f"{TWO}method.samples=-2"), ("samples=-2: set 0 or",)),
  "turns": ((*QUICK, f"{TWO}method.turns=(0,5)"), ("turns=(0, 5): set 1 or",)),
  "layers": ((*QUICK, "--config.model.layers=0"), ("layers=0: set 1 or more",)),
  "width": (
    (*QUICK, "--config.model.width=-16"), ("width=-16: set 1 or more",),
  ),
  "save_every": (
    (*QUICK, "--config.run.save_every=0"), ("save_every=0: set 1",),
  ),
  "keep": ((*QUICK, "--config.run.keep=-1"), ("run.keep=-1: set 1 or more",)),
  "microbatches": (
    (*QUICK, f"{TWO}microbatches=0"), ("microbatches=0: set 1",),
  ),
  "waves": ((*QUICK, f"{TWO}waves=0"), ("waves=0: set 1 or more",)),
  "delay": ((*QUICK, f"{TWO}delay=3"), ("delay=3: set a number from 0 to 1",)),
  "seed": ((*QUICK, "--config.seed=-1"), ("config.seed=-1: set a number",)),
  # A larger one would be cut to 32 bits, and so be another seed.
  "long seed": (
    (*QUICK, "--config.seed=4294967296"), ("from 0 to 4294967295",),
  ),
  "mesh": ((*QUICK, "--config.mesh.data=0"), ("config.mesh: an axis of 0",)),
  "b1": (
    (*QUICK, f"{TWO}optimizer.b1=1"), ("b1=1: set a number from 0 to bel",),
  ),
  "clip": (
    (*QUICK, f"{TWO}optimizer.clip=0"), ("clip=0: set a number above 0",),
  ),
  "beta": ((*QUICK, f"{TWO}method.beta1=-1"), ("beta1=-1.0: set 0 or more",)),
  "evaluated problems": (
    (*QUICK, "--config.evaluate.problems=0"), ("evaluate.problems=0: set 1",)
  ),
  "evaluation's batch": (
    (*QUICK, "--config.evaluate.batch=3"), ("evaluate.batch=3", "set it to 8"),
  ),
  "resamples": (
    (*QUICK, "--config.evaluate.resamples=1"), ("resamples=1: set 2 or more",)
  ),
  "warm-up": (
    (*QUICK, f"{BASE}optimizer.warmup=9"),
    ("config.stage.base.optimizer.warmup=9 is more than all gradient steps",
     "which are 2: lower it, or raise the steps of the stage"),
  ),
  "kv_heads": (
    (*QUICK, "--config.model.kv_heads=3"), ("kv_heads=3", "heads=2", "1 or 2"),
  ),
  "head_size": ((*QUICK, "--config.model.head_size=7"), ("even number",)),
  "rope_share": (
    (*QUICK, "--config.model.rope_share=0.4"),
    ("config.model.rope_share=0.4 of a head of 8 rotates 3", "even number"),
  ),
  "experts": (
    (*QUICK, "--config.model.experts=2", "--config.model.experts_per_token=3"),
    ("experts_per_token=3 is more than config.model.experts=2: set it to 2",),
  ),
  "remat": ((*QUICK, "--config.model.remat=ful"), ("did you mean 'full'",)),
  "attention": ((*QUICK, "--config.model.attention=flash"), ("splash",)),
  "dtype": (
    (*QUICK, "--config.model.dtype=float16"), ("did you mean 'bfloat16",),
  ),
  "profile": (
    (*QUICK, "--config.run.profile_steps=(1,)"), ("first step to tr",),
  ),
  "until": (
    (*QUICK, f"{TWO}until.name=platau"),
    ("stage2.until.name='platau' is not known: did you mean 'plateau'?",),
  ),
  "no metric": (
    (*QUICK, f"{TWO}until.name=plateau"), ("stage2.until.metric is missing",),
  ),
  "no stages": ((*QUICK, "--config.stages=()"), ("config.stages is empty",)),
  "stages in a word": (
    (*QUICK, "--config.stages=base,stage2"),
    ("""give a list, as --config.stages="('base', 'stage2')\"""",),
  ),
  "no stage before": (
    (*QUICK, "--config.stages=stage2"),
    ("config.stages has no 'stage1' before it: add it, or choose one of",),
  ),
  "a tokenizer's option": (
    (*TEXT, "--config.tokenizer.sze=300"), ("tokenizer.sze", "mean 'size'?"),
  ),
  "no base": (
    (*QUICK, "--config.stages=stage1"), ("stage1.start='base/last'",),
  ),
  "held": ((*QUICK, f"{TWO}held.reference=stage1"), ("mean 'stage1/last'",)),
  "trained": ((*QUICK, f"{TWO}trained=()"), ("trained is empty",)),
  "schedule": ((*QUICK, f"{TWO}optimizer.schedule=cosin"), ("mean 'cosine'",)),
  "a misspelt start": (
    ("--config=configs/ppo.py:quick", "--config.roles.critic.start=polciy"),
    ("config.roles.critic.start='polciy': did you mean 'policy'?",),
  ),
  "tokenizer": ((*TEXT, "--config.tokenizer.size=10"), ("set 257 or more",)),
  "no file": (
    (*TEXT, "--config.task.source=nowhere.jsonl"), ("no file nowhere.jsonl",)
  ),
  # It is not the tokenizer that is wrong.
  "no model": (
    (*TEXT, "--config.model.path=nowhere"), ("config.model.path: there is no",)
  ),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_what_the_config_alone_decides(case, tmp_path, monkeypatch):
  words, said = AT_ONCE[case]
  if case not in ("no file", "no model"):
    monkeypatch.setattr(build, "task_from", pytest.fail)  # Nothing is loaded.
  workdir = tmp_path / "run"
  mesh = loops.mesh_of(1)
  refused(lambda: build.prepare(parsed(*words), str(workdir), mesh), *said)
  assert not workdir.exists(), "nothing may be left of it"


# What only the shapes of a stage show; no program of it is compiled.
BY_SHAPES = {
  "best": (
    (*QUICK, f"{TWO}best=judge/rewrd_2"), ("stage2.best=", "judge/reward_2'"),
  ),
  "until": (
    (*QUICK, "--config.stage.stage1.until.metric=judge/reward_3"),
    ("stage1.until.metric=", "no metric of this stage"),
  ),
  "one turn": (
    (*QUICK, f"{TWO}method.turns=(5,)"), ("method.turns=(5,)", "needs 2 or"),
  ),
  "one sample": (
    (*QUICK, f"{TWO}method.samples=1"), ("samples=1", "at least 2"),
  ),
  "kind": (
    ("--config=configs/rft.py:quick", "--config.stage.rft.table.kind=solve"),
    ("rft.table.kind='solve'", "leave it out"),
  ),
  "no reference": (
    ("--config=configs/spiral.py:quick", "--config.stage.spiral.held={}"),
    ("config.stage.spiral", "'reference'", "held.reference"),
  ),
  "minibatches": (
    (*QUICK, f"{TWO}minibatches=3"), ("8 rows", "stage2.minibatches to 2"),
  ),
  "no role": (
    (*QUICK, f"{TWO}trained=('policy','polcy')"), ("config.roles.polcy",),
  ),
  "vocabulary": (
    (*QUICK, "--config.model.vocabulary=3"), ("vocabulary=3", "15 or more"),
  ),
}


@pytest.mark.parametrize("case", BY_SHAPES)
def test_what_the_shapes_of_a_stage_decide(case, tmp_path):
  words, said = BY_SHAPES[case]
  compiled = []
  listen = lambda event, *_, **__: compiled.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    config, mesh = parsed(*words), loops.mesh_of(1)
    refused(lambda: build.prepare(config, str(tmp_path / "run"), mesh), *said)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  stages = [e for e in compiled if "cache_miss" in e]
  assert not stages and not (tmp_path / "run").exists()


OWN = """
from sitrain.methods import imitation, verbs


@verbs.forwards(imitation.make)
def make(models, task, optimizer, **options):
  method = imitation.make(models, task, optimizer, **options)
  return method._replace(curate=lambda *args: {}["nothing"])
"""


def test_an_own_method_that_raises_is_named_with_its_line(tmp_path):
  (tmp_path / "own.py").write_text(OWN)
  config = parsed(*QUICK, f"{BASE}method.name=file:{tmp_path / 'own.py'}")
  prepare = lambda: build.prepare(config, str(tmp_path), loops.mesh_of(1))
  refused(prepare, "stage.base.method: own.py, line 8, raises KeyError")


def test_the_config_may_be_named_after_its_fields():
  for words in (
    ["--config.seed=3", "--config.model.layers=1", QUICK[0]],
    ["--config.seed=3", "--config", QUICK[0].partition("=")[2],
     "--config.model.layers=1"],
  ):
    config = parsed(*words)
    assert config["seed"] == 3 and config["model"]["layers"] == 1


def test_types_that_only_a_config_file_can_have(tmp_path):
  config = build.plain(quickstart.get_config("quick"))
  for part, name, value, said in (
    ("model", "layers", "2", "config.model.layers='2' is a str: give an int"),
    ("model", "width", 16.0, "config.model.width=16.0 is a float"),
    ("evaluate", "turns", ("abc",), "has 'abc', which is no whole number: give"
     " a list of them, as --config.evaluate.turns='(5, 5)'"),
    ("evaluate", "turns", 5, "config.evaluate.turns=5 is a int: give a tuple"),
    ("model", "rope_scaling", {"kin": "linear"}, "mean 'kind'?"),
    ("run", "keep", True, "config.run.keep=True is a bool"),
    ("stage", "base", 1, "config.stage.base=1 is a int: give a dict"),
  ):
    wrong = config | {part: config[part] | {name: value}}
    prepare = lambda wrong=wrong: build.prepare(
      wrong, str(tmp_path), loops.mesh_of(1)
    )
    refused(prepare, said)
  without = config | {"run": {"keep": 1}}
  prepare = lambda: build.prepare(without, str(tmp_path), loops.mesh_of(1))
  refused(prepare, "config.run.", "is missing")


@pytest.mark.parametrize("text, said", [
  ("x = 1", "no function get_config"),
  ("def get_config(argument=''):\n  return {}['a']", "line 2 raises KeyError"),
  ("def get_config(argument=''):\n  pass", "returns a NoneType: return an ml_"),
  ("def get_config(", "SyntaxError"),
])
def test_a_file_that_is_no_config(text, said, tmp_path):
  (tmp_path / "wrong.py").write_text(text)
  sys.modules.pop("config_config", None)  # ml_collections loads into it again.
  refused(lambda: parsed(f"--config={tmp_path / 'wrong.py'}"), "wrong.py", said)


WORKDIR = "--workdir={run}"
OUTPUT = "--output={new}"
OTHERS = {
  "sitrain.sample": [
    ([OUTPUT], "--config is missing"),
    (["--workdir={none}", OUTPUT], "none: there is no such folder: give the"),
    (["--workdir={file}", OUTPUT], "file is a file: give a folder"),
    (["--workdir={empty}", OUTPUT], "has no config.json: give the workdir of"),
    # The run may be given without the flag's name.
    (["{run}"], "--output is missing: give a file, as --output=samples.jsonl"),
    ([OUTPUT, "nowhere"], "nowhere: there is no such folder: give the workdir"),
    ([OUTPUT, "{run}", "{empty}"], "unknown argument '"),
    ([OUTPUT, "humaneval"], "did you mean --config=humaneval?"),
    ([OUTPUT, "problems=3"], "did you mean --problems=3?"),
    (["{run}", "--config=humaneval", OUTPUT], "leave out --config"),
    ([WORKDIR], "--output is missing: give a file, as --output=samples.jsonl"),
    ([WORKDIR, "--output={file}/x.jsonl"], "{file} is a file: give a folder"),
    ([WORKDIR, OUTPUT, "--steps=2"], "--steps is no flag of this command"),
    ([WORKDIR, OUTPUT, "--wich=best"], "did you mean --which=best?"),
    ([OUTPUT, "--config.evaluate.batch=8"], "or did you mean --batch=...?"),
    ([WORKDIR, OUTPUT, "--source=x.jsonl"], "--source=x.jsonl: the task maze"),
    ([WORKDIR, OUTPUT, "--task=humanevl"], "--task=humanevl is not in sitr"),
    ([WORKDIR, "--output=x.txt"], "ends in .jsonl"),
    ([WORKDIR, OUTPUT, "--samples=0"], "--samples=0"),
    ([WORKDIR, OUTPUT, "--turns=3"], "--turns=3: config.evaluate.turns="),
    ([WORKDIR, OUTPUT, "--ks=9"], "--ks=9: give numbers from 1 to --samples=1"),
    ([WORKDIR, OUTPUT, "--ks=a"], "--ks=a"),
    ([WORKDIR, OUTPUT, "--task=gsm9k"], "did you mean 'gsm8k'?"),
    ([WORKDIR, OUTPUT, "--stage=stage3"], "did you mean"),
    ([WORKDIR, OUTPUT], "lacks a checkpoint: train it first"),
    ([WORKDIR, OUTPUT, "--top_p=0"], "--top_p=0"),
    (["--config=configs/quickstart.py", OUTPUT], "config.model.path is mis"),
    ([*QUICK, "--config.evaluate.batch=0", OUTPUT], "evaluate.batch=0: set 1"),
  ],
  "sitrain.evaluate.__main__": [
    ([], "--workdir is missing: give the workdir of a run"),
    (["--workdir={none}"], "none: there is no such folder: give the workdir"),
    (["--workdir={file}"], "file is a file: give a folder"),
    ([WORKDIR, "--output={run}"], "run is a folder: give a file"),
    ([WORKDIR, "--output={file}/x.json"], "{file} is a file: give a folder"),
    ([WORKDIR, "--problms=3"], "did you mean --problems=3?"),
    ([WORKDIR, "--config=quickstart"], "the config is that of --workdir"),
    ([WORKDIR, "--config.evaluate.problems=3"], "did you mean --problems=3?"),
    ([WORKDIR, "base"], "unknown argument 'base': flags are given as --NAME"),
    (["{run}"], "no stage has been trained"),
    (["--greedy", "true"], "--greedy true: it takes no value; give"),
    ([WORKDIR, "--greedy", "true"], "--greedy true: it takes no value; give"),
    ([WORKDIR, "--budgets=3"], "--budgets=3: give even numbers"),
    ([WORKDIR, "--budgets=a"], "--budgets=a: give even numbers"),
    ([WORKDIR, "--problems=0"], "--problems=0"),
    ([WORKDIR, "--batch=4"], "--batch=4 rows do not hold the 32 samples"),
    ([WORKDIR, "--resamples=1"], "--resamples=1"),
    ([WORKDIR, "--output=/proc/x/y.json"], "--output=/proc/x/y.json cannot be"),
    ([WORKDIR, "--temperature=0"], "give one above 0, and --greedy"),
    ([WORKDIR, "--stage=stge1"], "did you mean 'stage1'?"),
    ([WORKDIR, "--role=critic"], "--role=critic: "),
    ([WORKDIR, "--which=first"], "--which=first"),
    ([WORKDIR, "--replies=a"], "give two texts"),
    ([WORKDIR], "no stage has been trained"),
  ],
  "sitrain.export": [
    ([OUTPUT], "--workdir is missing: give the workdir of a run"),
    (["--workdir={none}", OUTPUT], "none: there is no such folder: give the"),
    (["--workdir={file}", OUTPUT], "file is a file: give a folder"),
    ([WORKDIR], "--output is missing: give a new folder"),
    ([WORKDIR, "--output={file}"], "file is a file: give a folder"),
    ([WORKDIR, "--output=s3://x/y"], "--output=s3://x/y: s3:// is not supp"),
    ([WORKDIR, "--outptu=x"], "did you mean --output=x?"),
    ([WORKDIR, "--output"], "--output has no value: give it one, as --output="),
    ([WORKDIR, "--output={run}"], "is taken: give a new folder"),
    ([WORKDIR, OUTPUT, "--dtype=int8"], "--dtype=int8"),
    ([WORKDIR, OUTPUT, "--stage=stage3"], "did you mean"),
    ([WORKDIR, OUTPUT, "--role=critic"], "--role=critic: "),
    ([WORKDIR, OUTPUT], "lacks a checkpoint: train it first"),
    (["{run}", OUTPUT], "lacks a checkpoint: train it first"),
  ],
  "sitrain.report": [
    ([], "--workdir is missing: name a run, or several to compare"),
    (["--workdir={none}"], "none: there is no such folder: give the workdir"),
    (["--workdir={file}"], "file is a file: give a folder"),
    (["--workdir={empty}"], "has no config.json: give the workdir of a run"),
    ([WORKDIR], "has no metrics.jsonl: its run has not trained yet"),
    ([WORKDIR, "--wrkdir=x"], "did you mean --workdir=x?"),
    ([WORKDIR, "--outptu=x"], "did you mean --output=x?"),
    (["{none}"], "none: there is no such folder: give the workdir"),
  ],
  "sitrain.plan": [
    ([*QUICK, "--output={run}"], "run is a folder: give a file"),
    ([*QUICK, "--toplogy=v5e:2x4"], "did you mean --topology=v5e:2x4?"),
    ([QUICK[0], "--layers=1"], "did you mean --config.model.layers=1?"),
    ([*QUICK, "--stage=bse"], "did you mean 'base'?"),
  ],
  "sitrain.data": [
    ([], "--config is missing: say which, as --config=quickstart"),
    ([*QUICK, "--rwos=3"], "did you mean --rows=3?"),
    (["quickstart"], "'quickstart' is no flag: did you mean --config=quickst"),
    ([*QUICK, "--of=evaluat"], "did you mean 'evaluate'?"),
  ],
  "sitrain.main": [
    ([*QUICK, "--workdir={file}"], "file is a file: give a folder"),
    ([*QUICK, "--workdir={file}/run"], "{file} is a file: give a folder"),
    ([*QUICK, "--workdir={none}", "--config.run.wandb=p"],
     "config.run.wandb: wandb is not installed: pip install 'sitrain[wandb]'"),
  ],
}


@pytest.mark.parametrize("module", OTHERS)
def test_other_mains_say_what_is_wrong(module, tmp_path, ask):
  run = tmp_path / "run"
  run.mkdir()
  config = build.plain(quickstart.get_config("quick"))
  (run / "config.json").write_text(json.dumps(config))
  file, empty = tmp_path / "file", tmp_path / "empty"
  file.write_text("")
  empty.mkdir()
  places = {
    "run": run, "none": tmp_path / "none", "new": tmp_path / "x.jsonl",
    "file": file, "empty": empty,
  }
  cases = [
    [word.format(**places) for word in words] for words, _ in OTHERS[module]
  ]
  done = ask(module="many_inputs", CASES=json.dumps([module, cases]))
  assert done.code == 0, done.err[-3000:]
  found = json.loads(done.out.splitlines()[-1])
  for (kinds, line), (words, said) in zip(found, OTHERS[module], strict=True):
    assert said.replace("{file}", str(file)) in line, (words, line)
    # Errors of flags are told in a line too, before the main begins.
    assert {"ValueError", "Error"} & set(kinds), (words, kinds)
    assert "\n" not in line
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ["empty", "file", "run"]
  assert [path.name for path in run.iterdir()] == ["config.json"]
