"""What several test files share: one small decoder and its task."""

import collections
import gc
import os
import pathlib

# Programs of tests run for moments and take long to compile: half as long so.
# `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` compiles as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Where SITRAIN_CACHE names a folder, programs are kept there between runs.
os.environ.update({
  "JAX_COMPILATION_CACHE_DIR": os.environ["SITRAIN_CACHE"],
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
} if os.environ.get("SITRAIN_CACHE") else {})

import mains

os.environ["XLA_FLAGS"] = mains.flags(os.environ.get("XLA_FLAGS", ""))

import fakes
import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sitrain.models.decoder import Decoder
from sitrain.tasks import maze

# JAX makes millions of small objects while it traces: at Python's threshold of
# 700, looking for cycles among them is a fifth of the seconds.
gc.set_threshold(100_000, 10, 10)
# The files that take longest, in this order: none may be left for the end,
# where the other worker would have nothing to do.
FIRST = (
  "test_survival", "test_main", "test_structures", "test_families",
  "test_contracts", "test_train", "test_devices", "test_storage",
  "test_text_run", "test_collectives", "test_plan",
)
# What these see is what the compiler makes of a program, how fast it is, or
# differences of the last bit or two.
OPTIMIZED = (
  "test_benchmarks", "test_documents", "test_plan", "test_plan_counts",
  "test_runtime_devices",
)
# So they may not read programs from the disk, nor may these.
COMPILED = (*OPTIMIZED, "test_attention", "test_forks")
# What these trace other files check, and to check its shapes and types again is
# a quarter of the seconds.
UNCHECKED = (
  "test_configs", "test_notebooks", "test_score_table", "test_stages",
  "test_structures",
)
QUICKLY = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
# Of memory, in one process; see `mappings`.
MAPPINGS = 30_000
CPU = pytest.StashKey[float]()


def pytest_collection_modifyitems(items):
  place = {name: i for i, name in enumerate(FIRST)}
  items.sort(key=lambda item: place.get(item.module.__name__, len(FIRST)))


def _cpu_seconds():
  """Of this process and of the children that it has waited for."""
  now = os.times()
  return now.user + now.system + now.children_user + now.children_system


# Wall clocks say little where other jobs share the cores.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  report = yield
  now = _cpu_seconds()
  report.user_properties = [("cpu", now - item.session.stash.get(CPU, 0.0))]
  item.session.stash[CPU] = now
  return report


def pytest_collection_finish(session):
  gc.freeze()  # What was imported stays, so nobody need look through it.
  session.stash[CPU] = _cpu_seconds()


def pytest_terminal_summary(terminalreporter):
  """CPU seconds of every file, fixtures and child processes included.

  Those of `ask`'s processes count when it closes, with a worker's last file.
  """
  spent = collections.Counter()
  for reports in terminalreporter.stats.values():
    for report in reports:
      if isinstance(report, pytest.TestReport):
        spent[report.nodeid.split("::")[0]] += dict(
          report.user_properties
        ).get("cpu", 0.0)
  write = terminalreporter.write_line
  terminalreporter.section("CPU seconds of files")
  for name, seconds in spent.most_common(20):
    write(f"{seconds:8.1f}  {name}")
  write(f"{sum(spent.values()):8.1f}  {len(spent)} files")


@pytest.fixture(scope="module", autouse=True)
def compiled(request):
  """Compiles anew where what the compiler says is looked at."""
  if request.module.__name__ not in COMPILED:
    yield
    return
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_enable_compilation_cache", True)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module", autouse=True)
def optimizations(request):
  """Compiles as users do where that is looked at, processes included."""
  if request.module.__name__ not in OPTIMIZED:
    yield
    return
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def shapes_unchecked(request):
  """Switches jaxtyping's checks off where they were made before."""
  jaxtyping.config.update(
    "jaxtyping_disable", request.module.__name__ in UNCHECKED
  )
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def mappings():
  """Forgets what was compiled before the process has too many mappings.

  Every program on the CPU holds about six, Linux allows 65,530, and what asks
  for one more ends with a segmentation fault.
  """
  yield
  if count_mappings() > MAPPINGS:
    jax.clear_caches()


def count_mappings() -> int:
  """How many this process holds; 0 where there is no /proc."""
  maps = pathlib.Path("/proc/self/maps")
  return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture(scope="session")
def toy():
  """(model, params, task): a decoder of two layers for mazes of two rooms."""
  model = Decoder(
    vocabulary=16,
    layers=2,
    width=16,
    heads=2,
    kv_heads=1,
    head_size=8,
    mlp_size=32,
  )
  return model, fakes.parameters(model, 3), maze.make(doors=2, rooms=2)


@pytest.fixture(scope="session")
def cache(tmp_path_factory, request):
  """Where the programs of all mains that tests run are kept."""
  if kept := os.environ.get("SITRAIN_CACHE"):
    pathlib.Path(kept).mkdir(parents=True, exist_ok=True)
    return pathlib.Path(kept)
  folder = tmp_path_factory.getbasetemp()
  if hasattr(request.config, "workerinput"):
    folder = folder.parent  # Workers share what they compile.
  (folder / "cache").mkdir(exist_ok=True)
  return folder / "cache"


@pytest.fixture(scope="session")
def ask(cache):
  """ask(*arguments, module="sitrain.main", **environment) -> Done of a main.

  It is a process of its own, without the seconds of its imports.
  """
  # The file that asks first may be one that compiles as users do.
  question, close = mains.serve(JAX_DISABLE_MOST_OPTIMIZATIONS=QUICKLY)
  yield lambda *given, **more: question(list(map(str, given)), cache, **more)
  close()
