"""What several test files share: one small decoder and its task."""

import functools

import jax
import jax.numpy as jnp
import mains
import numpy as np
import pytest
from jax._src import compiler

from sitrain.models.decoder import Decoder, init
from sitrain.tasks import maze

# Tests whose programs are as users have them: their bits are compared with
# those of other programs, or they are compiled for chips.
OPTIMIZED = (
  "test_contracts.py::test_fused", "test_contracts.py::test_two_and_two",
  "test_plan.py", "test_train.py",
)
# The files that take longest, in this order: none may be left for the end,
# where the other worker would have nothing to do.
FIRST = (
  "test_contracts", "test_survival", "test_collectives", "test_plan",
  "test_main", "test_text_run", "test_devices", "test_storage",
  "test_documents", "test_configs",
)
as_jax_has_them = compiler.get_compile_options


def pytest_collection_modifyitems(items):
  place = {name: i for i, name in enumerate(FIRST)}
  items.sort(key=lambda item: place.get(item.module.__name__, len(FIRST)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """Has programs optimized only for the tests whose claims are about that.

  It takes most of the time of compiling what runs for a moment. What XLA does
  to a program before it is written for the CPU is the same.
  """
  whole = any(name in item.nodeid for name in OPTIMIZED)
  jax.config.update("jax_disable_most_optimizations", not whole)
  compiler.get_compile_options = functools.partial(
    options_of, {} if whole else mains.QUICK
  )


def options_of(quick, *given, env_options_overrides=None, **more):
  """The options of a program, with those that have it made quickly."""
  quick = quick | dict(env_options_overrides or {})
  return as_jax_has_them(*given, env_options_overrides=quick, **more)


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
  shapes = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
  rng = np.random.default_rng(3)

  # NumPy draws them: to compile `init` takes longer than most tests. They are
  # larger than a first policy's, so that a mistake moves the logits.
  def fill(path, leaf):
    if jax.tree_util.keystr(path).rstrip("']").endswith("norm"):
      return jnp.asarray(1 + 0.1 * rng.normal(size=leaf.shape), jnp.float32)
    return jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32)

  params = jax.tree_util.tree_map_with_path(fill, shapes)
  return model, params, maze.make(doors=2, rooms=2)


@pytest.fixture(scope="session")
def cache(tmp_path_factory, request):
  """Where the programs of all mains that tests run are kept."""
  folder = tmp_path_factory.getbasetemp()
  if hasattr(request.config, "workerinput"):
    folder = folder.parent  # Workers share what they compile.
  (folder / "cache").mkdir(exist_ok=True)
  return folder / "cache"
