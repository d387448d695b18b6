"""Meshes, rules, optimizers and compilation; 8 fake devices in a process."""

import dataclasses
import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from eight_devices import RULES, make_state
from jax.sharding import PartitionSpec

from sitrain.runtime import (
  checkpoint,
  compile,
  cores,
  machine,
  optimizer,
  placing,
  sharding,
)
from sitrain.types import Progress, TrainState

PROGRESS = Progress("stage_1", 3, {}, 0.5, 0, False)


def run(arguments, **environment):
  root = Path(__file__).parent.parent
  return subprocess.run(
    [sys.executable, *arguments],
    env={**os.environ, "PYTHONPATH": str(root), **environment},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_eight_devices_make_the_episodes_of_one_and_share_checkpoints(tmp_path):
  state = make_state()
  manager = checkpoint.open_manager(tmp_path / "one")
  checkpoint.save(manager, 3, state, PROGRESS, 0.5)
  checkpoint.finish(manager)
  done = run(
    [str(Path(__file__).parent / "eight_devices.py"), str(tmp_path)],
    XLA_FLAGS="--xla_force_host_platform_device_count=8",
    JAX_PLATFORMS="cpu", JAX_COMPILATION_CACHE_DIR="",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  want = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  found, progress = checkpoint.restore(tmp_path / "eight", "best", want)
  assert progress == PROGRESS
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(x, y)


def test_rules_follow_paths_into_the_optimizer():
  params = {"policy": {"w": jnp.zeros((4, 4)), "one": jnp.zeros((1, 1))}}
  state = TrainState(
    step=jnp.int32(0),
    frozen={},
    params=params,
    opt_state=optimizer.make(learning_rate=0.1, steps=4).init(params),
    held={"reference": params["policy"]},
    memory=(),
  )
  specs = sharding.match_rules(RULES, jax.eval_shape(lambda: state))
  adam = optax.tree_utils.tree_get(specs.opt_state, "mu")
  assert adam["policy"]["w"] == RULES[0][1]
  assert specs.held["reference"]["w"] == RULES[0][1]
  assert specs.params["policy"]["one"] == PartitionSpec()
  assert specs.step == PartitionSpec()


def test_the_first_rule_wins_and_none_raises():
  tree = {"a": {"w": jnp.zeros((2, 2)), "v": jnp.zeros(2)}}
  rules = ((r"a/w", PartitionSpec("fsdp")), (r"w|v", PartitionSpec("tensor")))
  specs = sharding.match_rules(rules, tree)["a"]
  assert specs == {"w": PartitionSpec("fsdp"), "v": PartitionSpec("tensor")}
  with pytest.raises(ValueError, match="no partition rule matches a/v"):
    sharding.match_rules(rules[:1], tree)


def test_what_does_not_divide_is_named():
  tree = {"w": jnp.zeros((6, 4))}
  sizes = {"data": 1, "fsdp": 4, "tensor": 2}
  with pytest.raises(ValueError, match=r"w \(6, 4\): dimension 0.*fsdp=4"):
    sharding.match_rules(RULES, tree, sizes)


def test_factored_statistics_are_replicated():
  tree = {"v_row": {"w": jnp.zeros(4)}}
  specs = sharding.match_rules(RULES, tree)
  assert specs["v_row"]["w"] == PartitionSpec()


def test_memory_needs_no_rules():
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES
  )
  found = sharding.state_shardings(RULES, make_state(), mesh)
  assert found.memory["ids"] == sharding.replicated(mesh)


def test_one_device_needs_no_groups():
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES
  )
  assert sharding.by_group(max, mesh) is max
  assert sharding.groups(mesh) == 1


@dataclasses.dataclass(frozen=True)  # A mesh takes a tuple for an array.
class Device:
  """A fake chip of one of several slices."""

  id: int
  slice_index: int
  process_index: int = 0
  device_kind: str = "fake"
  platform: str = "fake"


def slices(*sizes, count=2, each=4):
  """slice_index of the devices of a mesh over `count` slices."""
  devices = [Device(i, i % count) for i in range(count * each)]
  mesh = sharding.make_mesh(*sizes, devices=devices)
  return np.vectorize(lambda device: device.slice_index)(mesh.devices)


def test_the_outer_axis_goes_over_slices():
  found = slices(2, 2, 2)
  assert found.shape == (2, 2, 2)
  assert (found[0] == 0).all() and (found[1] == 1).all()
  assert {*slices(-1, 2, 1).reshape(4, 2)[:, 0].tolist()} == {0, 1}
  # Parameters are split over slices only if rows are not.
  found = slices(1, 4, 2)
  assert (found[:, :2] == 0).all() and (found[:, 2:] == 1).all()
  with pytest.raises(ValueError, match=r"2 slices .*set config.mesh.data to a"):
    slices(1, 1, 8)
  assert sharding.over_slices(4, 2, 6, 1) == (2, 2, 1)


def test_a_mesh_of_another_machine_is_made_to_fit():
  fit = sharding.sizes_that_fit
  assert fit(8, 2, 2, 2) == (2, 2, 2)
  assert fit(2, 1, 8, 1) == (1, 2, 1)
  assert fit(1, 2, 8, 4) == (1, 1, 1)
  assert fit(6, 1, 4, 2) == (3, 1, 2)
  assert fit(8, 2, -1, 1) == (2, 4, 1)
  assert fit(1, 2, -1, 1) == (1, 1, 1)


def test_the_mesh_of_a_run_is_asked_for_or_fits(caplog):
  config = {"mesh": {"data": 1, "fsdp": 8, "tensor": 1}}
  assert placing.sizes_of(config, [], 8) == (1, 8, 1)
  assert caplog.text == ""
  assert placing.sizes_of(config, [], 2) == (1, 2, 1)
  assert "--mesh=data=1,fsdp=2,tensor=1 is used" in caplog.text
  assert placing.sizes_of({"mesh": {"data": -1}}, [], 2) == (2, 1, 1)
  assert placing.sizes_of(config, ["tensor=2"], 8) == (4, 1, 2)
  for words, said in (
    (["model=2"], "--mesh=model=2: choose one of .*fsdp"),
    (["data=x"], "give a number"),
    (["data=3"], "--mesh=data=3.* does not fit the 8 device"),
  ):
    with pytest.raises(ValueError, match=said):
      placing.sizes_of(config, words, 8)


UNEVEN = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from sitrain.runtime import cores, sharding
for name in cores.COLLECTIVE_TIMEOUTS if sys.argv[1:] else ():
  cores.COLLECTIVE_TIMEOUTS[name] = int(sys.argv[1])
cores.use_cores()
mesh = sharding.make_mesh(2)

def play(steps, x):
  stop = lambda carry: carry[0] < steps[0]
  step = lambda carry: (carry[0] + 1, jnp.tanh(carry[1] @ carry[1]))
  return jax.lax.while_loop(stop, step, (0, x))[1]

split = P("data")
play = jax.shard_map(
  play, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
)
play = jax.jit(play, out_shardings=sharding.replicated(mesh))
x = jnp.ones((512, 256))
jax.block_until_ready(play(jnp.array([1, 10_000]), x))
print("played")
"""


@pytest.mark.parametrize(
  "limit, flags, played", [("1", "", False), ("", "=600", True)]
)
def test_devices_of_a_cpu_wait_for_each_other(limit, flags, played):
  """That XLA does what it is told shows where it is told to wait a second.

  Nor is there noise of a libtpu that finds no TPU.
  """
  name = "--xla_cpu_collective_call_terminate_timeout_seconds"
  done = run(
    ["-c", UNEVEN, *limit.split()], JAX_NUM_CPU_DEVICES="2",
    XLA_FLAGS=flags and name + flags, JAX_PLATFORMS="",
  )
  assert not played or done.stderr == ""
  assert ("played" in done.stdout) == played, done.stderr[-2000:]
  assert ("Termination timeout" in done.stderr) != played


def test_what_a_user_tells_xla_stays(monkeypatch):
  name = "xla_cpu_collective_call_terminate_timeout_seconds"
  monkeypatch.setenv("XLA_FLAGS", f"--{name}=7 --xla_cpu_x=1")
  cores.allow_slow_collectives()
  found = os.environ["XLA_FLAGS"].split()
  assert found[-2:] == [f"--{name}=7", "--xla_cpu_x=1"]
  assert len(found) == 4 and all("timeout" in word for word in found[:3])
  assert cores.COLLECTIVE_TIMEOUTS[name] >= 24 * 3600
  cores.allow_slow_collectives()
  assert os.environ["XLA_FLAGS"].split() == found
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(
    cores.hardware_utils, "num_available_tpu_chips_and_device_id",
    lambda: (4, "v5e"),
  )
  monkeypatch.delenv("XLA_FLAGS")
  cores.allow_slow_collectives()
  assert "XLA_FLAGS" not in os.environ


def test_a_flag_that_there_was_once_is_none(monkeypatch, tmp_path):
  # As in the library of jaxlib 0.12, which aborts at the second.
  (tmp_path / "libjax_common.so").write_bytes(
    b"c.\0xla_cpu_new\0I(\x12\x0bxla_cpu_old\x18\x02R\x0bxla_cpu_gone"
    b"R\x0bxla_cpu_more"
  )
  monkeypatch.setattr(
    cores.importlib.util, "find_spec",
    lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")),
  )
  cores.xla_has_flag.cache_clear()
  names = ("xla_cpu_new", "xla_cpu_old", "xla_cpu_gone", "xla_cpu_none")
  found = [cores.xla_has_flag(name) for name in names]
  cores.xla_has_flag.cache_clear()
  assert found == [True, False, False, False]


def test_a_tpu_is_looked_for_where_something_speaks_of_one(monkeypatch):
  for name in ("JAX_FORCE_TPU_INIT", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR"):
    monkeypatch.delenv(name, raising=False)
  found = []
  config = SimpleNamespace(
    jax_platforms="", update=lambda name, value: found.append((name, value))
  )
  monkeypatch.setattr(cores, "jax", SimpleNamespace(config=config))
  there = {"libtpu": True}.get
  monkeypatch.setattr(cores.importlib.util, "find_spec", there)
  monkeypatch.setattr(cores.metadata, "entry_points", lambda group: ())
  devices, chips = [], [0]
  monkeypatch.setattr(cores.glob, "glob", lambda form: devices)
  monkeypatch.setattr(
    cores.hardware_utils, "num_available_tpu_chips_and_device_id",
    lambda: (chips[0], ""),
  )
  cores.leave_out_tpu()
  assert found.pop() == ("jax_platforms", "cpu")
  config.jax_platforms = "tpu"
  cores.leave_out_tpu()
  config.jax_platforms, devices[:] = "", ["/dev/vfio/0"]
  cores.leave_out_tpu()
  devices[:], chips[0] = [], 4
  cores.leave_out_tpu()
  chips[0] = 0
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host")
  cores.leave_out_tpu()
  assert found == []


def rates(**options):
  schedule = optimizer.make_schedule(
    learning_rate=1.0, end_factor=0.1, **options
  )
  return [float(schedule(step)) for step in range(11)]


def test_schedules():
  assert rates(name="constant", warmup=0, steps=10) == [1.0] * 11
  linear = rates(name="linear", warmup=0, steps=10)
  np.testing.assert_allclose(linear, np.linspace(1.0, 0.1, 11), rtol=1e-5)
  cosine = rates(name="cosine", warmup=4, steps=10)
  np.testing.assert_allclose(cosine[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-5)
  middle = 0.1 + 0.9 * 0.5 * (1.0 + np.cos(np.pi / 2.0))
  np.testing.assert_allclose([cosine[7], cosine[10]], [middle, 0.1], rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor"])
def test_every_optimizer_goes_downhill(name):
  chain = optimizer.make(name=name, learning_rate=0.05, steps=30)
  params = {"w": jnp.ones((2, 2))}
  state = chain.init(params)

  @jax.jit
  def step(params, state):
    updates, state = chain.update({"w": 2.0 * params["w"]}, state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(5):
    params, state = step(params, state)
  assert float(jnp.abs(params["w"]).max()) < 1.0


def test_the_clip_is_a_global_norm():
  chain = optimizer.make(
    name="sgd", learning_rate=1.0, steps=1, clip=1.0, b1=0.0
  )
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  gradient = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
  updates, _ = chain.update(gradient, chain.init(params), params)
  np.testing.assert_allclose(updates["a"], [-0.6], rtol=1e-6)
  free = optimizer.make(
    name="sgd", learning_rate=1.0, steps=1, clip=float("inf"), b1=0.0
  )
  updates, _ = free.update(gradient, free.init(params), params)
  np.testing.assert_allclose(updates["a"], [-30.0], rtol=1e-6)


def test_accumulated_gradients_are_one_update():
  options = {"name": "sgd", "learning_rate": 1.0, "clip": 9.0, "b1": 0.0}
  chain = optimizer.make(steps=4, accumulate=2, **options)
  params, seen = {"w": jnp.zeros(1)}, []
  state, update = chain.init(params), jax.jit(chain.update)
  for g in (1.0, 3.0, 5.0, 5.0):
    updates, state = update({"w": jnp.array([g])}, state, params)
    seen.append(float(updates["w"][0]))
  assert seen == [0.0, -2.0, 0.0, -5.0]


def test_decay_leaves_norms_and_vectors_alone():
  chain = optimizer.make(learning_rate=0.1, steps=1, weight_decay=0.5)
  params = {"norm": jnp.ones((2, 3)), "w": jnp.ones((2, 3)), "v": jnp.ones(3)}
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = jax.jit(chain.update)(zero, chain.init(params), params)
  np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
  assert not updates["norm"].any() and not updates["v"].any()


def test_misspelt_names_get_the_closest():
  with pytest.raises(ValueError, match="did you mean 'adamw'"):
    optimizer.make(name="adam", learning_rate=0.1, steps=1)
  with pytest.raises(ValueError, match="did you mean 'cosine'"):
    optimizer.make(schedule="cosin", learning_rate=0.1, steps=1)
  with pytest.raises(ValueError, match="inf for no clipping"):
    optimizer.make(clip=0.0, learning_rate=0.1, steps=1)


def test_compilations_are_counted():
  counter = compilations.counter()
  f = jax.jit(lambda x: x * 3.25 + 1.5)
  a, b = np.ones(3, np.float32), np.ones(4, np.float32)
  start = counter.count()
  f(a), f(a)
  assert counter.count() == start + 1
  f(b)
  assert counter.count() == start + 2
  counter.close()
  f(np.ones(5, np.float32))
  assert counter.count() == start + 2


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, caplog):
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.setenv("SITRAIN_CACHE", "/proc/none/xla")
  compile.use_cache()
  assert "SITRAIN_CACHE=/proc/none/xla cannot be written" in caplog.text
  assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("full", [False, True])
def test_a_cache_that_is_full_is_one_line_and_still_read(
  tmp_path, monkeypatch, caplog, full
):
  """JAX warns of every program; a run has hundreds."""
  set_to, others = {}, []
  monkeypatch.setenv("SITRAIN_CACHE", str(tmp_path))
  monkeypatch.setattr(compile, "_TOLD", set())
  monkeypatch.setattr(compile.jax.config, "update", set_to.__setitem__)
  monkeypatch.setattr(warnings, "showwarning", lambda x, *at: others.append(x))
  if full:
    opened = lambda dir: open("/dev/full", "wb", buffering=0)
    monkeypatch.setattr(compile.tempfile, "TemporaryFile", opened)
  compile.use_cache()
  compile.use_cache()  # Two runs of one process.
  assert set_to["jax_compilation_cache_dir"] == str(tmp_path)
  warnings.simplefilter("always")
  for name in range(9):
    for doing, why in (
      ("writing", f"OSError: [Errno 28] {os.strerror(errno.ENOSPC)}"),
      ("reading", "error: Error -5\nwhile decompressing data"),
    ):
      warnings.warn(
        f"Error {doing} persistent compilation cache entry for 'jit_{name}':"
        f" {why}", stacklevel=1,
      )
  warnings.warn("another", stacklevel=1)
  assert [str(x) for x in others] == ["another"]
  lines = [r.getMessage() for r in caplog.records if r.name == "sitrain"]
  for line, said in zip(
    lines, ("takes no more programs", "cannot be read"), strict=True
  ):
    assert line.startswith(f"SITRAIN_CACHE={tmp_path} ") and said in line
    assert "\n" not in line
  assert "No space left" in lines[0] and "Error -5 while" in lines[1]


CACHED = """
import jax
from sitrain.runtime import compile
compile.use_cache()
hits = []
hit = lambda event, **_: event.endswith("/cache_hits") and hits.append(event)
jax.monitoring.register_event_listener(hit)
jax.jit(lambda x: x * 2.5 + 1.0)(1.0).block_until_ready()
print(len(hits))
"""


def test_the_second_process_finds_its_programs(tmp_path):
  found = [
    run(["-c", CACHED], SITRAIN_CACHE=str(tmp_path), JAX_PLATFORMS="cpu")
    for _ in range(2)
  ]
  assert [done.stdout.strip() for done in found] == ["0", "1"]


def test_the_profile_covers_its_window(tmp_path, monkeypatch):
  calls = []
  fakes = {
    "start_trace": lambda folder: calls.append(("start", folder)),
    "stop_trace": lambda: calls.append("stop"),
  }
  for name, fake in fakes.items():
    monkeypatch.setattr(compile.jax.profiler, name, fake)
  profiler = compile.profile_steps(
    tmp_path, 4, 8, wait=lambda: calls.append("wait")
  )
  for step in range(0, 12, 2):
    profiler.before(step)
    calls.append(step)
    profiler.after(step + 2)
  profiler.close()
  begin = ("start", str(tmp_path / "profile"))
  assert calls == [0, 2, begin, 4, 6, "wait", "stop", 8, 10]


def test_an_accelerator_that_jax_does_not_use_is_named():
  said = lambda path, platform="cpu", environment={}: (
    machine.unused_accelerator(platform, environment, {path}.__contains__)
  )
  assert "an NVIDIA GPU" in said("/dev/nvidia0")
  assert "pip install 'sitrain[cuda12]'" in said("/dev/nvidia0")
  assert "a TPU" in said("/dev/accel0") and "[tpu]" in said("/dev/accel0")
  assert said("/dev/nvidia0", platform="gpu") == ""
  assert said("/dev/nvidia0", environment={"JAX_PLATFORMS": "cpu"}) == ""
  assert said("/dev/null") == ""
