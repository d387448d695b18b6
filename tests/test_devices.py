"""Eight devices compute what one does, each an eighth of it."""

import json
import socket
import subprocess
import sys

import mains
import pytest

MESHES = ("data", "fsdp", "all")  # see eight_devices_train.py


@pytest.fixture(scope="module")
def found(cache):
  """What a process of 8 fake devices says of every mesh."""
  script = mains.ROOT / "tests" / "eight_devices_train.py"
  flags = mains.ONE_THREAD + " --xla_force_host_platform_device_count=8"
  done = subprocess.run(
    [sys.executable, str(script)], capture_output=True, text=True, timeout=900,
    env=mains.environment(cache, XLA_FLAGS=flags), check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_the_first_episodes_are_the_same(mesh, found):
  same = ["tokens", "turn", "path", "problem", "parent"]
  assert found[mesh]["same"] == same
  assert found[mesh]["logprob"] < 1e-5


@pytest.mark.parametrize("mesh", ["data", "all"])
def test_parameters_after_four_iterations_are_the_same(mesh, found):
  assert found[mesh]["params"] < 1e-5
  metrics = found[mesh]["metrics"]
  # Sums of rewards over 256 rows: other tokens would show.
  assert metrics["judge/reward_1"] == metrics["judge/reward_2"] == 0
  assert max(metrics.values()) < 1e-2


@pytest.mark.parametrize(
  "mesh, part", [("data", "collect"), ("data", "learn"), ("fsdp", "collect")]
)
def test_no_device_repeats_what_another_does(mesh, part, found):
  assert 0.1 < found[mesh][part] <= 1.2 / 8, found[mesh][part]


@pytest.mark.parametrize("mesh", MESHES)
def test_groups_do_not_wait_for_each_other_while_decoding(mesh, found):
  """Not even for the stop flag: a group stops when its own rows are done."""
  assert found[mesh]["loops"] >= 1
  assert found[mesh]["crossing"] == []


def test_the_check_finds_crossing_collectives(found):
  assert found["plain"] > 0
  # Where the width is split, devices of a group do talk in the loop.
  assert found["all"]["local"] > 0


def judged_by_two(cache):
  """What each of two processes says, see two_processes_judge.py."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  flags = f"{mains.ONE_THREAD} --xla_force_host_platform_device_count=2"
  script = str(mains.ROOT / "tests" / "two_processes_judge.py")
  processes = [
    subprocess.Popen(
      [sys.executable, script, address, "2", str(i)], text=True,
      env=mains.environment(cache, XLA_FLAGS=flags),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    for i in range(2)
  ]
  return [mains.json_of(mains.finish(process)) for process in processes]


def test_each_of_two_processes_answers_and_verifies_its_own_rows(found, cache):
  alone, both = found["judged"], judged_by_two(cache)
  assert alone["rows"] == [16] * 4  # two waves of two steps
  assert all(one["rows"] == [8] * 4 for one in both)
  assert 0 < alone["reward"][0] < alone["count"][0]
  for one in both:
    assert one["reward"] == alone["reward"]
    assert one["count"] == alone["count"]
    assert abs(one["norm"] - alone["norm"]) < 1e-5
  for way in ("own", "together"):
    whole, *shares = (x["answered"][way] for x in (alone, *both))
    assert all(one["tokens"] == whole["tokens"] for one in shares)
    asked = [one["asked"] for one in shares]
    assert min(asked) > 0 and sum(asked) == whole["asked"]
  assert alone["answered"]["own"] == alone["answered"]["together"]
