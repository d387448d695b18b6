"""How a run ends that cannot go on: when, with which line and which code."""

import json
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import loops
import optax
import pytest

from sitrain.runtime import (
  agree,
  checkpoint,
  errors,
  snapshot,
  stage,
  summary,
)
from sitrain.runtime.options import ConfigError
from sitrain.runtime.signals import Stopped
from sitrain.runtime.snapshot import NotFinite
from sitrain.types import Method, TrainState


def test_after_the_work_has_begun_only_a_config_error_is_bad_input(monkeypatch):
  monkeypatch.setattr(errors, "_BEGUN", threading.Event())
  wrong = ConfigError("x"), ValueError("x"), OSError("x"), NotFinite("x")
  assert list(map(errors.code_of, wrong)) == [2, 2, 1, 2]
  errors.begun()
  assert list(map(errors.code_of, wrong)) == [2, 1, 1, 1]
  assert issubclass(Stopped, ValueError)  # It has a code of its own.


METHOD = Method(*[lambda *given: ()] * len(Method._fields))
STAGE = loops.stage_of(METHOD, optax.sgd(1.0), held={})


def run_in(folder):
  """A run of which nothing but the folder is looked at."""
  return loops.run_of((), str(folder))


def state_of(value):
  adapters = {"policy": {"a": jnp.full((2, 8), value, jnp.float32)}}
  base = {"base": {"w": jnp.ones((1000, 100))}}
  return TrainState(
    jnp.int32(0), base, adapters, jax.tree.map(jnp.zeros_like, adapters), {}, ()
  )


@pytest.fixture
def begin(tmp_path, monkeypatch):
  """begin(state) -> bytes that were asked for, of a run that keeps two."""
  asked = []
  monkeypatch.setattr(stage, "began_at", lambda run, stage, first: first)
  monkeypatch.setattr(
    stage, "check_space", lambda folder, needed: asked.append(needed)
  )

  def ask(state):
    monkeypatch.setattr(stage, "start_state", lambda *given: state)
    manager = checkpoint.open_manager(tmp_path / "one")
    try:
      shapes = jax.eval_shape(lambda: state)
      stage.begin(run_in(tmp_path), STAGE, manager, shapes, 0)
    finally:
      checkpoint.finish(manager)
    return asked.pop()

  return ask


def test_the_disk_has_to_hold_what_is_written(begin):
  """The base that adapters adapt is in no checkpoint."""
  step, adapters, optimizer = 4, 2 * 8 * 4, 2 * 8 * 4
  # The last two, the best, and the one that is being written.
  assert begin(state_of(1.0)) == 4 * (step + adapters + optimizer)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_stage_that_begins_with_no_numbers_is_refused(begin, value):
  with pytest.raises(NotFinite) as error:
    begin(state_of(value))
  line = str(error.value)
  assert line.startswith("config.stage.one begins with numbers that are not fi")
  assert "params.policy.a" in line and "config.model.path" in line


def test_the_first_process_says_which_stages_are_left(tmp_path, monkeypatch):
  """A disk that shows this one an old summary makes it start no other stage."""
  said = {"stages": [{"name": "one", "end": 3}], "seconds": 1.0}
  assert summary.read(run_in(tmp_path)) == {}
  monkeypatch.setattr(summary, "from_first", lambda look: said)
  assert summary.read(run_in(tmp_path)) == said
  assert summary.unfinished([STAGE], said) == []
  monkeypatch.setattr(summary.memory, "check_stage", None)  # None is looked at.
  summary.check_left(run_in(tmp_path), [STAGE])


@pytest.fixture
def two(monkeypatch):
  """two(work) -> what both of two processes make of it; work(number).

  Each is a thread with a JAX of its own number, and they share a store.
  """
  store, here, met = {}, threading.local(), threading.Barrier(2, timeout=20)
  there, levels = threading.Condition(), {}

  def key_value_set(key, value):
    with there:
      store[key] = value
      there.notify_all()

  def blocking_key_value_get(key, _):
    with there:
      assert there.wait_for(lambda: key in store, 20)
      return store[key]

  def process_allgather(level):
    levels[here.number] = level
    met.wait()
    return agree.np.stack([levels[0], levels[1]])

  client = SimpleNamespace(
    key_value_set=key_value_set,
    blocking_key_value_get=blocking_key_value_get,
    wait_at_barrier=lambda name, _: met.wait(),
  )
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: here.number)
  monkeypatch.setattr(
    agree.jax_distributed, "global_state", SimpleNamespace(client=client)
  )
  monkeypatch.setattr(
    agree.multihost_utils, "process_allgather", process_allgather
  )

  class Count:
    """Of this process."""

    def __next__(self):
      here.count = getattr(here, "count", -1) + 1
      return here.count

  monkeypatch.setattr(agree, "_COUNT", Count())

  def run(work):
    found = {}

    def one(number):
      here.number = number
      try:
        found[number] = work(number)
      except Exception as error:
        found[number] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(2)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(30)
    return [found[0], found[1]]

  return run


def test_two_processes_hear_what_the_first_sees(two):
  ask = lambda i, x: agree.from_first(lambda: [i, x])
  found = two(lambda i: [ask(i, x) for x in "ab"])
  assert found == [[[0, "a"], [0, "b"]]] * 2


@pytest.mark.parametrize(
  "error", [ConfigError("in use"), ValueError("v"), PermissionError("p")]
)
def test_two_processes_fail_alike(two, error):
  def look():
    raise error

  found = two(lambda i: agree.from_first(look))
  assert [str(x) for x in found] == [str(error)] * 2
  kind = OSError if isinstance(error, OSError) else type(error)
  assert all(isinstance(x, kind) for x in found)


@pytest.mark.parametrize("levels, want", [
  ([0, 0], [(0, "said 0"), (0, "said 1")]),
  ([0, 1], [(1, "process 1: said 1"), (1, "said 1")]),
  ([2, 1], [(2, "said 0"), (2, "process 0: said 0")]),
])  # fmt: skip
def test_two_processes_take_the_worst_of_both(two, levels, want):
  found = two(lambda i: agree.worst(levels[i], f"said {i}"))
  assert found == want


@pytest.mark.parametrize("harm, said", [
  (OSError(24, "Too many open files"), "left as it is: OSError: [Errno 24]"),
  (ValueError("DATA_LOSS: Error decoding x"), "its arrays cannot be read"),
])  # fmt: skip
def test_what_one_process_cannot_read_is_the_same_for_both(
  two, tmp_path, monkeypatch, harm, said
):
  """Neither renames a checkpoint that the other goes on from."""
  record = {
    "layout": snapshot.LAYOUT, "arrays": {},
    "score": 0.0, "progress": dict.fromkeys(snapshot.Progress._fields),
  }  # fmt: skip
  (tmp_path / "record").mkdir()
  (tmp_path / "record" / "metadata").write_text(json.dumps(record))

  def read(path, wanted):
    if jax.process_index() == 1:
      raise harm
    return {}

  monkeypatch.setattr(snapshot, "_read_arrays", read)
  path = checkpoint.epath.Path(tmp_path)
  found = two(lambda i: snapshot.read(path, ()))
  if isinstance(harm, OSError):
    assert all(isinstance(x, OSError) and said in str(x) for x in found)
    assert str(found[0]) == f"process 1: {found[1]}"
  else:
    assert all(value == () and said in reason for value, reason in found)
