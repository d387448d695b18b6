"""Heartbeats of processes, with a dict as the store.

test_survival.py runs real ones, and ends them.
"""

import contextlib
import json
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from sitrain.configs import quickstart
from sitrain.runtime import build, distributed, peers, signals
from sitrain.runtime.options import ConfigError

ALONE = peers._Heartbeat(0, peers.ALIVE, 0, "")
LEFT = peers._Heartbeat(3, peers.LEFT, 1, "no disk")
ORDERED = peers._Heartbeat(3, peers.LEFT, signals.RESTART, "stopped")
DONE = peers._Heartbeat(3, peers.DONE, 0, "")
LOST = 10.0  # seconds


class Left(BaseException):
  """What stands for the end of the process."""


class Store:
  """As JAX's client of the coordinator; it fails while `broken`."""

  def __init__(self, **known):
    self.known, self.broken = dict(known), False

  def key_value_set(self, key, text, allow_overwrite=False):
    if self.broken:
      raise RuntimeError("UNAVAILABLE: failed to connect")
    assert allow_overwrite or key not in self.known
    self.known[key] = text

  def key_value_dir_get(self, folder):
    if self.broken:
      raise RuntimeError("UNAVAILABLE: failed to connect")
    return [(k, v) for k, v in self.known.items() if k.startswith(folder)]

  def blocking_key_value_get(self, key, wait):
    assert wait > 0
    return self.known[key]

  def says(self, index, word):
    folder = peers._KEY if index else peers._FIRST
    self.known[f"{folder}{index}"] = json.dumps(word)


@pytest.fixture
def store(monkeypatch):
  """This is process 1 of two; leaving raises (code, why)."""
  store = Store()

  def leave(code, why):
    raise Left(code, why)

  monkeypatch.setattr(peers, "_store", lambda: store)
  monkeypatch.setattr(peers, "_me", lambda: 1)
  monkeypatch.setattr(peers, "leave", leave)
  return store


def watch_of(lost=LOST, period=0.01):
  return peers._new(lost, 2)._replace(period=period)


GONE = (signals.RESTART, "process 0 is gone")


@pytest.mark.parametrize(
  "word, seconds, failures, training, want", [
    (ALONE, LOST - 1, 0, False, ()),
    (ALONE, LOST + 1, 0, False, GONE),
    # Process 0 has the store: if it refuses, process 0 is lost.
    (ALONE, 0.1, peers._TRIES - 1, False, ()),
    (ALONE, 0.1, peers._TRIES, False, GONE),
    # There is time for words of one's own, and an order is obeyed in order.
    (LEFT, 0.1, 0, False, ()),
    (LEFT, peers._PATIENCE + 1, 0, True, (1, "process 0 has left: no disk")),
    (ORDERED, peers._PATIENCE + 1, 0, True, ()),
    (ORDERED, LOST + 1, 0, True, (signals.RESTART, "process 0 has left: st")),
    (ORDERED, peers._PATIENCE + 1, 0, False,
     (signals.RESTART, "process 0 has left: stopped")),
    (DONE, LOST + 1, 0, False, ()),
  ],
)
def test_who_is_missing_ends_the_others(
  store, monkeypatch, word, seconds, failures, training, want
):
  watch = watch_of()
  watch.failures[0] = failures
  monkeypatch.setattr(signals, "in_training", lambda: training)
  if not want:
    peers._judge(watch, 0, word, seconds)
    return
  with pytest.raises(Left) as found:
    peers._judge(watch, 0, word, seconds)
  code, why = found.value.args
  assert code == want[0] and why.startswith(want[1])


def test_who_is_done_looks_no_longer(store):
  watch = watch_of()
  watch.over.set()
  peers._judge(watch, 0, ALONE, LOST + 1)


def test_the_others_of_many_refuse_nothing(store):
  """A store that fails says nothing of process 2."""
  watch = watch_of()
  watch.failures[0] = peers._TRIES
  peers._judge(watch, 2, ALONE, 0.1)


def test_only_new_words_are_heard(store):
  watch = watch_of()
  for word, new in ((ALONE._replace(count=1), 1), (ALONE._replace(count=1), 0)):
    before = watch.heard[0][1]
    store.says(0, word)
    time.sleep(0.002)
    peers._read(watch)
    assert (watch.heard[0][1] > before) == bool(new)
  peers._publish(watch)
  peers._publish(watch, peers.LEFT, 7, "why")
  said = peers._Heartbeat(*json.loads(store.known[f"{peers._KEY}1"]))
  assert said == peers._Heartbeat(2, peers.LEFT, 7, "why")
  peers._read(watch)  # A process does not read its own heartbeat.
  assert set(watch.heard) == {0}


def looking(watch, monkeypatch):
  """Runs both threads of a watch; returns what they leave with."""
  found = []

  def leave(code, why):
    found.append((code, why))
    watch.over.set()

  monkeypatch.setattr(peers, "leave", leave)
  for work in (peers._publish_loop, peers._watch_loop):
    threading.Thread(target=work, args=(watch,), daemon=True).start()
  return found


@pytest.mark.parametrize("how", ["silent", "refused", "left"])
def test_a_process_that_stops_is_missed(how, store, monkeypatch):
  """It is heard of for longer than the limit, and then stops."""
  watch = watch_of(lost=2.0 if how == "silent" else 60.0)
  monkeypatch.setattr(peers, "_PATIENCE", 0.05)
  found = looking(watch, monkeypatch)
  for count in range(1, 51):
    store.says(0, ALONE._replace(count=count))
    time.sleep(0.05)
  assert found == [] and not watch.over.is_set()
  if how == "refused":
    store.broken = True
  if how == "left":
    store.says(0, LEFT)
  assert watch.over.wait(30)
  want = (1, "process 0 has left: no disk") if how == "left" else GONE
  assert found[0][0] == want[0] and found[0][1].startswith(want[1])


def test_a_failure_of_ones_own_waits_for_the_others_words(store, monkeypatch):
  """After an error a process waits, in case the loss of another caused it."""
  watch = watch_of(lost=60.0)
  monkeypatch.setattr(peers, "_WATCH", [watch])
  # If process 0 hears from all after the failure, none is lost.
  hear = lambda rounds: watch.heard.update(
    {0: (ALONE._replace(rounds=rounds), time.monotonic())}
  )
  hear(5)
  later = [threading.Timer(0.1 * i, hear, [5 + i]) for i in (1, 2)]
  began = time.monotonic()
  for timer in later:
    timer.start()
  peers.failed()
  assert 0.2 <= time.monotonic() - began < 30
  said = peers._Heartbeat(*json.loads(store.known[f"{peers._KEY}1"]))
  assert said.state == peers.FAILED
  peers.done()
  assert watch.over.is_set()


def test_a_pause_between_words_is_never_a_loss():
  for count in (2, 320, 640, 10_000):
    assert peers._period(40.0, count) <= 40.0 / 8
    assert peers._period(40.0, count) * peers._BUSY >= count or count > 2500
  assert peers._period(2.0, 2) == 0.25


class Many(NamedTuple):
  """Processes that share a store and a clock, one after the other."""

  watches: list
  now: list  # of all
  me: list
  left: dict  # index -> (code, why)


def many(monkeypatch, store, count, lost):
  found = Many([], [0.0], [0], {})

  def leave(code, why):
    found.left[found.me[0]] = code, why
    peers._publish(found.watches[found.me[0]], peers.LEFT, code, why)
    raise Left(code, why)

  monkeypatch.setattr(peers, "_me", lambda: found.me[0])
  monkeypatch.setattr(peers, "leave", leave)
  monkeypatch.setattr(
    peers, "time", SimpleNamespace(monotonic=lambda: found.now[0])
  )
  for found.me[0] in range(count):
    found.watches.append(peers._new(lost, count))
  return found


def lives(found, seconds, but=()):
  """All go on for so long as their threads would, but for those named."""
  until = found.now[0] + seconds
  while found.now[0] < until:
    found.now[0] += found.watches[0].period
    for index, watch in enumerate(found.watches):
      if index in but or index in found.left:
        continue
      found.me[0] = index
      with contextlib.suppress(Left):
        peers._publish(watch)
        peers._read(watch)
        for other, (word, since) in watch.heard.items():
          peers._judge(watch, other, word, found.now[0] - since)


def test_seven_hundred_processes_live_and_miss_one(store, monkeypatch):
  """None of a healthy job is taken for dead; of a lost one all hear."""
  found = many(monkeypatch, store, 700, lost=40.0)
  lives(found, 100.0)
  assert found.left == {}
  assert found.watches[0].last[0].rounds >= 10
  lives(found, 60.0, but=[650])
  assert len(found.left) == 699
  assert {code for code, _ in found.left.values()} == {signals.RESTART}
  assert {why[:19] for _, why in found.left.values()} == {"process 650 is gone"}


def test_what_one_says_at_its_end_reaches_all(store, monkeypatch):
  found = many(monkeypatch, store, 5, lost=40.0)
  lives(found, 5.0)
  found.me[0] = 3
  with contextlib.suppress(Left):
    peers.leave(1, "no disk")
  rounds = found.watches[0].last[0].rounds
  lives(found, 20.0)
  assert found.watches[0].last[0].rounds == rounds
  assert found.left.pop(3) == (1, "no disk")
  assert set(found.left.values()) == {(1, "process 3 has left: no disk")}
  assert len(found.left) == 4


def process(monkeypatch, store, index):
  state = SimpleNamespace(num_processes=2, process_id=index, client=store)
  monkeypatch.setattr(distributed.jax_distributed, "global_state", state)
  given = SimpleNamespace(join_seconds=1.0)
  monkeypatch.setattr(distributed.flags, "FLAGS", given)


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_differ_do_not_agree(index, monkeypatch, tmp_path):
  """Each says so, in the same words."""
  store, config = Store(), build.plain(quickstart.get_config("quick"))
  other = config | {"run": config["run"] | {"save_every": 2}}
  mine, theirs = (config, other)[index], (other, config)[index]
  workdir = str(tmp_path / "run")
  process(monkeypatch, store, index)
  facts = {
    "workdir": workdir, "jax": distributed.jax.__version__,
    "code": distributed.code_revision(),
    "config": distributed.config_hash({"config": theirs}, ignore=()),
  }
  store.known[f"sitrain/run/{1 - index}"] = json.dumps(["there", facts])
  with pytest.raises(ConfigError, match=r"process 1 \(.*\) has config ") as one:
    distributed.check_agreement(mine, workdir=workdir)
  assert "\n" not in str(one.value)
  facts["config"] = distributed.config_hash({"config": mine}, ignore=())
  store.known = {f"sitrain/run/{1 - index}": json.dumps(["there", facts])}
  same = {"workdir": workdir} | {k: facts[k] for k in ("jax", "code", "config")}
  distributed._compare("run", same)


@pytest.mark.parametrize("orders", [(False, False), (False, True)])
def test_all_stop_where_one_was_asked(orders, monkeypatch):
  monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
  monkeypatch.setattr(signals, "stop_requested", lambda: orders[0])
  monkeypatch.setattr(
    distributed.multihost_utils, "process_allgather",
    lambda mine: np.array([mine, orders[1]]),
  )
  assert distributed.stop_agreed() == any(orders)
