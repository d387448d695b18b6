"""Run by test_collectives.py as a process; says JSON of compiled programs.

`cpu`: 8 fake devices, which also run them. `tpu`: 8 chips that are not there,
for which libtpu compiles. Each program comes with the naive one beside it.
"""

import contextlib
import json
import math
import os
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import loops
import numpy as np
from eight_devices_train import (
  COLLECTIVE,
  computations,
  crossing,
  flops,
  inside_loops,
)
from jax.sharding import AxisType, Mesh, PartitionSpec

from sitrain.methods import verbs
from sitrain.models import axes, decoder, experts, lora, parameters
from sitrain.models.logprobs import token_scores
from sitrain.runtime import sharding, stage
from sitrain.tasks import maze
from sitrain.types import Method, TrainState

PROBLEMS, SAMPLES, LENGTH, VOCABULARY = 16, 4, 16, 80
KEY = jax.random.key(3, impl="threefry2x32")
SIZES = {"cpu": 1, "tpu": 16}  # Small sums are not scattered on a TPU.


def model_of(backend, dtype):
  n = SIZES[backend]
  return decoder.Decoder(
    vocabulary=VOCABULARY * n, layers=1, width=32 * n, heads=4, kv_heads=2,
    head_size=8 * n, mlp_size=64 * n, dtype=dtype,
  )


def mesh_of(backend, *sizes):
  """A mesh, and what makes it the mesh of what is lowered."""
  devices = jax.devices()
  if backend == "tpu":
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(
      platform="tpu", topology_name="v5e:2x4"
    ).devices
  devices = np.array(devices[: math.prod(sizes)]).reshape(sizes)
  return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def at(mesh):
  """Chips that are not there can hold no arrays, so their mesh is abstract."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def state_of(model):
  """Adapters on a frozen base, with moments of an optimizer."""
  keys = jax.random.split(KEY)
  base = decoder.init(model, keys[0])
  trained = lora.adapters(keys[1], model, rank=2)
  trained = jax.tree.map(lambda x: x + 0.1, trained)
  frozen = {"base": base, "scale": np.float32(0.3)}
  return TrainState(
    jnp.int32(0), frozen, {"policy": trained}, {"mu": base}, {}, ()
  )


def placed(tree, mesh):
  rules = decoder.PARTITION_RULES
  return sharding.abstract(tree, sharding.state_shardings(rules, tree, mesh))


def compiled(jitted, *given):
  """The program, and the messages of the compiler."""
  lowered = jitted.lower(*given)
  with tempfile.TemporaryFile() as file:
    screen = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
      program = lowered.compile()
    finally:
      os.dup2(screen, 2)
    file.seek(0)
    return program, file.read().decode(errors="replace")


def decoding(model, mesh, by_group):
  """The program of one rollout, and shapes of what it takes."""
  task = maze.make(doors=2, rooms=2)
  generate = verbs.play_with(
    model, task, samples=SAMPLES, turns=(3, 3), temperature=1.0
  )
  method = Method(*[None] * 6)._replace(generate=generate)
  one = loops.stage_of(method, None, dtype=model.dtype)
  play = by_group(one, mesh).generate
  draw = lambda: (
    jax.random.split(KEY, PROBLEMS), state_of(model),
    task.problems(KEY, PROBLEMS),
  )
  keys, state, problems = jax.eval_shape(draw)
  rows = sharding.shard_rows(mesh)
  like = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), tree
  )
  return jax.jit(play), (like(keys), placed(state, mesh), like(problems)), draw


def update(model, mesh, *, chunk=4, length=LENGTH):
  """The program of a gradient, and shapes of what it takes."""

  def loss(params, tokens):
    turn, path = jnp.ones_like(tokens), jnp.zeros_like(tokens)
    scores = token_scores(
      model, params, tokens, turn, path, inputs=tokens, chunk=chunk
    )
    return jnp.sum(scores.logprob)

  params = jax.eval_shape(lambda: decoder.init(model, KEY))
  params = placed(params, mesh)
  place = jax.tree.map(lambda x: x.sharding, params)
  shape = PROBLEMS * SAMPLES * LENGTH // length, length
  tokens = jax.ShapeDtypeStruct(
    shape, jnp.int32, sharding=sharding.shard_rows(mesh)
  )
  return jax.jit(jax.grad(loss), out_shardings=place), (params, tokens)


def report_of(program, text, mesh):
  """The report of a program: its collectives, flops and complaints."""
  lines = program.as_text()
  inside = set(inside_loops(lines))
  # So libtpu spells a sum of which each device keeps a part.
  scatters = [
    line for name, part in computations(lines).items() for line in part
    if name.startswith("all-reduce-scatter")
  ]
  kind = lambda line: (
    "reduce-scatter" if line in scatters else COLLECTIVE.search(line)[1]
  )
  rows = [line for line in lines.splitlines() if COLLECTIVE.search(line)]
  return {
    "collectives": [
      [
        kind(line), *arrays(line), line in inside,
        bool(crossing([line], mesh)),
      ]
      for line in rows
    ],
    "flops": flops(program),
    "complaints": text.count("Involuntary full rematerialization"),
  }


def arrays(line):
  """(dtype, elements) of the largest array that a collective makes."""
  made = line.split(" = ", 1)[1]
  made = made[: COLLECTIVE.search(line).start() - line.index(" = ") - 3]
  found = re.findall(r"([a-z]+\d+|pred)\[([\d,]*)\]", made)
  sizes = [
    (math.prod(int(n) for n in dims.split(",") if n), kind)
    for kind, dims in found
  ]
  size, kind = max(sizes)
  return kind, size


@contextlib.contextmanager
def naive():
  """The model as it would be without a thought for the mesh."""
  kept = axes.look_up, axes.by_rows, axes.over
  axes.look_up = lambda table, tokens, dtype: table[tokens].astype(dtype)
  axes.by_rows = lambda fn, tables, dtype, *rows: fn(tables, *rows)
  axes.over = lambda names: 1
  try:
    yield
  finally:
    axes.look_up, axes.by_rows, axes.over = kept


def of_decoding(backend, dtype, mesh, by_group=stage.by_group):
  """The report of a rollout's program, and the program with its input."""
  jitted, given, draw = decoding(model_of(backend, dtype), mesh, by_group)
  with at(mesh):
    program, text = compiled(jitted, *given)
  return report_of(program, text, mesh), (program, given, draw)


def of_update(backend, dtype, mesh, **fields):
  """The report of the program of a gradient; `fields` change the model."""
  jitted, given = update(model_of(backend, dtype).clone(**fields), mesh)
  with at(mesh):
    return report_of(*compiled(jitted, *given), mesh)


def played(program, given, draw):
  """What a program makes of what is drawn."""
  place = jax.tree.map(lambda x: x.sharding, given)
  return jax.device_get(program(*jax.device_put(jax.jit(draw)(), place)))


def same(a, b):
  """Names of the fields that are equal, log-probabilities nearly so."""
  near = lambda x, y: np.allclose(x, y, atol=1e-5, rtol=0)
  return [
    name for name, x in a._asdict().items()
    if (near if name == "logprob" else np.array_equal)(x, getattr(b, name))
  ]


def of_look_up(mesh):
  """The report of an embedding look-up."""
  put = jax.lax.with_sharding_constraint

  def look_up(table, tokens):
    found = put(table[tokens], PartitionSpec(None, None, "fsdp"))
    return put(found, PartitionSpec(sharding.ROWS))

  params, tokens = update(model_of("cpu", jnp.float32), mesh)[1]
  with at(mesh):
    program, text = compiled(jax.jit(look_up), params["embed"], tokens)
  return report_of(program, text, mesh)


def of_mixture(mesh, fn):
  """The report of experts' gradient on rows of a mesh, and the gradient."""
  count, width, size = 4, 32, 64
  keys, f32 = jax.random.split(KEY, 5), jnp.float32
  normal = lambda n, *shape: 0.3 * jax.random.normal(keys[n], shape, f32)
  draw = lambda: {
    "x": normal(0, 64, width),
    "layers": {
      "router": normal(1, 1, width, count),
      "experts_gate": normal(2, 1, count, width, size),
      "experts_up": normal(3, 1, count, width, size),
      "experts_down": normal(4, 1, count, size, width),
    },
  }

  def loss(given):
    layer = jax.tree.map(lambda x: x[0], given["layers"])
    y = fn(
      given["x"], layer, per_token=2, activation="silu", sum_to_one=True
    )
    return jnp.sum(jnp.sin(y))

  given = jax.eval_shape(draw)
  rows = sharding.shard_rows(mesh)
  given["x"] = jax.ShapeDtypeStruct(given["x"].shape, f32, sharding=rows)
  given["layers"] = placed({"layers": given["layers"]}, mesh)["layers"]
  place = jax.tree.map(lambda x: x.sharding, given)
  jitted = jax.jit(jax.grad(loss), out_shardings=place)
  with at(mesh):
    program = jitted.lower(given).compile({"xla_backend_optimization_level": 0})
  grads = program(jax.device_put(jax.jit(draw)(), place))
  return report_of(program, "", mesh), jax.device_get(grads)


def of_mixtures(mesh, one):
  """Experts on the mesh, left to the compiler, and how far from one device."""
  sorted_rows = lambda x, p, **options: experts._mixture(
    x, *(p[n] for n in ("router", *parameters.EXPERTS)),
    **options | {"activation": jax.nn.silu},
  )
  found, grads = of_mixture(mesh, experts.mixture)
  naive, _ = of_mixture(mesh, sorted_rows)
  pairs = zip(*map(jax.tree.leaves, (grads, of_mixture(one, sorted_rows)[1])))
  apart = max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs)
  return {"own": found, "naive": naive, "apart": float(apart)}


def of_residual(kind):
  """Bytes that a long update needs beside its input, and its gradient."""
  mesh = mesh_of("cpu", 1, 2, 4)
  model = model_of("cpu", jnp.float32).clone(
    heads=8, kv_heads=4, layers=8, scan=True, remat="full", residual=kind
  )
  jitted, given = update(model, mesh, chunk=0, length=256)
  with at(mesh):
    program, _ = compiled(jitted, *given)
  shape = given[1].shape
  draw = lambda: (
    decoder.init(model, KEY),
    jax.random.randint(KEY, shape, 0, VOCABULARY, jnp.int32),
  )
  grads = played(program, given, draw)
  return program.memory_analysis().temp_size_in_bytes, grads


def of_residuals():
  """Bytes of both kinds, and how far their gradients are apart."""
  (whole, a), (split, b) = of_residual("whole"), of_residual("split")
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
  apart = max(np.abs(x - y).max() / np.abs(x).max() for x, y in pairs)
  return {"whole": whole, "split": split, "apart": float(apart)}


def on_cpu(mesh):
  """The same programs in float32, run, and without by_group, on one device."""
  one, f32 = mesh_of("cpu", 1, 1, 1), jnp.float32
  found = {"update of one": of_update("cpu", f32, one)}
  as_it_is = lambda stage, mesh: stage.method
  found["left decode"], _ = of_decoding("cpu", f32, mesh, as_it_is)
  _, alone = of_decoding("cpu", f32, one)
  with naive():
    found["naive update"] = of_update("cpu", f32, mesh)
  found["decode"], shared = of_decoding("cpu", f32, mesh)
  found["same"] = same(played(*shared), played(*alone))
  found["naive look-up"] = of_look_up(mesh)
  found["residual"] = of_residuals()
  found["experts"] = of_mixtures(mesh, one)
  found["update by rows"] = of_update(
    "cpu", jnp.bfloat16, mesh_of("cpu", 8, 1, 1), wide=True, remat="dots",
    layers=2, scan=True,
  )
  return found | {"update": of_update("cpu", f32, mesh)}


def on_tpu(mesh):
  """The programs in bfloat16."""
  return {
    "decode": of_decoding("tpu", jnp.bfloat16, mesh)[0],
    "update": of_update("tpu", jnp.bfloat16, mesh),
  }


def main(backend):
  jax.config.update("jax_threefry_partitionable", True)
  mesh = mesh_of(backend, 2, 2, 2)
  found = {"cpu": on_cpu, "tpu": on_tpu}[backend](mesh)
  with naive():
    found["naive decode"], _ = of_decoding(backend, jnp.float32, mesh)
  print(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1])
