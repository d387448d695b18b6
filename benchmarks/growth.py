"""Time as a function of the length of a row and of the number of rows.

  python -m benchmarks.growth

Time of a token, of the policy-gradient update and of decoding, fitted as
a + b T over several lengths T of a row, and the share of attention in it,
b T / (a + b T); time of an update fitted over several numbers B of rows, where
the intercept is the fixed cost of a call. A small model, random parameters,
float32. Medians over interleaved rounds.
"""

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.rounds import medians, timed
from sitrain import train
from sitrain.methods.verbs import policy_loss
from sitrain.models import decoder
from sitrain.rollout.play import play
from sitrain.runtime import optimizer
from sitrain.tasks.draw import constant_reply
from sitrain.types import Batch, PolicyTargets, Problems

LENGTHS = flags.DEFINE_list("lengths", ["256", "512", "1024", "2048"], "T.")
ROWS = flags.DEFINE_list("rows", ["2", "4", "8", "16"], "B.")
ATTENTION = flags.DEFINE_string("attention", "auto", "Of the update.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
TOKENS = 4096  # of an update whose length is varied
LENGTH = 128  # of rows whose number is varied
DECODED = 4  # rows of a rollout


def small_model(attention: str) -> decoder.Decoder:
  """Two layers of width 128 with 512 tokens."""
  return decoder.Decoder(
    vocabulary=512, layers=2, width=128, heads=4, kv_heads=2, head_size=32,
    mlp_size=384, attention=attention,
  )


def make_update(model: decoder.Decoder, rows: int, length: int) -> Callable:
  """A compiled update of rows of full length, as a contestant."""
  optim = optimizer.make(learning_rate=1e-5, steps=10)
  loss = policy_loss(
    model, turns=1, temperature=1.0, clip=jnp.inf, clip_high=jnp.inf,
    max_ratio=10.0, kl="none",
  )
  step = jax.jit(train.make_train_step(optim, loss))
  params = jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0))
  state = train.init_state({"policy": params}, optim)
  shape = rows, length
  token = jax.random.randint(jax.random.key(1), shape, 0, model.vocabulary)
  one, mark = jnp.ones(shape), jnp.ones(shape, jnp.int32)
  targets = PolicyTargets(*[one] * len(PolicyTargets._fields))
  batch = Batch(token, token, mark, mark * 0, one, targets)
  return timed(step, state, batch)


def make_rollout(model: decoder.Decoder, length: int) -> Callable:
  """A compiled rollout of `length` tokens a row, without ends."""
  rows = DECODED
  params = jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0))
  prompt = jnp.zeros((rows, 2), jnp.int32)
  problems = Problems(prompt, prompt[:, :1], prompt)

  @jax.jit
  def roll(params, key):
    return play(
      jax.random.split(key, rows), model, params, problems, samples=1,
      reply=constant_reply([]), turns=(length - 2,), eos=(), temperature=1.0,
    )

  return timed(roll, params, jax.random.key(2))


def line(x, y) -> dict:
  """Least squares y = a + b x, and the share of the variance it explains."""
  x, y = np.asarray(x, float), np.asarray(y, float)
  b, a = np.polyfit(x, y, 1)
  rest = np.sum((y - a - b * x) ** 2)
  return {"a": a, "b": b, "r2": 1 - rest / np.sum((y - y.mean()) ** 2)}


def by_length(per_token: dict) -> dict:
  """Microseconds of a token by T, their fit, and attention's share of it."""
  micro = {t: s * 1e6 for t, s in per_token.items()}
  fit = line(list(micro), list(micro.values()))
  share = {t: fit["b"] * t / (fit["a"] + fit["b"] * t) for t in micro}
  return {"microseconds": micro, "fit": fit, "attention": share}


def measure(
  lengths: list[int], rows: list[int], *, attention: str, rounds: int
) -> dict:
  """All three fits; compiles a program for every length and number of rows."""
  model, calls = small_model(attention), {}
  for t in lengths:
    calls["update", t] = make_update(model, max(TOKENS // t, 1), t)
    calls["decode", t] = make_rollout(model, t)
  for b in rows:
    calls["rows", b] = make_update(model, b, LENGTH)
  took = medians(calls, rounds)
  counts = {
    "update": lambda t: max(TOKENS // t, 1), "decode": lambda _: DECODED
  }
  found = {
    part: by_length({t: took[part, t] / (n(t) * t) for t in lengths})
    for part, n in counts.items()
  }
  step = {b: took["rows", b] for b in rows}
  fit = line(list(step), list(step.values()))
  return found | {"rows": {"seconds": step, "fit": fit}}


def main(argv: list[str]) -> None:
  """Prints the three fits."""
  del argv
  lengths, rows = ([int(x) for x in f.value] for f in (LENGTHS, ROWS))
  found = measure(
    lengths, rows, attention=ATTENTION.value, rounds=ROUNDS.value
  )
  for part in ("update", "decode"):
    fit, share = found[part]["fit"], found[part]["attention"]
    values = ", ".join(
      f"T={t} {us:.1f} us" for t, us in found[part]["microseconds"].items()
    )
    print(f"{part}: {values} a token; {fit['a']:.2f} + {fit['b']:.5f} T, R2 "
          f"{fit['r2']:.3f}, attention {share[lengths[-1]]:.0%} at the longest")
  fit = found["rows"]["fit"]
  values = ", ".join(
    f"B={b} {s * 1e3:.1f} ms" for b, s in found["rows"]["seconds"].items()
  )
  print(f"update of {LENGTH} columns: {values}; {fit['a'] * 1e3:.1f} + "
        f"{fit['b'] * 1e3:.2f} B ms, R2 {fit['r2']:.4f}")
  if OUTPUT.value:
    with open(OUTPUT.value, "w") as file:
      json.dump(found, file, indent=1)


if __name__ == "__main__":
  app.run(main)
