"""A worker that times whichever checkout of the project is on its path.

`benchmarks.before_after` starts this file in two checkouts, so it uses only
names that both have. Besides the seconds of a run it answers with the processor
seconds of all threads, which other programs on the machine change less.
"""

import importlib
import os
import resource

import jax


def phases(case: dict):
  """A SCoRe step of stage II as one program, from where the last ended."""
  module = importlib.import_module("benchmarks.phases")
  decoder = importlib.import_module("sitrain.models.decoder")
  model, key = module.MODELS["small"], jax.random.key(0)
  task = module.make_task(case["prompt"], model.vocabulary)
  params = jax.jit(lambda key: decoder.init(model, key))(key)
  _, iteration, state, _ = module.compiled_step(
    model, params, task, case["rows"], case["new"], 1
  )
  states = [state]

  def step():
    state, metrics = iteration(states.pop(), key)
    states.append(state)
    return state, metrics

  return step


def refill(case: dict):
  """Many rows in a few slots."""
  module = importlib.import_module("benchmarks.refill")
  ways = module.ways(case["prompts"], module.SIZES, case["mean"], case["limit"])
  return ways["refill"]


def turns(case: dict):
  """Two turns with one cursor and a kept cache."""
  module = importlib.import_module("benchmarks.turns")
  name = case["name"]
  ways = module.prepare(name, module.CASES[name] | case["sizes"])
  return ways["one_cursor"]


def worker_of(name: str):
  """The benchmark of a worker of the project's own, such as decode."""
  module = importlib.import_module(f"benchmarks.peers.sitrain_{name}")
  return lambda case: module.prepare(case)[0]


def processor_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def prepare(case: dict):
  """The function that is timed, after its first call, and its facts."""
  own = {"phases": phases, "refill": refill, "turns": turns}
  kind = case["kind"]
  call = (own[kind] if kind in own else worker_of(kind))(case)
  jax.block_until_ready(call())

  def run():
    began = processor_seconds()
    jax.block_until_ready(call())
    return {"processor": processor_seconds() - began}

  return run, {"folder": os.getcwd(), "devices": jax.device_count()}


if __name__ == "__main__":
  from benchmarks.peers import protocol
  from sitrain.runtime.cores import use_cores

  use_cores()
  protocol.serve(prepare)
