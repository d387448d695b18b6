"""Temporary memory of one update of a real model, by compiling it.

  python -m benchmarks.memory

Compiles the policy-gradient update of SCoRe for Qwen2.5-1.5B's shapes at
several lengths T and vocabularies V, and prints the temporaries that XLA plans,
with attention that stores all scores of a row and without. Logits of all
tokens, [B T V], would appear as a part that grows with T * V: the mixed
difference of the four corners, which is printed as a ratio to their size.
"""

import itertools
import json

import jax
import jax.numpy as jnp
from absl import app, flags

from sitrain import train
from sitrain.methods.verbs import policy_loss
from sitrain.models import decoder
from sitrain.runtime import optimizer
from sitrain.types import Batch, PolicyTargets

ROWS = flags.DEFINE_integer("rows", 32, "B, rows of a batch.")
MICROBATCHES = flags.DEFINE_integer("microbatches", 16, "Parts of it.")
LAYERS = flags.DEFINE_integer("layers", 28, "Layers of the model.")
LENGTHS = flags.DEFINE_list("lengths", ["1024", "2048"], "Two values of T.")
ATTENTION = flags.DEFINE_list(
  "attention", ["plain", "auto"], "Kinds of attention, as in config.model."
)
SIZES = flags.DEFINE_list("sizes", ["37984", "151936"], "Two values of V.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")


def qwen(
  vocabulary: int, layers: int = 28, attention: str = "auto"
) -> decoder.Decoder:
  """Qwen2.5-1.5B, at another vocabulary."""
  return decoder.Decoder(
    vocabulary=vocabulary, layers=layers, width=1536, heads=12, kv_heads=2,
    head_size=128, mlp_size=8960, qkv_bias=True, rope_base=1e6,
    dtype=jnp.bfloat16, scan=True, remat="full", attention=attention,
  )


def temporaries(
  model: decoder.Decoder, rows: int, length: int, microbatches: int
) -> int:
  """Bytes of the compiled update besides its arguments and results."""
  optim = optimizer.make(learning_rate=1e-5, steps=10)
  loss = policy_loss(
    model, turns=2, temperature=1.0, clip=jnp.inf, clip_high=jnp.inf,
    max_ratio=10.0, kl="k1",
  )
  step = train.make_train_step(optim, loss, microbatches=microbatches)
  key = jax.random.key(0)
  params = jax.eval_shape(lambda key: decoder.init(model, key), key)
  state = jax.eval_shape(
    lambda p: train.init_state({"policy": p}, optim), params
  )
  number = jax.ShapeDtypeStruct((rows, length), jnp.float32)
  token = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  targets = PolicyTargets(*[number] * len(PolicyTargets._fields))
  batch = Batch(token, token, token, token, number, targets)
  compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def measure(
  rows: int, microbatches: int, layers: int, lengths, sizes, attention: str
) -> dict:
  """Temporaries at two lengths and two vocabularies, and what T * V adds."""
  found = {
    (length, size): temporaries(
      qwen(size, layers, attention), rows, length, microbatches
    )
    for length, size in itertools.product(lengths, sizes)
  }
  (t0, t1), (v0, v1) = lengths, sizes
  mixed = (
    found[t1, v1] - found[t1, v0] - found[t0, v1] + found[t0, v0]
  )
  # What float32 logits of a microbatch would add to that difference.
  logits = 4 * rows // microbatches * (t1 - t0) * (v1 - v0)
  return {
    "temporaries": {f"T={t} V={v}": n for (t, v), n in found.items()},
    "grows_with_TV": mixed, "logits_would": logits, "share": mixed / logits,
  }


def main(argv: list[str]) -> None:
  """Compiles the corners and prints them."""
  del argv
  lengths, sizes = ([int(x) for x in f.value] for f in (LENGTHS, SIZES))
  found = {}
  for kind in ATTENTION.value:
    one = found[kind] = measure(
      ROWS.value, MICROBATCHES.value, LAYERS.value, lengths, sizes, kind
    )
    for name, size in one["temporaries"].items():
      print(f"attention {kind}, {name}: {size / 2**30:.2f} GiB", flush=True)
    print(f"grows with T * V: {one['grows_with_TV'] / 2**20:.1f} MiB, where "
          f"logits would be {one['logits_would'] / 2**20:.1f} MiB "
          f"({one['share']:.1%})", flush=True)
  if OUTPUT.value:
    with open(OUTPUT.value, "w") as file:
      json.dump(found, file, indent=1)


if __name__ == "__main__":
  app.run(main)
