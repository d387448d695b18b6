"""What processes tell each other, against a store that is a dict.

test_survival.py runs real ones, and ends them.
"""

import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from sitrain.configs import quickstart
from sitrain.runtime import build, distributed, peers, signals
from sitrain.runtime.options import ConfigError

ALONE = peers._Word(0, peers.ALIVE, 0, "")
LEFT = peers._Word(3, peers.LEFT, 1, "no disk")
ORDERED = peers._Word(3, peers.LEFT, signals.RESTART, "stopped")
DONE = peers._Word(3, peers.DONE, 0, "")
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
    self.known[f"{peers._KEY}{index}"] = json.dumps(word)


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
  now = time.monotonic()
  return peers._Watch(
    lost, period, [ALONE], {0: (ALONE, now)}, [0], threading.Event()
  )


GONE = (signals.RESTART, "process 0 is gone")


@pytest.mark.parametrize(
  "word, seconds, failures, training, want", [
    (ALONE, LOST - 1, 0, False, ()),
    (ALONE, LOST + 1, 0, False, GONE),
    # The store is process 0's: where it refuses, nobody waits.
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
    peers._listen(watch)
    assert (watch.heard[0][1] > before) == bool(new)
  peers._say(watch)
  peers._say(watch, peers.LEFT, 7, "why")
  said = peers._Word(*json.loads(store.known[f"{peers._KEY}1"]))
  assert said == peers._Word(2, peers.LEFT, 7, "why")
  peers._listen(watch)  # One does not hear oneself.
  assert set(watch.heard) == {0}


def looking(watch, monkeypatch):
  """Runs both threads of a watch; returns what they leave with."""
  found = []

  def leave(code, why):
    found.append((code, why))
    watch.over.set()

  monkeypatch.setattr(peers, "leave", leave)
  for work in (peers._talk_on, peers._look_on):
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
  """An error may be what is seen of another's end: that is said, then."""
  watch = watch_of(lost=0.3)
  monkeypatch.setattr(peers, "_WATCH", [watch])
  # Who is heard of after the failure is not gone.
  heard = threading.Timer(
    0.1, lambda: watch.heard.update({0: (ALONE, time.monotonic())})
  )
  heard.start()
  began = time.monotonic()
  peers.failed()
  assert time.monotonic() - began >= 0.1
  said = peers._Word(*json.loads(store.known[f"{peers._KEY}1"]))
  assert said.state == peers.FAILED
  peers.done()
  assert watch.over.is_set()


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
  monkeypatch.setattr(signals, "asked", lambda: orders[0])
  monkeypatch.setattr(
    distributed.multihost_utils, "process_allgather",
    lambda mine: np.array([mine, orders[1]]),
  )
  assert distributed.stop_agreed() == any(orders)
