"""Limits of this machine: memory bandwidth, rate of matrix products.

  python -m benchmarks.limits

Both are measured with jax, on one device: a sum over an array that is larger
than any cache, and a product of square matrices, in float32 and in bfloat16.
"""

import json

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.rounds import medians, timed

ELEMENTS = {"cpu": 2**26, "gpu": 2**30, "tpu": 2**29}
SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def measure(rounds: int = 9) -> dict:
  """Medians: "bandwidth" in bytes/s, "float32" and "bfloat16" in flop/s."""
  kind = jax.default_backend()
  long = jnp.ones(ELEMENTS.get(kind, 2**26), jnp.float32)
  square = jnp.ones((SIDE.get(kind, 2048),) * 2, jnp.float32)
  product = jax.jit(jnp.matmul)
  halves = square.astype(jnp.bfloat16)
  contestants = {
    "bandwidth": timed(jax.jit(jnp.sum), long),
    "float32": timed(product, square, square),
    "bfloat16": timed(product, halves, halves),
  }
  work = {name: 2 * square.shape[0] ** 3 for name in contestants}
  work["bandwidth"] = long.nbytes
  seconds = medians(contestants, rounds)
  return {name: work[name] / seconds[name] for name in contestants}


def main(argv: list[str]) -> None:
  """Prints the limits."""
  del argv
  found = measure(ROUNDS.value)
  print(f"memory {found['bandwidth'] / 1e9:.1f} GB/s, products "
        f"{found['float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{found['bfloat16'] / 1e9:.0f} in bfloat16")
  if OUTPUT.value:
    with open(OUTPUT.value, "w") as file:
      json.dump(found, file, indent=1)


if __name__ == "__main__":
  ROUNDS = flags.DEFINE_integer("rounds", 9, "Interleaved rounds.", 1)
  OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
  app.run(main)
