"""Which errors of reading prove a checkpoint damaged, and which prove nothing.

What is proven is set aside; else a run that was short of memory or of open
files for a moment would lose all that it has.
"""

import errno
import logging
import math
import os
import re
import resource
import shutil

import jax
import jax.numpy as jnp
import mains
import pytest
from test_runtime_checkpoint import (
  PROGRESS,
  assert_same,
  fill,
  largest_file,
  shapes,
  shifted,
  state,  # noqa: F401  A fixture.
)

from sitrain.runtime import (
  checkpoint,
  identity,
  policy,
  snapshot,
  storage,
  summary,
)
from sitrain.runtime.fields import STAGE
from sitrain.runtime.options import ConfigError
from sitrain.runtime.origins import check_sources

evaluating = mains.imported("sitrain.evaluate.__main__")
GCS = "UNAVAILABLE: Error reading gs://bucket/1/d/x: Backend Error"


def oserror(number):
  return OSError(number, os.strerror(number))


def of_tensorstore(text):
  """As orbax passes on what tensorstore raises."""
  error = Exception("Encountered error while reading array index: ()")
  error.__cause__ = ValueError(text)
  return error


DOUBTS = {
  "open files": oserror(errno.EMFILE),
  "rights": oserror(errno.EACCES),
  "stale": oserror(errno.ESTALE),
  "disk": oserror(errno.EIO),
  "reset": ConnectionResetError(errno.ECONNRESET, "reset by peer"),
  "memory": MemoryError(),
  "device memory": jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
  ),
  "ours": KeyError("policy"),
  "a file elsewhere": FileNotFoundError(errno.ENOENT, "no file", "/no/such"),
  "bucket": of_tensorstore(GCS),
  "bucket's rights": of_tensorstore(
    "PERMISSION_DENIED: Error reading gs://bucket/1/d/x: no access"
  ),
  "tensorstore's open files": of_tensorstore(
    'RESOURCE_EXHAUSTED: Error reading "w/0.0": [OS error 24: EMFILE Too many'
    " open files]"
  ),
  "a mount that is gone": of_tensorstore(
    'FAILED_PRECONDITION: Error reading "w/0.0": [OS error 107: ENOTCONN]'
  ),
  "a device that is gone": of_tensorstore(
    'NOT_FOUND: Error opening "w/0.0": [OS error 6: ENXIO No such device]'
  ),
}  # fmt: skip


@pytest.mark.parametrize("doubt", DOUBTS)
def test_what_proves_nothing_is_raised_and_nothing_is_renamed(
  tmp_path, state, monkeypatch, caplog, doubt  # noqa: F811
):
  fill(tmp_path, state, [0.1, 0.2])

  def fail(*given):
    raise DOUBTS[doubt]

  manager = checkpoint.open_manager(tmp_path)
  ways = (
    lambda: checkpoint.restore_last(manager, shapes(state)),
    lambda: checkpoint.restore(tmp_path, "last", shapes(state)),
  )
  for part in ("read_record", "_read_arrays", "_measured"):
    with monkeypatch.context() as patch:
      patch.setattr(snapshot, part, fail)
      for restore in ways:
        with pytest.raises(storage.StorageError) as found:
          restore()
        line = str(found.value)
        assert f"{tmp_path}/2" in line and "\n" not in line
  checkpoint.finish(manager)
  assert {"1", "2"} == {x for x in os.listdir(tmp_path) if x[0].isdigit()}
  assert not [r for r in caplog.records if r.name == "sitrain"]
  found, _ = checkpoint.restore(tmp_path, "last", shapes(state))
  assert_same(found, shifted(state, 2))


@pytest.mark.filterwarnings("ignore")  # of event loops that got no socket
def test_a_process_without_open_files_harms_nothing(
  tmp_path, state  # noqa: F811
):
  """At whatever file it runs out of them."""
  fill(tmp_path, state, [0.1])
  least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
  failed = 0
  for more in range(24):
    count = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (count - 1 + more, most))
    try:
      _, reason = snapshot.read(tmp_path_epath(tmp_path) / "1", shapes(state))
      assert not reason
    except OSError:
      failed += 1
    finally:
      resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
  assert 2 <= failed < 24


def tmp_path_epath(path):
  return checkpoint.epath.Path(path)


# What has to be said: where, and what is wrong there.
WHERE = {
  "data": "policy.w", "index": '"arrays/', "manifest": "arrays",
  "record": "record",
}
WRONG = re.compile(
  "failed|Truncated|byte range|decoding|not exist|NOT_FOUND|No such file|there"
  " is no|not found|UnicodeDecode|JSONDecode|[Cc]orrupt|have changed"
)


def flip(path):
  content = bytearray(path.read_bytes())
  for place in range(len(content) // 4, len(content), 16):
    content[place] ^= 0xFF
  path.write_bytes(bytes(content))


HARMS = {
  "flipped": flip,
  "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
  "gone": os.unlink,
}
FILES = {
  "data": lambda step: largest_file(step / "arrays"),
  "index": lambda step: next((step / "arrays" / "d").iterdir()),
  "manifest": lambda step: step / "arrays" / "manifest.ocdbt",
  "record": lambda step: step / "record" / "metadata",
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_what_is_proven_is_set_aside(
  tmp_path, state, caplog, file, harm  # noqa: F811
):
  fill(tmp_path, state, [0.1, 0.2])
  HARMS[harm](FILES[file](tmp_path / "2"))
  manager = checkpoint.open_manager(tmp_path)
  with caplog.at_level(logging.WARNING):
    found, _ = checkpoint.restore_last(manager, shapes(state))
  checkpoint.finish(manager)
  assert_same(found, shifted(state, 1))
  lines = [r.getMessage() for r in caplog.records if r.name == "sitrain"]
  assert len(lines) == 1 and "2.unusable" in lines[0] and "\n" not in lines[0]
  # What is wrong, and where, and not the settings of a library.
  told = lines[0].partition("cannot be used: ")[2]
  assert WHERE[file] in told and WRONG.search(told), told
  assert "details" not in told and "tensorstore_spec" not in told
  assert (tmp_path / "2.unusable").exists() and not (tmp_path / "2").exists()


def test_arrays_that_are_gone_are_proven(tmp_path, state):  # noqa: F811
  fill(tmp_path, state, [0.1, 0.2])
  shutil.rmtree(tmp_path / "2" / "arrays")
  found, _ = checkpoint.restore(tmp_path, "last", shapes(state))
  assert_same(found, shifted(state, 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_finished_run_says_which_of_its_checkpoints_are_damaged(
  tmp_path, state, caplog, monkeypatch  # noqa: F811
):
  names = ("base", "one", "two")
  for name in names:
    fill(tmp_path / name, state, [0.1, 0.2])
  summary.check_kept(tmp_path, names)
  assert not [r for r in caplog.records if r.name == "sitrain"]
  flip(largest_file(tmp_path / "base" / "2" / "arrays"))
  (tmp_path / "one" / "2" / "record" / "metadata").write_text("{")
  shutil.rmtree(tmp_path / "two")
  summary.check_kept(tmp_path, names)
  lines = [r.getMessage() for r in caplog.records if r.name == "sitrain"]
  for line, said in zip(lines, (
    "base/2 is damaged: ", "one/2 is damaged: its record",
    "there is no checkpoint in",
  ), strict=True):
    assert said in line and "summary.json" in line and "\n" not in line
  # Large arrays are not read for this, only looked for.
  monkeypatch.setattr(checkpoint, "SMALL", 0)
  assert not checkpoint.damage(tmp_path / "base")
  shutil.rmtree(tmp_path / "base" / "2" / "arrays")
  assert "are not there" in checkpoint.damage(tmp_path / "base")


def test_the_best_is_not_passed_over_in_silence(
  tmp_path, state, monkeypatch  # noqa: F811
):
  """A record that cannot be read at the moment may be the best one's."""
  fill(tmp_path, state, [0.9, 0.1])
  read = snapshot.read_record

  def fail_once(path):
    if path.name == "1":
      raise oserror(errno.EMFILE)
    return read(path)

  with monkeypatch.context() as patch:
    patch.setattr(snapshot, "read_record", fail_once)
    for ask in (checkpoint.roles, checkpoint.iterations):
      with pytest.raises(storage.StorageError, match=f"{tmp_path}/1 could not"):
        ask(tmp_path, "best")
    with pytest.raises(storage.StorageError, match="EMFILE|Too many open"):
      checkpoint.restore(tmp_path, "best", shapes(state))
  found, _ = checkpoint.restore(tmp_path, "best", shapes(state))
  assert_same(found, shifted(state, 1))
  # One that is damaged has no score.
  (tmp_path / "1" / "record" / "metadata").write_text("{")
  assert snapshot.score_of(tmp_path_epath(tmp_path) / "1") == -math.inf


def test_who_reads_while_a_run_goes_on_looks_again(
  tmp_path, state, monkeypatch, caplog  # noqa: F811
):
  """The run has removed what was being read, and has saved the next one."""
  fill(tmp_path, state, [0.1, 0.2])
  read = snapshot._read_arrays

  def overtaken(path, wanted):
    if path.name != "3":
      shutil.copytree(tmp_path / "2", tmp_path / "3")
      for step in "12":
        shutil.rmtree(tmp_path / step)
    return read(path, wanted)

  monkeypatch.setattr(snapshot, "_read_arrays", overtaken)
  found, _ = checkpoint.restore(tmp_path, "last", shapes(state))
  assert_same(found, shifted(state, 2))
  assert not [r for r in caplog.records if r.name == "sitrain"]


def broken(state, field):  # noqa: F811
  """The state with one number that is none, among many."""
  tree = getattr(state, field)
  leaves, shape = jax.tree.flatten(tree)
  place = next(i for i, x in enumerate(leaves) if x.size > 99)
  leaves[place] = leaves[place].at[3, 4].set(jnp.nan)
  return state._replace(**{field: jax.tree.unflatten(shape, leaves)})


@pytest.mark.parametrize("field", ["params", "opt_state", "held"])
def test_what_is_no_number_is_never_saved(tmp_path, state, field):  # noqa: F811
  state = state._replace(  # noqa: F811
    held={"reference": {"w": jnp.ones((64, 128), jnp.bfloat16)}},
    params=state.params | {"critic": {"w": state.params["policy"]["w"]}},
    memory={"least": jnp.full(3, -jnp.inf)},  # which may be what it likes
  )
  manager = checkpoint.open_manager(tmp_path)
  checkpoint.save(manager, 1, state, PROGRESS, 0.1)
  with pytest.raises(snapshot.NotFinite) as error:
    checkpoint.save(
      manager, 2, broken(state, field), PROGRESS._replace(step=2), 0.2
    )
  checkpoint.finish(manager)
  line = str(error.value)
  assert line.startswith("step 2 of stage_1 is not saved") and field in line
  assert "lower config.stage.stage_1.optimizer.learning_rate" in line
  assert [x for x in os.listdir(tmp_path) if x.startswith("2")] == []
  found, _ = checkpoint.restore(tmp_path, "last", shapes(state))
  assert_same(found, state)


def test_what_an_older_version_saved_without_numbers_is_refused(
  tmp_path, state, monkeypatch, caplog  # noqa: F811
):
  """It is whole, so it is not set aside; nothing goes on from it."""
  with monkeypatch.context() as patch:
    patch.setattr(snapshot, "_check_finite", lambda *given: None)
    manager = checkpoint.open_manager(tmp_path)
    checkpoint.save(manager, 1, state, PROGRESS, 0.1)
    checkpoint.save(manager, 2, broken(state, "params"), PROGRESS, 0.2)
    checkpoint.finish(manager)
  manager = checkpoint.open_manager(tmp_path)
  for restore in (
    lambda: checkpoint.restore_last(manager, shapes(state)),
    lambda: checkpoint.restore(tmp_path, "best", shapes(state)),
  ):
    with pytest.raises(snapshot.NotFinite, match=f"{tmp_path}/2 holds numbers"):
      restore()
  checkpoint.finish(manager)
  assert {"1", "2"} <= set(os.listdir(tmp_path))
  assert not [r for r in caplog.records if r.name == "sitrain"]


def warned(caplog):
  return [r.getMessage() for r in caplog.records if r.name == "sitrain"]


def test_readers_name_what_was_set_aside(
  tmp_path, state, caplog, monkeypatch  # noqa: F811
):
  """An older policy is evaluated than the one that the run had reached."""
  fill(tmp_path, state, [0.1, 0.2, 0.3])
  read = lambda which: checkpoint.restore(tmp_path, which, shapes(state))[0]
  # The run has gone on beyond this one, and nothing is missed.
  shutil.copytree(tmp_path / "2", tmp_path / "2.unusable")
  assert_same(read("last"), shifted(state, 3))
  assert not warned(caplog)
  shutil.move(tmp_path / "3", tmp_path / "3.unusable")
  assert_same(read("last"), shifted(state, 2))
  (line,) = warned(caplog)
  assert line.startswith(f"{tmp_path} has damaged checkpoints")
  assert "2.unusable, 3.unusable" in line and "2, which is older" in line
  read("best")  # Once is enough: a stage is read in several parts.
  assert len(warned(caplog)) == 1
  # The best one may be what was set aside, also where newer ones are.
  shutil.rmtree(tmp_path / "3.unusable")
  monkeypatch.setattr(checkpoint, "_TOLD", set())
  read("last"), read("best")
  assert warned(caplog)[1:] == [
    f"{tmp_path} has damaged checkpoints, which were set aside: 2.unusable. The"
    " best of the others is used, 2"
  ]


def stages_at(folder, state, *names):  # noqa: F811
  """The config of a run with these stages, of which the last is damaged."""
  for name in names:
    fill(folder / name, state, [0.1])
  (folder / names[-1] / "1").rename(folder / names[-1] / "1.unusable")
  return {"stages": names, "stage": {name: {} for name in names}}


def test_a_stage_of_which_all_is_damaged_is_named(
  tmp_path, state, caplog, monkeypatch  # noqa: F811
):
  folder = tmp_path_epath(tmp_path)
  config = stages_at(tmp_path, state, "a", "b")
  # An earlier stage is sampled and exported in its place, and not in silence.
  assert policy.stage_of(config, folder, "") == "a"
  assert policy.has_role(folder / "a", "policy")
  assert not policy.has_role(folder / "b", "policy")
  said = f"stage {folder}/b is left out: all that it has is damaged (1.unusa"
  assert [line.startswith(said) for line in warned(caplog)] == [True, True]
  alone = {"stages": ("b",), "stage": {"b": {}}}
  monkeypatch.setattr(evaluating, "STAGE", type("Flag", (), {"value": []}))
  monkeypatch.setattr(evaluating, "ROLE", type("Flag", (), {"value": "policy"}))
  ways = (
    lambda: policy.stage_of(config, folder, "b"),
    lambda: policy.stage_of(alone, folder, ""),
    lambda: evaluating.stage_names(alone, folder),
    lambda: checkpoint.roles(folder / "b", "last"),
    lambda: checkpoint.restore(folder / "b", "last", shapes(state)),
    lambda: check_sources("stage.c", STAGE | {"start": f"{folder}/b/last"}, []),
  )
  for ask in ways:
    with pytest.raises((ConfigError, FileNotFoundError)) as found:
      ask()
    line = str(found.value)
    assert "damaged (1.unusable)" in line and "put back a copy" in line
    assert str(folder) in line and "\n" not in line
  # Its options are not free to change: it is not begun anew from them.
  assert identity.begun_in(folder, config).stages == ("a", "b")


def test_what_a_reader_finds_damaged_is_named_too(tmp_path, state):  # noqa: F811
  fill(tmp_path, state, [0.1, 0.2])
  for step in "12":
    (tmp_path / step / "record" / "metadata").write_text("{")
  with pytest.raises(FileNotFoundError, match=r"is damaged \(1, 2\): put back"):
    checkpoint.restore(tmp_path, "last", shapes(state))


def test_the_cause_of_an_error_is_said_whole_in_one_line():
  """The path alone takes more than a line, and the cause stands after it."""
  place = "/a" * 90 + "/run/stage1/15"
  text = (
    f'FAILED_PRECONDITION: Error reading "params.w/0.0" in "{place}/arrays/":'
    " ZSTD failed: Data corruption\n detected [source locations='x.cc:1']"
  )
  error = Exception("Encountered error. See details: <bound method {\n}>")
  error.__cause__ = ValueError(text)
  assert storage.in_words(error, place) == (
    'ValueError: FAILED_PRECONDITION: Error reading "params.w/0.0" in "arrays/"'
    ": ZSTD failed: Data corruption detected"
  )
  long = storage.in_words(ValueError("start" + "x" * 999 + " end"), place)
  assert long.startswith("ValueError: start") and long.endswith("x end")
  assert len(long) < 450
  assert storage.in_words(MemoryError(), place) == "MemoryError"
