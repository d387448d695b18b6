"""The sources, held roles, memory and tables of stages."""

import concurrent.futures
import json
import math
import signal

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from test_contracts import MODEL, OPTIMIZER, TASK

from sitrain.configs import quickstart
from sitrain.losses.reduce import mean
from sitrain.methods import imitation
from sitrain.models import heads
from sitrain.models.roles import params_of
from sitrain.runtime import (
  activity,
  build,
  checkpoint,
  fields,
  rows_file,
  signals,
  workdir,
  written,
)
from sitrain.runtime import stage as stages
from sitrain.runtime.options import ConfigError
from sitrain.runtime.recording import best_score
from sitrain.runtime.stage import (
  compile_ahead,
  preparing,
  run_stage,
  trained_before,
)
from sitrain.runtime.start import Role, layout, start_state
from sitrain.runtime.stopping import BEST_SPAN
from sitrain.types import Mean

PROBLEMS, TURNS = 4, (3, 3)


def sft(task=TASK, problems=PROBLEMS):
  """The cheapest method: it samples nothing."""
  return imitation.make(
    {"policy": MODEL}, task, OPTIMIZER, problems=problems, turns=TURNS
  )


def stage_of(name="one", method=None, **more):
  options = {"steps_per_call": 1, "steps": 2, "held": {}} | more
  return loops.stage_of(method or sft(), OPTIMIZER, name=name, **options)


def done(loop):
  """A finished future of a loop, like that of `compile_ahead`."""
  future = concurrent.futures.Future()
  future.set_result(loop)
  return future


def pretended(*norms, **metrics):
  """A loop without a program: gradient norms and metrics, step by step.

  Each step makes the parameters a little larger.
  """
  told = iter(zip(norms, *metrics.values()))

  def loop(state, key):
    norm, *rest = next(told)
    names = "learn/gradient_norm", *metrics
    one = lambda x: Mean(np.array([x], np.float32), np.ones(1, np.float32))
    params = jax.tree.map(lambda x: 1.5 * x, state.params)
    state = state._replace(step=state.step + 1, params=params)
    return state, {n: one(x) for n, x in zip(names, (norm, *rest))}

  return done(loop)


def test_a_signal_names_the_step_after_which_the_run_ends(
  tmp_path, monkeypatch
):
  """During a save it is the next one: that the run stops was not decided."""
  said = {"record": [], "agree": [], "save": []}

  def saying(what, function):
    def asked(*given, **options):
      said[what].append(signals.acknowledged(signal.SIGTERM))
      return function(*given, **options)
    return asked

  for what, name in (
    ("record", "record"), ("agree", "stop_agreed"), ("save", "save"),
  ):
    monkeypatch.setattr(stages, name, saying(what, getattr(stages, name)))
  run, stage = loops.run_of(MODEL, tmp_path), stage_of(steps=3)
  run_stage(run, stage, pretended(1.0, 1.0, 1.0))
  for what in ("record", "agree"):
    for step, line in enumerate(said[what], start=1):
      assert line.startswith(f"SIGTERM: step {step} of one ends first"), what
  *during, last = said["save"]
  for step, line in enumerate(during, start=1):
    assert line.startswith(f"SIGTERM: step {step + 1} of one ends first")
  assert len(during) == 2 and "as soon as it can be resumed" in last
  # One that is agreed on ends the call that it was said to end.
  monkeypatch.setattr(stages, "stop_agreed", lambda: signal.SIGTERM)
  said["save"].clear()
  with pytest.raises(signals.Stopped, match="after step 4 of one"):
    run_stage(run, stage._replace(steps=6), pretended(1.0))
  assert said["save"][0].startswith("SIGTERM: step 4 of one ends first")


def test_a_gradient_of_nan_stops_before_a_checkpoint(tmp_path):
  run, stage = loops.run_of(MODEL, tmp_path), stage_of(steps=3)
  with pytest.raises(ValueError, match="step 2 of one: .* gradient is nan"):
    run_stage(run, stage, pretended(1.0, math.nan, 1.0))
  assert checkpoint.steps(tmp_path / "one") == [1]
  # It goes on from there, with the same numbers of steps.
  _, progress = run_stage(run, stage, pretended(1.0, 1.0))
  assert progress.step == 3 and progress.done


def test_a_stage_says_what_it_does_before_its_first_step():
  stage = stage_of()
  assert preparing(stage, False, False) == (
    "preparing one (compiling and initializing parameters and optimizer;"
    " meanwhile 1 program compiling)"
  )
  later = stage._replace(start="base/last")
  assert preparing(later, False, True) == (
    "preparing one (reading base/last, and compiling what starts from it)"
  )
  assert preparing(later, True, True).endswith("(reading its last checkpoint)")


def test_a_start_after_the_end_of_a_stage_says_so(tmp_path, monkeypatch):
  """It was stopped while it evaluated: no step follows, and no line of one."""
  said = []
  monkeypatch.setattr(activity, "say", said.append)
  run, stage = loops.run_of(MODEL, tmp_path), stage_of()
  run_stage(run, stage, pretended(1.0, 1.0))
  assert said == []
  run_stage(run, stage, pretended())
  assert said == [
    "one is trained: all 2 steps are done; its evaluation, which was not"
    " finished, is done again"
  ]
  critic = stage._replace(trained=("critic",))
  assert trained_before(critic, 2).endswith("and the next stage follows")


@pytest.mark.parametrize("steps, saved", [(2, [1]), (1, [])])
def test_parameters_of_nan_are_not_saved_whatever_is_measured(
  tmp_path, steps, saved
):
  """Also for the last step, after which no other loss is computed."""
  run, stage = loops.run_of(MODEL, tmp_path), stage_of(steps=steps)
  step = pretended(*[1.0] * steps).result()

  def loop(state, key):
    state, told = step(state, key)
    last = int(state.step) == steps
    spoil = lambda x: x.at[..., 0].set(jnp.nan) if last else x
    return state._replace(params=jax.tree.map(spoil, state.params)), told

  with pytest.raises(ValueError, match=f"step {steps} of one is not saved, it"):
    run_stage(run, stage, done(loop))
  assert checkpoint.steps(tmp_path / "one") == saved


def test_the_best_checkpoint_is_that_of_a_window():
  """One lucky step of few problems must not choose it."""
  stage = stage_of(steps=100, best="judge/reward_1")
  lucky = [0.2] * (BEST_SPAN - 1) + [1.0]
  steady = [0.3] * BEST_SPAN
  score = lambda values: best_score(
    stage, {"judge/reward_1": values}, len(values)
  )
  assert score(lucky) < score(steady)
  assert score(lucky + steady) == pytest.approx(0.3)
  assert score(steady[1:]) == -math.inf, "too few steps to be ranked"
  unknown = [math.nan] * (BEST_SPAN - 1) + [0.5]
  assert score(unknown) == 0.5 and score([math.nan] * BEST_SPAN) == -math.inf
  # A short stage is ranked over all of it; without a metric the last is best.
  short = stage._replace(steps=2)
  assert best_score(short, {"judge/reward_1": [0.1, 0.3]}, 2) == 0.2
  assert best_score(stage._replace(best=""), {}, 7) == 7.0
  with pytest.raises(ValueError, match="one.best='judge/reward_1' is not kno"):
    best_score(stage, {"judge/reward_2": lucky}, len(lucky))


def test_a_new_policy_of_a_later_stage_repeats_no_keys(tmp_path):
  """start="init" initializes again; the count of iterations continues."""
  run = loops.run_of(MODEL, tmp_path)
  _, progress = run_stage(run, stage_of(), pretended(1.0, 1.0))
  first = progress.first + progress.step
  later = stage_of("later", start="init")
  state = start_state(run, later, layout(run, later), first)
  assert int(state.step) == int(state.frozen["first"]) == first == 2
  _, progress = run_stage(run, later, pretended(1.0, 1.0), first)
  assert (progress.first, progress.step) == (2, 2)
  assert checkpoint.iterations(tmp_path / "later", "last") == 4


def test_start_says_where_a_stage_begins_and_held_what_it_is_held_to(
  tmp_path
):
  """As in SCoRe of three turns: the base, stage I, the same again, stage II."""
  plan = (
    ("base", "init", ""), ("a", "base/last", "base"), ("b", "a/last", "a"),
    ("c", "b/last", "a"), ("anew", "init", "base"),
  )
  run, method = loops.run_of(MODEL, tmp_path), sft()
  policies, count = {}, 0
  for name, start, held in plan:
    stage = stage_of(
      name, method, start=start, steps=1,
      held={"reference": f"{held}/last"} if held else {},
    )
    state = start_state(run, stage, layout(run, stage), count)
    begun = loops.bits(state.params["policy"])
    policies.setdefault("init", begun)
    assert begun == policies[start.split("/")[0]]
    if held:
      assert loops.bits(state.held["reference"]) == policies[held]
    assert int(state.step) == count
    params, progress = run_stage(run, stage, pretended(1.0), count)
    assert progress.step == 1 and progress.done
    count = progress.first + progress.step
    policies[name] = loops.bits(params)
  # Made anew, the last has done what the base has.
  assert policies.pop("anew") == policies["base"]
  assert len({str(bits) for bits in policies.values()}) == 5


def remembering(size=3):
  """The method, which counts the rounds that it has seen."""

  def refresh(state, *sampled):
    seen = state.memory["seen"].at[state.step % size].add(1)
    return state._replace(memory={"seen": seen})

  return sft()._replace(
    refresh=refresh, memory=lambda key: {"seen": jnp.zeros(size, jnp.int32)}
  )


def test_memory_is_kept_and_that_of_another_shape_is_refused(
  tmp_path, monkeypatch
):
  run = loops.run_of(MODEL, tmp_path)
  stage = stage_of(method=remembering(), steps=4)
  compiled, stops = compile_ahead(run, stage), iter([False, True])
  with monkeypatch.context() as patch:
    patch.setattr(stages, "stop_agreed", lambda: next(stops))
    with pytest.raises(signals.Stopped, match="after step 2 of one"):
      run_stage(run, stage, compiled)
  _, progress = run_stage(run, stage, compiled)
  assert progress.step == 4
  saved = layout(run, stage)._replace(frozen={})
  state, _ = checkpoint.restore(tmp_path / "one", "last", saved)
  assert state.memory["seen"].tolist() == [2, 1, 1]
  other = stage_of(method=remembering(size=5))._replace(steps=6)
  with pytest.raises(ValueError) as info:
    run_stage(run, other, compiled)
  line = str(info.value)
  assert "int32[3] for memory.seen, this run needs int32[5]" in line
  assert "\n" not in line


def with_critic():
  """Imitation, and beside it values that are drawn to 1."""
  method = sft()

  def loss(params, state, batch):
    terms, metrics = method.loss(params, state, batch)
    value = heads.values(
      MODEL, params["critic"], batch.tokens, batch.turn, batch.path
    )
    return terms | {"value": mean(0.5 * (value - 1) ** 2, batch.mask)}, metrics

  return method._replace(loss=loss)


def test_a_critic_is_trained_beside_the_policy_and_may_be_held(tmp_path):
  run = loops.run_of(MODEL, tmp_path)
  run = run._replace(roles={
    "critic": Role(MODEL, "policy", "scalar", run.origin),
    "judge": Role(MODEL, "policy", "", run.origin),
    "own": Role(MODEL, "init", "", run.origin),
  })
  stage = stage_of(method=with_critic(), trained=("policy", "critic"))
  first = start_state(run, stage, layout(run, stage))
  # It is the policy, with a head that says 0 of everything.
  trunk = {k: x for k, x in first.params["critic"].items() if k != heads.NAME}
  policy = first.params["policy"]
  assert loops.bits(trunk) == loops.bits({k: policy[k] for k in trunk})
  assert not np.any(first.params["critic"][heads.NAME])
  params, _ = run_stage(run, stage, compile_ahead(run, stage))
  assert checkpoint.roles(tmp_path / "one", "last") == {"policy", "critic"}
  source = "one/last"
  later = stage_of(
    "later", start=source, held={"critic": source, "judge": source}
  )
  state = start_state(run, later, layout(run, later), 2)
  critic = params_of(state, "critic")
  for name in (heads.NAME, "embed"):
    assert loops.bits(critic[name]) != loops.bits(first.params["critic"][name])
  assert loops.bits(state.params["policy"]) == loops.bits(params)
  # A role that the stage did not train is the policy, if it starts from it.
  assert loops.bits(params_of(state, "judge")) == loops.bits(params)
  with pytest.raises(ValueError, match="no parameters of the role 'own'"):
    other = later._replace(held={"own": source})
    start_state(run, other, layout(run, other), 2)
  with pytest.raises(ValueError, match="needs the role 'reference'.*held.ref"):
    params_of(state, "reference")


def config_of(**changes):
  """A run of the base alone, and `changes` to its stage."""
  config = build.plain(quickstart.get_config("quick"))
  config["stages"] = ("base",)
  config["stage"] = {"base": config["stage"]["base"] | changes}
  return config


def stages_from(config, folder=""):
  task = build.task_from(config)
  model = build.model_from(config, task)
  run = build.run_from(config, task, model, loops.mesh_of(1))
  return run, build.stages_from(config, task, run, str(folder))


SFT = {"name": "imitation", "problems": 8, "turns": (5, 5)}


@pytest.mark.parametrize("changes, words", [
  ({"held": {"judge": "init"}},
   "config.stage.base: the role 'judge' is not defined: set config.roles"),
  ({"held": {"refernce": "init"}},
   "the role 'refernce' is not defined: did you mean 'reference'"),
  ({"trained": ("policy", "critic")},
   "config.stage.base: the role 'critic' is not defined"),
  ({"held": {"reference": ""}},
   "config.stage.base.held.reference='': say where it comes from"),
  ({"held": {"reference": "first/last"}}, "held.reference='first/last'"),
  ({"held": {"policy": "init"}}, "the role 'policy' is in trained and in held"),
  ({"trained": ()}, "config.stage.base.trained is empty"),
  ({"anchor": "init"}, "config.stage.base.anchor is .*held.reference now"),
  ({"table": {"stage": "nowhere"}}, "table.stage='nowhere': name a stage"),
  ({"table": {"stage": "base", "lest": 1}}, "did you mean 'least'"),
  ({"writes": 1}, "config.stage.base.writes=1 is a int: give a bool"),
  ({"rounds": 0}, "config.stage.base.rounds=0: set 1 or more"),
  ({"task": {"roms": 2}}, "config.stage.base.task.roms .*did you mean 'rooms'"),
  ({"task": {"name": "countdown"}}, "config.stage.base.task has .* tokens"),
  ({"trained": "policy"}, "config.stage.base.trained='policy' is a str: give"),
  ({"method": "imitation"}, "stage.base.method='imitation' is a str: give"),
  ({"method": {"name": None}}, "base.method.name=None is a NoneType: give"),
  ({"method": SFT | {"problems": 0}}, "problems=0: set 1 or more"),
  ({"method": SFT | {"turns": ("5", "5")}}, "has '5', which is no whole num"),
  ({"until": {}}, "config.stage.base.until.name='' is not known"),
  ({"epochs": 0}, "config.stage.base.epochs=0: set 1 or more"),
  ({"writes": True, "rounds": 2}, "config.stage.base.rounds=2: a stage that"),
  ({"rounds": 2}, "config.stage.base.rounds=2: .*alike too.*set rounds to 1"),
  ({"rounds": 3, "method": {"name": "spin", "problems": 8, "turns": (5, 5)},
    "held": {"reference": "init"}}, "base.rounds=3: .*set rounds to 1"),
  ({"rounds": 2, "method": {"name": "grpo", "problems": 8, "samples": 2,
    "turns": (5,), "kl": "none", "estimate": "whiten"}},
   "config.stage.base.rounds=2: config.stage.base.method, with the options"),
  ({"method": {"name": "grpo", "problems": 8, "samples": 2, "turns": (5,),
    "kl": "exact"}}, "config.stage.base: .*set held.reference"),
])
def test_stages_that_cannot_be_are_refused(changes, words):
  with pytest.raises(ConfigError, match=words) as info:
    stages_from(config_of(**changes))
  assert "\n" not in str(info.value)


@pytest.mark.parametrize("roles, words", [
  ({"critic": {"haed": "scalar"}}, "an option: did you mean 'head'"),
  ({"critic": {"head": "linear"}}, "config.roles.critic.head='linear'"),
  ({"critic": {"start": "base"}}, "config.roles.critic.start='base': choose"),
  ({"critic": {"start": "polciy"}}, "start='polciy': did you mean 'policy'?"),
  ({"critic": {"start": "own/model"}}, "belongs into config.roles.critic.path"),
  ({"policy": {"head": ""}}, "config.roles.policy: that role is always there"),
  ({"critic": "policy"}, "config.roles.critic='policy' is a str: give a dict"),
  ({"critic": {"head": 3}}, "config.roles.critic.head=3 is a int: give a str"),
  ({"a/b": {}}, "config.roles: 'a/b' is not a plain word"),
])
def test_roles_that_cannot_be_are_refused(roles, words):
  with pytest.raises(ConfigError, match=words):
    stages_from(config_of() | {"roles": roles})


def test_a_role_with_a_checkpoint_takes_no_shapes_of_the_policy(tmp_path):
  with pytest.raises(ValueError, match="there is no folder .*none"):
    roles = {"judge": {"path": str(tmp_path / "none")}}
    stages_from(config_of() | {"roles": roles})


def test_a_stage_is_named_once_and_its_table_has_rows():
  with pytest.raises(ConfigError, match="config.stages names 'base' twice"):
    stages_from(config_of() | {"stages": ("base", "base")})
  config = writing()
  config["stage"]["sft"]["table"]["per_problem"] = -1
  with pytest.raises(ConfigError, match="table.per_problem=-1: set 0 or more"):
    stages_from(config)


def test_a_task_of_another_name_takes_no_options_of_the_first():
  config = config_of(task={"name": "maze"})
  config["task"] = {"name": "countdown", "numbers": 3}
  _, (base,) = stages_from(config)
  assert base.task.turn_length == 5
  config["stage"]["base"]["task"]["numbers"] = 3
  with pytest.raises(ConfigError, match="stage.base.task.numbers is not an"):
    stages_from(config)


@pytest.mark.parametrize("change, words", [
  ({"evalute": {}}, "config.evalute is not an option: did you mean 'evaluate'"),
  ({"seed": "0"}, "config.seed='0' is a str: give an int"),
  ({"run": {"keeep": 1}}, "config.run.keeep is not .*did you mean 'keep'"),
  ({"run": {"save_every": 0}}, "config.run.save_every=0: set 1 or more"),
  ({"mesh": {"dat": 1}}, "config.mesh.dat is not an option: did you mean 'dat"),
])
def test_names_that_nothing_reads_are_refused(change, words):
  config = config_of()
  for name, value in change.items():
    old = config.get(name, {})
    config[name] = old | value if isinstance(value, dict) else value
  with pytest.raises(ConfigError, match=words):
    fields.check(config)


@pytest.mark.parametrize("change, words", [
  ({"turns": (5,)}, "config.evaluate.turns=.*: an evaluation needs 2 or more"),
  ({"problems": 0}, "config.evaluate.problems=0: set 1 or more"),
  ({"resamples": 1}, "config.evaluate.resamples=1: set 2 or more"),
])
def test_an_evaluation_that_cannot_be_is_refused(change, words):
  config = config_of()
  config["evaluate"] |= change
  with pytest.raises(ConfigError, match=words):
    build.check_evaluation(config, build.task_from(config))


OWN = """
from sitrain.methods import imitation, verbs
from sitrain.types import Verdict


@verbs.forwards(imitation.make)
def make(models, task, optimizer, **options):
  method = imitation.make(models, task, optimizer, **options)

  def judge(*sampled):
    verdict, metrics = method.judge(*sampled)
    first = verdict.reward[:, :1]
    return {returned}

  return method._replace(judge=judge)


def nothing(models, task, optimizer, **options):
  return None
"""


@pytest.mark.parametrize("returned, words", [
  # It would broadcast over the turns silently.
  ("verdict._replace(reward=first), metrics",
   r"judge makes reward of shape \[8, 1\] for 8 rows: .*\[rows, turns\]"),
  ("verdict._replace(parts={'long': first[:, 0]}), metrics",
   r"judge makes long of shape \[8\] for 8 rows"),
  ("Verdict(first[:4], first[:4]), metrics", r"known of shape \[4, 1\]"),
  ("verdict", r"line 10: judge returns a Verdict: return \(verdict, metrics\)"),
  ("{'solve': verdict}, metrics", r"verdicts of \['solve'\], .* rows of"),
])
def test_an_own_method_must_judge_every_turn(returned, words, tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(OWN.replace("{returned}", returned))
  with pytest.raises(ConfigError, match="config.stage.base.*: .*" + words):
    stages_from(config_of(method=SFT | {"name": f"file:{file}"}))


def test_an_own_maker_must_make_a_method(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(OWN)
  with pytest.raises(ConfigError, match="nothing makes a NoneType: return a"):
    stages_from(config_of(method={"name": f"file:{file}:nothing"}))


def test_roles_of_a_config_have_their_places():
  roles = {"critic": {"start": "policy", "head": "scalar"}}
  config = config_of(trained=("policy", "critic"), held={"reference": "init"})
  run, (stage,) = stages_from(config | {"roles": roles})
  shapes = layout(run, stage)
  assert set(shapes.params) == {"policy", "critic"}
  assert heads.NAME in shapes.params["critic"]
  assert set(shapes.held) == {"reference"}


def test_a_stage_may_have_a_task_of_its_own():
  config = config_of()
  longer = config["stage"]["base"] | {
    "task": {"rooms": 3, "doors": 3}, "start": "base/last",
  }
  longer["method"] = longer["method"] | {"turns": (4, 4)}
  config["stages"], config["stage"]["longer"] = ("base", "longer"), longer
  _, (base, other) = stages_from(config)
  assert base.task.turn_length == 5 and other.task.turn_length == 4
  # Its turns are checked against its own answers.
  longer["method"] = longer["method"] | {"turns": (3, 3)}
  with pytest.raises(ConfigError, match="config.stage.longer.method.turns="):
    stages_from(config)


@pytest.mark.parametrize("text, words", [
  ("x = 1 // 0\n", "line 1, raises ZeroDivisionError"),
  ("x = 1\ndef make(:\n", "line 2, raises SyntaxError"),
  ("def make(*, rooms=1):\n  return {}['a']\n", "line 2, raises KeyError: 'a'"),
  ("def make(*, rooms=1):\n  raise ValueError('no')\n", "line 2: no"),
  ("def mask():\n  return 1\n", "has no function make: did you mean 'mask'"),
])
def test_a_task_file_of_the_user_that_raises_is_one_line(
  text, words, tmp_path
):
  file = tmp_path / "mine.py"
  file.write_text(text)
  config = config_of()
  config["task"] = {"name": f"file:{file}"}
  with pytest.raises(ConfigError, match="config.task.*" + words) as info:
    build.task_from(config)
  assert "\n" not in str(info.value)


def test_a_task_file_of_the_user_is_found_and_must_exist(tmp_path):
  file = tmp_path / "own.py"
  file.write_text(
    "from sitrain.tasks import maze\n\n\n"
    "def small(*, rooms: int):\n  return maze.make(rooms=rooms)\n"
  )
  config = config_of()
  config["task"] = {"name": f"file:{file}:small", "rooms": 3}
  assert build.task_from(config).turn_length == 4
  config["task"]["rooms"] = "3"
  with pytest.raises(ConfigError, match="config.task.rooms='3' is a str"):
    build.task_from(config)
  config["task"] = {"name": f"file:{tmp_path / 'none.py'}"}
  with pytest.raises(ConfigError, match="config.task.name=.*there is no file"):
    build.task_from(config)


def test_a_run_of_the_old_layout_is_refused_in_one_line(tmp_path):
  config = config_of()
  old = json.loads(json.dumps(config))
  old["stage"]["base"]["anchor"] = "none"
  (tmp_path / "config.json").write_text(json.dumps(old))
  with pytest.raises(ValueError, match="older version of sitrain") as info:
    workdir.claim(tmp_path, config)
  assert "--workdir" in str(info.value) and "\n" not in str(info.value)
  (tmp_path / "config.json").write_text("[1]")
  with pytest.raises(ValueError, match="is no config of a run: put back"):
    workdir.claim(tmp_path, config)


def writing(**more):
  """Two stages: one writes what the corpus shows, one imitates the table."""
  config = config_of()
  base = config["stage"]["base"]
  base["method"] = base["method"] | {"problems": PROBLEMS}
  both = {"steps": 3, "steps_per_call": 1}
  config["stages"] = "collect", "sft"
  config["stage"] = {
    "collect": base | both | {"writes": True} | more,
    "sft": base | both | {"table": {"stage": "collect", "least": 0.0}},
  }
  return config


def run_in(run, folder):
  """The run with a folder, and without a screen."""
  quiet = loops.run_of(run.model, folder)
  return quiet._replace(origin=run.origin, roles=run.roles)


def write(run, stage, compiled=None, first=0):
  compiled = compiled or compile_ahead(run, stage)
  return written.write_stage(run, stage, compiled, first)[1], compiled


def test_a_stage_writes_a_table_that_a_later_one_reads(tmp_path, monkeypatch):
  run, (collect, later) = stages_from(writing(), tmp_path)
  run = run_in(run, tmp_path)
  progress, compiled = write(run, collect)
  assert progress.rows == 3 * PROBLEMS and progress.done
  path = written.path_of(tmp_path, "collect")
  rows = rows_file.read(path)
  assert [row["row"] for row in rows] == list(range(3 * PROBLEMS))
  assert [row["step"] for row in rows] == sorted([0, 1, 2] * PROBLEMS)
  assert len({str(row["prompt"]) for row in rows}) == 3 * PROBLEMS
  # Finished, it is only read.
  before = path.read_bytes()
  assert write(run, collect, compiled)[0] == progress
  assert path.read_bytes() == before
  # Stopped after a step and begun again it writes the same rows.
  again = run_in(run, tmp_path / "again")
  stops = iter([True])
  with monkeypatch.context() as patch:
    patch.setattr(written, "stop_agreed", lambda: next(stops, False))
    with pytest.raises(signals.Stopped, match="after step 1 of collect"):
      write(again, collect, compiled)
  other = written.path_of(again.workdir, "collect")
  assert not other.exists() and len(rows_file.read(other)) == PROBLEMS
  assert write(again, collect, compiled)[0] == progress
  assert other.read_bytes() == before
  # With more steps it goes on.
  more, _ = write(again, collect._replace(steps=4), compiled)
  assert more.rows == 4 * PROBLEMS
  assert rows_file.read(other)[: len(rows)] == rows
  # The later stage trains on these rows.
  params, told = run_stage(
    run, later, compile_ahead(run, later), progress.first + progress.step
  )
  assert params != () and (told.first, told.step) == (3, 3)
  problems = later.frozen()["table"]
  assert sorted(map(str, map(list, problems.answer))) == sorted(
    str(list(map(np.int32, row["answer"]))) for row in rows
  )


def test_waves_write_the_rows_of_one(tmp_path):
  tables = []
  for waves in (1, 2):
    run, (collect, _) = stages_from(writing(waves=waves, steps=1), tmp_path)
    run = run_in(run, tmp_path / str(waves))
    assert collect.parts["waves"] == waves
    write(run, collect)
    tables.append(rows_file.read(written.path_of(run.workdir, "collect")))
  assert tables[0] == tables[1] and len(tables[0]) == PROBLEMS


def test_a_table_of_another_is_not_overwritten(tmp_path):
  run, (collect, _) = stages_from(writing(), tmp_path)
  path = written.path_of(tmp_path, "collect")
  path.parent.mkdir()
  path.write_text("{}\n")
  with pytest.raises(ConfigError, match="stage.collect writes .* exists") as e:
    write(run_in(run, tmp_path), collect, done(None))
  assert "\n" not in str(e.value) and path.read_text() == "{}\n"


def test_rows_of_a_table_are_chosen_by_reward_and_by_problem(tmp_path):
  path = written.path_of(tmp_path, "a")
  row = {"kind": "", "answer": [7], "turns": [[5], [6]]}
  rewards = [(1, 1), (0, 1), (1, 0), (1, 1), (1, 1)]
  rows_file.add(path, [
    row | {"row": i, "prompt": [min(i, 3)], "reward": [0.0, reward],
           "known": [1.0, known], "step": 0}
    for i, (reward, known) in enumerate(rewards)
  ])
  read = lambda **more: written.read_table(
    tmp_path, written.table_of(stage="a", **more)
  )
  assert read().prompt[:, 0].tolist() == [0, 3, 3]
  assert read(per_problem=1).prompt[:, 0].tolist() == [0, 3]
  assert read(least=0.0).prompt[:, 0].tolist() == [0, 1, 3, 3]
  assert read().solution.tolist() == [[5, 6]] * 3
  with pytest.raises(ValueError, match="no row of kind '' with a reward of"):
    read(least=2.0)
