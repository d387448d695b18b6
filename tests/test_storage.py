"""Runs with a workdir on a bucket, and errors of buckets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import gcs
import jax
import mains
import numpy as np
import orbax.checkpoint as ocp
import pytest
from eight_devices import make_state

from sitrain.runtime import checkpoint, lock

TESTS = Path(__file__).parent
ONE = (
  *mains.QUICK, "--config.stage.stage1.steps=8", "--config.run.save_every=2",
)
RUN = (*ONE, "--config.stages=('base','stage1')")
STAGE = (*ONE, "--config.stages=('stage1',)")
STAGES = {"base": 2, "stage1": 8}


@pytest.fixture(scope="module")
def bucket():
  server = gcs.serve()
  yield server
  server.close()


@pytest.fixture(scope="module")
def ask(cache, bucket):
  """ask(*arguments, module=...) -> Done, of a main that sees the bucket."""
  question, close = mains.serve(**bucket.environment)
  yield lambda *given, **more: question(list(given), cache, **more)
  close()


def script(name, *arguments, devices, bucket):
  return subprocess.Popen(
    [sys.executable, str(TESTS / name), *map(str, arguments)], text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    env=mains.environment(
      "", **bucket.environment,
      XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
    ),
  )


@pytest.fixture(scope="module")
def cases(bucket):
  """The outcome of every fault; see storage_cases.py."""
  url = bucket.environment["STORAGE_EMULATOR_HOST"]
  process = script("storage_cases.py", url, devices=1, bucket=bucket)
  done = mains.finish(process)
  assert done.code == 0, done.err[-3000:]
  return json.loads(done.out), done.err


@pytest.mark.parametrize(
  "case, met", [
    ("unavailable", 3), ("slow", 3), ("torn", 3), ("lost", 3), ("busy", 1),
  ],
)
def test_faults_that_pass_are_waited_for(cases, case, met):
  found = cases[0][case]
  assert found["error"] == "" and found["met"] >= met
  assert found["last"] == found["step"] == found["steps"][-1]


@pytest.mark.parametrize(
  "case, line", [
    ("full", "the quota of gs://bucket/cases/stage is used up: free some"),
    ("full_for_the_record", "the quota of gs://bucket/cases/stage is used up"),
    ("forbidden", "no permission for gs://bucket/cases/stage: give this"),
    ("unfinished", "no permission for gs://bucket/cases/stage: give this"),
  ],
)
def test_faults_that_stay_are_one_line_and_harm_nothing(cases, case, line):
  found, before = cases[0][case], cases[0]["busy"]["step"]
  assert found["error"].startswith(line) and "\n" not in found["error"]
  assert found["met"] > 0
  # What was finished before is there, and what was not is not.
  assert found["last"] == before and found["steps"][-1] == before


def test_what_was_never_finished_is_told(cases):
  told = re.findall(r"checkpoint (\d+) of \S+ was never finished", cases[1])
  assert {int(step) for step in told} <= {
    found["step"] for found in cases[0].values() if found.get("met")
    and found["error"]
  }
  assert told


@pytest.mark.parametrize(
  "case, line", [
    ("unreadable", "no permission for gs://bucket/cases/stage: give this"),
    ("POST_forbidden", "no permission for gs://bucket: give this machine's"),
    ("DELETE_forbidden", "no permission for gs://bucket: give this machine's"),
    ("missing", "bucket gs://no-such-bucket does not exist: `gcloud storage"),
    ("writable", ""),
  ],
)
def test_places_are_checked(cases, case, line):
  found = cases[0][case]["error"]
  assert found.startswith(line) and bool(found) == bool(line)
  assert "\n" not in found


@pytest.fixture(scope="module")
def local(ask, tmp_path_factory):
  """The workdir of a run on a disk that was never interrupted."""
  workdir = tmp_path_factory.mktemp("local") / "run"
  done = ask(*RUN, f"--workdir={workdir}")
  assert done.code == 0, done.err[-3000:]
  return workdir


@pytest.fixture(scope="module")
def remote(ask, bucket, cache, local, tmp_path_factory):
  """A copy of a run on the bucket that was killed inside a save; its stderr."""
  arguments = [*RUN, "--workdir=gs://bucket/run"]
  bucket.faults(gcs.fault("POST.*run/stage1/4/", "slow"))
  process = mains.start(arguments, cache, **bucket.environment)
  begun = lambda: any("/record/" in n for n in bucket.names("run/stage1/4/"))
  mains.wait_for(process, begun)
  process.kill()
  assert mains.finish(process).code == -signal.SIGKILL
  assert "run/stage1/4/commit_success.txt" not in bucket.names("run")
  assert "run/stage1/2/commit_success.txt" in bucket.names("run")
  # Another save meets everything that passes.
  bucket.faults(
    gcs.fault("POST.*stage1/6/arrays.*/d/", "torn", times=1),
    gcs.fault("POST.*stage1/6/commit", "lost", times=1),
    gcs.fault("POST.*metrics.jsonl", "unavailable", times=1),
  )
  done = ask(*arguments)
  assert len(bucket.served()) == 3
  bucket.faults()
  assert done.code == 0, done.err[-3000:]
  copy = tmp_path_factory.mktemp("remote")
  bucket.fetch("run", copy)
  return copy, done.err


CACHED = """
import jax
from sitrain.runtime import compile
compile.use_cache()
hits = []
hit = lambda event, **_: event.endswith("/cache_hits") and hits.append(event)
jax.monitoring.register_event_listener(hit)
for _ in range(2):
  jax.clear_caches()
  jax.jit(lambda x: x * 2.5 + 1.0)(1.0).block_until_ready()
print(len(hits))
"""


def test_compiled_programs_may_be_kept_in_a_bucket(bucket, tmp_path):
  """No folder of the name gs: is made here."""
  done = subprocess.run(
    [sys.executable, "-c", CACHED], capture_output=True, text=True,
    timeout=120, cwd=tmp_path,
    env=mains.environment("gs://bucket/programs", **bucket.environment),
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert int(done.stdout) > 0
  assert bucket.names("programs/")
  assert list(tmp_path.iterdir()) == []


def arrays(workdir, stage):
  step = max(checkpoint.steps(workdir / stage))
  assert step == STAGES[stage]
  with ocp.PyTreeCheckpointer() as reader:
    found = reader.restore(workdir / stage / str(step) / "arrays")
  return {name: np.asarray(x).tobytes() for name, x in found.items()}


def rows(workdir, stage=""):
  """The records without the fields that depend on time."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  return [
    {k: v for k, v in row.items() if not k.startswith("run/")}
    for row in found if row["stage"].startswith(stage)
  ]


def test_a_run_on_a_bucket_is_the_run_on_a_disk(local, remote):
  copy, said = remote
  for stage in STAGES:
    assert arrays(copy, stage) == arrays(local, stage), stage
    assert checkpoint.steps(copy / stage) == checkpoint.steps(local / stage)
  assert rows(copy) == rows(local) and len(rows(copy)) == 10
  stages = [
    [
      {k: v for k, v in row.items() if k != "seconds"}
      for row in json.loads((at / "summary.json").read_text())["stages"]
    ]
    for at in (copy, local)
  ]
  assert stages[0] == stages[1] and len(stages[0]) == 2
  assert "checkpoint 4 of gs://bucket/run/stage1 was never finished" in said
  assert "Traceback" not in said


def test_everything_else_is_on_the_bucket_too(local, remote):
  names = lambda at: {path.name for path in at.iterdir()}
  assert names(local) <= names(remote[0])
  left = (".writable", "lock.json")
  assert not any(x in name for name in names(remote[0]) for x in left)
  events = list((remote[0] / "tensorboard").iterdir())
  content = b"".join(path.read_bytes() for path in events)
  assert b"stage1/judge/reward_2" in content and b"base/learn/nll" in content
  assert "Every attempt over the run" in (remote[0] / "report.html").read_text()


@pytest.fixture
def in_use(bucket, remote):
  """The run on the bucket has the lock of a living process: this test's."""
  url = bucket.environment["STORAGE_EMULATOR_HOST"]
  name = f"run/{lock.NAME}"
  holder = json.dumps(lock._this_process()._asdict()).encode()
  for path, method, body in (
    (f"/upload/storage/v1/b/bucket/o?uploadType=media&name={name}", "POST",
     holder),
    (f"/storage/v1/b/bucket/o/{name.replace('/', '%2F')}", "DELETE", None),
  ):  # fmt: skip
    request = urllib.request.Request(url + path, body, method=method)
    urllib.request.urlopen(request).close()
    if method == "POST":
      assert name in bucket.names("")
      yield
  assert name not in bucket.names("")


def test_a_run_on_a_bucket_that_is_in_use_is_left_alone(ask, bucket, in_use):
  before = bucket.names("")
  done = ask(*RUN, "--workdir=gs://bucket/run")
  assert done.code == 2 and done.out == "" and bucket.names("") == before
  (line,) = mains.lines(done)
  assert line.startswith("error: --workdir=gs://bucket/run is in use by proces")
  assert f"process {os.getpid()} of" in line


@pytest.mark.parametrize(
  "module, arguments, leaves", [
    ("sitrain.report", [], "run/report.html"),
    (
      "sitrain.sample",
      ["--problems=8", "--which=best", "--output=gs://bucket/out/rows.jsonl"],
      "out/rows.jsonl.json",
    ),
    (
      "sitrain.export", ["--output=gs://bucket/model"],
      "model/model.safetensors",
    ),
  ],
)
def test_mains_read_the_bucket(ask, bucket, in_use, module, arguments, leaves):
  """Also while a run goes on there."""
  done = ask("--workdir=gs://bucket/run", *arguments, module=module)
  assert done.code == 0, done.err[-3000:]
  assert leaves in bucket.names("")


def test_a_stage_starts_from_another_runs_checkpoint(
  ask, remote, local, tmp_path
):
  """Stage I from the base of the run on the bucket is that run's stage I."""
  start = "gs://bucket/run/base/last"
  done = ask(
    *STAGE, f"--config.stage.stage1.start={start}",
    f"--config.stage.stage1.held.reference={start}", f"--workdir={tmp_path}",
  )  # fmt: skip
  assert done.code == 0, done.err[-3000:]
  assert rows(tmp_path) == rows(local, "stage1")
  assert arrays(tmp_path, "stage1") == arrays(local, "stage1")


NO_ANCHOR = ("--config.stage.stage1.held.reference=init",)


@pytest.mark.parametrize(
  "more, code, line", [
    ([*RUN, "--workdir=gs://no-such-bucket/run"], 1,
     "bucket gs://no-such-bucket does not exist: `gcloud storage buckets create"
     " gs://no-such-bucket` makes it"),
    ([*STAGE, *NO_ANCHOR,
      "--config.stage.stage1.start=gs://bucket/run/best/last"], 2,
     "config.stage.stage1.start='gs://bucket/run/best/last': there is no"
     " checkpoint: give a run's WORKDIR/STAGE/last"),
    ([*STAGE, *NO_ANCHOR, "--config.model.width=32",
      "--config.stage.stage1.start=gs://bucket/run/base/last"], 2,
     "checkpoint gs://bucket/run/base/2 has float32[15, 16] for params.policy"),
    ([*RUN, "--config.seed=1", "--workdir=gs://bucket/run"], 2,
     "gs://bucket/run holds a run with config.seed=0, this one has 1: give"),
  ],
)  # fmt: skip
def test_mistakes_are_one_line_before_anything_is_written(
  ask, bucket, remote, tmp_path, more, code, line
):
  before = bucket.names("")
  done = ask(f"--workdir={tmp_path}/new", *more)
  assert done.code == code, done.err[-3000:]
  (said,) = mains.lines(done)
  assert said.startswith(f"error: {line}")
  assert bucket.names("") == before


def test_a_bucket_without_permission_is_left_alone(ask, bucket):
  before = bucket.names("")
  bucket.faults(gcs.fault("^POST .*upload", "forbidden"))
  done = ask(*RUN, "--workdir=gs://bucket/denied")
  bucket.faults()
  assert done.code == 1
  (said,) = mains.lines(done)
  assert said.startswith("error: no permission for gs://bucket: give this")
  assert bucket.names("") == before


def test_a_bucket_that_is_full_keeps_the_last_checkpoint(ask, bucket):
  arguments = [
    *mains.QUICK, "--config.stages=('base',)",
    "--workdir=gs://bucket/full",
  ]
  bucket.faults(gcs.fault("POST.*full/base/2/arrays", "quota"))
  done = ask(*arguments)
  bucket.faults()
  assert done.code == 1
  assert done.err.splitlines()[-1].startswith(
    "error: the quota of gs://bucket/full/base is used up: free some space"
  )
  assert "Traceback" not in done.err
  assert "full/base/1/commit_success.txt" in bucket.names("full")
  assert "full/base/2/commit_success.txt" not in bucket.names("full")


def test_other_meshes_and_processes_read_what_was_saved(
  bucket, cases, tmp_path
):
  """1 process -> 2 of data=8 -> 2 of fsdp=4, tensor=2 -> 1, on gs://."""
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
  pair = [
    script(
      "two_processes_storage.py", address, 2, number, devices=4, bucket=bucket
    )
    for number in range(2)
  ]
  for done in [mains.finish(process, 120) for process in pair]:
    assert done.code == 0 and "all is there" in done.out, done.err[-3000:]
  bucket.fetch("mesh/many", tmp_path)
  want = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    make_state(),
  )
  best, progress = checkpoint.restore(tmp_path, "best", want)
  assert progress.step == 4
  for x, y in zip(jax.tree.leaves(best), jax.tree.leaves(make_state())):
    np.testing.assert_array_equal(x, y)


def test_rows_of_a_bucket_in_every_form_are_one_mixture(
  ask, bucket, tmp_path
):
  """Lines, tables by a pattern, and a folder that `save_to_disk` wrote."""
  import datasets

  datasets.disable_progress_bars()
  rows = datasets.Dataset.from_list([
    {"question": f"How many legs have {n} spiders?", "answer": str(8 * n)}
    for n in range(10)
  ])
  rows.to_json(tmp_path / "a.jsonl")
  rows.to_parquet(tmp_path / "b-1.parquet")
  rows.save_to_disk(tmp_path / "saved")
  code = "import fsspec, sys; fsspec.filesystem('gs').put(*sys.argv[1:], True)"
  subprocess.run(
    [sys.executable, "-c", code, f"{tmp_path}/", "bucket/rows/"], check=True,
    env=os.environ | bucket.environment,
  )
  at = "gs://bucket/rows"
  mixture = f"{at}/a.jsonl*0.5,{at}/b-*.parquet*0.3,{at}/saved*.2"
  done = ask(
    "--config=configs/chat.py:quick", f"--config.task.source={mixture}",
    "--rows=1", module="sitrain.data",
  )
  assert done.code == 0, done.err
  assert "30 rows read" in done.out and "6 are held out" in done.out
  shares = f"20 of {at}/a.jsonl, 12 of {at}/b-*.parquet, 8 of {at}/saved"
  assert f"40 problems by the weights: {shares}" in done.out
  assert "row 1 of a.jsonl, answer '0'" in done.out
