"""Time of each phase of a SCoRe step, and its share of the machine's limits.

  python -m benchmarks.phases
  python -m benchmarks.phases --model=qwen3-0.6b --rows=256 --new=512

One step of stage II: collect (rollout of two turns), judge, learn (reference
and update), with random weights and no end token. Decoding is a share of the
measured bandwidth, for reading weights and filled cache; learning is a share of
the measured rate of matrix products, for 6 flops a parameter and token, and 2
for the reference. "small" is the model of `benchmarks.decode`; the other one
computes in bfloat16 and is for accelerators: --layers makes it smaller.
"""

import functools
import json
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import limits
from benchmarks.rounds import medians, timed
from sitrain.methods import score
from sitrain.models import decoder
from sitrain.rollout.play import play
from sitrain.runtime import optimizer, sharding
from sitrain.runtime.cores import use_cores
from sitrain.tasks.draw import constant_reply
from sitrain.train import (
  init_state,
  make_iteration,
  make_parts,
  make_train_step,
)
from sitrain.types import PAD, Problems, Task, Verdict

REPLY = 32  # tokens between the attempts
SAMPLES = 8  # of a problem

MODELS = {
  "small": decoder.Decoder(
    vocabulary=512, layers=4, width=256, heads=4, kv_heads=4, head_size=64,
    mlp_size=896, tied=False,
  ),
  "qwen3-0.6b": decoder.Decoder(
    vocabulary=151936, layers=28, width=1024, heads=16, kv_heads=8,
    head_size=128, mlp_size=3072, qk_norm=True, rope_base=1e6,
    dtype=jnp.bfloat16, scan=True, remat="full",
  ),
}


def make_task(prompt: int, vocabulary: int) -> Task:
  """Random prompts, a constant reply, and a reward by the tokens."""

  def problems(key, count):
    shape = (count, prompt)
    tokens = jax.random.randint(key, shape, 0, vocabulary, jnp.int32)
    nothing = jnp.full((count, 1), PAD, jnp.int32)
    return Problems(tokens, nothing, nothing)

  def verify(answer, rows, turns):
    even = [
      jnp.mean((rows.turn == k + 1) & (rows.tokens % 2 == 0), axis=1)
      for k in range(turns)
    ]
    reward = jnp.stack(even, axis=1)
    return Verdict(reward, jnp.ones_like(reward))

  return Task(
    problems=problems, verify=verify,
    reply=constant_reply([1] * REPLY),
    final=lambda rows, turns: jnp.zeros((*rows.problem.shape, turns), int),
    level=lambda problems: jnp.zeros(len(problems.prompt), jnp.int32),
    levels=("all",), eos=(), turn_length=1, tokenizer=(), table=(),
    on_host=False,
  )


def decoding(model, params, task: Task, rows: int, prompt: int, new: int):
  """(function that samples one turn of `new` tokens, bytes that its tokens but
  the first must read)."""

  def generate(keys, params, problems):
    return play(
      keys, model, params, problems, samples=1, reply=task.reply, turns=(new,),
      eos=(), temperature=1.0,
    )

  def sample(params, key):
    keys, problems = jax.random.split(key, rows), task.problems(key, rows)
    return sharding.by_group(generate, sharding.make_mesh())(
      keys, params, problems
    )

  size = jnp.dtype(model.dtype).itemsize
  column = 2 * model.layers * model.kv_heads * model.head_size * size
  filled = rows * column * (prompt + new / 2)
  weights = multiplied_parameters(model) * size
  return jax.jit(sample), (new - 1) * (weights + filled)


def multiplied_parameters(model: decoder.Decoder) -> int:
  """Parameters in matrix products: an embedding table that is no head is not
  among them."""
  params = jax.eval_shape(lambda: decoder.init(model, jax.random.key(0)))
  count = sum(x.size for x in jax.tree.leaves(params))
  return count - (0 if model.tied else params["embed"].size)


def compiled_step(model, params, task, rows: int, new: int, microbatches: int):
  """Compiled collect, judge, learn and iteration of stage II, its state, and
  the seconds that compiling the iteration took."""
  optim = optimizer.make(learning_rate=1e-6, steps=1000)
  method = score.stage_two(
    {"policy": model}, task, optim, problems=rows // SAMPLES, samples=SAMPLES,
    turns=(new, new), kl="k1", share_prompts=True,
  )
  generate = sharding.by_group(method.generate, sharding.make_mesh())
  method = method._replace(generate=generate)
  step = make_train_step(optim, method.loss, microbatches=microbatches)
  parts = dict(zip(("collect", "judge", "learn"), make_parts(method, step)))
  reference = jax.tree.map(lambda x: x.astype(model.dtype), params)
  held = {"reference": jax.tree.map(jnp.copy, reference)}
  state = init_state({"policy": params}, optim, held=held)
  iteration = jax.jit(make_iteration(*parts.values()), donate_argnums=0)
  lowered = iteration.lower(state, jax.random.key(0))
  began = time.perf_counter()
  iteration = lowered.compile()
  took = time.perf_counter() - began
  parts = {name: jax.jit(f) for name, f in parts.items()}
  return parts, iteration, state, took


def repeatable(iteration, state, key):
  """An iteration as a function of nothing; its donated state is kept."""
  states = [jax.tree.map(jnp.copy, state)]

  def step():
    state, metrics = iteration(states.pop(), key)
    states.append(state)
    return state, metrics

  return step


def peak(compiled) -> int:
  """Bytes of arguments, results and temporaries that XLA plans for."""
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes + plan.output_size_in_bytes
    + plan.temp_size_in_bytes - plan.alias_size_in_bytes
  )


def measure(
  model: decoder.Decoder, *, rows: int, prompt: int, new: int,
  microbatches: int, rounds: int,
) -> dict:
  """Seconds of every phase, and shares of the limits of the device."""
  key, able = jax.random.key(0), limits.measure()
  task = make_task(prompt, model.vocabulary)
  params = jax.jit(functools.partial(decoder.init, model))(key)
  sample, read = decoding(model, params, task, rows, prompt, new)
  first, _ = decoding(model, params, task, rows, prompt, 1)
  parts, iteration, state, compiling = compiled_step(
    model, params, task, rows, new, microbatches
  )
  posed = parts["collect"](state, key)
  verdict, _ = parts["judge"](state, key, *posed)
  runs = {
    "prefill": timed(first, params, key),
    "prefill and decode": timed(sample, params, key),
    "collect": timed(parts["collect"], state, key),
    "judge": timed(parts["judge"], state, key, *posed),
    "learn": timed(parts["learn"], state, key, *posed, verdict),
    "whole step": timed(repeatable(iteration, state, key)),
  }
  seconds = medians(runs, rounds)
  decode = seconds["prefill and decode"] - seconds["prefill"]
  # The update reads a prompt once for its samples.
  tokens = rows // SAMPLES * prompt + rows * (2 * new + REPLY)
  flops = 8 * tokens * multiplied_parameters(model)
  rate = able[jnp.dtype(model.dtype).name]
  return {
    "limits": able, "seconds": seconds, "compile_seconds": compiling,
    "peak_bytes": peak(iteration),
    "decode_tokens_per_second": rows * (new - 1) / decode,
    "decode_share_of_bandwidth": read / decode / able["bandwidth"],
    "learn_share_of_products": flops / seconds["learn"] / rate,
  }


def show(found: dict) -> None:
  """Prints the results."""
  for name, seconds in found["seconds"].items():
    print(f"{name:20} {seconds * 1e3:10.1f} ms")
  print(
    f"decoding {found['decode_tokens_per_second']:.0f} tokens/s, "
    f"{found['decode_share_of_bandwidth']:.0%} of the bandwidth; learning "
    f"{found['learn_share_of_products']:.0%} of the products; compiled in "
    f"{found['compile_seconds']:.1f} s, peak {found['peak_bytes'] / 2**20:.0f} "
    "MiB", flush=True,
  )


def main(argv: list[str]) -> None:
  """Measures, prints and writes the results."""
  del argv
  use_cores()
  model = MODELS[MODEL.value]
  if LAYERS.value:
    model = model.clone(layers=LAYERS.value)
  found = measure(
    model, rows=ROWS.value, prompt=PROMPT.value, new=NEW.value,
    microbatches=MICROBATCHES.value, rounds=ROUNDS.value,
  )
  show(found)
  if OUTPUT.value:
    with open(OUTPUT.value, "w") as file:
      json.dump(found, file, indent=1)


if __name__ == "__main__":
  MODEL = flags.DEFINE_enum("model", "small", list(MODELS), "Which model.")
  LAYERS = flags.DEFINE_integer("layers", 0, "Layers; 0: all it has.", 0)
  ROWS = flags.DEFINE_integer("rows", 64, "Rows, a multiple of 8.", 8)
  PROMPT = flags.DEFINE_integer("prompt", 64, "Tokens of a prompt.", 1)
  NEW = flags.DEFINE_integer("new", 64, "Tokens of a turn.", 2)
  MICROBATCHES = flags.DEFINE_integer("microbatches", 1, "Of the update.", 1)
  ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.", 1)
  OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
  app.run(main)
