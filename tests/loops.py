"""The loop of a stage as the main builds it, for tests that look inside."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AxisType

from sitrain.models import decoder
from sitrain.runtime import sharding, sinks, stopping
from sitrain.runtime.stage import iteration_of
from sitrain.runtime.start import Run, drawn
from sitrain.train import make_loop
from sitrain.types import Stage

PARTS = {"waves": 1, "minibatches": 1, "epochs": 1, "microbatches": 1}


def mesh_of(data, fsdp=1, tensor=1):
  """A mesh of the first data * fsdp * tensor devices."""
  sizes = data, fsdp, tensor
  devices = jax.devices()[: math.prod(sizes)]
  kinds = (AxisType.Auto,) * 3
  return jax.make_mesh(sizes, sharding.AXES, axis_types=kinds, devices=devices)


def run_of(model, workdir="", mesh=None, seed=0):
  """What the stages of a run share; it shows and stores nothing."""
  return Run(
    workdir=workdir, mesh=mesh or mesh_of(1), model=model, seed=seed,
    sink=sinks.silent(), show=lambda *args: None, save_every=1, keep=2,
    profile=(0, 0), max_gap=1e-3,
    origin=drawn(functools.partial(decoder.init, model)),
  )


REFERENCE = {"reference": "base/last"}


def stage_of(
  method, optimizer, *, steps_per_call=2, held=REFERENCE, **more
):
  """A stage of two calls from new parameters."""
  stage = Stage(
    name="one", method=method, optimizer=optimizer, steps=2 * steps_per_call,
    steps_per_call=steps_per_call, parts=PARTS, fused=True,
    until=stopping.never(), window=0, start="init", held=held,
    restart=True, best="",
  )
  return stage._replace(**more)


def loop_of(stage, mesh):
  """The fused loop of a stage, not compiled."""
  return make_loop(iteration_of(stage, mesh), stage.steps_per_call)


def copy(tree):
  """The same arrays in other memory, so that one of them may be donated."""
  return jax.tree.map(jnp.copy, tree)


def bits(tree):
  """Every leaf as the bytes that it holds."""
  return [
    (str(x.dtype), x.shape, np.asarray(x).tobytes())
    for x in jax.tree.leaves(tree)
  ]


def constants(closed):
  """Sizes in bytes of all constants of a program, however deep they stand."""
  sizes = [np.asarray(x).nbytes for x in closed.consts]
  return sizes + _inner(closed.jaxpr)


def _inner(jaxpr):
  sizes = []
  for equation in jaxpr.eqns:
    for value in jax.tree.leaves(
      equation.params, is_leaf=lambda x: isinstance(x, (ClosedJaxpr, Jaxpr))
    ):
      if isinstance(value, ClosedJaxpr):
        sizes += constants(value)
      if isinstance(value, Jaxpr):
        sizes += _inner(value)
  return sizes
