"""The main as a user sees it: its files, output, resumption and errors."""

import json
import os
import re
import shutil
import signal
import subprocess

import jax
import mains
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags

from sitrain.runtime import build, optimizer, overrides
from sitrain.runtime.options import ConfigError, call

QUICK = "--config=configs/quickstart.py:quick"
STEPS = {"base": 2, "stage1": 16, "stage2": 2}
RUN = [
  *mains.QUICK, "--config.stage.stage1.steps=16", "--config.run.keep=3",
]
STAGE_TWO = "--config.stage.stage2"


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
  """(workdir, Done) of a whole run that logs what it compiles."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  process = mains.start(
    [*RUN, f"--workdir={workdir}"], cache, JAX_LOG_COMPILES="1"
  )
  done = mains.finish(process)
  assert done.code == 0, done.err[-3000:]
  assert "quick run only tries whether all parts work: its numbers" in done.out
  return workdir, done


def read(workdir):
  """The records of metrics.jsonl, which must be JSON as the standard has it."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()

  def refuse(word):
    raise AssertionError(f"{word} is not JSON")

  return [json.loads(line, parse_constant=refuse) for line in lines]


def summary(workdir):
  return json.loads((workdir / "summary.json").read_text())


def saved(folder):
  """Numbers of the finished checkpoints of a stage."""
  names = os.listdir(folder) if folder.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def arrays(workdir, stage):
  """path -> bytes, of the last checkpoint of a stage."""
  path = workdir / stage / str(saved(workdir / stage)[-1]) / "arrays"
  with ocp.PyTreeCheckpointer() as reader:
    found = reader.restore(path)
  leaves = jax.tree_util.tree_flatten_with_path(found)[0]
  return {
    jax.tree_util.keystr(name): np.asarray(x).tobytes() for name, x in leaves
  }


def numbers(rows):
  """Rows without the fields that depend on time."""
  clocks = (
    "run/seconds", "run/host_seconds", "run/tokens_per_second",
    "seconds",
  )
  return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def assert_same_run(got, want):
  """All that two runs have computed is the same, bit for bit.

  The first may be of the first stages only.
  """
  stages = [summary(workdir)["stages"] for workdir in (got, want)]
  names = [row["name"] for row in stages[0]]
  assert numbers(stages[0]) == numbers(stages[1])[:len(names)]
  rows = [row for row in read(want) if row["stage"] in names]
  assert names and numbers(read(got)) == numbers(rows)
  for stage in names:
    assert arrays(got, stage) == arrays(want, stage), stage


def unfinished(finished, tmp_path):
  """A copy of the run, as if it had stopped at the end of stage I."""
  workdir = tmp_path / "run"
  shutil.copytree(finished[0], workdir)
  shutil.rmtree(workdir / "stage2")
  told = summary(workdir)
  told["stages"] = told["stages"][:1]
  (workdir / "summary.json").write_text(json.dumps(told))
  return workdir


def test_the_summary_tells_every_stage(finished):
  told = summary(finished[0])
  assert told["seed"] == 0 and told["seconds"] > 0
  assert "cpu" in told["device"] and len(told["config_hash"]) == 12
  assert [row["name"] for row in told["stages"]] == list(STEPS)
  for row in told["stages"]:
    for name in (
      "accuracy_1", "accuracy_2", "incorrect_to_correct",
      "correct_to_incorrect",
    ):
      low, high = row["intervals"][name]
      assert 0 <= low <= row[name] <= high <= 1
    gain = row["accuracy_2"] - row["accuracy_1"]
    assert row["gain"] == pytest.approx(gain)
    moved = row["incorrect_to_correct"] - row["correct_to_incorrect"]
    assert row["gain"] == pytest.approx(moved)
    assert 0 <= row["resample"]["accuracy_2"] <= 1 and row["seconds"] > 0
    assert row["problems"] == 64
  talk = told["dialogues"][0]
  assert {"problem", "attempt_1", "attempt_2", "right_1"} <= talk.keys()


def test_metrics_are_whole(finished):
  rows = read(finished[0])
  want = [(name, i + 1) for name in STEPS for i in range(STEPS[name])]
  assert [(row["stage"], row["step"]) for row in rows] == want
  for row in rows:
    assert row["run/seconds"] > 0 and row["learn/gradient_norm"] > 0
    if row["stage"] != "base":
      assert {"judge/reward_2", "learn/kl_1"} <= row.keys()
      assert row["generate/sampler_gap"] < 1e-5


def test_curves_and_report(finished):
  (events,) = (finished[0] / "tensorboard").glob("events.*")
  content = events.read_bytes()
  assert b"stage1/judge/reward_2" in content and b"base/learn/nll" in content
  page = (finished[0] / "report.html").read_text()
  assert "http:" not in page and "https:" not in page
  assert page.count("<script>") == 1  # tests/test_report.py has the rest
  links = re.findall(r'(?:src|href)="([^"]{0,30})', page)
  assert links and all(link.startswith("#") for link in links)
  for text in (
    "Every attempt over the run", "Negative log-likelihood", "Dialogues",
    'data-stage="base"', 'data-stage="stage2"', "Tokens per second",
    "sitrain train --config=",
  ):
    assert text in page, text


def test_checkpoints_stay_by_stage(finished):
  for stage, steps in STEPS.items():
    want = list(range(max(1, steps - 2), steps + 1))
    assert saved(finished[0] / stage)[-3:] == want
    assert len(saved(finished[0] / stage)) <= 4  # and the best
    names = arrays(finished[0], stage)
    assert any("params" in n and "embed" in n for n in names)
    assert any("reference" in n for n in names) == (stage != "base")


def test_the_screen_shows_the_table(finished):
  out = finished[1].out
  for text in ("accuracy@1", "resample@2", *STEPS, "attempt 2", "report: "):
    assert text in out
  assert "Traceback" not in finished[1].err


def test_every_stage_compiles_its_loop_once(finished):
  """A stage is one program, however many calls; 20 calls were made."""
  found = re.findall(
    r"Finished XLA compilation of jit\((\w+)\)", finished[1].err
  )
  assert found.count("loop") == 3
  # The players of the evaluation serve all three stages.
  assert found.count("generate") == 2 and found.count("judge") == 2


def test_a_finished_run_trains_nothing(finished, ask):
  workdir = finished[0]
  before = {
    path: path.stat().st_mtime_ns
    for path in workdir.rglob("*") if path.is_file()
    and path.name != "report.html"
    and not {"tensorboard", "logs"} & set(path.parts)
  }
  # A shell does not expand ~ after an equals sign.
  home = {"HOME": str(workdir.parent)}
  done = ask(*RUN, f"--workdir=~/{workdir.name}", **home)
  assert done.code == 0 and mains.lines(done) == [], done.err
  assert "nothing was trained" in done.out and "accuracy@2" in done.out
  for path, when in before.items():
    assert path.stat().st_mtime_ns == when, path


def test_killed_and_interrupted_is_uninterrupted(
  finished, cache, tmp_path, ask
):
  """SIGKILL and Ctrl-C in the middle of a stage cost nothing but time."""
  workdir = tmp_path / "run"
  arguments = [*RUN, f"--workdir={workdir}"]
  newest = lambda: (saved(workdir / "stage1") or [0])[-1]
  process = mains.start(arguments, cache)
  mains.wait_for(process, lambda: newest() >= 1)
  process.kill()
  assert mains.finish(process).code == -signal.SIGKILL
  killed = newest()
  assert killed < STEPS["stage1"] - 8, "too late to have an effect"
  assert [row["name"] for row in summary(workdir)["stages"]] == ["base"]

  process = mains.start(arguments, cache)
  mains.wait_for(process, lambda: newest() >= killed + 2)
  process.send_signal(signal.SIGINT)
  done = mains.finish(process)
  assert done.code == 130 and "Traceback" not in done.err
  # What was being written when the process was killed may be reported, and
  # what took long.
  usual = "stage1 ", "warning: checkpoint ", "preparing ", "compiling "
  usual += ("evaluating base", "reading ")
  lines = [x for x in done.err.splitlines() if not x.startswith(usual)]
  stopped = newest()
  assert lines[0].startswith("Ctrl-C: step ") and " of stage1 ends " in lines[0]
  assert lines[1:] == [
    f"error: stopped by Ctrl-C after step {stopped} of stage1: the same"
    " command resumes"
  ]
  assert f"stage1 goes on after step {killed}" in done.err
  assert killed < stopped < STEPS["stage1"]

  done = ask(*arguments)
  assert done.code == 0, done.err
  assert f"stage1 {stopped + 1}/16" in done.err
  assert_same_run(workdir, finished[0])


def test_a_stage_may_end_early_and_does_so_again_when_resumed(tmp_path, ask):
  until = "--config.stage.stage1.until"
  arguments = [
    *RUN, *mains.ALONE, f"{until}.above=0",
    f"{until}.tolerance=inf", f"{until}.span=4",
    f"--workdir={tmp_path / 'run'}",
  ]
  assert ask(*arguments).code == 0
  again = tmp_path / "again"
  shutil.copytree(tmp_path / "run", again)
  assert saved(again / "stage1")[-3:] == [6, 7, 8]
  for step in (7, 8):
    shutil.rmtree(again / "stage1" / str(step))
  (again / "summary.json").unlink()
  done = ask(*arguments[:-1], f"--workdir={again}")
  assert done.code == 0 and "stage1 7/16" in done.err
  assert saved(again / "stage1")[-3:] == [6, 7, 8]
  assert_same_run(again, tmp_path / "run")
  assert [r["step"] for r in read(again) if r["stage"] == "stage1"][-1] == 8


def damage(path):
  """Flips bytes all over the files of a checkpoint that hold its arrays.

  One alone may lie between the arrays, where nobody reads.
  """
  files = [file for file in path.rglob("d/*") if file.stat().st_size > 9_999]
  assert files
  for file in files:
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 4, len(content), 64):
      content[place] ^= 0xFF
    file.write_bytes(bytes(content))


def warnings(done):
  """Those of a run's files: so small a run does give cause for alarms."""
  found = [x for x in done.err.splitlines() if x.startswith("warning: ")]
  return [x for x in found if not x.startswith("warning: alarm ")]


def test_what_is_damaged_or_half_written_is_replaced_by_the_one_before(
  finished, tmp_path, ask
):
  workdir = unfinished(finished, tmp_path)
  half = workdir / "stage1" / "16.orbax-checkpoint-tmp-1"
  (workdir / "stage1" / "16").rename(half)
  damage(workdir / "stage1" / "15")
  done = ask(*RUN, f"--workdir={workdir}")
  assert done.code == 0, done.err
  for words in (
    ("16", "was never finished"),
    ("stage1/15 cannot be used", "15.unusable"),
  ):
    (warning,) = [x for x in warnings(done) if words[-1] in x]
    assert words[0] in warning
  assert len(warnings(done)) == 2 and not half.exists()
  assert "stage1 15/16" in done.err and "stage1 14/16" not in done.err
  assert_same_run(workdir, finished[0])


def test_no_usable_checkpoint_is_an_error(finished, tmp_path, ask):
  workdir = unfinished(finished, tmp_path)
  count = len(saved(workdir / "stage1"))
  for step in saved(workdir / "stage1"):
    damage(workdir / "stage1" / str(step))
  done = ask(*RUN, f"--workdir={workdir}")
  assert done.code == 1 and len(warnings(done)) == count
  error = done.err.splitlines()[-1]
  assert error.startswith("error: ") and "no usable checkpoint" in error
  assert "stage1" in error and "workdir" in error
  assert "Traceback" not in done.err


def test_an_error_in_training_is_no_bad_input(finished, tmp_path, ask):
  """Its exit code is 1, so launchers may restart; the log has the traceback."""
  workdir = unfinished(finished, tmp_path)
  gap = "--config.run.max_sampler_gap=1e-12"
  done = ask(*RUN, gap, f"--workdir={workdir}")
  assert done.code == 1, done.err
  line = done.err.splitlines()[-1]
  assert line.startswith("error: generate/sampler_gap: the sampler's log-prob")
  assert "Traceback" not in done.err
  log = (workdir / "logs" / "host_0.log").read_text()
  assert "in check_numbers" in log and "exit code 1: generate/" in log
  assert saved(workdir / "stage2") == [] and saved(workdir / "stage1")[-1] == 16
  assert not (workdir / "lock.json").exists()


@pytest.fixture
def small_disk(tmp_path):
  """A disk of 4 MB."""
  disk = tmp_path / "disk"
  disk.mkdir()
  if os.geteuid() or not shutil.which("mount"):
    pytest.skip("only root may mount a small disk")
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
  done = subprocess.run(mount, capture_output=True, text=True, check=False)
  if done.returncode:
    pytest.skip(f"no small disk: {done.stderr.strip()}")
  yield disk
  subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_mended(finished, small_disk, ask):
  workdir = small_disk / "run"
  arguments = [*RUN, "--config.stages=('base',)", f"--workdir={workdir}"]
  filler = small_disk / "filler"
  filler.write_bytes(bytes(3_900_000))
  done = ask(*arguments)
  assert done.code == 1, done.err
  lines = done.err.splitlines()
  errors = [x for x in lines if x.startswith("error: ")]
  # A thread of the library that writes checkpoints may have its own say before.
  assert errors == lines[-1:] and "no space left" in errors[0].lower(), done.err
  assert "free some space" in errors[0] and "same command" in errors[0]
  assert not (workdir / "summary.json").exists()
  filler.unlink()
  done = ask(*arguments)
  assert done.code == 0, done.err
  assert_same_run(workdir, finished[0])


MISSPELT = """
from sitrain.configs import quickstart


def get_config(argument=""):
  config = quickstart.get_config("quick")
  config.{field} = 1
  return config
"""

# Name -> arguments, environment, and words that the error line must have.
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
WRONG = {
  "misspelt field": (
    [QUICK, "--config.sede=1"], {},
    ["--config.sede", "did you mean 'seed'?"],
  ),
  "misspelt option": (
    [QUICK, f"{STAGE_TWO}.method.bonsu=1"], {},
    ["config.stage.stage2.method.bonsu", "did you mean 'bonus'?"],
  ),
  "misspelt flag": ([QUICK, "--wrkdir=x"], {}, ["wrkdir", "workdir"]),
  "wrong type": (
    [QUICK, "--config.seed=abc"], {}, ["--config.seed=abc", "int"]
  ),
  "unknown method": (
    [QUICK, f"{STAGE_TWO}.method.name=score.stage_tow"], {},
    ["config.stage.stage2.method.name", "did you mean 'score.stage_two'?"],
  ),
  "unknown task": (
    [QUICK, "--config.task.name=mase"], {},
    ["config.task.name='mase'", "did you mean 'maze'?"],
  ),
  "unknown stage": (
    [QUICK, "--config.stages=('base','stge1')"], {},
    ["config.stages", "did you mean 'stage1'?"],
  ),
  "unknown source": (
    [QUICK, f"{STAGE_TWO}.start=stage1/lst"], {},
    ["config.stage.stage2.start", "did you mean 'stage1/last'?"],
  ),
  "unknown optimizer": (
    [QUICK, f"{STAGE_TWO}.optimizer.name=adam"], {},
    ["config.stage.stage2.optimizer", "did you mean 'adamw'?"],
  ),
  "mesh": (
    [QUICK, "--config.mesh.data=3"], {}, ["config.mesh.data=3", "1 device"]
  ),
  "batch": (
    [QUICK, f"{STAGE_TWO}.method.problems=12"], EIGHT,
    ["config.stage.stage2.method.problems=12", "8 or 16"],
  ),
  "steps per call": (
    [QUICK, f"{STAGE_TWO}.steps_per_call=20"], {},
    ["config.stage.stage2.steps=2", "steps_per_call=20", "use 20"],
  ),
  "short turns": (
    [QUICK, f"{STAGE_TWO}.method.turns=(4,5)"], {},
    ["config.stage.stage2.method", "turns=(4, 5)", "5 tokens a turn"],
  ),
  "short turns in the evaluation": (
    [QUICK, "--config.evaluate.turns=(4,5)"], {},
    ["config.evaluate", "turns=(4, 5)", "5 tokens a turn"],
  ),
  "no config": ([], {}, ["--config is missing"]),
  "no file": (
    ["--config=configs/nothing.py"], {}, ["there is no file configs/nothing"]
  ),
  "no argument": (
    ["--config=configs/quickstart.py:quik"], {}, ["'quik'", "'quick'"]
  ),
  "stray word": ([QUICK, "stray"], {}, ["'stray'", "--help"]),
}


def refused(done, words):
  """Asserts one line of error with all the words, and a nonzero exit code."""
  assert done.code == 2, done
  assert len(lines := mains.lines(done)) == 1, done.err
  assert lines[0].startswith("error: ") and done.out == ""
  for word in words:
    assert word in lines[0], done.err


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, tmp_path, ask):
  arguments, environment, words = WRONG[case]
  workdir = tmp_path / "run"
  done = ask(*arguments, f"--workdir={workdir}", **environment)
  refused(done, words)
  assert not workdir.exists(), "nothing may be left of it"


@pytest.mark.parametrize(
  "field, said",
  [
    ("stage.stage2.method.bonsu", "did you mean 'bonus'?"),
    ("stage.stage2.stpes", "did you mean 'steps'?"),
    ("stage.stage2.optimizer.learning_rat", "did you mean 'learning_rate'?"),
    ("task.hintd", "did you mean 'hinted'?"),
    ("model.widht", "did you mean 'width'?"),
    ("evaluate.problms", "did you mean 'problems'?"),
  ],
)
def test_misspelt_options_of_a_config_file(field, said, tmp_path, ask):
  file = tmp_path / "wrong.py"
  file.write_text(MISSPELT.format(field=field))
  done = ask(f"--config={file}", f"--workdir={tmp_path / 'run'}")
  refused(done, [f"config.{field}", said])
  assert not (tmp_path / "run").exists()


def test_a_flag_may_give_an_option_that_the_config_does_not_name():
  def parsed(*more):
    words, known = ["main", QUICK, *more], flags.FlagValues()
    overrides.define("", flag_values=known, sys_argv=words)
    assert overrides.parse(words, known) == ["main"]
    return known["config"].value

  method = f"{STAGE_TWO}.method"
  config = parsed(
    f"{method}.slots=4", f"{method}.kl=k1", "--config.task.rooms=3"
  )
  assert config.stage.stage2.method.slots == 4
  assert config.stage.stage2.method.kl == "k1" and config.task.rooms == 3
  for field in ("run.svae_every", "stge.base.steps", "stage.stage9.steps"):
    with pytest.raises(ConfigError, match=f"config.{field}: no such field"):
      parsed(f"--config.{field}=1")


@pytest.mark.parametrize("written", ["inf", "+inf", "-inf", "1e999"])
def test_infinity_can_be_written_on_a_command_line(written):
  words, known = ["main", QUICK], flags.FlagValues()
  words.append(f"{STAGE_TWO}.method.clip={written}")
  overrides.define("", flag_values=known, sys_argv=words)
  overrides.parse(words, known)
  given = build.plain(known["config"].value)["stage"]["stage2"]["method"]

  def echo(*, clip: float) -> float:
    return clip

  assert call(echo, "x", {"clip": given["clip"]}) == float(written)


@pytest.mark.parametrize("value", ["nan", float("nan"), "-nan"])
def test_an_option_is_never_nan(value):
  options = {"learning_rate": 1.0, "steps": 1, "clip": value}
  with pytest.raises(ConfigError, match=r"config.x.clip is not a number \(NaN"):
    call(optimizer.make, "x", options)
  with pytest.raises(ConfigError, match="config.x.name='nan' is not known"):
    call(optimizer.make, "x", options | {"clip": 1.0, "name": "nan"})


def test_no_workdir(ask):
  refused(ask(QUICK), ["--workdir is missing"])


def test_the_workdir_of_another_config_is_refused(finished, ask):
  before = (finished[0] / "metrics.jsonl").read_bytes()
  arguments = [*RUN, "--config.seed=1", f"--workdir={finished[0]}"]
  refused(
    ask(*arguments),
    ["config.seed=0", "this one has 1", "--workdir", "--config.seed=0"],
  )
  assert (finished[0] / "metrics.jsonl").read_bytes() == before
  # Fields that only show or store a run may differ.
  done = ask(*RUN, "--config.run.keep=5", f"--workdir={finished[0]}")
  assert done.code == 0


def test_the_traceback_is_for_those_who_ask(tmp_path, ask):
  wrong = [QUICK, "--config.task.name=mase", f"--workdir={tmp_path / 'run'}"]
  done = ask(*wrong, "--traceback")
  assert done.code == 2 and "Traceback (most recent call last)" in done.err
  assert "error: config.task.name='mase'" in done.err.splitlines()[-1]


def test_a_config_is_shown_and_options_are_listed(ask):
  done = ask(QUICK, f"{STAGE_TWO}.method.bonus=3", "--show")
  assert done.code == 0 and done.err == ""
  assert "config.stage.stage2.method.bonus = 3.0\n" in done.out
  assert "config.stage.stage2.optimizer.b1 = 0.9\n" in done.out
  refused(ask(QUICK, f"{STAGE_TWO}.steps=-1", "--show"), ["steps=-1: set 1"])
  done = ask("--list")
  assert done.code == 0 and "name=score.stage_two" in done.out


def test_help_names_the_flags(cache):
  done = mains.finish(mains.start(["--help"], cache))
  for text in (
    "  --config:", "--workdir", "--[no]traceback", "--[no]show", "--[no]list",
    "--coordinator", "resumes",
  ):
    assert text in done.out
  assert "Traceback" not in done.err
