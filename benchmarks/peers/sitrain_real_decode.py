"""Sampling of sitrain from a checkpoint, as sitrain.sample does it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import protocol
from benchmarks.peers.sitrain_decode import problems_of
from sitrain.models import decoder
from sitrain.models.huggingface import weights
from sitrain.models.parameters import computed
from sitrain.rollout.play import play
from sitrain.runtime import machine, policy, sharding
from sitrain.runtime.cores import use_cores
from sitrain.tasks.draw import constant_reply


def read(folder: str, model, mesh):
  """The parameters in the dtype of the computation, on the mesh."""
  shapes = jax.eval_shape(
    lambda key: computed(decoder.init(model, key), model.dtype),
    jax.random.key(0),
  )
  place = sharding.state_shardings(decoder.PARTITION_RULES, shapes, mesh)
  return weights.read(folder, model, sharding.abstract(shapes, place))


def prepare(case: dict):
  """Rows with prompts of their own, `case["new"]` tokens each, no end token."""
  mesh = sharding.make_mesh()
  model = machine.suited(weights.from_folder(
    case["folder"], scan=True, dtype=jnp.dtype(case["dtype"])
  ), mesh)
  case = case | {"model": {"vocabulary": model.vocabulary}}
  problems, calls = problems_of(case, case["batch"]), iter(range(2**31))
  generate = sharding.by_group(functools.partial(
    _generate, model, case["new"]
  ), mesh)

  @jax.jit
  def sample(params, problems, number):
    key = jax.random.fold_in(jax.random.key(1), number)
    return generate(jax.random.split(key, case["batch"]), params, problems)

  with jax.set_mesh(mesh):
    params = policy.unstacked(read(case["folder"], model, mesh))
    compiled = sample.lower(params, problems, 0).compile()

  def run():
    before = protocol.seconds_of_cores()
    episodes = compiled(params, problems, next(calls))
    written = int((np.asarray(episodes.turn) >= 1).sum())
    return {"tokens": written} | protocol.spent(before)

  return run, protocol.jax_facts(params, case["dtype"])


def _generate(model, new, keys, params, problems):
  return play(
    keys, model, params, problems, samples=1, reply=constant_reply([]),
    turns=(new,), eos=(), temperature=1.0,
  )


if __name__ == "__main__":
  use_cores()
  protocol.serve(prepare)
