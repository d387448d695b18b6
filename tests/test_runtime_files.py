"""Records, summaries, the workdir and when to stop: all on the host."""

import contextlib
import errno
import importlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import struct
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from sitrain.runtime import (
  activity,
  distributed,
  early,
  errors,
  lock,
  logs,
  metrics,
  packages,
  peers,
  progress,
  rows_file,
  scratch,
  services,
  sinks,
  stopping,
  workdir,
)
from sitrain.runtime.options import ConfigError
from sitrain.runtime.page import files, one_run
from sitrain.types import Mean

SUMMARY = {
  "config_hash": "abc",
  "device": "cpu",
  "seconds": 3725.0,
  "seed": 0,
  "stages": [
    {
      "name": "stage_1",
      "accuracy_1": 0.5,
      "accuracy_2": 0.625,
      "gain": 0.125,
      "incorrect_to_correct": 0.2,
      "resample": {"accuracy_2": 0.51, "cs": 0.1, "cl": None},
      "intervals": {"accuracy_1": [0.45, 0.55]},
    },
    {"name": "stage_2"},
  ],
  "dialogues": [
    {
      "problem": "1 < 2 & 3",
      "attempt_1": "<script>no</script>",
      "instruction": "again",
      "attempt_2": "yes",
      "right_1": False,
      "right_2": True,
    },
    {"problem": "alone"},
  ],
}


def test_records_divide_once_and_nothing_counted_is_null():
  two = {
    "judge/reward_1": Mean(jnp.array([3.0, 1.0]), jnp.array([4.0, 0.0])),
    "learn/kl_1": Mean(jnp.array([-1.0, 2.0]), jnp.array([2.0, 8.0])),
  }
  found = metrics.records(two)
  assert found[0] == {"judge/reward_1": 0.75, "learn/kl_1": -0.5}
  assert math.isnan(found[1]["judge/reward_1"])
  line = metrics.to_line({"stage": "a", "step": 2, **found[1]})
  parse = {"parse_constant": pytest.fail}  # NaN is no JSON
  assert json.loads(line, **parse)["judge/reward_1"] is None
  assert json.loads(line)["learn/kl_1"] == 0.25


def test_records_of_unequal_lengths_are_refused():
  one, two = (Mean(jnp.ones(n), jnp.ones(n)) for n in (1, 2))
  with pytest.raises(ValueError, match="numbers of steps"):
    metrics.records({"a": one, "b": two})


def test_finite_reaches_inside():
  value = {"a": [np.float32("nan"), (1, np.inf)], "b": jnp.arange(2)}
  assert metrics.finite(value) == {"a": [None, [1, None]], "b": [0, 1]}


def test_truncate_drops_what_lies_beyond_the_restored_step(tmp_path):
  path = tmp_path / "metrics.jsonl"
  sink = sinks.jsonl(path)
  steps = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]
  for stage, step in steps:
    sink.write({"stage": stage, "step": step})
  sink.close()
  with open(path, "a") as file:
    file.write('{"stage": "c", "st')  # a killed run
  before = path.read_text().splitlines(keepends=True)
  assert sinks.truncate(path, "b", 2) == 3
  assert path.read_text() == "".join(before[:4])
  assert sinks.truncate(path, "d", 0) == 0
  assert sinks.truncate(tmp_path / "none", "a", 0) == 0
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
  sink = sinks.jsonl(path)
  sink.write({"stage": "b", "step": 3})
  assert json.loads(path.read_text().splitlines()[-1])["step"] == 3


def test_what_a_crash_left_in_a_file_of_records_is_skipped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  whole = b'{"stage": "a", "step": 1}\n'
  path.write_bytes(whole + b'\0\0\n3\n\xff\xfe\n{"stage": "a", "st')
  assert files.read_records(path) == [{"stage": "a", "step": 1}]
  assert sinks.truncate(path, "a", 1) == 4
  assert path.read_bytes() == whole


def test_a_cut_truncate_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"stage": "a", "step": 1}\n{"stage": "a", "step": 2}\n')
  old = path.read_text()

  def killed(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    sinks.truncate(path, "a", 1)
  assert path.read_text() == old


def test_objects_are_rewritten_whole(tmp_path):
  path = sinks.epath.Path(tmp_path / "m.jsonl")
  path.write_text("old\n")
  sink = sinks._rewritten(path, every=1e9)
  sink.write({"step": 1})
  assert path.read_text() == "old\n"
  sink.flush()
  assert path.read_text() == 'old\n{"step": 1}\n'
  sink.write({"step": 2})
  sink.close()
  assert path.read_text() == 'old\n{"step": 1}\n{"step": 2}\n'


def test_what_was_dropped_does_not_come_back(tmp_path, monkeypatch):
  """A resumed run opens the file first, and drops records afterwards."""
  monkeypatch.setattr(sinks, "is_remote", lambda path: True)
  path = sinks.epath.Path(tmp_path / "m.jsonl")
  lines = [metrics.to_line({"stage": "a", "step": i}) for i in (1, 2, 3)]
  path.write_text("".join(lines))
  sink = sinks.jsonl(path)
  assert sinks.truncate(path, "a", 1) == 2
  sink.write({"stage": "a", "step": 2})
  sink.close()
  assert path.read_text() == "".join(lines[:2])


def test_events_for_a_bucket_are_copied(tmp_path, monkeypatch):
  monkeypatch.setattr(sinks, "is_remote", lambda path: True)
  folder = tmp_path / "board"
  folder.mkdir()
  board = sinks.tensorboard(folder, every=1e9)
  board.write({"stage": "a", "step": 1, "x": 2.0})
  board.flush()
  assert len(list(folder.iterdir())) == 1
  board.write({"stage": "a", "step": 2, "y": 2.0})
  board.flush()  # too soon after the first
  board.close()
  file = next(folder.iterdir()).read_bytes()
  assert b"a/x" in file and b"a/y" in file


def test_join_writes_and_closes_all(tmp_path):
  seen = []
  one = sinks.Sink(seen.append, lambda: seen.append("closed"))
  board = sinks.tensorboard(tmp_path / "board")
  both = sinks.join([one, board])
  both.write({"stage": "a", "step": 1, "x": 2.0, "y": math.nan, "z": None})
  both.close()
  assert seen[0]["x"] == 2.0 and seen[1] == "closed"
  file = next((tmp_path / "board").iterdir()).read_bytes()
  assert b"a/x" in file and b"a/y" not in file


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(sinks.jax, "process_index", lambda: 1)
  path = tmp_path / "metrics.jsonl"
  sinks.jsonl(path).write({"step": 1})
  assert not path.exists()


@pytest.mark.parametrize("name", services.SERVICES)
def test_a_missing_service_says_how_to_get_it(name, monkeypatch):
  monkeypatch.setitem(sys.modules, name, None)
  line = f"config.run.{name}: {name} is not installed: pip install 'sitrain"
  with pytest.raises(ConfigError, match=re.escape(f"{line}[{name}]', or leav")):
    services.check_installed({name: "p"})
  services.check_installed({name: "", "keep": 2})


def test_a_source_tree_on_the_path_is_no_installed_package(
  tmp_path, monkeypatch
):
  """As after `pip install --editable`, started from the checkout."""
  (tmp_path / "ours.egg-info").mkdir()
  text = "Metadata-Version: 2.1\nName: ours\nVersion: 1\n"
  (tmp_path / "ours.egg-info" / "PKG-INFO").write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  assert any(d.name == "ours" for d in packages.metadata.distributions())
  found = packages.installed()
  assert found["jax"] == jax.__version__ and "ours" not in found


def test_a_run_that_goes_on_with_other_versions_says_so(tmp_path, caplog):
  begun = {"numpy": "2.4.6", "jax": "0.10.2", "black": "1"}
  packages.keep(tmp_path, begun)
  path = tmp_path / "packages.txt"
  text = "black==1\njax==0.10.2\nnumpy==2.4.6\n"
  assert path.read_text() == text  # As pip reads it.
  logging.getLogger("sitrain").propagate = True
  packages.keep(tmp_path, begun | {"tool": "3"})
  assert not caplog.records
  packages.keep(tmp_path, {"numpy": "2.5.0", "jax": "0.11.2"})
  (record,) = caplog.records
  said = record.getMessage()
  assert "jax 0.10.2, now 0.11.2; numpy 2.4.6, now 2.5.0" in said
  assert f"pip install -r {path}" in said and path.read_text() == text
  found = packages.installed()
  assert found["jax"] == jax.__version__ and "sitrain" not in found
  differs = distributed.first_difference(
    [("a", {"jax": "1"}), ("b", {"jax": "2"})]
  )
  assert "process 1 (b) has jax 2, process 0 (a) has 1" in differs


class Wandb:
  """A stand-in that keeps what each run has, as their server does."""

  def __init__(self):
    self.runs = {}

  def init(self, **given):
    if given["project"] == "closed":
      raise RuntimeError("api_key not configured")
    self.given = given
    self.steps = self.runs.setdefault(given["id"], {})
    self.step = max(self.steps, default=-1) + 1
    return self

  def log(self, numbers, step):
    assert step not in self.steps and step >= self.step
    self.steps[step] = numbers

  offline = False

  def finish(self):
    pass


def test_a_workdir_is_one_run_of_wandb_and_no_step_comes_twice(
  tmp_path, monkeypatch
):
  there = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", there)

  def run(folder, iterations):
    sink = services.wandb(folder, project="p", config={})
    for i in iterations:
      # The first stage has three steps.
      name, step = ("a", i) if i <= 3 else ("b", i - 3)
      at = {"stage": name, "step": step, "iteration": i}
      sink.write(at | {"x": float(i)})
    sink.close()

  # Preempted, and resumed from the checkpoint before its last records.
  one, other = tmp_path / "one" / "run", tmp_path / "other" / "run"
  for folder in (one, other):
    folder.mkdir(parents=True)
    run(folder, range(1, 6))
    run(folder, range(5, 8))
  assert len(there.runs) == 2
  assert there.given["name"] == "run" and there.given["dir"] == str(other)
  for logged in there.runs.values():
    assert sorted(logged) == list(range(1, 8))
    assert logged[3]["a/x"] == 3.0 and logged[4] == {"b/x": 4.0, "b/step": 1.0}
  # What it writes while it sends cannot lie on a bucket.
  monkeypatch.setattr(services, "is_remote", lambda path: True)
  run(one, [])
  assert str(one) not in there.given["dir"] and len(there.runs) == 2
  assert not pathlib.Path(there.given["dir"]).exists()
  there.offline = True  # Nothing was sent.
  run(one, [])
  assert pathlib.Path(there.given["dir"]).exists()
  shutil.rmtree(there.given["dir"])
  with pytest.raises(ConfigError, match="not configured: run `wandb login`"):
    services.wandb(one, project="closed", config={})


def test_a_resumed_run_purges_what_it_writes_again(tmp_path):
  found = []
  for iterations in (range(1, 6), range(5, 8)):
    # Names of files are seconds: two of them would be one.
    board = sinks.tensorboard(tmp_path / str(len(found)))
    for i in iterations:
      board.write({"stage": "b", "step": i - 3, "iteration": i, "x": 1.0})
    board.close()
    (path,) = (tmp_path / str(len(found))).iterdir()
    events = [Event.FromString(data) for data in record_reader(path)]
    starts = [e.step for e in events if e.HasField("session_log")]
    steps = [e.step for e in events if e.HasField("summary")]
    found.append((starts, steps))
  assert found == [([1], [1, 2, 3, 4, 5]), ([5], [5, 6, 7])]


def record_reader(path):
  """The records of a file of events."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    (size,) = struct.unpack_from("<Q", data, at)
    yield data[at + 12:at + 12 + size]
    at += 16 + size


def test_plateau_needs_height_and_flatness():
  until = stopping.plateau("r", span=3, tolerance=0.01, above=0.8)
  low, rise, high = [0.5] * 3, [0.5, 0.7, 0.9], [0.9] * 3
  assert not until({})
  assert not until({"r": high})  # not enough steps yet
  assert not until({"r": low + low})  # flat, but below
  assert not until({"r": low + high})  # high, but still rising
  assert until({"r": low + rise + high + high})  # the last six count
  assert until({"r": high + [0.8, math.nan, 0.9]})
  assert not until({"r": high + [math.nan] * 3})
  with pytest.raises(ValueError, match="did you mean 'judge/reward_2'"):
    stopping.plateau("judge/reward2", span=1, tolerance=0.0, above=0.0)(
      {"judge/reward_2": [1.0]}
    )


def test_the_window_stays_aligned_and_bounded():
  window = stopping.extend({}, [{"a": 1.0}, {"a": 2.0, "b": 5.0}], 3)
  assert window["a"] == [1.0, 2.0]
  assert math.isnan(window["b"][0]) and window["b"][1] == 5.0
  window = stopping.extend(window, [{"a": 3.0}, {"a": 4.0}], 3)
  assert window["a"] == [2.0, 3.0, 4.0]
  assert window["b"][0] == 5.0 and len(window["b"]) == 3


def test_until_by_name():
  assert not stopping.make("never")({"r": [1.0] * 9})
  with pytest.raises(ValueError, match="did you mean 'plateau'"):
    stopping.make("platau")


def begin(stage):
  """What a stage that writes rows leaves as soon as it has begun."""
  stage.mkdir()
  (stage / "rows.jsonl").write_text("")


def test_a_workdir_of_another_config_is_refused(tmp_path):
  config = {
    "seed": 1,
    "method": {"bonus": 2.0, "sizes": (1, 2)},
    "run": {"a": 1},
    "stages": ("one",),
    "stage": {"one": {}},
  }
  name = workdir.claim(tmp_path, config)
  begin(tmp_path / "one")
  again = {**config, "run": {"a": 2}}
  assert workdir.claim(tmp_path, again) == name
  other = {**config, "method": {"bonus": 10.0, "sizes": (1, 2)}}
  assert workdir.config_hash(other) != name
  with pytest.raises(ValueError) as error:
    workdir.claim(tmp_path, other)
  text = str(error.value)
  assert "config.method.bonus=2.0, this one has 10.0" in text
  assert "--config.method.bonus=2.0" in text and "\n" not in text
  with pytest.raises(ValueError, match=r"config.new=\(not set\)"):
    workdir.claim(tmp_path, {**config, "new": 1})


def test_the_hash_knows_no_order():
  one = workdir.config_hash({"a": 1, "b": {"c": 2, "d": 3}})
  assert one == workdir.config_hash({"b": {"d": 3, "c": 2}, "a": 1})
  assert re.fullmatch("[0-9a-f]{12}", one)


def test_json_is_replaced_whole(tmp_path, monkeypatch):
  path = tmp_path / "deep" / "x.json"
  workdir.write_json(path, {"a": math.nan})
  assert workdir.read_json(path) == {"a": None}

  def killed(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    workdir.write_json(path, {"a": 2})
  assert workdir.read_json(path) == {"a": None}


@pytest.fixture
def full(monkeypatch):
  """A disk on which a file can be made, and nothing be written to it."""

  def fail(path, *content):
    if not isinstance(path, int):  # fsync's is open.
      os.close(os.open(path, os.O_CREAT))
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", fail)

  for name in ("write_bytes", "write_text"):
    monkeypatch.setattr(type(sinks.epath.Path("/")), name, fail)


WRITES = {
  "check": lambda path: workdir.check_folder(str(path), "--workdir"),
  "summary": lambda path: workdir.write_json(path / "summary.json", {}),
  "rows": lambda path: rows_file.add(path / "rows.jsonl", [{"row": 1}]),
  "versions": lambda path: packages.keep(path, {"a": "1"}),
  "report": one_run.write_report,
  "truncate": lambda path: sinks.truncate(path / "metrics.jsonl", "a", 0),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_is_named_and_nothing_stays_half_written(
  write, tmp_path, full
):
  """An error of a write has no name of a file, unlike one of an open."""
  line = '{"stage": "a", "step": 1}\n'
  with open(tmp_path / "metrics.jsonl", "w") as file:
    file.write(line)
  with pytest.raises(OSError) as error:
    WRITES[write](sinks.epath.Path(tmp_path))
  told = errors.one_line(error.value)
  assert told.startswith(f"no space left in {tmp_path}") and "\n" not in told
  assert "free some space and start the same command again" in told
  assert errors.code_of(error.value) == 1  # The command line is right.
  left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
  assert left == ["metrics.jsonl"]
  assert (tmp_path / "metrics.jsonl").read_text() == line


def test_a_record_and_a_folder_on_a_full_disk_name_it(tmp_path, monkeypatch):
  sink = sinks.jsonl(tmp_path / "metrics.jsonl")
  monkeypatch.setattr(
    sinks, "to_line", lambda record: os.write(os.open("/dev/full", 1), b"x")
  )
  with pytest.raises(OSError, match=f"no space left in {tmp_path}: free"):
    sink.write({})

  def mkdir(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

  monkeypatch.setattr(os, "mkdir", mkdir)
  with pytest.raises(OSError, match=f"no space left in {tmp_path}: free"):
    with lock.held("--workdir", tmp_path / "a" / "b" / "lock.json"):
      pass


def test_too_little_space_is_said_before_the_run(tmp_path):
  workdir.check_space(tmp_path / "not" / "there", 1)
  workdir.check_space("gs://bucket/run", 10**18)
  with pytest.raises(OSError, match="free some space"):
    workdir.check_space(tmp_path, 10**18)
  assert workdir.array_bytes({"a": jnp.zeros((2, 3)), "b": ()}) == 24


def test_progress_says_a_line_at_borders_and_by_time():
  said = []
  shown = progress.plain(said.append, every=1e9)
  record = {"judge/reward_1": 0.5, "judge/reward_2": math.nan}
  for stage in ("a", "b"):
    for step in range(4):
      shown.update(stage, step, 3, record, 1234.6)
  assert [text.split("  ")[0] for text in said] == [
    "a 0/3",
    "a 3/3",
    "b 0/3",
    "b 3/3",
  ]
  assert "reward 1 0.500  reward 2 -  1,235 tokens/s" in said[0]
  assert progress.time_left(10, 20, 50, 5.0) == 15.0
  assert progress.duration(3725.0) == "1:02:05"
  assert progress.duration(math.nan) == "?"


def test_progress_lives_on_a_terminal(clock):
  console = progress.Console(record=True, width=100, force_terminal=True)
  shown = progress.live(console)
  with activity.during("reading weights"):
    clock[0] += 65
    activity._notify("at", activity.now())
  shown.update("stage_1", 2, 4, {"judge/reward_1": 0.5}, 10.0)
  shown.close()
  text = console.export_text()
  assert "stage_1" in text and "2/4" in text and "reward 1 0.500" in text
  assert "reading weights: 65.0 s" in text
  assert "screen" not in activity._FOLLOWERS


@pytest.fixture
def clock(monkeypatch):
  """Seconds, of activities and displays; no thread tells of them."""
  now = [100.0]
  fake = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
  for module in (activity, progress, logs):
    monkeypatch.setattr(module, "time", fake)
  monkeypatch.setattr(activity, "_TICKING", [None])
  monkeypatch.setattr(activity, "_FOLLOWERS", {})
  return now


def ticks(clock, seconds):
  for _ in range(seconds):
    clock[0] += 1
    activity._notify("at", activity.now())


def test_what_takes_long_is_said_with_its_seconds(clock):
  said = []
  shown = progress.plain(said.append, every=30.0)
  with activity.during("a moment"):
    ticks(clock, 1)
  with activity.during("reading weights"):
    ticks(clock, 70)
  with activity.during("compiling one (4 programs)"):
    with activity.during("a moment"):
      ticks(clock, 1)
    ticks(clock, 3)
  assert said == [
    "reading weights ...", "reading weights: 0:00:32 so far",
    "reading weights: 0:01:02 so far", "reading weights: 70.0 s",
    "compiling one (4 programs) ...", "compiling one (4 programs): 4.0 s",
  ]
  # Of many waves only that nothing else was said for long.
  del said[:]
  for i in range(1, 5):
    with activity.during(f"sampling wave {i} of 4", seldom=True):
      ticks(clock, 10)
  with activity.during("evaluating one") as tell:
    ticks(clock, 1)
    tell("64 of 128")
    ticks(clock, 1)
  assert said == [
    "sampling wave 3 of 4: 0:00:10 so far", "evaluating one: 64 of 128 ...",
    "evaluating one: 2.0 s",
  ]
  # An error is no end of what it cut off.
  with pytest.raises(OSError), activity.during("reading"):
    ticks(clock, 5)
    raise OSError
  assert said[-1] == "reading ..." and activity.now() == []
  shown.close()
  with activity.during("reading"):
    ticks(clock, 5)
  assert len(said) == 4


def test_what_goes_on_does_not_put_off_how_far_it_is(clock):
  said = []
  shown = progress.plain(said.append, every=30.0)
  shown.update("problems", 0, 4, {}, math.nan)
  for done in (1, 2, 3):
    with activity.during("sampling"):
      ticks(clock, 40)
    shown.update("problems", done, 4, {}, 7.0)
  shown.close()
  assert [line for line in said if line.startswith("problems")] == [
    "problems 0/4  ? left", "problems 1/4  7 tokens/s  0:02:00 left",
    "problems 2/4  7 tokens/s  0:01:20 left",
    "problems 3/4  7 tokens/s  0:00:40 left",
  ]


def test_a_line_without_a_screen_is_said_anyhow(clock, capsys):
  activity.say("a line")
  assert capsys.readouterr().err == "a line\n"


def test_the_heart_beats_before_the_first_step(clock, tmp_path):
  path = tmp_path / "heartbeat.json"
  log = logs.Log(None, lambda: None)
  beat = logs.heartbeat(tmp_path, log)
  assert not path.exists()  # A run that is done leaves it as it is.
  with activity.during("compiling one"):
    ticks(clock, 31)
  found = workdir.read_json(path)
  assert (found["stage"], found["step"], found["doing"], found["seconds"]) == (
    "", -1, "compiling one", 30.0
  )
  beat("one", 7, 9, {}, 5.0)
  assert workdir.read_json(path)["step"] == 7
  assert workdir.read_json(path)["doing"] == ""
  # A run that goes on is where it was.
  logs.heartbeat(tmp_path, log)
  with activity.during("reading"):
    ticks(clock, 31)
  found = workdir.read_json(path)
  assert (found["stage"], found["step"]) == ("one", 7)
  assert found["doing"] == "reading"


def test_a_second_run_in_a_process_has_a_log_of_its_own(tmp_path, monkeypatch):
  for name in ("a", "b", "c"):
    logs.open_log(tmp_path / name, {"run": name})
  try:
    logs.note("only the last")
    handlers = logging.getLogger("sitrain.host").handlers
    assert len([h for h in handlers if h.formatter]) == 1 == len(logs._OPEN)
    log = pathlib.Path("logs", "host_0.log")
    texts = [(tmp_path / name / log).read_text() for name in ("a", "b", "c")]
    assert ["only the last" in text for text in texts] == [False, False, True]
    assert "run a" in texts[0] and "run c" not in texts[0]
  finally:
    logs._close()
    activity.leave("log")


def test_a_call_that_failed_writes_no_stacks_into_files_of_the_next_run(
  tmp_path
):
  log = logs.open_log(tmp_path / "a", {})
  try:
    logs.watchdog(log.file, factor=1.0, floor=0.2).before()  # and no `after`
    logs.open_log(tmp_path / "b", {})
    with open(tmp_path / "metrics.jsonl", "w") as file:  # It gets the number.
      time.sleep(0.5)
      file.write("{}\n")
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"
  finally:
    logs._close()
    activity.leave("log")


def test_noise_of_libraries_is_left_out(caplog):
  logs.quiet_libraries()
  log = logging.getLogger("absl")
  log.warning("Waiting for previous save to complete took 1.2 seconds.")
  log.warning("what a user should know")
  log.info("a detail")
  assert caplog.messages == ["what a user should know"]


def test_the_summary_shows_intervals():
  console = progress.Console(record=True, width=120)
  console.print(progress.summary_table(SUMMARY["stages"]))
  lines = console.export_text().splitlines()
  row = next(i for i, line in enumerate(lines) if "50.0" in line)
  assert "62.5" in lines[row] and "51.0" in lines[row]
  # The interval stands right under its value, whole.
  assert lines[row + 1].split("│")[2].strip() == "[45.0, 55.0]"


def test_temporary_folders_go_with_the_process(monkeypatch, capsys):
  ended = []

  def end(code):
    ended.append(code)
    raise SystemExit

  monkeypatch.setattr(os, "_exit", end)
  for leave in (
    lambda: peers.leave(75, "stopped"), lambda: errors._end(1, at_once=True),
    scratch.remove,
  ):
    folder = pathlib.Path(scratch.folder("test"))
    (folder / "file").write_text("text")
    with contextlib.suppress(SystemExit):
      leave()
    assert not folder.exists()
  assert ended == [75, 1]


def test_progress_says_what_is_compiled_first():
  said, tell = [], progress.of_problems(programs=2)
  for done in (0, 32, 64, 0, 64, 0):  # Two players of a stage, then the next.
    tell(said.append, done, 64)
  assert said == [
    "compiling, 0 of 64 problems", "32 of 64 problems", "64 of 64 problems",
    "compiling, 0 of 64 problems", "64 of 64 problems", "0 of 64 problems",
  ]


def test_transformers_advises_no_user_to_install_torch(monkeypatch, caplog):
  monkeypatch.delenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", raising=False)
  importlib.reload(early)
  from transformers.utils import logging as theirs

  monkeypatch.setattr(theirs.get_logger("transformers"), "propagate", True)
  theirs.get_logger("transformers").warning_advice("PyTorch was not found")
  assert not caplog.records


def test_the_license_is_that_of_the_metadata():
  root = pathlib.Path(__file__).parent.parent
  assert "license = Apache-2.0" in (root / "setup.cfg").read_text()
  text = (root / "LICENSE").read_text().split()
  assert text[:4] == ["Apache", "License", "Version", "2.0,"]
  assert len(text) == 1581  # all of it, as apache.org has it
