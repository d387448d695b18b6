"""The pool: an item costs itself alone, whatever it does to its process."""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from sitrain.tasks.verifiers import pool as pools
from sitrain.tasks.verifiers.pool import Result

ROOT = pathlib.Path(__file__).parent.parent


class Unpicklable(Exception):
  def __init__(self, lock):
    super().__init__("holds a lock")
    self.lock = lock


def misbehave(how):
  """The items of these tests: a number, or the name of a misfortune."""
  if how == "loop":
    while True:
      pass
  if how == "hang in C":
    # PyDLL keeps the interpreter's lock, so that no Python code can interfere.
    ctypes.PyDLL(None).sleep(1000)
  if how == "exit":
    os._exit(3)
  if how == "exit 0":
    os._exit(0)
  if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
  if how == "closed":
    os.closerange(3, 64)
  if how == "memory":
    return len(bytearray(2**31))
  if how == "raise":
    raise KeyError("no such\nthing")
  if how == "system exit":
    sys.exit(5)
  if how == "unpicklable error":
    raise Unpicklable(threading.Lock())
  if how == "unpicklable value":
    return threading.Lock()
  return how * how


EXPECTED = {
  "loop": "timeout",
  "hang in C": "timeout",
  "exit": "crash",
  "exit 0": "crash",
  "killed": "crash",
  "closed": "crash",
  "memory": "error",
  "raise": "error",
  "system exit": "error",
  "unpicklable error": "error",
  "unpicklable value": "error",
}


def whoami(_):
  return os.getpid()


def nap(seconds):
  time.sleep(seconds)
  return seconds


def start_child(place):
  """Leaves a process behind and hangs."""
  script = "import time; time.sleep(60)"
  child = subprocess.Popen([sys.executable, "-c", script])
  pathlib.Path(place).write_text(str(child.pid))
  time.sleep(60)


def alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
  return state.split()[0] != "Z"


def gone(pids, within=10.0):
  end = time.monotonic() + within
  while time.monotonic() < end:
    if not any(alive(pid) for pid in pids):
      return True
    time.sleep(0.05)
  return False


@pytest.fixture(scope="module")
def pool():
  found = pools.make(workers=2, seconds=0.7, memory=256)
  yield found
  found.close()


def test_values_come_back_in_order(pool):
  results = pool.map(misbehave, range(500))
  assert results == [Result(i * i, "done") for i in range(500)]
  assert pool.map(misbehave, []) == []


@pytest.mark.parametrize("how", EXPECTED)
def test_a_bad_item_affects_no_other(pool, how):
  before = time.monotonic()
  results = pool.map(misbehave, [1, 2, how, 3, 4])
  took = time.monotonic() - before
  status = [result.status for result in results]
  assert status == ["done", "done", EXPECTED[how], "done", "done"]
  assert [r.value for r in results if r.status == "done"] == [1, 4, 9, 16]
  said = results[2].value
  assert said and "\n" not in said
  # The deadline holds: it is 0.7 s, and a new worker takes milliseconds.
  assert took < 5.0
  assert pool.map(misbehave, [7]) == [Result(49, "done")]


def test_all_failures_at_once(pool):
  items = [item for how in EXPECTED for item in (how, *range(9))] * 2
  results = pool.map(misbehave, items)
  for item, result in zip(items, results):
    expected = EXPECTED.get(item, "done")
    assert result.status == expected, (item, result)


def test_errors_are_described_in_one_line(pool):
  results = pool.map(misbehave, ["raise", "exit", "killed", "loop", "memory"])
  said = [result.value for result in results]
  assert said[0].startswith("KeyError")
  assert "code 3" in said[1] and "code -9" in said[2]
  assert "0.7 seconds" in said[3] and said[4].startswith("MemoryError")


def test_items_larger_than_a_pipe(pool):
  big = b"x" * 2**20
  results = pool.map(len, [big] * 6)
  assert results == [Result(2**20, "done")] * 6
  (result,) = pool.map(bytes, [2**22])
  assert result.value == bytes(2**22)


def test_short_items_do_not_share_a_deadline(pool):
  # Together they take longer than 0.7 s at each worker; each one does not.
  results = pool.map(nap, [0.1] * 30)
  assert results == [Result(0.1, "done")] * 30


def test_a_worker_killed_while_it_has_no_work_is_replaced(pool):
  pids = {result.value for result in pool.map(whoami, range(200))}
  assert os.getpid() not in pids
  for pid in pids:
    os.kill(pid, signal.SIGKILL)
  assert gone(pids)
  after = pool.map(whoami, range(200))
  assert all(result.status == "done" for result in after)
  assert not pids & {result.value for result in after}


def test_what_a_worker_started_dies_with_it(pool, tmp_path):
  place = tmp_path / "pid"
  (result,) = pool.map(start_child, [str(place)])
  assert result.status == "timeout"
  assert gone([int(place.read_text())])


def test_map_from_threads(pool):
  found = {}

  def ask(i):
    found[i] = pool.map(misbehave, [i, "raise"])

  threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(timeout=20)
  assert {i: r[0].value for i, r in found.items()} == {
    i: i * i for i in range(4)
  }


def test_close_ends_all_processes_and_map_starts_anew():
  pool = pools.make(workers=2, seconds=5.0, memory=256)
  pool.close()  # nothing has started
  pids = {result.value for result in pool.map(whoami, range(100))}
  pool.close()
  assert gone(pids)
  assert pool.map(misbehave, [3]) == [Result(9, "done")]
  pool.close()


def test_options_and_functions_are_checked():
  for bad in ({"workers": 0}, {"seconds": 0.0}, {"memory": -1}):
    options = {"workers": 1, "seconds": 1.0, "memory": 64, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
      pools.make(**options)
  pool = pools.make(workers=1, seconds=1.0, memory=64)
  with pytest.raises(ValueError, match="function of a module"):
    pool.map(lambda x: x, [1])


def test_a_module_that_cannot_be_imported_is_an_error(tmp_path, monkeypatch):
  # The supervisor has the search path of its start, so it lacks this folder.
  pool = pools.make(workers=1, seconds=1.0, memory=64)
  assert pool.map(misbehave, [2]) == [Result(4, "done")]
  (tmp_path / "unheard_of.py").write_text("def f(x):\n  return x\n")
  monkeypatch.syspath_prepend(tmp_path)
  import unheard_of

  (result,) = pool.map(unheard_of.f, [1])
  assert result.status == "error" and "unheard_of" in result.value
  assert pool.map(misbehave, [2]) == [Result(4, "done")]
  pool.close()


PARENT = """
import os, sys, threading
sys.path[:0] = [{root!r}, {tests!r}]
import test_pool
from sitrain.tasks.verifiers import pool as pools
pool = pools.make(workers=2, seconds=30.0, memory=256)
pids = sorted({{r.value for r in pool.map(test_pool.whoami, range(200))}})
threading.Thread(
  target=pool.map, args=(test_pool.misbehave, ["loop"] * 4), daemon=True
).start()
import time; time.sleep(0.5)
print(*pids, flush=True)
{end}
"""


@pytest.mark.parametrize("end", [
  "os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(0)"
])
def test_no_process_outlives_its_program(end):
  script = PARENT.format(root=str(ROOT), tests=str(ROOT / "tests"), end=end)
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
  )
  pids = [int(word) for word in done.stdout.split()]
  assert pids, done.stderr
  # They are at work on endless loops with a deadline that is far away.
  assert gone(pids)


def test_the_workers_do_not_import_the_main_module(tmp_path):
  main = tmp_path / "main.py"
  main.write_text(
    f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    "print('imported', flush=True)\n"
    "import test_pool\n"
    "from sitrain.tasks.verifiers import pool as pools\n"
    "pool = pools.make(workers=1, seconds=5.0, memory=256)\n"
    "print(pool.map(test_pool.misbehave, [4])[0].value)\n"
  )
  done = subprocess.run(
    [sys.executable, str(main)], capture_output=True, text=True, timeout=60
  )
  assert done.stdout.split() == ["imported", "16"], done.stderr
