"""launch.tpu against a gcloud that records, on hosts that are folders here."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import fake_gcloud
import pytest

from launch import accelerators, gcloud, jobs, machine, source, sweep, tpu, vms
from launch import flags as command_line
from launch import run as runs
from launch.gcloud import Vm
from launch.jobs import Job, Worker
from launch.machine import LaunchError, Result, Runner
from sitrain.runtime.options import ConfigError

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
EXECUTE = machine.execute
PLACE = ["--name=score", "--zone=us-east5-a", "--poll=0", "--backoff=0"]
START = [
  *PLACE, "--type=v5p-16", "--config=configs/score.py:task=gsm8k,quick",
  "--workdir=gs://bucket/runs/score", "--tries=3",
]
# What a venv's python does here: it takes part in `pip install`, notes how it
# was called, and ends as behaviour.json says for its start number.
PYTHON = """#!{python} -IS
import json, os, pathlib, sys, time
fake = pathlib.Path(os.environ["FAKE"])
if sys.argv[1:3] == ["-m", "pip"]:
  with open(fake / ("pip_" + os.environ["WORKER"]), "a") as file:
    file.write(json.dumps([sys.argv[3:], os.environ.get("PIP_INDEX_URL")]))
  if (fake / "pip_fails").exists():
    sys.exit("ERROR: Network is unreachable")
  sys.exit(0)
with open(fake / ("started_" + os.environ["WORKER"]), "a+") as file:
  file.write(json.dumps(sys.argv[1:]) + "\\n")
  file.seek(0)
  number = len(file.readlines()) - 1
print("step", number, "of worker", os.environ["WORKER"], flush=True)
behaviour = json.loads((fake / "behaviour.json").read_text())
what = behaviour[min(number, len(behaviour) - 1)]
if isinstance(what, list):
  what = what[int(os.environ["WORKER"])]
print("secret is", os.environ.get("SECRET", "unknown"))
end = time.monotonic() + 60
while what == "wait" and time.monotonic() < end:
  time.sleep(0.02)
sys.exit(1 if what == "wait" else what)
"""
UV = """#!/bin/sh
for last; do :; done
mkdir -p "$last/bin" && cp "$FAKE/python" "$last/bin/python"
"""
# The server of metadata, and Google Cloud Storage, which answers `http`.
CURL = """#!/bin/sh
for last; do :; done
case $last in
  */email) echo vm@project.iam.gserviceaccount.com ;;
  */token) echo '{"access_token":"t0ken","expires_in":9}' ;;
  *) echo "$@" >>"$FAKE/curls"; cat >>"$FAKE/curls"; cat "$FAKE/http" ;;
esac
"""
SSH_ADD = """#!/bin/sh
cat "$FAKE/agent"
"""
SSH_KEYGEN = """#!/bin/sh
echo "3072 SHA256:the+key me@here (RSA)"
"""


CONFIG = """
from ml_collections import ConfigDict


def get_config(argument=""):
  return ConfigDict({
    "seed": 0, "text": "", "empty": "", "newline": "", "mesh": {"data": -1},
    "stages": ("one",), "stage": {"one": {"method": {"problems": 16}}},
  })
"""


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def git(*words):
  subprocess.run(
    ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
    capture_output=True, timeout=60,
  )


@pytest.fixture
def repository(tmp_path, monkeypatch):
  """A small git repository in the place of this one."""
  root = tmp_path / "repository"
  write(root / "configs" / "score.py", CONFIG)
  write(root / "setup.cfg", "[metadata]\n")
  git("init", "--quiet", str(root))
  git("-C", str(root), "add", ".")
  git("-C", str(root), "commit", "--quiet", "-m", "first")
  monkeypatch.setattr(source, "ROOT", root)
  return root


def execute(words):
  """Answers for gcloud in this process, which is cheaper than another one."""
  if words[0] == "gcloud":
    return Result(*fake_gcloud.answer(words[1:]))
  return EXECUTE(words)


@pytest.fixture
def cloud(tmp_path, repository, monkeypatch):
  """A world with the fake gcloud; a function that changes it."""
  fake = tmp_path / "fake"
  text = (HERE / "fake_gcloud.py").read_text()
  write(fake / "bin" / "gcloud", f"#!{sys.executable} -IS\n{text}")
  write(fake / "remote" / "hostname", '#!/bin/sh\necho "t1v-n-1a-w-$WORKER"\n')
  write(fake / "remote" / "uv", UV)
  write(fake / "python", PYTHON.format(python=sys.executable))
  write(fake / "remote" / "curl", CURL)
  write(fake / "http", "200")
  write(fake / "bin" / "ssh-add", SSH_ADD)
  write(fake / "bin" / "ssh-keygen", SSH_KEYGEN)
  write(fake / "agent", "3072 SHA256:the+key me@here (RSA)")
  write(tmp_path / ".ssh" / "google_compute_engine", "a key")
  monkeypatch.setenv("HOME", str(tmp_path))
  write(fake / "behaviour.json", "[0]")
  monkeypatch.setenv("FAKE", str(fake))
  monkeypatch.setenv("PATH", f"{fake / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setattr(machine, "execute", execute)
  world = {
    "vms": {}, "requests": {}, "creations": [], "queues": [], "fail": [],
    "buckets": ["gs://bucket"], "heartbeats": [], "packages": "",
    "types": ["v4-8", "v5p-8", "v5p-16", "v5p-64", "v6e-8"],
  }

  def change(*, behaviour=(0,), **fields):
    world.update(fields)
    write(fake / "world.json", json.dumps(world))
    write(fake / "behaviour.json", json.dumps(list(behaviour)))
    return fake

  change()
  yield change
  for file in fake.glob("home/*/*/sitrain_jobs/*/pid"):
    try:
      os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
    except ProcessLookupError:
      pass


def calls(fake):
  path = fake / "calls.jsonl"
  return [json.loads(line) for line in path.open()] if path.exists() else []


def verbs(fake):
  """The commands given, without questions about states and logs."""
  said = []
  for words in calls(fake):
    verb = words[3] if words[0] == "compute" else words[1]
    if verb == "ssh":
      line = shlex.split(words[-1].removeprefix("--command="))
      verb = line[2] if line[0] == "bash" else line[0]
      verb = line[8].rstrip(";") if verb == "if" else verb
    if verb not in ("describe", "status", "cat", "ls", "list", "for"):
      said.append(verb)
  return said


def starts(fake, worker=0):
  path = fake / f"started_{worker}"
  return [json.loads(line) for line in path.open()] if path.exists() else []


def note(count, message):
  return {"match": "create", "times": count, "error": message}


FRESH = ["create", "mkdir", "scp", "check_bucket", "setup", "start"]


def test_a_run_creates_installs_starts_on_all_workers_and_ends(
  cloud, repository, capfd
):
  fake = cloud(creations=[["CREATING", "CREATING", "READY"]])
  assert tpu.main(["run", *START, "--config.seed=3", "--spot"]) == 0
  assert verbs(fake) == FRESH
  expected = [
    "-m", "sitrain.main", "--config=configs/score.py:task=gsm8k,quick",
    "--workdir=gs://bucket/runs/score", "--config.seed=3",
  ]
  assert starts(fake, 0) == starts(fake, 1) == [expected]
  said = capfd.readouterr()
  assert "step 0 of worker 0" in said.out
  assert "costs money" in said.err
  job = fake / "home" / "score" / "1" / "sitrain_jobs" / "score"
  head = subprocess.run(
    ["git", "-C", str(repository), "rev-parse", "HEAD"], text=True,
    capture_output=True, timeout=60,
  ).stdout
  assert (job / "source" / "REVISION").read_text() == head
  assert (job / "source" / "configs" / "score.py").exists()
  create = next(words for words in calls(fake) if "create" in words)
  assert create == [
    "compute", "tpus", "tpu-vm", "create", "score", "--zone=us-east5-a",
    "--quiet", "--version=v2-alpha-tpuv5", "--accelerator-type=v5p-16",
    "--spot",
  ]


def test_arguments_reach_the_job_as_they_were_given(cloud, monkeypatch):
  monkeypatch.setattr(machine, "execute", EXECUTE)
  odd = (
    "--config.text=a b  c;\"d\" 'e' $(touch /tmp/no) `x` \\n & | > * ~ # !",
    "--config.empty=", "--config.newline=one\ntwo", "--", "-x", "é{a,b}",
  )
  fake = cloud()
  assert tpu.main(["run", *START, *odd]) == 0
  wanted = [word for word in odd if word != "--"]
  assert starts(fake, 0)[0][4:] == starts(fake, 1)[0][4:] == wanted


def test_a_second_run_finds_what_is_there(cloud, capfd):
  fake = cloud()
  assert tpu.main(["run", *START]) == 0
  before = len(verbs(fake))
  assert tpu.main(["run", *START]) == 0
  assert "already done" in capfd.readouterr().err
  assert len(verbs(fake)) == before
  # With another flag it is another job, on the VM that is there.
  assert tpu.main(["run", *START, "--config.seed=1"]) == 0
  assert verbs(fake)[before:] == FRESH[1:]


def test_a_second_run_follows_a_job_that_runs_and_stop_ends_it(cloud, capfd):
  fake = cloud(behaviour=["wait"], vms={})
  act = acting(poll=0.0)
  vm = Vm("score", "us-east5-a", "v5p-16", software="v2-alpha-tpuv5")
  job = Job("score", "configs/score.py", "gs://bucket/a")
  code = source.find(act, allow_dirty=False)
  vms.ensure(act, vm)
  runs.launch(act, vm, job, code)
  assert {w.state for w in runs.worker_states(act, vm, "score")} == {"running"}
  runs.launch(act, vm, job, code)  # Starts nothing twice.
  assert len(starts(fake)) == 1
  done, _ = runs.attach(act, vm, job, code)
  assert not done and len(starts(fake)) == 1
  assert tpu.main(["stop", *PLACE]) == 0
  assert {w.state for w in runs.worker_states(act, vm, "score")} == {"stopped"}
  assert runs.worker_states(act, vm, "score")[1].code == 128 + signal.SIGTERM
  assert tpu.main(["status", *PLACE]) == 0
  assert "stopped" in capfd.readouterr().out
  assert tpu.main(["logs", *PLACE, "--worker=all", "--lines=9"]) == 0
  assert "[1] step 0 of worker 1" in capfd.readouterr().out
  assert tpu.main(["delete", *PLACE]) == 0
  assert verbs(fake)[-1] == "delete"
  assert tpu.main(["status", *PLACE]) == 0
  assert "absent" in capfd.readouterr().err


def acting(**fields):
  quiet = Runner(
    machine.execute, lambda _: None, lambda _: None, lambda _: None, 0.0, 3, 0.0
  )
  return quiet._replace(**fields)


def test_a_preempted_vm_is_made_anew_and_the_job_goes_on(cloud):
  fake = cloud(
    creations=[["READY", "READY", "PREEMPTED"], ["CREATING", "READY"]],
    behaviour=["wait", 0],
  )
  assert tpu.main(["run", *START]) == 0
  assert verbs(fake) == [*FRESH, "delete", *FRESH]
  assert len(starts(fake)) == 2
  assert starts(fake)[0] == starts(fake)[1]


def test_a_preemption_during_the_installation_is_no_error(cloud):
  fake = cloud(
    creations=[["READY", "TERMINATED"], ["READY"]],
    fail=[{"match": "ssh.*setup", "times": 3, "code": 255,
           "error": "ERROR: (gcloud.x) exited with return code [255]."}],
  )
  assert tpu.main(["run", *START]) == 0
  assert verbs(fake)[-len(FRESH) - 1:] == ["delete", *FRESH]


def test_exit_code_75_starts_the_job_again(cloud, capfd):
  fake = cloud(behaviour=[75, 75, 0])
  assert tpu.main(["run", *START]) == 0
  assert len(starts(fake, 0)) == len(starts(fake, 1)) == 3
  assert verbs(fake).count("create") == 1
  out = capfd.readouterr().out
  assert [out.count(f"step {i} of") for i in range(3)] == [1, 1, 1]


def test_workers_that_hang_are_stopped_before_a_new_start(cloud):
  fake = cloud(behaviour=[[75, "wait"], 0])
  assert tpu.main(["run", *START]) == 0
  assert verbs(fake) == [*FRESH, "stop", *FRESH[1:]]
  assert len(starts(fake, 0)) == len(starts(fake, 1)) == 2


def test_secrets_come_in_a_file(cloud, tmp_path, capfd):
  path = tmp_path / "my secrets"
  path.write_text("SECRET='a b'\n")
  fake = cloud()
  assert tpu.main(["run", *START, f"--env_file={path}"]) == 0
  assert "secret is a b\n" in capfd.readouterr().out
  assert "a b" not in str(calls(fake))


@pytest.mark.parametrize("line", ["A=b c d", "just words", "A='open"])
def test_an_environment_that_no_shell_reads_is_named(
  cloud, tmp_path, capfd, line
):
  path = tmp_path / "secrets"
  path.write_text(f"# tokens\nGOOD='a b'\n\n{line}\n")
  fake = cloud()
  assert tpu.main(["run", *START, f"--env_file={path}"]) == 2
  assert "line 4 is no NAME=VALUE" in capfd.readouterr().err
  assert not calls(fake)


@pytest.mark.parametrize("code,restarts,started", [
  (1, 0, 1), (2, 5, 1), (137, 1, 2),
])
def test_failures_are_not_repeated_for_ever(
  cloud, capfd, code, restarts, started
):
  fake = cloud(behaviour=[code])
  assert tpu.main(["run", *START, f"--restarts={restarts}"]) == 1
  assert len(starts(fake)) == started
  error = capfd.readouterr().err.strip().splitlines()[-1]
  assert f"exit code {code}" in error


def test_only_progress_renews_the_restarts():
  counts = runs.EndCounts(at=("rl", 3))
  counts = runs.count_end(counts, "failed", ("rl", 9), restarts=1, code=1)
  assert counts == runs.EndCounts(failures=1, at=("rl", 9))
  # It resumed, repeated its steps and failed where it had failed before.
  with pytest.raises(LaunchError, match="exit code 1"):
    runs.count_end(counts, "failed", ("rl", 9), restarts=1, code=1)
  # A heartbeat that could not be read is no progress.
  with pytest.raises(LaunchError, match="exit code 1"):
    runs.count_end(counts, "failed", ("", -1), restarts=1, code=1)
  later = runs.count_end(counts, "failed", ("next", 0), restarts=1, code=1)
  assert later.failures == 1
  counts = runs.EndCounts()
  for _ in range(runs.MAX_PREEMPTIONS):
    counts = runs.count_end(counts, "again", ("", -1), restarts=0, code=0)
  with pytest.raises(LaunchError, match="without a step"):
    runs.count_end(counts, "again", ("", -1), restarts=0, code=0)


def test_a_queued_request_is_waited_for_and_asked_again(cloud):
  fake = cloud(
    queues=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDING",
             "SUSPENDED"], ["ACTIVE"]],
    creations=[["CREATING", "READY", "READY", "PREEMPTED"], ["READY"]],
    behaviour=["wait", 0],
  )
  words = ["run", *START, "--queued", "--valid_until=6h", "--reserved",
           "--create_flag=--network=mine", "--project=p", "--version=v9"]
  assert tpu.main(words) == 0
  assert verbs(fake) == [*FRESH, "delete", *FRESH]
  create = next(words for words in calls(fake) if "create" in words)
  assert create == [
    "compute", "tpus", "queued-resources", "create", "score",
    "--zone=us-east5-a", "--project=p", "--quiet", "--node-id=score",
    "--runtime-version=v9", "--accelerator-type=v5p-16", "--reserved",
    "--network=mine", "--valid-until-duration=6h", "--async",
  ]
  deleted = next(words for words in calls(fake) if "delete" in words)
  assert deleted[2] == "queued-resources" and deleted[-1] == "--force"


def test_a_failed_request_is_told(cloud, capfd):
  cloud(queues=[["ACCEPTED", "FAILED"]])
  assert tpu.main(["run", *START, "--queued"]) == 1
  assert "request score failed" in capfd.readouterr().err


def test_errors_that_may_pass_are_tried_again_but_not_for_ever(cloud, capfd):
  unavailable = "ERROR: (gcloud.x) UNAVAILABLE: The service is unavailable."
  fake = cloud(fail=[note(2, unavailable)])
  assert tpu.main(["run", *START]) == 0
  assert verbs(fake)[:4] == ["create", "create", "create", "mkdir"]
  cloud(fail=[note(99, unavailable)], vms={})
  assert tpu.main(["run", *START]) == 1
  assert verbs(fake)[len(FRESH) + 2:] == ["create"] * 3
  assert "UNAVAILABLE" in capfd.readouterr().err.splitlines()[-1]


def test_a_lost_connection_while_creating_is_no_error(cloud):
  """The VM was made although the answer never came."""
  fake = cloud(
    vms={"score": {"type": "v5p-16", "states": ["CREATING", "READY"]}},
    fail=[{"match": "describe", "times": 2, "error":
           "ERROR: (gcloud.x) NOT_FOUND: Resource was not found"}],
  )
  assert tpu.main(["run", *START]) == 0
  assert verbs(fake) == FRESH


EVERYTHING_ELSE = {
  "ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied":
    "check the account",
  "ERROR: (gcloud.x) INVALID_ARGUMENT: Cloud TPU received a bad request. the"
  " accelerator v5p-16 was not found in zone us-east5-a [EID: 0x5b]":
    "does not have that --type",
  "ERROR: (gcloud.x) {'code': 429, 'message': \"Quota limit 'TPUV5sPer"
  "ProjectPerZoneForTPUAPI' has been exceeded. Limit: 0\",\n 'status':"
  " 'RESOURCE_EXHAUSTED'}": "ask for more quota",
  "ERROR: (gcloud.x) You do not currently have an active account selected.":
    "gcloud auth login",
  "ERROR: (gcloud.x) PERMISSION_DENIED: Cloud TPU API has not been used in"
  " project 1 before or it is disabled.": "gcloud services enable",
  "ERROR: (gcloud.x) INVALID_ARGUMENT: what else": "what else",
}


@pytest.mark.parametrize("said", EVERYTHING_ELSE)
def test_other_errors_are_one_line_at_once(cloud, capfd, said):
  fake = cloud(fail=[note(99, said)])
  assert tpu.main(["run", *START]) == 1
  assert verbs(fake) == ["create"]
  lines = capfd.readouterr().err.strip().splitlines()
  assert lines[-1].startswith("error: ") and EVERYTHING_ELSE[said] in lines[-1]
  assert "Traceback" not in "".join(lines)


def test_kinds_of_failure():
  def kind(text, code=1):
    return machine.failure(Result(code, "", text))[0]

  assert kind("", 0) == ""
  assert kind("", 255) == "passes"
  assert kind("ssh: connect to host 1.2.3.4 port 22: Connection refused", 255)
  assert kind(
    "ERROR: gcloud crashed (ConnectionError): ('Connection aborted.',"
    " ConnectionResetError(104, 'Connection reset by peer'))"
  ) == "passes"
  assert kind(
    'ERROR: (gcloud.compute.tpus.tpu-vm.create) {"code": 8, "message": "There'
    ' is no more capacity in the zone \\"us-east5-a\\""}'
  ) == "full"
  assert kind(
    'ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state'
    ' "PREEMPTED", so it cannot be used anymore.'
  ) == "down"
  assert kind("ERROR: (gcloud.x) NOT_FOUND: Resource 'a' was not found") == (
    "gone"
  )
  # What a remote program prints is not gcloud's opinion.
  assert kind("503 of a package\nerror: pip failed") == "stays"


def test_delays_double_up_to_five_minutes():
  slept = []
  act = acting(
    execute=lambda _: Result(255, "", "timed out"), sleep=slept.append,
    tries=10, backoff=5.0,
  )
  with pytest.raises(LaunchError, match="timed out"):
    machine.call(act, ["gcloud"])
  assert slept == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_what_would_fail_later_is_refused_before_a_slice_is_paid_for(
  cloud, capfd
):
  fake = cloud(types=["v5p-8", "v5p-16"])

  def refused(*words):
    assert tpu.main(["run", *START, *words]) == 2
    assert verbs(fake) == []  # Nothing was made.
    return capfd.readouterr().err.strip().splitlines()[-1]

  said = refused("--type=v5p-64", "--config.stage.one.method.problems=32")
  assert "--type=v5p-64 is not in --zone=us-east5-a: did you mean" in said
  for agent in ("", "256 SHA256:another me@here (RSA)"):
    (fake / "agent").write_text(agent)
    said = refused()
    assert "run `ssh-add ~/.ssh/google_compute_engine`" in said
  assert "no SSH key /no/key" in refused("--ssh_flag=--ssh-key-file=/no/key")
  # One host is reached without an agent, and so is whoever asks for it.
  assert tpu.main(["run", *START, "--type=v5p-8"]) == 0
  words = ["run", *START, "--name=other", "--ssh_flag=--plain"]
  assert tpu.main(words) == 0


def test_zones_and_durations():
  def read(*words):
    flags, _ = command_line.parse("", ["run", *START, *words])
    return command_line.vm_from(flags)

  for zone in ("us-south1-ai1b", "us-central1-ai1a", "europe-west4-b"):
    assert read(f"--zone={zone}").zone == zone
  for zone in ("us-south1-ai", "us-south1", "us-south1-1b", "us-south1-ai1"):
    with pytest.raises(ConfigError, match="give a zone"):
      read(f"--zone={zone}")
  for text in ("6h", "90m", "1d12h", "2h30m10s", "3600s"):
    assert read("--queued", f"--valid_until={text}").valid_until == text
  for text in ("banana", "6", "h", "6 h", "30m2h", "-1h"):
    with pytest.raises(ConfigError, match="give a duration, as 6h"):
      read("--queued", f"--valid_until={text}")


def test_the_bucket_is_tested_with_the_account_of_the_vm(cloud, capfd):
  fake = cloud()
  (fake / "http").write_text("403")
  assert tpu.main(["run", *START]) == 1
  said = capfd.readouterr().err
  assert (
    "add-iam-policy-binding gs://bucket"
    " --member=serviceAccount:vm@project.iam.gserviceaccount.com"
  ) in " ".join(said.split())
  assert "setup" not in verbs(fake)  # No minutes go into it.
  (fake / "http").write_text("204")
  (fake / "curls").unlink()
  assert tpu.main(["run", *START]) == 0
  asked = (fake / "curls").read_text()
  assert "name=runs%2Fscore%2F.writable_launch" in asked
  # The token is in no argument, which every user of the host could see.
  assert 'header = "Authorization: Bearer t0ken"' in asked
  assert "t0ken" not in asked.splitlines()[0]


def test_secrets_are_nobody_elses_also_when_the_setup_fails(
  cloud, tmp_path, capfd
):
  path = tmp_path / "secrets"
  path.write_text("SECRET=x\nPIP_INDEX_URL=https://mirror/simple\n")
  path.chmod(0o644)
  fake = cloud()
  (fake / "pip_fails").write_text("")
  old = os.umask(0o022)
  try:
    assert tpu.main(["run", *START, f"--env_file={path}"]) == 1
  finally:
    os.umask(old)
  said = " ".join(capfd.readouterr().err.split())
  assert "ERROR: Network is unreachable: set-up reads PyPI and GitHub" in said
  for i in (0, 1):
    folder = fake / "home" / "score" / str(i) / "sitrain_jobs" / "score"
    secret = folder / "environment"
    assert secret.read_text() == path.read_text()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
  # Where packages come from may be told by it, too.
  assert '"https://mirror/simple"' in (fake / "pip_0").read_text()


def test_a_vm_that_is_made_anew_has_the_versions_of_the_first(cloud):
  fake = cloud()
  assert tpu.main(["run", *START]) == 0
  assert "--constraint" not in (fake / "pip_0").read_text()
  fake = cloud(packages="jax==0.10.2\nnumpy==2.4.6\n", vms={})
  assert tpu.main(["run", *START, "--config.seed=1"]) == 0
  assert '"--constraint", "packages.txt"' in (fake / "pip_1").read_text()
  folder = fake / "home" / "score" / "1" / "sitrain_jobs" / "score"
  assert (folder / "packages.txt").read_text() == "jax==0.10.2\nnumpy==2.4.6\n"


def test_bad_input_is_refused_before_anything_is_made(
  cloud, repository, capfd
):
  fake = cloud()

  def refused(*words):
    assert tpu.main(["run", *START, *words]) == 2
    return capfd.readouterr().err.strip().splitlines()[-1]

  assert "did you mean 'v5p'" in refused("--type=v5q-64")
  assert "v5litepod-16" in refused("--type=v5e-16")
  assert "v6e-64" in refused("--type=v6e-63")
  assert "launch/xpk.sh" in refused("--type=tpu7x-8")
  assert "as us-east5-a" in refused("--zone=us")
  assert "a letter first" in refused("--name=a b;c")
  assert "gs://bucket/folder" in refused("--workdir=/tmp/x")
  assert "one of them" in refused("--spot", "--reserved")
  assert "--queued" in refused("--valid_until=6h")
  assert "did you mean 'restarts'" in refused("--restart=3")
  assert "no such file" in refused("--config=configs/scor.py")
  assert "did you mean 'seed'" in refused("--config.sed=1")
  problems = "--config.stage.one.method.problems"
  assert "= 8: set it to 8 or 16" in refused(f"{problems}=12")
  assert "=16 does not divide" in refused("--type=v5p-64")
  assert calls(fake) == []
  assert "no such bucket" in refused("--workdir=gs://other/run")
  (repository / "configs" / "score.py").write_text("2\n")
  assert "1 files are not committed, such as configs/score.py" in refused()
  assert verbs(fake) == []


def test_gcloud_may_be_missing(repository, monkeypatch, capfd, tmp_path):
  git_only = tmp_path / "only"
  git_only.mkdir()
  (git_only / "git").symlink_to(shutil.which("git"))
  monkeypatch.setenv("PATH", str(git_only))
  assert tpu.main(["run", *START]) == 2
  assert "gcloud is not on PATH" in capfd.readouterr().err


def test_a_vm_of_another_type_is_not_taken(cloud, capfd):
  cloud(vms={"score": {"type": "v4-8", "states": ["READY"]}})
  assert tpu.main(["run", *START]) == 2
  assert "is there already, as a v4-8" in capfd.readouterr().err


def test_a_stopped_vm_is_started(cloud):
  fake = cloud(vms={"score": {"type": "v5p-16", "states": ["STOPPED"]}})
  assert tpu.main(["run", *START, "--delete_at_end"]) == 0
  assert verbs(fake)[0] == "start" and verbs(fake)[-1] == "delete"


def test_changes_are_sent_when_asked_for(repository):
  (repository / "configs" / "score.py").write_text("2\n")
  (repository / "new.py").write_text("3\n")
  said = []
  act = acting(say=said.append)
  code = source.find(act, allow_dirty=True)
  assert code.revision == source.find(act, allow_dirty=True).revision
  assert "-dirty-" in code.revision and "new.py" in said[0]
  path = repository.parent / "source.tar.gz"
  subprocess.run(source.archive(code, str(path)), check=True, timeout=60)
  listed = subprocess.run(
    ["tar", "-xzOf", path, "configs/score.py"], capture_output=True, timeout=60
  )
  assert listed.stdout == b"2\n"
  status = subprocess.run(
    ["git", "-C", str(repository), "stash", "list"], capture_output=True,
    timeout=60,
  )
  assert status.stdout == b""


def test_dry_run_prints_what_a_shell_would_take_and_runs_none(cloud, capfd):
  fake = cloud()
  odd = "--config.text=it's $(a);b"
  words = ["--dry_run", "--queued", odd]
  assert tpu.main(["run", *START, *words]) == 0
  lines = capfd.readouterr().out.splitlines()
  assert calls(fake) == []
  parsed = [shlex.split(line) for line in lines]
  assert [shlex.join(words) for words in parsed] == lines
  start = next(words[-1] for words in parsed if "start " in words[-1])
  assert shlex.split(start.removeprefix("--command="))[-1] == odd
  for command in ("status", "logs", "stop", "delete"):
    assert tpu.main([command, *PLACE, "--dry_run"]) == 0
    assert capfd.readouterr().out.startswith("gcloud compute tpus ")
  assert tpu.main(["sweep", *START, "--dry_run", "--grid=config.seed=0,1"]) == 0
  assert "--config.seed=1" in capfd.readouterr().out
  assert calls(fake) == []


def test_flags_of_the_alpha_release_take_its_command():
  vm = Vm("a", "z", ssh_flags=("--batch-size=64",))
  assert gcloud.ssh(vm, "true", worker="all")[:5] == [
    "gcloud", "alpha", "compute", "tpus", "tpu-vm"
  ]
  plain = vm._replace(ssh_flags=("--internal-ip",))
  assert gcloud.scp(plain, ["x"], "y")[1] == "compute"


@pytest.mark.parametrize("states,expected", [
  ([], "none"), (["none", "none"], "none"), (["running"] * 2, "running"),
  ([0, 0], "done"), ([0, "running"], "running"), ([75, 0], "again"),
  ([75, 1], "failed"), (["lost", "running"], "again"),
  (["none", "running"], "again"), (["running", "stopped"], "stopped"),
  ([137, "running"], "failed"),
])
def test_a_job_is_judged_by_all_of_its_workers(states, expected):
  workers = [
    Worker(i, "exited" if isinstance(state, int) else state,
           state if isinstance(state, int) else -1, 0, 0, "-", "-")
    for i, state in enumerate(states)
  ]
  assert jobs.overall_state(workers) == expected


def test_software_fits_the_generation():
  kinds = {
    "v2-8": "tpu-ubuntu2204-base", "v3-32": "tpu-ubuntu2204-base",
    "v4-64": "tpu-ubuntu2204-base", "v5litepod-256": "v2-alpha-tpuv5-lite",
    "v5p-64": "v2-alpha-tpuv5", "v6e-8": "v2-alpha-tpuv6e",
  }
  for kind, software in kinds.items():
    assert accelerators.software_of(kind) == software


def test_a_grid_is_read_with_its_brackets_and_quotes():
  points = sweep.grid_points("config.seed=0,1;config.a.b=(1,2),'x;y',-3")
  assert len(points) == 6
  assert points[1] == {"config.seed": "0", "config.a.b": "'x;y'"}
  assert points[3] == {"config.seed": "1", "config.a.b": "(1,2)"}
  job = Job("j", "c", "gs://b/w", ("--x",))
  found = sweep.jobs_of(job, "config.seed=0,1;config.s.bonus=1,10")
  assert found[3].workdir == "gs://b/w/seed=1_bonus=10"
  assert found[3].flags == ("--x", "--config.seed=1", "--config.s.bonus=10")
  with pytest.raises(ConfigError, match="FIELD=VALUE"):
    sweep.grid_points("seed=1")
  with pytest.raises(ConfigError, match="same values"):
    sweep.jobs_of(job, "config.seed=0,0")
  shares = sweep.assign(Vm("v", "z"), found, 3)
  assert [(vm.name, len(mine)) for vm, mine in shares] == [
    ("v-0", 2), ("v-1", 1), ("v-2", 1)
  ]


def test_a_sweep_shares_its_points_among_vms(cloud, capfd):
  fake = cloud()
  words = ["--grid=config.seed=0,1,2", "--together=2", "--delete_at_end"]
  assert tpu.main(["sweep", *START, *words]) == 0
  assert sorted(each[-1] for each in starts(fake)) == [
    f"--config.seed={i}" for i in range(3)
  ]
  assert sorted(each[-2] for each in starts(fake)) == [
    f"--workdir=gs://bucket/runs/score/seed={i}" for i in range(3)
  ]
  assert verbs(fake).count("create") == verbs(fake).count("delete") == 2
  assert "score-1: step" in capfd.readouterr().out


def test_the_machines_of_a_sweep_are_known_by_its_name(cloud, capfd):
  fake = cloud()
  words = ["--grid=config.seed=0,1,2", "--together=2"]
  assert tpu.main(["sweep", *START, *words]) == 0
  capfd.readouterr()
  assert tpu.main(["status", *PLACE]) == 0
  said = capfd.readouterr()
  assert "score-0: ready" in said.err and "score-1: ready" in said.err
  for title in ("score-0: score-0", "score-0: score-2", "score-1: score-1"):
    assert title in said.out
  before = verbs(fake)
  # A third one waits in the queue; others have similar names.
  world = json.loads((fake / "world.json").read_text())
  queued = {"states": ["ACCEPTED"], "type": "v5p-16"}
  names = ("score-2", "score-x", "ascore-3")
  world["requests"] |= dict.fromkeys(names, queued)
  (fake / "world.json").write_text(json.dumps(world))
  for command in ("stop", "logs", "delete"):
    assert tpu.main([command, *PLACE]) == 2
    said = capfd.readouterr().err
    assert "a sweep's score-0, score-1, score-2: give one" in said
  assert verbs(fake) == before


def test_a_sweep_tells_which_points_failed(cloud, capfd):
  cloud(behaviour=[1, 0])
  assert tpu.main(["sweep", *START, "--grid=config.seed=0,1"]) == 1
  said = capfd.readouterr().out
  assert "exit code 1" in said and "done" in said


@pytest.mark.parametrize("words, line", [
  (["rnu", "--name=ab"], "error: rnu: no such command; did you mean 'run'?"),
  ([], "error: no command: give one of run, sweep,"),
  (["run", "--name=ab"], "required: --zone, --type, --config, --workdir"),
  (["run", "--poll=often"], "argument --poll: invalid float value: 'often'"),
  (["run", *START, "--dry_run", "--workdir=gs://b/r"], "name has at least 3"),
])
def test_a_wrong_command_line_is_answered_in_one_line(words, line, capfd):
  assert tpu.main(words) == 2
  (said,) = capfd.readouterr().err.splitlines()
  assert line in said


def test_help_names_every_command(capsys):
  with pytest.raises(SystemExit):
    command_line.parse(tpu.__doc__, ["--help"])
  said = capsys.readouterr().out
  assert all(command in said for command in command_line.COMMANDS)
