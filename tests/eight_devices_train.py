"""Run by test_devices.py as a process of 8 fake CPU devices; says JSON.

SCoRe's stage II on mazes, on one device and on meshes of eight.
"""

import json
import re

import jax
import jax.numpy as jnp
import loops
import numpy as np
import two_processes_judge

from sitrain.methods import score
from sitrain.models.decoder import Decoder
from sitrain.runtime import optimizer, sharding
from sitrain.runtime.stage import compile_loop, parts_of
from sitrain.runtime.start import layout, start_state
from sitrain.tasks import maze
from sitrain.types import Verdict

# Sizes of the mesh; whether learn is compiled, and whether the loop is run.
MESHES = {
  "data": ((8, 1, 1), True, True),
  "fsdp": ((4, 2, 1), False, False),
  "all": ((2, 2, 2), False, True),
}
PROBLEMS, SAMPLES, STEPS = 64, 4, 4
ROOT = jax.random.key(5, impl="threefry2x32")
COLLECTIVE = re.compile(
  r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|"
  r"collective-broadcast)(?:-start)?\("
)
CALLED = re.compile(
  r"(?:body|condition|to_apply|calls|branch_computations)="
  r"\{?(%?[\w.\-]+(?:, %[\w.\-]+)*)"
)


def kind(answer, episodes, turns):
  """Half of what an unknowing policy says is right."""
  said = [
    jnp.sum(jnp.where(episodes.turn == k + 1, episodes.tokens, 0), axis=1)
    for k in range(turns)
  ]
  right = (jnp.stack(said, axis=1) + answer[:, -2:-1]) % 2 == 0
  return Verdict(right.astype(jnp.float32), jnp.ones(right.shape))


def make_stage():
  task = maze.make(doors=2, rooms=2)._replace(verify=kind)
  model = Decoder(
    vocabulary=16, layers=1, width=32, heads=4, kv_heads=2, head_size=8,
    mlp_size=64,
  )
  optim = optimizer.make(learning_rate=0.01, steps=8, eps=1e-3)
  method = score.stage_two(
    {"policy": model}, task, optim, turns=(3, 3), problems=PROBLEMS,
    samples=SAMPLES, beta1=0.1, beta2=0.2, share_prompts=True,
  )
  return model, loops.stage_of(method, optim, steps_per_call=STEPS)


def begin(run, stage):
  """The state on the run's mesh, with a reference of its own."""
  alone = stage._replace(held={"reference": "init"})
  state = start_state(run, alone, layout(run, alone))
  place = jax.tree.map(lambda x: x.sharding, layout(run, stage).held)
  make = jax.jit(
    lambda tree: jax.tree.map(lambda x: 0.8 * x, tree), out_shardings=place
  )
  return state._replace(held=make(state.held))


def computations(text):
  """name -> lines, of every computation of a program."""
  found, name = {}, ""
  for line in text.splitlines():
    head = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
    if head and not line.startswith(" "):
      name = head[1]
      found[name] = []
    elif name:
      found[name].append(line)
  return found


def inside_loops(text):
  """All lines of the bodies and conditions of loops, and what they call."""
  known = computations(text)
  todo, seen = [], set()
  for lines in known.values():
    for line in lines:
      if " while(" in line:
        todo += re.findall(r"(?:body|condition)=%?([\w.\-]+)", line)
  while todo:
    name = todo.pop()
    if name in seen or name not in known:
      continue
    seen.add(name)
    for line in known[name]:
      for names in CALLED.findall(line):
        todo += [n.strip().lstrip("%") for n in names.split(",")]
  return [line for name in seen for line in known[name]]


def groups_of(line, devices=8):
  """The groups of devices that a collective joins, as lists."""
  pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line + "}")
  if pairs:
    return [
      [int(n) for n in re.findall(r"\d+", pair)]
      for pair in re.findall(r"\{([\d,]+)", pairs[0])
    ]
  listed = re.search(r"replica_groups=\{(\{.*?\})\}", line)
  if listed:
    each = re.findall(r"\{([\d,]*)\}", listed[1])
    return [[int(n) for n in x.split(",") if n] for x in each]
  iota = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
  )
  if iota:
    shape, dims = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
    ids = np.arange(np.prod(dims)).reshape(dims)
    if iota[3]:
      ids = ids.transpose([int(n) for n in iota[3].split(",")])
    return ids.reshape(shape).tolist()
  return [list(range(devices))]


def crossing(lines, mesh):
  """Collectives that join devices of different groups of rows."""
  per_group = mesh.shape["tensor"]  # the last axis, so neighbours
  return [
    line.strip()[:300] for line in lines if COLLECTIVE.search(line)
    and any(len({d // per_group for d in g}) > 1 for g in groups_of(line))
  ]


def compiled_parts(stage, mesh, state, with_learn):
  """(collect, learn or (), what collect returns), compiled."""
  collect, judge, learn = parts_of(stage, mesh)
  collect = jax.jit(collect).lower(state, ROOT).compile()
  problems, episodes = collect(state, ROOT)
  if not with_learn:
    return collect, (), episodes
  verdict, _ = jax.jit(judge)(state, ROOT, problems, episodes)
  place = jax.tree.map(lambda x: x.sharding, state)
  jitted = jax.jit(learn, out_shardings=(place, sharding.replicated(mesh)))
  learn = jitted.lower(state, ROOT, problems, episodes, verdict).compile()
  return collect, learn, episodes


def flops(compiled):
  return float(compiled.cost_analysis()["flops"])


def numbers(tree):
  return [np.asarray(x).astype(np.float64) for x in jax.tree.leaves(tree)]


def largest_difference(a, b):
  pairs = zip(numbers(a), numbers(b), strict=True)
  return max(float(np.max(np.abs(x - y))) for x, y in pairs)


def on(mesh, with_learn, with_loop):
  """What is compiled for a mesh, and what it computes there."""
  model, stage = make_stage()
  run = loops.run_of(model, mesh=mesh)
  params, metrics = (), {}
  with jax.set_mesh(mesh):
    state = begin(run, stage)
    parts = compiled_parts(stage, mesh, state, with_learn)
    if with_loop:
      loop = compile_loop(run, stage, layout(run, stage))
      after, metrics = loop(state, ROOT)
      params = after.params
  return *parts[:2], jax.device_get((parts[2], params, metrics))


def compare(one, mesh, *, with_learn, with_loop):
  """How a mesh differs from one device."""
  collect, learn, (episodes, params, metrics) = on(mesh, with_learn, with_loop)
  first, after, want = one[2]
  text = collect.as_text()
  lines = inside_loops(text)
  found = {
    "same": [
      name for name in ("tokens", "turn", "path", "problem", "parent")
      if np.array_equal(getattr(episodes, name), getattr(first, name))
    ],
    "logprob": largest_difference(episodes.logprob, first.logprob),
    "collect": flops(collect) / flops(one[0]),
    "crossing": crossing(lines, mesh),
    "loops": text.count(" while("),
    "local": sum(bool(COLLECTIVE.search(line)) for line in lines),
  }
  if with_learn:
    found["learn"] = flops(learn) / flops(one[1])
  if with_loop:
    found["params"] = largest_difference(params, after)
    found["metrics"] = {
      name: largest_difference(metrics[name], want[name]) for name in want
    }
  return found


def plain_crossing(mesh):
  """The same program left to the compiler: what the check has to see."""
  model, stage = make_stage()
  run = loops.run_of(model, mesh=mesh)
  with jax.set_mesh(mesh):
    state = begin(run, stage)
    generate = stage.method.generate
    keys = jax.random.split(ROOT, PROBLEMS)
    problems = stage.method.pose(ROOT, state)
    rows = sharding.shard_rows(mesh)
    args = jax.device_put((keys, problems), rows)
    lowered = jax.jit(generate).lower(args[0], state, args[1])
  return len(crossing(inside_loops(lowered.compile().as_text()), mesh))


def main():
  assert jax.device_count() == 8
  jax.config.update("jax_threefry_partitionable", True)
  one = on(loops.mesh_of(1), True, True)
  found = {}
  for name, (sizes, with_learn, with_loop) in MESHES.items():
    mesh = loops.mesh_of(*sizes)
    options = {"with_learn": with_learn, "with_loop": with_loop}
    found[name] = compare(one, mesh, **options)
    # On the way too, for who waits at a terminal.
    print(json.dumps({name: found[name]}), flush=True)
  found["plain"] = plain_crossing(loops.mesh_of(8))
  four = loops.mesh_of(2, 2, 1)
  found["judged"] = two_processes_judge.judged(four)
  found["judged"]["answered"] = two_processes_judge.answered(four)
  print(json.dumps(found))


if __name__ == "__main__":
  main()
