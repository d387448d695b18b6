"""A state that is saved comes back bit for bit, or the one before it does."""

import errno
import json
import logging
import math
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.runtime import checkpoint, errors, snapshot, storage
from sitrain.types import Progress, TrainState

PROGRESS = Progress(
  stage="stage_1",
  step=0,
  window={"judge/reward_1": [0.5, math.nan]},
  best=-math.inf,
  rows=3,
  done=False,
)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


@pytest.fixture(scope="module")
def state():
  w = jax.random.normal(jax.random.key(0), (64, 128))
  params = {"policy": {"w": w, "b": jnp.full((3,), 1e-3, jnp.bfloat16)}}
  return TrainState(
    step=jnp.int32(7),
    frozen={},
    params=params,
    opt_state=OPTIMIZER.init(params),
    held={},
    memory={"ids": jnp.arange(5), "full": jnp.array([True, False])},
  )


def shapes(tree):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def shifted(state, by):
  w = state.params["policy"]["w"] + by
  policy = {**state.params["policy"], "w": w}
  return state._replace(step=jnp.int32(by), params={"policy": policy})


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def fill(folder, state, scores):
  manager = checkpoint.open_manager(folder)
  for step, score in enumerate(scores, start=1):
    progress = PROGRESS._replace(step=step)
    assert checkpoint.save(manager, step, shifted(state, step), progress, score)
  checkpoint.finish(manager)


def steps_on_disk(folder):
  return sorted(int(name) for name in os.listdir(folder) if name.isdigit())


def largest_file(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def test_round_trip_keeps_the_last_and_the_best(tmp_path, state):
  fill(tmp_path, state, [0.1, 0.9, math.nan, 0.9, 0.2, 0.3, math.nan])
  assert steps_on_disk(tmp_path) == [4, 6, 7]  # of equal scores the later
  manager = checkpoint.open_manager(tmp_path)
  found, progress = checkpoint.restore_last(manager, shapes(state))
  assert_same(found, shifted(state, 7))
  assert progress.step == 7 and progress.best == -math.inf
  assert math.isnan(progress.window["judge/reward_1"][1])
  assert progress[4:] == PROGRESS[4:]
  checkpoint.save(manager, 8, shifted(state, 8), PROGRESS, 0.0)
  checkpoint.finish(manager)
  assert steps_on_disk(tmp_path) == [4, 7, 8]
  best, progress = checkpoint.restore(tmp_path, "best", shapes(state))
  assert_same(best, shifted(state, 4))
  assert progress.step == 4


def test_the_state_may_be_donated_after_save_and_after_restore(tmp_path, state):
  overwrite = jax.jit(
    lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0
  )
  big = jnp.arange(2_000_000.0)
  given = TrainState(jnp.int32(1), {}, {"w": big + 0}, (), {}, ())
  manager = checkpoint.open_manager(tmp_path)
  checkpoint.save(manager, 1, given, PROGRESS, 0.0)
  overwrite(given)
  manager.wait_until_finished()
  found, _ = checkpoint.restore_last(manager, shapes(given))
  checkpoint.finish(manager)
  np.testing.assert_array_equal(found.params["w"], big)
  overwrite(found)
  assert found.params["w"].is_deleted()


def test_a_part_of_a_state_can_be_restored(tmp_path, state):
  fill(tmp_path, state, [0.1])
  want = shapes(state)._replace(opt_state=(), memory=())
  found, _ = checkpoint.restore(tmp_path, "last", want)
  assert found.opt_state == ()
  assert_same(found.params, shifted(state, 1).params)


def test_a_flipped_bit_is_found_and_the_one_before_is_used(
  tmp_path, state, caplog
):
  fill(tmp_path, state, [0.1, 0.2, 0.3])
  path = largest_file(tmp_path / "3" / "arrays")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  found, _ = checkpoint.restore(tmp_path, "best", shapes(state))
  assert_same(found, shifted(state, 2))
  caplog.clear()
  manager = checkpoint.open_manager(tmp_path)
  with caplog.at_level(logging.WARNING):
    found, _ = checkpoint.restore_last(manager, shapes(state))
  assert_same(found, shifted(state, 2))
  lines = [r.getMessage() for r in caplog.records if r.name == "sitrain"]
  assert len(lines) == 1 and "checkpoint" in lines[0] and "/3" in lines[0]
  # Its step is free again: the run that goes on saves it anew.
  assert checkpoint.save(manager, 3, shifted(state, 3), PROGRESS, 0.3)
  checkpoint.finish(manager)
  found, _ = checkpoint.restore(tmp_path, "last", shapes(state))
  assert_same(found, shifted(state, 3))


# Tensorstore leaves the futures of a failed read or write behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("harm", ["record", "array", "score", "unfinished"])
def test_half_written_checkpoints_are_left_out(tmp_path, state, caplog, harm):
  fill(tmp_path, state, [0.1, 0.2])
  if harm == "record":
    (tmp_path / "2" / "record" / "metadata").write_text('{"progr')
  elif harm == "array":
    os.truncate(largest_file(tmp_path / "2" / "arrays"), 10)
  elif harm == "score":
    (tmp_path / "2" / "metrics" / "metrics").write_text("")
  else:
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
  with caplog.at_level(logging.WARNING):
    manager = checkpoint.open_manager(tmp_path)
    found, progress = checkpoint.restore_last(manager, shapes(state))
  checkpoint.finish(manager)
  assert progress.step == 1
  assert_same(found, shifted(state, 1))
  lines = [r.getMessage() for r in caplog.records if r.name == "sitrain"]
  assert len(lines) == 1 and "2" in lines[0] and "\n" not in lines[0]


def test_no_usable_checkpoint_names_the_folder(tmp_path, state):
  manager = checkpoint.open_manager(tmp_path)
  with pytest.raises(FileNotFoundError, match="train this stage first") as info:
    checkpoint.restore_last(manager, shapes(state))
  checkpoint.finish(manager)
  assert str(tmp_path) in str(info.value)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    checkpoint.restore(tmp_path / "nowhere", "best", shapes(state))
  with pytest.raises(ValueError, match="best or last"):
    checkpoint.restore(tmp_path, "first", shapes(state))


def test_another_model_is_no_damage(tmp_path, state):
  fill(tmp_path, state, [0.1])
  want = shapes(state)
  other = want._replace(step=jax.ShapeDtypeStruct((2,), jnp.int32))
  with pytest.raises(ValueError, match=r"int32\[\] for step.*int32\[2\]"):
    checkpoint.restore(tmp_path, "last", other)
  more = want._replace(held={"a": jax.ShapeDtypeStruct((2,), jnp.int32)})
  with pytest.raises(ValueError, match="nothing for held.a"):
    checkpoint.restore(tmp_path, "last", more)
  assert steps_on_disk(tmp_path) == [1]


def test_the_fingerprint_sees_changes_and_places():
  x = jax.random.normal(jax.random.key(1), (4, 6))
  for y in (x.at[1, 2].add(1e-6), x[:, ::-1], x[::-1], -x, x.T):
    assert snapshot.fingerprint(x) != snapshot.fingerprint(y)
  for dtype in (jnp.bfloat16, jnp.int8, jnp.bool_, jnp.int32):
    a = jnp.array([1, 0, 0], dtype)
    assert snapshot.fingerprint(a) != snapshot.fingerprint(a[::-1])
  # The finalizer of MurmurHash3 of 1, as published.
  assert snapshot.fingerprint(jnp.int32(0)) == 0x514E28B7


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 1 MB, where the machine allows to make one."""
  command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
  try:
    made = subprocess.run(command, check=False, capture_output=True, timeout=10)
  except OSError:
    pytest.skip("no mount command")
  if made.returncode:
    pytest.skip("mounting needs root")
  yield tmp_path
  subprocess.run(["umount", "-l", str(tmp_path)], check=True, timeout=10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_line_and_harms_nothing(small_disk, caplog):
  folder = small_disk / "stage_1"
  w = jax.random.normal(jax.random.key(0), (100, 1000))
  given = TrainState(jnp.int32(1), {}, {"w": w}, (), {}, ())
  manager = checkpoint.open_manager(folder, keep=9)
  with pytest.raises(OSError) as error:
    for step in range(1, 6):
      checkpoint.save(manager, step, given, PROGRESS, 0.0)
      # A save that has failed by now says so here, else in what follows.
      with storage.explaining(folder):
        manager.check_for_errors()
    checkpoint.finish(manager)
  assert error.value.errno == errno.ENOSPC
  assert str(folder) in str(error.value) and "\n" not in str(error.value)
  assert not [r for r in caplog.records if r.name == "absl" and r.exc_info]
  found, _ = checkpoint.restore(folder, "last", shapes(given))
  assert_same(found, given)


def raised(error):
  """What becomes of an error that came out of a save."""
  with pytest.raises(type(error)) as found, storage.explaining("folder"):
    raise error
  return found.value


def test_what_is_no_full_disk_is_raised_as_it_is():
  error = KeyError("x")
  assert raised(error) is error and error.__cause__ is None
  for other in (
    ValueError("quota, forbidden, unavailable"),
    FileNotFoundError(errno.ENOENT, "no such file", "/quota/forbidden"),
  ):
    assert raised(other) is other
  try:
    try:
      raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
    except ValueError as inner:
      raise RuntimeError("save failed") from inner
  except RuntimeError as outer:
    found = storage.explained(outer, "folder")
  assert found.errno == errno.ENOSPC and "folder" in str(found)
  # What a disk says, and how Tensorstore passes it on.
  for number, said in (
    (errno.ENOSPC, "no space left"), (errno.EDQUOT, "raise the quota"),
    (errno.EFBIG, "ulimit -f"),
  ):
    why = os.strerror(number)
    passed_on = ValueError(
      f'OUT_OF_RANGE: Error writing local file "w/0": Failed to write 9 bytes'
      f" to file 4: {why} [os_error_code='{number}']"
    )
    for error in (OSError(number, why, "w/0"), passed_on):
      found = storage.explained(error, "folder")
      assert found.errno == storage.takes_no_more(error) == number
      assert said in str(found) and storage.AGAIN in str(found)
      assert said in errors.one_line(error).lower()


def test_errors_that_are_a_ring_end():
  one, two = ValueError("one"), ValueError("two")
  one.__cause__, two.__cause__ = two, one
  assert [str(e) for e in storage.chain(one)] == ["one", "two"]
  assert storage.meaning(one, "folder") == ""


@pytest.mark.parametrize(
  "error, words",
  [
    (
      'PERMISSION_DENIED: Error writing "w" at gs://quota/x: The caller has no'
      " access. [http_response_code='403']",
      "no permission for gs://b: give this machine's account the role",
    ),
    (
      "PERMISSION_DENIED: Error writing gs://b/x: The quota of the project is"
      " exceeded. [spec='x']",
      "the quota of gs://b is used up: free some space",
    ),
    (
      "UNAVAILABLE: Error reading gs://b/x: Backend Error",
      "gs://b does not answer, though it was asked again and again",
    ),
  ],
)
def test_tensorstores_errors_are_told_in_a_line(error, words):
  line = str(storage.explained(ValueError(error), "gs://b"))
  assert line.startswith(words) and "\n" not in line


@pytest.mark.parametrize(
  "change",
  [
    {"layout": 1},
    {"layout": 3},
    {"progress": {"stage": "a", "step": 1}},
    {"arrays": ...},
  ],
)
def test_another_layout_is_refused_and_nothing_is_harmed(
  tmp_path, state, change
):
  fill(tmp_path, state, [0.1])
  file = tmp_path / "1" / "record" / "metadata"
  record = json.loads(file.read_text()) | change
  record = {k: v for k, v in record.items() if v is not ...}
  file.write_text(json.dumps(record))
  manager = checkpoint.open_manager(tmp_path)
  words = "has (layout 1|layout 3|an older layout), this version"
  with pytest.raises(ValueError, match=words) as info:
    checkpoint.restore_last(manager, shapes(state))
  assert "another workdir" in str(info.value) and "\n" not in str(info.value)
  checkpoint.finish(manager)
  assert steps_on_disk(tmp_path) == [1]


def test_records_without_a_layout_have_the_first(tmp_path, state):
  """Its states held one reference, so they are refused in one line."""
  fill(tmp_path, state, [0.1])
  file = tmp_path / "1" / "record" / "metadata"
  record = json.loads(file.read_text())
  assert record.pop("layout") == snapshot.LAYOUT == 2
  file.write_text(json.dumps(record))
  with pytest.raises(ValueError, match="has layout 1, .* reads 2: go") as info:
    checkpoint.restore(tmp_path, "last", shapes(state))
  assert "\n" not in str(info.value)


def test_a_memory_of_another_shape_is_refused_in_one_line(tmp_path, state):
  fill(tmp_path, state, [0.1])
  found, _ = checkpoint.restore(tmp_path, "last", shapes(state))
  assert_same(found.memory, state.memory)
  ids = jax.ShapeDtypeStruct((9,), jnp.int32, sharding=state.step.sharding)
  other = shapes(state)._replace(memory={"ids": ids})
  with pytest.raises(ValueError) as info:
    checkpoint.restore(tmp_path, "last", other)
  line = str(info.value)
  assert "int32[5] for memory.ids, this run needs int32[9]" in line
  assert "another workdir" in line and "\n" not in line


def test_roles_and_iterations_of_a_checkpoint_are_known(tmp_path, state):
  params = {"policy": state.params["policy"], "critic": {"w": jnp.ones(2)}}
  manager = checkpoint.open_manager(tmp_path)
  progress = PROGRESS._replace(step=3, first=40)
  checkpoint.save(manager, 3, state._replace(params=params), progress, 0.0)
  checkpoint.finish(manager)
  assert checkpoint.roles(tmp_path, "last") == {"policy", "critic"}
  assert checkpoint.iterations(tmp_path, "last") == 43


def test_numbers_are_cast_where_that_is_asked_for(tmp_path, state):
  """A stage may start in another dtype; a run does not go on in one."""
  fill(tmp_path, state, [0.1])
  swap = {jnp.dtype("float32"): jnp.bfloat16, jnp.dtype("bfloat16"): "float32"}
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, swap[x.dtype], sharding=x.sharding),
    shapes(state).params,
  )
  other = shapes(state)._replace(params=params, opt_state=(), memory=())
  with pytest.raises(ValueError, match=r"has bfloat16\[3\] for .*needs float"):
    checkpoint.restore(tmp_path, "last", other)
  found, _ = checkpoint.restore(
    tmp_path, "last", other, fit=snapshot.cast_dtypes
  )
  cast = lambda x: x.astype(swap[x.dtype])
  assert_same(found.params, jax.tree.map(cast, shifted(state, 1).params))
  wrong = other._replace(step=jax.ShapeDtypeStruct((), jnp.float32))
  with pytest.raises(ValueError, match=r"int32\[\] for step"):
    checkpoint.restore(tmp_path, "last", wrong, fit=snapshot.cast_dtypes)
