"""Runs of several processes, and runs that are stopped or killed."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import mains
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags
from test_main import numbers, read, saved

from sitrain.runtime import distributed, logs
from sitrain.runtime.options import ConfigError

RUN = [*mains.QUICK, *mains.ALONE, "--config.stage.stage1.steps=24"]
MORE = [
  *mains.QUICK, "--config.stage.stage2.steps=4",
  "--config.stage.stage2.steps_per_call=2",
]
RESTART = 75
LONG = 900  # seconds; a stuck test is to end
DEVICES = mains.ONE_THREAD + " --xla_force_host_platform_device_count="


@contextlib.contextmanager
def pair(workdir, cache, *arguments, second=()):
  """Two processes of four devices each; `second` is for one of them alone."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  where = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  both = [
    mains.start(
      [*arguments, *own, f"--workdir={workdir}", *where, f"--process={i}"],
      cache, XLA_FLAGS=f"{DEVICES}4",
    )
    for i, own in enumerate(((), second))
  ]
  try:
    yield both
  finally:
    for process in both:
      process.kill()
      process.communicate()


def ended(processes, code):
  """Waits for the processes; all must exit with `code`."""
  found = [mains.finish(process, seconds=LONG) for process in processes]
  assert [done.code for done in found] == [code] * len(found), found
  return found


def line_of(done):
  """The one line of an error."""
  (line,) = [x for x in done.err.splitlines() if x.startswith("error: ")]
  assert "Traceback" not in done.err
  return line


def newest(workdir):
  return (saved(workdir / "stage1") or [0])[-1]


@pytest.fixture(scope="module")
def together(cache, tmp_path_factory):
  """The workdir of a whole run of two processes."""
  workdir = tmp_path_factory.mktemp("together") / "run"
  with pair(workdir, cache, *RUN) as both:
    ended(both, 0)
  return workdir


def begun(whole, workdir):
  """A copy of a whole run whose last stage has not begun."""
  shutil.copytree(whole, workdir)
  told = json.loads((workdir / "summary.json").read_text())
  shutil.rmtree(workdir / told["stages"].pop()["name"])
  (workdir / "summary.json").write_text(json.dumps(told))
  return workdir


def test_two_processes_write_one_run(together):
  rows = read(together)
  assert [row["step"] for row in rows] == list(range(1, 25))
  # Of a policy that stands still equal bits would say nothing.
  assert len({row["learn/parameter_norm"] for row in rows}) == 24
  for i in range(2):
    log = (together / "logs" / f"host_{i}.log").read_text()
    assert "processes 2" in log and "4 x cpu" in log
  beat = json.loads((together / "heartbeat.json").read_text())
  assert (beat["stage"], beat["step"], beat["steps"]) == ("stage1", 24, 24)
  assert beat["tokens_per_second"] > 0 and beat["time"] <= time.time()


@pytest.mark.nightly
def test_one_process_goes_on_where_two_were(cache, tmp_path):
  """Four steps of stage II are the same in one process of eight devices."""
  whole = tmp_path / "whole"
  with pair(whole, cache, *MORE) as both:
    ended(both, 0)
  workdir = begun(whole, tmp_path / "run")
  process = mains.start(
    [*MORE, f"--workdir={workdir}"], cache, XLA_FLAGS=f"{DEVICES}8"
  )
  ended([process], 0)
  rows = [numbers(read(run)) for run in (workdir, whole)]
  assert rows[0][:4] == rows[1][:4] and len(rows[0]) == 8
  for one, two in zip(*rows):
    for name in one:  # Sums over tokens: another one would show.
      if name.startswith(("judge/", "generate/length")):
        assert one[name] == two[name], name
  one, two = (flat(run / "stage2" / "4") for run in (workdir, whole))
  assert one.keys() == two.keys() and any("params" in name for name in one)
  for name in one:
    assert np.max(np.abs(one[name] - two[name])) < 1e-5, name


def flat(path):
  """The numbers of a checkpoint by name, wherever their devices were."""
  with ocp.PyTreeCheckpointer() as reader:
    known = reader.metadata(path / "arrays").item_metadata.tree
    wanted = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), known
    )
    return reader.restore(path / "arrays", restore_args=wanted)


def assert_same_arrays(*paths):
  """Two checkpoints hold the same bits."""
  one, two = map(flat, paths)
  assert one.keys() == two.keys()
  for name in one:
    assert one[name].tobytes() == two[name].tobytes(), (paths[0], name)


@pytest.fixture(scope="module")
def stopped(together, cache, tmp_path_factory):
  """(workdir, both) of a run of which the second process was sent SIGTERM.

  `together` has compiled its programs.
  """
  workdir = tmp_path_factory.mktemp("stopped") / "run"
  with pair(workdir, cache, *RUN) as both:
    mains.wait_for(both[1], lambda: newest(workdir) >= 2, seconds=LONG)
    both[1].send_signal(signal.SIGTERM)
    return workdir, ended(both, RESTART)


def test_sigterm_to_one_of_two_saves_both_at_one_step(stopped):
  workdir, found = stopped
  said = {re.sub(r"process \d has left: ", "", line_of(x)) for x in found}
  (line,) = said
  step = int(re.search(r"after step (\d+) of stage1", line)[1])
  assert newest(workdir) == step < 24
  assert read(workdir)[-1]["step"] == step


def test_a_run_goes_on_bit_for_bit_after_sigterm_and_a_kill(
  stopped, together, cache, tmp_path
):
  """A resumed pair loses one process, and the other one exits.

  That it is the first which is gone is the harder case: its store is gone too.
  """
  workdir = tmp_path / "run"
  shutil.copytree(stopped[0], workdir)
  began = newest(workdir)
  with pair(workdir, cache, *RUN, "--lost_seconds=20") as both:
    mains.wait_for(both[0], lambda: newest(workdir) >= began + 2, seconds=LONG)
    both[0].kill()
    (done,) = ended(both[1:], RESTART)
  (line,) = [x for x in done.err.splitlines() if x.startswith("error: ")]
  assert "process 0 is gone" in line
  assert began < newest(workdir) < 24
  with pair(workdir, cache, *RUN) as both:
    ended(both, 0)
  assert numbers(read(workdir)) == numbers(read(together))
  assert_same_arrays(*(run / "stage1" / "24" for run in (workdir, together)))


# 24 word problems, eight a step: an epoch ends after steps 3 and 6.
ROWS = [
  "--config=configs/word_problems.py",
  *[f"--config.{name}={value}" for name, value in {
    "task.count": 24, "tokenizer.size": 300, "run.save_every": 3,
    "run.keep": 9, "evaluate.problems": 8, "evaluate.batch": 8,
    "model.layers": 1, "model.width": 16, "model.heads": 1,
    "model.kv_heads": 1, "model.head_size": 8, "model.mlp_size": 16,
    "stage.base.method.problems": 8, "stage.base.steps": 6,
    "stage.base.steps_per_call": 1, "stage.base.optimizer.warmup": 0,
    "stages": ("base",),
  }.items()],
]


@pytest.mark.nightly
def test_two_processes_go_on_at_an_epochs_end(cache, tmp_path):
  whole, again = tmp_path / "whole", tmp_path / "again"
  with pair(whole, cache, *ROWS) as both:
    ended(both, 0)
  assert saved(whole / "base") == [3, 6]
  shutil.copytree(whole, again)
  shutil.rmtree(again / "base" / "6")
  (again / "summary.json").unlink()
  with pair(again, cache, *ROWS) as both:
    ended(both, 0)
  for i in range(2):
    log = (again / "logs" / f"host_{i}.log").read_text()
    assert "base goes on after step 3" in log
  assert numbers(read(again)) == numbers(read(whole))
  assert_same_arrays(again / "base" / "6", whole / "base" / "6")


@pytest.mark.nightly
def test_processes_that_differ_do_not_begin(cache, tmp_path):
  second = ["--config.run.save_every=2"]
  with pair(tmp_path / "run", cache, *RUN, second=second) as both:
    found = ended(both, 2)
  for done in found:
    line = line_of(done)
    assert "process 1 (" in line and ") has config " in line
  assert not (tmp_path / "run").exists()


def test_what_differs_is_named():
  facts = {"jax": "0.10.2", "code": "a (1)"}
  told = [("h0", facts), ("h1", facts), ("h2", facts | {"code": "b (2)"})]
  assert distributed.first_difference(told[:2]) == ""
  line = distributed.first_difference(told)
  assert line.startswith("process 2 (h2) has code b (2), process 0 (h0) has a")


def test_code_is_named_by_its_launcher_and_its_source(tmp_path, monkeypatch):
  package = tmp_path / "sitrain"
  package.mkdir()
  monkeypatch.setattr(distributed, "_PACKAGE", package)
  (package / "a.py").write_text("1")
  first = distributed.code_revision()
  assert first.startswith("no revision (")
  (package / "a.py").write_text("2")
  assert distributed.code_revision() != first
  (tmp_path / "REVISION").write_text("v7\n")
  assert distributed.code_revision().startswith("v7 (")


def told(monkeypatch, *arguments, **environment):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  given = flags.FlagValues()
  for name in ("coordinator", "processes", "process"):
    given[name] = copy.deepcopy(flags.FLAGS[name])
  given(["main", *arguments])
  return distributed._place_from_flags(given)


def test_who_is_there_is_told_by_flags_or_environment(monkeypatch):
  assert told(monkeypatch) == []
  place = distributed.Place("h:1", 2, 0)
  given = "--coordinator=h:1", "--processes=2", "--process=0"
  assert told(monkeypatch, *given) == [place]
  for wrong, said in (
    (given[:2], "--process is missing"), (given[1:], "--coordinator is miss"),
    ((*given[:2], "--process=2"), "a process from 0 to 1"),
    (("--coordinator=h", *given[1:]), "give HOST:PORT"),
  ):
    with pytest.raises(ConfigError, match=said):
      told(monkeypatch, *wrong)
  found = told(
    monkeypatch, JAX_COORDINATOR_ADDRESS="h:1", JAX_NUM_PROCESSES="2",
    JAX_PROCESS_ID="0",
  )
  assert found == [place]


def test_a_plain_machine_asks_nobody(monkeypatch):
  outer = ("SLURM_", "TPU_", "JAX_")
  for name in [n for n in os.environ if n.startswith(outer)]:
    monkeypatch.delenv(name)
  chips = [(0, None)]
  monkeypatch.setattr(
    distributed.hardware_utils, "num_available_tpu_chips_and_device_id",
    lambda: chips[0],
  )
  assert not distributed._in_slurm() and not distributed._on_tpu()
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
  assert distributed._in_slurm()
  chips[0] = (4, "v5e")
  assert distributed._on_tpu()
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert not distributed._on_tpu()
  monkeypatch.delenv("JAX_PLATFORMS")
  monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
  assert not distributed._on_tpu()


def test_sigterm_ends_at_once_what_is_not_training(tmp_path):
  """While it compiles, say: nothing is cached here."""
  workdir = tmp_path / "run"
  process = mains.start([*RUN, f"--workdir={workdir}"], tmp_path / "cache")
  mains.wait_for(process, (workdir / "logs" / "host_0.log").exists)
  process.send_signal(signal.SIGTERM)
  (done,) = ended([process], RESTART)
  assert line_of(done) == "error: stopped by SIGTERM: the same command resumes"
  assert saved(workdir / "stage1") == []
  log = (workdir / "logs" / "host_0.log").read_text()
  assert "exit code 75: stopped by SIGTERM" in log


def test_a_call_that_hangs_shows_its_stacks(tmp_path):
  with open(tmp_path / "log", "a") as file:
    dog = logs.watchdog(file, factor=10.0, floor=0.05)
    for _ in range(3):
      dog.before()
      dog.after(0.001)
    time.sleep(0.2)  # Between two calls nothing is watched.
    assert (tmp_path / "log").read_text() == ""
    dog.before()
    time.sleep(0.5)
    dog.after(0.5)
  text = (tmp_path / "log").read_text()
  assert text.count("Timeout (") == 1
  assert "test_a_call_that_hangs_shows_its_stacks" in text


@pytest.mark.nightly
def test_a_run_that_is_killed_again_and_again_is_the_same(cache, tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.kills", "--kills=4",
     "--config=configs/quickstart.py:quick", "--shorter=stage1.steps=24",
     f"--folder={tmp_path / 'kills'}", f"--output={tmp_path / 'kills.json'}"],
    cwd=mains.ROOT, env=mains.environment(cache), capture_output=True,
    text=True, timeout=900, check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-2000:]
  found = json.loads((tmp_path / "kills.json").read_text())
  assert all(found["same"].values()) and found["checkpoints lost"] == 0
  assert found["codes of SIGTERM"] == [RESTART]
  assert [record["alive"] for record in found["each"]] == [True] * 4
