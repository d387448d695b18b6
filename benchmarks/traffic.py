"""Bytes that a step of decoding accesses, as the compiler counts them.

XLA counts the body of a loop once, however often it runs, so each loop of the
rollout is compiled by itself.
"""

import jax
from jax.extend import core

from benchmarks.peers.sitrain_decode import make_model, problems_of, size_of
from sitrain.models import decoder
from sitrain.rollout.play import play
from sitrain.tasks.draw import constant_reply


def loops_of(jaxpr) -> list:
  """All `while` equations of a jaxpr that carry a cache, outermost first."""
  found = []
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "while" and _cache_length(eqn):
      found.append(eqn)
      continue
    for value in eqn.params.values():
      if isinstance(value, core.ClosedJaxpr):
        found += loops_of(value.jaxpr)
  return found


def _cache_length(eqn) -> int:
  """Columns of the cache in the carry: arrays of four axes [B N T H]."""
  shapes = [v.aval.shape for v in eqn.outvars if len(v.aval.shape) == 4]
  return shapes[0][2] if shapes else 0


def bytes_of(eqn) -> float:
  """Bytes accessed by one pass through the body of a `while`.

  The difference between two such loops and one: both include what the compiler
  does before and after its loops, such as a change of layout.
  """
  one, two = (_accessed(eqn, loops) for loops in (1, 2))
  return two - one


def _accessed(eqn, loops):
  condition, body = (
    core.jaxpr_as_fun(eqn.params[name]) for name in ("cond_jaxpr", "body_jaxpr")
  )
  sizes = [eqn.params["cond_nconsts"], eqn.params["body_nconsts"]]
  first, start = sizes[0], sum(sizes)

  def run(*args):
    state = args[start:]
    more = lambda state: condition(*args[:first], *state)[0]
    once = lambda state: body(*args[first:start], *state)
    for _ in range(loops):
      state = jax.lax.while_loop(more, once, list(state))
    return state

  args = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
  donated = tuple(range(start, len(args)))
  compiled = jax.jit(run, donate_argnums=donated).lower(*args).compile()
  return compiled.cost_analysis()["bytes accessed"]


def traffic(case: dict) -> dict:
  """Bytes of a decode step of sitrain, averaged over a run, and what it must
  read: "weights" (without the table of embeddings, but for one row of it a
  token) and the "filled" part of the cache, keys and values."""
  model, sizes = make_model(case["model"]), case["model"]
  params = jax.eval_shape(lambda: decoder.init(model, jax.random.key(0)))
  keys = jax.eval_shape(
    lambda: jax.random.split(jax.random.key(0), case["batch"])
  )

  def sample(keys, params):
    return play(
      keys, model, params, problems_of(case, case["batch"]), samples=1,
      reply=constant_reply([]), eos=(),
      turns=(case["new"],), temperature=1.0,
    )

  loops = loops_of(jax.make_jaxpr(sample)(keys, params).jaxpr)
  at, total, lengths = case["prompt"] - 1, 0.0, []
  for eqn in loops:
    total += (_cache_length(eqn) - at) * bytes_of(eqn)
    at = _cache_length(eqn)
    lengths.append(at)
  # The last product reads all of a tied table.
  tables = (sizes["vocabulary"] - case["batch"]) * sizes["width"]
  tables *= not sizes["tied"]
  number = model.dtype.itemsize
  weights = number * (size_of(params) - tables)
  row = 2 * number * sizes["layers"] * sizes["kv_heads"] * sizes["head_size"]
  filled = case["batch"] * row * (case["prompt"] + (case["new"] - 1) / 2)
  steps = lengths[-1] - case["prompt"] + 1
  return {
    "accessed": total / steps, "weights": weights, "filled": filled,
    "ratio": total / steps / (weights + filled), "cache_lengths": lengths,
    "per_token": total / steps / case["batch"],
  }
