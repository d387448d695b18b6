"""A supervised step of sitrain on a checkpoint, as its main makes it."""

import jax
import jax.numpy as jnp

from benchmarks.peers import protocol
from sitrain.methods.verbs import likelihood_loss
from sitrain.models import decoder, lora
from sitrain.models.huggingface import weights
from sitrain.runtime import machine, optimizer, sharding
from sitrain.runtime.cores import use_cores
from sitrain.train import init_state, make_train_step
from sitrain.types import Batch, Weights


def make_batch(case: dict, vocabulary: int) -> Batch:
  """Rows whose first token is given and whose others are learned."""
  sizes = {"prompt": case["columns"], "model": {"vocabulary": vocabulary}}
  tokens = jnp.asarray(protocol.prompts(sizes, case["rows"]), jnp.int32)
  turn = jnp.ones_like(tokens).at[:, 0].set(0)
  one = jnp.ones(tokens.shape, jnp.float32)
  path = jnp.zeros_like(tokens)
  return Batch(tokens, tokens, turn, path, one * (turn > 0), Weights(one))


def make_state(case: dict, model, optim, mesh):
  """(state, its shardings): the checkpoint, or adapters beside it."""

  def init(key):
    params = decoder.init(model, key)
    if not case["rank"]:
      return init_state({"policy": params}, optim)
    adapters = lora.adapters(key, model, rank=case["rank"])
    state = init_state({"policy": adapters}, optim)
    return state._replace(frozen={"base": params, "scale": jnp.float32(2)})

  key, rules = jax.random.key(0), decoder.PARTITION_RULES
  shapes = jax.eval_shape(init, key)
  place = sharding.state_shardings(rules, shapes, mesh)
  wanted = sharding.abstract(shapes, place)
  if not case["rank"]:
    params = {"policy": weights.read(
      case["folder"], model, wanted.params["policy"]
    )}
    start = jax.jit(
      lambda p: init_state(p, optim), donate_argnums=0, out_shardings=place
    )
    return start(params), place
  base = weights.read(case["folder"], model, wanted.frozen["base"])
  fresh = jax.jit(lambda key: init(key)._replace(frozen={}))(key)
  return fresh._replace(
    frozen={"base": base, "scale": jax.device_put(jnp.float32(2))}
  ), place


def prepare(case: dict):
  """Compiles the step; every run is one of them, from where the last ended."""
  mesh = sharding.make_mesh(data=1, fsdp=sharding.REST)
  model = machine.suited(weights.from_folder(
    case["folder"], scan=True, remat="auto", dtype=jnp.dtype(case["dtype"])
  ), mesh)
  optim = optimizer.make(learning_rate=1e-5, steps=1000)
  step = make_train_step(optim, likelihood_loss(model))
  with jax.set_mesh(mesh):
    state, place = make_state(case, model, optim, mesh)
    batch = jax.device_put(
      make_batch(case, model.vocabulary), sharding.shard_rows(mesh)
    )
    compiled = jax.jit(
      step, donate_argnums=0,
      out_shardings=(place, sharding.replicated(mesh)),
    ).lower(state, batch).compile()
  states = [jax.device_put(state, place)]
  facts = protocol.jax_facts(state.params, case["dtype"])
  del state

  def run():
    before = protocol.seconds_of_cores()
    state, metrics = jax.block_until_ready(compiled(states.pop(), batch))
    states.append(state)
    nll = metrics["learn/nll"]
    return {"nll": float(nll.total / nll.count)} | protocol.spent(before)

  return run, facts


if __name__ == "__main__":
  use_cores()
  protocol.serve(prepare)
