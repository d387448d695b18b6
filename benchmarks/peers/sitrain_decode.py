"""Sampling with sitrain: one program for prefill and all new tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import protocol
from sitrain.models import decoder
from sitrain.rollout.play import play
from sitrain.runtime import sharding
from sitrain.runtime.cores import use_cores
from sitrain.tasks.draw import constant_reply
from sitrain.types import PAD, Problems


def make_model(sizes: dict) -> decoder.Decoder:
  """A Llama of these sizes, as all the workers have it."""
  return decoder.Decoder(
    vocabulary=sizes["vocabulary"], layers=sizes["layers"],
    width=sizes["width"], heads=sizes["heads"], kv_heads=sizes["kv_heads"],
    head_size=sizes["head_size"], mlp_size=sizes["mlp"], tied=sizes["tied"],
    dtype=jnp.dtype(sizes["dtype"]),
  )


def size_of(params) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def problems_of(case: dict, rows: int) -> Problems:
  prompt = jnp.asarray(protocol.prompts(case, rows), jnp.int32)
  nothing = jnp.full((rows, 1), PAD, jnp.int32)
  return Problems(prompt, nothing, nothing)


def prepare(case: dict):
  """Rows with prompts of their own, `case["new"]` tokens each, no end token."""
  model = make_model(case["model"])
  params = jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0))
  problems, calls = problems_of(case, case["batch"]), iter(range(2**31))

  def generate(keys, params, problems):
    return play(
      keys, model, params, problems, samples=1,
      reply=constant_reply([]),
      turns=(case["new"],), eos=(), temperature=1.0,
    )

  mesh = sharding.make_mesh()
  generate = sharding.by_group(generate, mesh)
  params = jax.device_put(params, sharding.replicated(mesh))

  @jax.jit
  def sample(params, problems, number):
    key = jax.random.fold_in(jax.random.key(1), number)
    return generate(jax.random.split(key, case["batch"]), params, problems)

  def run():
    episodes = sample(params, problems, next(calls))
    return {"tokens": int((np.asarray(episodes.turn) >= 1).sum())}

  run()
  settings = f"jax {jax.__version__}, {jax.device_count()} devices"
  return run, {"parameters": size_of(params), "settings": settings}


if __name__ == "__main__":
  use_cores()
  protocol.serve(prepare)
