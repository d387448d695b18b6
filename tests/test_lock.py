"""A workdir has one run at a time, and no dead process keeps it."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import mains
import pytest

from sitrain.runtime import lock, logs, peers
from sitrain.runtime.options import ConfigError


def held(folder):
  return lock.held(f"--workdir={folder}", folder / lock.NAME)


# Another process of this machine that trains in the folder, as far as the
# kernel and the file can tell.
OTHER = """
import fcntl, json, os, sys
holder = json.loads(sys.argv[2])
holder["process"] = os.getpid()
stat = open("/proc/self/stat").read()
holder["started"] = stat.rpartition(")")[2].split()[19]
file = open(sys.argv[1], "w")
if sys.argv[3] == "locked":
  fcntl.flock(file, fcntl.LOCK_EX)
file.write(json.dumps(holder))
file.flush()
print("it is mine", flush=True)
sys.stdin.read()
"""


def other(folder, way):
  folder.mkdir(parents=True)
  mine = lock._this_process()._asdict() | {"token": "other"}
  process = subprocess.Popen(
    [sys.executable, "-c", OTHER, folder / lock.NAME, json.dumps(mine), way],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  )
  assert process.stdout.readline() == "it is mine\n"
  return process


def no_locks(*given):
  raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture(params=["locked", "leased"])
def way(request, monkeypatch):
  """Of a disk that knows locks, and of one that knows none."""
  monkeypatch.setattr(lock, "LOOK", 0.01)
  if request.param == "leased":
    monkeypatch.setattr(fcntl, "flock", no_locks)
  return request.param


def test_a_living_process_keeps_its_workdir_and_a_dead_one_does_not(
  tmp_path, way
):
  folder = tmp_path / "run"
  process = other(folder, way)
  try:
    began = time.monotonic()
    with pytest.raises(ConfigError) as error, held(folder):
      raise AssertionError("two runs in one workdir")
    line = str(error.value)
    assert line.startswith(f"--workdir={folder} is in use by process")
    assert f"process {process.pid} of " in line and "since 20" in line
    assert os.listdir(folder) == [lock.NAME]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with held(folder):
      assert os.listdir(folder) == [lock.NAME]
    assert time.monotonic() - began < 5, "a death is known at once here"
    assert os.listdir(folder) == []
  finally:
    process.kill()
    process.communicate()


def test_one_process_holds_a_workdir_once(tmp_path, way):
  with held(tmp_path / "a" / "b"):
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "):
      with held(tmp_path / "a" / "b"):
        pass
    with held(tmp_path / "c"):  # Another one is free.
      pass
    assert os.listdir(tmp_path) == ["a"]
  with pytest.raises(KeyError), held(tmp_path / "a"):
    raise KeyError
  assert os.listdir(tmp_path) == []  # What was made is gone where it is empty.
  with held(tmp_path / "a"):
    (tmp_path / "a" / "config.json").write_text("{}")
  assert os.listdir(tmp_path / "a") == ["config.json"]


def test_a_workdir_that_is_no_folder_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  for folder in (tmp_path / "file", tmp_path / "file" / "run"):
    words = f"--workdir={folder}: {tmp_path}/file is no folder"
    with pytest.raises(ConfigError, match=words), held(folder):
      pass

@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_workdir_that_cannot_be_written_is_one_line(
  tmp_path, monkeypatch, number
):
  def refuse(*given):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, "open", refuse)
  words = f"--workdir={tmp_path}/run cannot be written: {os.strerror(number)}"
  with pytest.raises(ConfigError, match=words), held(tmp_path / "run"):
    pass
  assert os.listdir(tmp_path) == []


# The rest is about processes of other machines, with a clock of the test.


def holder(token, **more):
  given = lock.Holder(token, "far", "far 1", 7, "9", "yesterday", 0)
  return given._replace(**more)


def file_of(first, *, exact, taken=lambda: False):
  """A place, and the list of who is in it."""
  there = [first] if first else []

  def take(mine):
    if exact and not taken():
      return False
    there[:] = [mine]
    return True

  read = lambda: list(there)
  return lock.Place(read, take, None, there.clear, exact), there


def acquire(place, there, happens, seconds):
  """Whether it was acquired, and after how many seconds."""
  now = [0.0]

  def sleep(duration):
    now[0] += duration
    happens(now[0], there)
    assert now[0] <= seconds

  try:
    lock.acquire(
      "--workdir=w", place, holder("mine"), clock=lambda: now[0], sleep=sleep
    )
  except ConfigError as error:
    assert "--workdir=w is in use by process 7 of far" in str(error)
    return False, now[0]
  assert there == [holder("mine")] or place.exact
  return True, now[0]


def beats(now, there):
  if now % lock.BEAT == 0:
    there[:] = [there[0]._replace(beat=there[0].beat + 1)]


def test_a_silent_holder_of_a_lease_is_dead_after_a_while(caplog):
  place, there = file_of(holder("other"), exact=False)
  taken, after = acquire(place, there, lambda *_: None, 300)
  assert taken and lock.SILENCE < after <= lock.SILENCE + 2
  (told,) = [r.getMessage() for r in caplog.records]
  assert "was in use by process 7 of far" in told and "within 60 s" in told


@pytest.mark.parametrize("exact", [False, True])
def test_a_sign_of_life_refuses_the_second(exact):
  place, there = file_of(holder("other"), exact=exact)
  taken, after = acquire(place, there, beats, 300)
  assert not taken and after == lock.BEAT


@pytest.mark.parametrize("exact", [False, True])
def test_a_holder_that_ends_lets_go(exact):
  gone = []

  def ends(now, there):
    if now >= 3:
      gone.append(now)
      there.clear()

  place, there = file_of(
    holder("other"), exact=exact, taken=lambda: bool(gone)
  )
  assert acquire(place, there, ends, 300) == (True, 3.0)


def test_a_server_that_keeps_the_lock_of_a_dead_machine_is_waited_for():
  free = []
  place, there = file_of(holder("other"), exact=True, taken=lambda: free)
  forgets = lambda now, _: free.append(1) if now >= 90 else None
  assert acquire(place, there, forgets, 300) == (True, 90.0)
  place, there = file_of(holder("other"), exact=True)
  taken, after = acquire(place, there, lambda *_: None, 300)
  assert not taken and after > lock.SERVER


def test_of_two_who_come_at_once_one_has_it(tmp_path, monkeypatch):
  path = lock.epath.Path(tmp_path / lock.NAME)
  one, two = holder("one"), holder("two")
  places = [lock.leased(path) for _ in range(2)]

  def second(seconds):  # It writes while the first waits.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert places[1].take(two)

  monkeypatch.setattr(time, "sleep", second)
  assert not places[0].take(one)
  assert places[0].read() == [two]


def test_who_was_taken_over_ends(tmp_path, monkeypatch):
  """As a machine that was asleep: the run is another's now."""
  left, notes = [], []
  monkeypatch.setattr(lock, "BEAT", 0.01)
  monkeypatch.setattr(peers, "leave", lambda *said: left.append(said))
  monkeypatch.setattr(logs, "note", notes.append)
  path = tmp_path / lock.NAME

  def wait(happened):
    until = time.monotonic() + 10
    while not happened() and time.monotonic() < until:
      time.sleep(0.005)
    assert happened()

  with held(tmp_path):
    count = lambda: json.loads(path.read_text() or "{}").get("beat", 0)
    wait(lambda: count() > 2)  # It is alive, and says so.
    assert not left
    os.replace(write(tmp_path / "new", holder("other")), path)
    wait(lambda: left)
  code, line = left[0]
  assert code == 1 and f"--workdir={tmp_path} was taken over by process" in line


def write(path, found):
  path.write_text(json.dumps(found._asdict()))
  return path


def test_the_main_leaves_anothers_workdir_alone(tmp_path, ask):
  workdir = tmp_path / "run"
  with held(workdir):
    before = os.listdir(workdir)
    done = ask("--config=configs/quickstart.py:quick", f"--workdir={workdir}")
    assert os.listdir(workdir) == before == [lock.NAME]
  assert done.code == 2 and done.out == ""
  (line,) = mains.lines(done)
  assert line.startswith(f"error: --workdir={workdir} is in use by process")


def test_a_place_that_takes_no_file_is_named():
  """Nobody makes files there, not even root."""
  with pytest.raises(ConfigError, match="^--output=/proc/x cannot be written"):
    with lock.held("--output=/proc/x", "/proc/x.lock"):
      pass
