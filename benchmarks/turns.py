"""The speed of one cursor and a kept cache in a rollout of two turns.

  python -m benchmarks.turns
  python -m benchmarks.turns --full

For the model of `benchmarks.decode`. The sizes below are those of --full and of
accelerators; without it a CPU measures those of SMALL. Every compilation and
round prints a line.

cursor: 64 rows, attempts of geometric length (mean 64, limit 256), 16 tokens
between them. In sitrain each row begins its second attempt when its first has
ended; the other way is a loop for each turn, which starts when all rows have
ended the turn before. It also keeps its cache, reads the 16 tokens at once, and
draws the same tokens.

cache: 64 rows, a prompt of 256, two attempts of 64, 16 tokens between them.
sitrain's second attempt continues with the cache of the first; the other way
reads the dialogue again. group: the same with 8 samples of each of 8 prompts,
as in RL; both ways read a prompt once for its first attempts.
"""

import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.decode import SIZES
from benchmarks.peers.sitrain_decode import make_model, problems_of
from benchmarks.rounds import compare, format_ratio, interleaved, timed
from sitrain.models import decoder
from sitrain.rollout.caches import cache_lengths, grown, prefill
from sitrain.rollout.contexts import append
from sitrain.rollout.play import play, play_on, row_keys, row_length
from sitrain.rollout.sample import draw
from sitrain.tasks.draw import constant_reply
from sitrain.types import PAD

REPLY = 16
CASES = {
  "cursor": {"model": SIZES, "batch": 64, "samples": 1, "prompt": 64,
             "new": 256, "mean": 64},
  "cache": {"model": SIZES, "batch": 64, "samples": 1, "prompt": 256,
            "new": 64, "mean": 0},
}
CASES["group"] = CASES["cache"] | {"samples": 8}
SMALL = {
  "cursor": CASES["cursor"] | {"batch": 32, "new": 64, "mean": 16},
  "cache": CASES["cache"] | {"batch": 32, "prompt": 128, "new": 32},
}
SMALL["group"] = SMALL["cache"] | {"samples": 8}


def between(rows: int) -> jax.Array:
  """The tokens that every row reads between its attempts."""
  return jnp.broadcast_to(jnp.arange(REPLY, dtype=jnp.int32), (rows, REPLY))


def options(case: dict) -> dict:
  """Options of `play` for one turn. Logits of a random model are nearly equal,
  so 1 / mean of the vocabulary as end tokens gives lengths of that mean."""
  size, mean = case["model"]["vocabulary"], case["mean"]
  ends = range(size - size // mean, size) if mean else ()
  return {
    "temperature": 1.0, "eos": tuple(ends),
    "reply": constant_reply(range(REPLY)),
  }


def one_cursor(model, case, keys, params, problems):
  """Tokens [B, T] of sitrain's own rollout."""
  return play(
    keys, model, params, problems, samples=case["samples"],
    turns=(case["new"],) * 2, **options(case),
  ).tokens


def read_again(model, case, keys, params, problems):
  """The same with a second prefill for the second turn."""
  one = options(case) | {"turns": (case["new"],)}
  first = play(
    keys, model, params, problems, samples=case["samples"], **one
  )
  # The only sample of a row draws as the only sample of its prompt does; with
  # several samples only the first turns are equal.
  if case["samples"] > 1:
    keys = row_keys(keys, case["samples"])
  return play_on(
    keys, model, params, problems, append(first, between(case["batch"])),
    samples=1, first_turn=2, **one,
  ).tokens


def loop_a_turn(model, case, keys, params, problems):
  """The same with a loop for each turn, on one cache that grows."""
  params, keys = decoder.unstack(params), row_keys(keys, 1)
  tokens, start = problems.prompt, jnp.zeros(case["batch"], jnp.int32)
  cache = prefill(model, params, tokens, start)
  tokens, cache = write_turn(model, case, keys, params, tokens, start, cache, 1)
  tokens, start, cache = align_right(tokens, cache)
  column = tokens.shape[1] - 1
  tokens = jnp.concatenate([tokens, between(case["batch"])], axis=1)
  cache = grown(model, cache, case["batch"], tokens.shape[1] - 1)
  attend = decoder.sees_cache(start, column, REPLY, cache[0][0].shape[2])
  _, cache = model.apply(
    {"params": params}, tokens[:, column:-1], attend, cache, column
  )
  tokens, _ = write_turn(model, case, keys, params, tokens, start, cache, 2)
  return jnp.take_along_axis(
    tokens, jnp.argsort(tokens == PAD, axis=1, stable=True), axis=1
  )


def write_turn(model, case, keys, params, tokens, start, cache, turn):
  """Appends a turn to all rows, until the last has ended; PAD after it."""
  first, limit, rows = tokens.shape[1], case["new"], tokens.shape[0]
  ends = jnp.asarray(options(case)["eos"], jnp.int32)
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, turn)
  temperature = jnp.ones(rows)

  def body(loop):
    column, tokens, done, cache = loop
    last = jax.lax.dynamic_slice_in_dim(tokens, column - 1, 1, axis=1)
    attend = decoder.sees_cache(
      start, column - 1, 1, cache[0][0].shape[2]
    )
    hidden, cache = model.apply(
      {"params": params}, last, attend, cache, column - 1
    )
    logits = model.apply({"params": params}, hidden[:, 0], method="logits")
    at = jax.vmap(jax.random.fold_in, (0, None))(keys, column - first)
    token = jnp.where(done, PAD, draw(at, logits, temperature)[0])
    tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, column))
    return column + 1, tokens, done | jnp.isin(token, ends), cache

  def more(loop):
    column, _, done, cache = loop
    return (column <= cache[0][0].shape[2]) & ~jnp.all(done)

  blank = jnp.full((rows, limit), PAD, jnp.int32)
  loop = (jnp.asarray(first, jnp.int32), jnp.concatenate([tokens, blank], 1),
          jnp.zeros(rows, bool), cache)
  for size in cache_lengths(first - 1, first + limit - 1):
    loop = (*loop[:3], grown(model, loop[3], rows, size))
    loop = jax.lax.while_loop(more, body, loop)
  return loop[1], grown(model, loop[3], rows, first + limit)


def align_right(tokens, cache):
  """Moves every row so that it ends at the last column, its cache too.

  Returns the tokens, the column where each row now starts, and the cache.
  """
  length = tokens.shape[1]
  start = jnp.sum(tokens == PAD, axis=1, dtype=jnp.int32)
  source = jnp.maximum(jnp.arange(length) - start[:, None], 0)
  moved = jnp.take_along_axis(tokens, source, axis=1)
  tokens = jnp.where(jnp.arange(length) < start[:, None], PAD, moved)
  index = source[:, None, :, None]
  cache = jax.tree.map(
    lambda x: jnp.take_along_axis(x, index, axis=2, mode="clip"), cache
  )
  return tokens, start, cache


def prepare(name: str, case: dict) -> dict:
  """The two ways of a case as functions of nothing; the first call compiles."""
  model = make_model(case["model"])
  params = jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0))
  count = case["batch"] // case["samples"]
  problems = problems_of(case, count)
  keys = jax.random.split(jax.random.key(1), count)
  other = loop_a_turn if name == "cursor" else read_again
  return {
    way.__name__: partial(
      jax.jit(partial(way, model, case)), keys, params, problems
    )
    for way in (one_cursor, other)
  }


def measure(rounds: int, cases: dict[str, dict]) -> dict:
  """Seconds of both ways, and how many times faster sitrain's is, by case."""
  found = {}
  for name, case in cases.items():
    say = partial(_say, name)
    runs = {}
    for way, function in prepare(name, case).items():
      runs[way] = timed(function)
      say(f"{way}: compiled and called in {runs[way]():.0f} s")
    seconds = interleaved(runs, rounds, report=say)
    ours, other = seconds.values()
    columns = row_length(case["prompt"], (case["new"],) * 2, REPLY)
    found[name] = {
      "seconds": seconds, "ratio": compare(other, ours), "columns": columns
    }
    ratio, (first, second) = format_ratio(found[name]["ratio"]), runs
    say(f"{first} is {ratio} times as fast as {second}")
  return found


def _say(name, line):
  print(f"{name}: {line}", flush=True)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  full = FULL.value or jax.default_backend() != "cpu"
  sizes = CASES if full else SMALL
  if unknown := set(NAMES.value) - set(sizes):
    raise app.UsageError(f"--cases: {sorted(unknown)} not in {list(sizes)}")
  found = measure(ROUNDS.value, {name: sizes[name] for name in NAMES.value})
  if OUTPUT.value:
    pathlib.Path(OUTPUT.value).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
  ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.", 1)
  NAMES = flags.DEFINE_list("cases", list(CASES), "Which to measure.")
  FULL = flags.DEFINE_bool("full", False, "The larger sizes on a CPU too.")
  OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
  app.run(main)
