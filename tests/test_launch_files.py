"""Job files for GKE, SkyPilot, Slurm and Docker, and the style of launch."""

import ast
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import test_house as house
import yaml

from launch import accelerators, fit, flags, jobs, machine, source
from launch.jobs import Job
from sitrain.runtime.options import ConfigError
from sitrain.runtime.signals import RESTART

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
ODD = ["--config.text=a b  \"c\" 'd' $(e) `f` ; *", "--config.empty="]
# Notes the words that it was called with, and ends as CODE says.
NOTE = """#!{python} -IS
import json, os, sys
with open(os.environ["NOTES"], "a") as file:
  file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:], {env}])
             + "\\n")
sys.exit(int(os.environ.get("CODE", 0)))
"""
RUN = """#!/bin/sh
echo "$@" | grep -q -- "--kill-on-bad-exit=0 --wait=300" || exit 9
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
JAX = "{k: v for k, v in os.environ.items() if k.startswith('JAX_')}"


@pytest.fixture
def place(tmp_path):
  """A folder with programs that note how they are called."""
  for name, env in (("python", JAX), ("scontrol", "''"), ("xpk", "''")):
    for folder in (tmp_path / "bin", tmp_path / ".venv" / "bin"):
      folder.mkdir(parents=True, exist_ok=True)
      (folder / name).write_text(NOTE.format(python=sys.executable, env=env))
      (folder / name).chmod(0o755)
  (tmp_path / "bin" / "srun").write_text(RUN)
  (tmp_path / "bin" / "srun").chmod(0o755)
  return tmp_path


def environment(place, **more):
  # What CI sets for JAX itself is not what the scripts have set.
  kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  return kept | {
    "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
    "NOTES": str(place / "notes"), **more,
  }


def bash(place, *words, **more):
  return subprocess.run(
    ["bash", *words], cwd=place, env=environment(place, **more), timeout=60,
    capture_output=True, text=True,
  )


def notes(place):
  path = place / "notes"
  return [json.loads(line) for line in path.open()] if path.exists() else []


@pytest.mark.parametrize("name", ["remote.sh", "slurm.sh", "xpk.sh"])
def test_scripts_are_sound(name):
  path = str(LAUNCH / name)
  subprocess.run(["bash", "-n", path], check=True, timeout=60)
  if shutil.which("shellcheck"):
    subprocess.run(["shellcheck", path], check=True, timeout=60)


def test_slurm_passes_the_flags_on(place):
  flags = ["--config=configs/a.py", "--workdir=w", *ODD]
  done = bash(place, str(LAUNCH / "slurm.sh"), *flags, SLURM_JOB_ID="7")
  assert done.returncode == 0, done.stderr
  assert notes(place) == [["python", "-m", "sitrain.main", *flags, {}]]


@pytest.mark.parametrize("code,requeued", [(RESTART, True), (1, False)])
def test_slurm_queues_a_preempted_job_again(place, code, requeued):
  done = bash(
    place, str(LAUNCH / "slurm.sh"), "--x", CODE=str(code), SLURM_JOB_ID="7"
  )
  if not requeued:
    assert done.returncode == code
  queued = [words for words in notes(place) if words[0] == "scontrol"]
  assert queued == ([["scontrol", "requeue", "7", ""]] if requeued else [])


def test_slurm_says_what_is_missing(place):
  script = str(LAUNCH / "slurm.sh")
  assert "no flags given" in bash(place, script).stderr
  done = bash(place, script, "--x", VENV="nowhere")
  assert done.returncode == 2 and "set VENV" in done.stderr


# docs.skypilot.co/en/latest/reference/yaml-spec.html
TASK = {
  "name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes",
  "file_mounts", "setup", "run", "config",
}
RESOURCES = {
  "infra", "accelerators", "accelerator_args", "cpus", "memory", "use_spot",
  "instance_type", "disk_size", "disk_tier", "image_id", "ports", "labels",
  "autostop", "any_of", "ordered", "job_recovery",
}


def skypilot():
  return yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


def test_skypilot_has_the_documented_fields():
  task = skypilot()
  assert set(task) <= TASK
  resources = task["resources"]
  assert set(resources) <= RESOURCES
  kind = resources["accelerators"].removeprefix("tpu-")
  software = resources["accelerator_args"]["runtime_version"]
  assert software == accelerators.software_of(kind)
  assert resources["job_recovery"] == {"recover_on_exit_codes": [RESTART]}
  # An empty one would be taken for one that the user has to give.
  assert all(isinstance(v, str) and v for v in task["envs"].values())
  assert (ROOT / task["envs"]["CONFIG"]).exists()


def test_skypilot_runs_the_config_on_every_node(place):
  task = skypilot()
  (place / "run.sh").write_text(task["run"])
  envs = task["envs"] | {"CONFIG": "a b;c", "FLAGS": "--config.x=1 --y"}
  assert bash(place, "run.sh", **envs).returncode == 0
  words = ["python", "-m", "sitrain.main", "--config=a b;c",
           "--workdir=gs://bucket/run", "--config.x=1", "--y"]
  assert notes(place)[-1] == [*words, {}]
  nodes = {
    "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
  }
  assert bash(place, "run.sh", **envs, **nodes).returncode == 0
  assert notes(place)[-1] == [*words, {}]  # A slice finds itself.
  envs["EXTRA"] = "cuda"
  assert bash(place, "run.sh", **envs, **nodes).returncode == 0
  assert notes(place)[-1][-1] == {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
  }


def test_skypilot_installs_the_versions_that_the_run_began_with(place):
  task = skypilot()
  (place / "setup.sh").write_text(task["setup"])
  packages = place / "bin" / "gcloud"
  (place / "bin" / "uv").write_text("")
  install = ["python", "-m", "pip", "install", "--quiet", "--constraint",
             "same.txt", "--editable", ".[text,gcs,tpu]", {}]
  # There is no such file before the first start.
  for script, versions in (
    ("echo no such object >&2; exit 1", ""),
    ('[ "$*" = "storage cat gs://bucket/run/packages.txt" ] && echo a==1.2',
     "a==1.2\n"),
  ):
    packages.write_text(f"#!/bin/sh\n{script}\n")
    for path in (packages, place / "bin" / "uv"):
      path.chmod(0o755)
    done = bash(place, "setup.sh", **task["envs"])
    assert done.returncode == 0, done.stderr
    assert notes(place)[-1] == install
    assert (place / "same.txt").read_text() == versions


CLUSTER = ["--workload=score", "--cluster=mine", "--tpu-type=v5p-64"]
RUN_FLAGS = ["--config=configs/quickstart.py", "--workdir=gs://bucket/run"]


def run_xpk(place, *words, **more):
  """launch/xpk.sh with the Python of the tests and an xpk that takes notes."""
  return bash(
    place, str(LAUNCH / "xpk.sh"), *words, PYTHON=sys.executable, **more
  )


def test_xpk_gets_what_restarts_a_job_and_what_the_user_gave(place):
  more = ["--num-slices=1", "--max-restarts=3", "--priority=low"]
  seed = "--config.model.path=a b $(e) 'd'"
  done = run_xpk(place, *CLUSTER, *more, "--", *RUN_FLAGS, seed, CODE="3")
  assert done.returncode == 3, done.stderr
  [words] = notes(place)
  assert words[:3] == ["xpk", "workload", "create"]
  given = dict(word.split("=", 1) for word in words[3:-1])
  line = shlex.split(given.pop("--command"))
  job = Job("score", "configs/quickstart.py", "gs://bucket/run", (seed,))
  assert line == ["exec", *jobs.command(job)]
  assert given == {
    "--workload": "score", "--cluster": "mine", "--tpu-type": "v5p-64",
    "--num-slices": "1", "--priority": "low", "--max-restarts": "3",
    "--restart-on-exit-codes": str(RESTART),
    "--termination-grace-period-seconds": "120",
  }
  # The user's flag comes last, so that it is the one that counts.
  assert words.index("--max-restarts=3") > words.index("--max-restarts=50")


def test_xpk_is_not_called_for_what_could_not_begin(place):
  for words, said in (
    ([*CLUSTER], "flags are missing"),
    ([*CLUSTER[:2], "--", *RUN_FLAGS], "flags are missing"),
    (["--tpu-type", "v5p-64", "--", *RUN_FLAGS], "write --tpu-type=v5p-64"),
    ([*CLUSTER, "--num-slices=3", "--", *RUN_FLAGS,
      "--config.mesh.data=4"], "does not fit the 96 device(s)"),
  ):
    done = run_xpk(place, *words)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
  assert not notes(place)


def test_what_could_not_begin_on_a_slice_is_told_in_one_line(capsys):
  base = ["--type=v5p-64", *RUN_FLAGS]
  for wrong, said in (
    ("--type=v5x-8", "did you mean"), ("--workdir=/tmp", "gs://"),
    ("--nonsense", "unknown"), ("--config.x=a\nb", "line breaks"),
    ("--slices=0", "--slices=0: give 1"),
    ("--config.sed=1", "did you mean 'seed'"),
    ("--config.mesh.data=3", "does not fit the 32 device(s)"),
  ):
    assert fit.main([*base, wrong]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
  assert fit.main(RUN_FLAGS) == 2
  assert "--type" in capsys.readouterr().err
  # Every slice has 32 devices, and one group of 96 spans all three.
  mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=96", "--slices=3"]
  problems = [
    f"--config.stage.{name}.method.problems=96"
    for name in ("base", "stage1", "stage2")
  ]
  assert fit.main([*base, *mesh, *problems]) == 0
  mesh[:2] = ["--config.mesh.data=4", "--config.mesh.tensor=24"]
  assert fit.main([*base, *mesh, *problems]) == 2
  assert "does not divide by the 3 slices" in capsys.readouterr().err
  assert fit.main([*base, "--type=tpu7x-8", "--config.seed=x"]) == 2
  assert "give an int" in capsys.readouterr().err


def test_a_name_is_a_config_of_the_code_that_is_sent():
  assert source.config_file("score:quick") == "configs/score.py:quick"
  assert source.config_file("own/mine.py:a") == "own/mine.py:a"


def test_from_a_wheel_nothing_is_sent(tmp_path, monkeypatch):
  """Its environment may lie in another project's checkout."""
  subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
  folder = tmp_path / ".venv" / "sitrain"
  folder.mkdir(parents=True)
  monkeypatch.setattr(source, "ROOT", folder)
  runner = machine.Runner(machine.execute, print, print, print, 0.0, 1, 0.0)
  with pytest.raises(ConfigError, match="is none: clone it"):
    source.find(runner, allow_dirty=True)


def test_dockerfile_copies_what_there_is_and_installs_an_extra():
  text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
  lines = [
    line.split(maxsplit=1) for line in text.splitlines()
    if line and not line.startswith("#")
  ]
  assert lines[0][0] == "FROM"
  names = {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENTRYPOINT", "CMD"}
  assert {name for name, _ in lines} == names
  for name, rest in lines:
    if name == "COPY":
      assert all((ROOT / path).exists() for path in rest.split()[:-1])
    if name in ("CMD", "ENTRYPOINT"):
      json.loads(rest)
  declared = [rest.partition("=") for name, rest in lines if name == "ARG"]
  used = set(re.findall(r"\$(\w+)", text.split("FROM", 1)[1]))
  assert used == {name for name, _, _ in declared}
  extra = next(value for name, _, value in declared if name == "EXTRA")
  setup = (ROOT / "setup.cfg").read_text()
  assert f"\n{extra} =\n" in setup
  # All that jobs on a cloud need, in every way of launching them.
  for name in ("Dockerfile", "remote.sh", "skypilot.yaml"):
    assert "[text,gcs," in (LAUNCH / name).read_text(), name


def test_launch_keeps_to_the_rules_of_the_house(monkeypatch):
  monkeypatch.setattr(house, "SOURCES", sorted(LAUNCH.glob("*.py")))
  house.test_files_are_short()
  house.test_functions_are_short()
  house.test_functions_nest_two_deep_at_most()
  house.test_classes_hold_data_only()
  house.test_what_is_public_is_documented()


def test_launching_needs_no_jax():
  """It runs on a laptop."""
  code = "import sys, launch.tpu; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
  for path in LAUNCH.glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call):
        text = ast.unparse(node)
        assert "shell=True" not in text and not text.startswith("os.system")


def test_the_docs_name_what_a_project_needs():
  text = (ROOT / "docs" / "launch.md").read_text()
  for word in (
    "tpu.googleapis.com", "roles/tpu.admin", "roles/storage.objectUser",
    "ssh-add", "PyPI", "Cloud NAT", "quota", "packages.txt",
  ):
    assert word in text
  # Flags of gcloud have dashes where ours have underscores.
  ours = set(re.findall(r"--(\w+_\w+)", text))
  assert ours and ours <= flags._FLAGS.keys()
