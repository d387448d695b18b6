"""The speed of refilled slots where some rows are much longer than others.

  python -m benchmarks.refill
  python -m benchmarks.refill --prompts=128 --mean=32 --limit=128  # minutes

The model of `benchmarks.decode`, prompts of 64, answers of geometric length
(mean 128, limit 512), 64 slots: `play` with slots against `play` on batches of
64 prompts, which grows its cache and stops when all rows have ended. Both draw
the same tokens. Prints useful tokens per second and how many times faster
refilling is: the median over the rounds, its 95 % bootstrap interval, and the
range.
"""

import json
import os
import pathlib
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from absl import app, flags

from benchmarks.decode import SIZES
from benchmarks.peers.sitrain_decode import make_model, problems_of
from benchmarks.rounds import compare, format_ratio, interleaved, timed
from sitrain.models import decoder
from sitrain.rollout.play import play
from sitrain.tasks.draw import constant_reply
from sitrain.types import PAD

SLOTS, PROMPT, MEAN, LIMIT = 64, 64, 128, 512
NEAR_TIES = 0.01  # share of rows in which rounding may change a draw


def options(vocabulary: int, mean: int, limit: int) -> dict:
  """One turn; a share 1 / mean of the vocabulary are end tokens."""
  ends = range(vocabulary - vocabulary // mean, vocabulary)
  return {
    "samples": 1, "temperature": 1.0, "eos": tuple(ends), "turns": (limit,),
    "reply": constant_reply([]),
  }


def level(params: dict) -> dict:
  """The same parameters with nearly equal logits, so that all tokens are about
  equally likely: lengths are then geometric."""
  return dict(params, norm=params["norm"] * 0.05)


def ways(count: int, model_sizes: dict, mean: int, limit: int) -> dict:
  """Both ways of playing `count` prompts, as functions of nothing."""
  model = make_model(model_sizes)
  params = jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0))
  case = {"model": model_sizes, "prompt": PROMPT}
  given = jax.random.split(jax.random.key(1), count), problems_of(case, count)
  part = lambda first: jax.tree.map(lambda x: x[first : first + SLOTS], given)
  parts = [part(first) for first in range(0, count, SLOTS)]
  rules = options(model.vocabulary, mean, limit)
  params = level(params)
  together = jax.jit(lambda p, keys, posed: play(
    keys, model, p, posed, **rules
  ))
  slotted = jax.jit(lambda p, keys, posed: play(
    keys, model, p, posed, slots=SLOTS, **rules
  ))
  return {
    "static": lambda: [together(params, *part) for part in parts],
    "refill": partial(slotted, params, *given),
  }


def check_equal(static: list, refilled) -> int:
  """Tokens that were sampled; ValueError where the ways differ.

  They add in different orders, so rounding may change a draw, in a share
  NEAR_TIES of the rows at most.
  """
  tokens = np.concatenate([part.tokens for part in static])
  other = np.any(tokens != np.asarray(refilled.tokens), axis=1)
  if np.mean(other) > NEAR_TIES:
    raise ValueError(f"{np.sum(other)} of {len(tokens)} rows differ")
  return int(np.sum(tokens != PAD)) - PROMPT * len(tokens)


def measure(
  prompts: tuple[int, ...] = (128, 512, 2048), rounds: int = 5,
  sizes: dict = SIZES, mean: int = MEAN, limit: int = LIMIT,
  found: dict | None = None, keep: Callable[[dict], None] = lambda found: None,
) -> dict:
  """Seconds of both ways, useful tokens and the ratio, by number of prompts.

  `found` is the result of an earlier call: only missing rounds are played.
  `keep` gets all results after every round. Raises ValueError where the earlier
  answers had another mean or limit.
  """
  found, answers = dict(found or {}), {"mean": mean, "limit": limit}
  for count in map(str, prompts):
    empty = {"answers": answers, "seconds": {"static": [], "refill": []}}
    one = found.setdefault(count, empty)
    if one["answers"] != answers:
      raise ValueError(f"found had {one['answers']}: give --output a new file")
    done = len(one["seconds"]["refill"])
    if done < rounds:
      both = ways(int(count), sizes, mean, limit)
      began = time.perf_counter()
      one["useful"] = check_equal(both["static"](), both["refill"]())
      took = time.perf_counter() - began
      _say(count, f"compiled and compared in {took:.0f} s")
      both = {name: timed(play) for name, play in both.items()}
    say = partial(_say, count)
    for number in range(done, rounds):
      for name, took in interleaved(both, 1, number, report=say).items():
        one["seconds"][name] += took
      one["ratio"] = compare(one["seconds"]["static"], one["seconds"]["refill"])
      keep(found)
    show(count, one)
  return found


def _say(count, line):
  print(f"{count} prompts: {line}", flush=True)


def show(count: str, one: dict) -> None:
  """Prints the results of a number of prompts."""
  ratio, seconds = one["ratio"], one["seconds"]
  speed = {n: one["useful"] / float(np.median(s)) for n, s in seconds.items()}
  _say(
    count, f"{speed['refill']:.0f} useful tokens/s against "
    f"{speed['static']:.0f}, {format_ratio(ratio)} times as fast, range "
    f"{ratio['least']:.2f}-{ratio['most']:.2f} of {len(seconds['refill'])} "
    "rounds",
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  counts = tuple(int(count) for count in PROMPTS.value)
  path, found = pathlib.Path(OUTPUT.value or os.devnull), {}
  if path.is_file():
    found = json.loads(path.read_text())
  measure(
    counts, ROUNDS.value, mean=MEAN_OF.value, limit=TO.value, found=found,
    keep=lambda found: path.write_text(json.dumps(found, indent=1)),
  )


if __name__ == "__main__":
  PROMPTS = flags.DEFINE_list("prompts", ["128", "512", "2048"], "How many.")
  ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.", 1)
  MEAN_OF = flags.DEFINE_integer("mean", MEAN, "Tokens of an answer.", 1)
  TO = flags.DEFINE_integer("limit", LIMIT, "Tokens of the longest.", 1)
  OUTPUT = flags.DEFINE_string(
    "output", "", "JSON file; an interrupted benchmark continues from it."
  )
  app.run(main)
