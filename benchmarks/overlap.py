"""How much of a host verifier's time the device's sampling hides.

  python -m benchmarks.overlap

Sampling and verifying of 4,096 mazes, without the update, with a verifier on
the host that takes a given time a row (it sleeps, as one does that waits for
other processes), in one wave and in several: one wave can hide nothing, n waves
all but one n-th of the shorter of the two. Medians over interleaved rounds.
"""

import json
import statistics
import time

import jax
import numpy as np
from absl import app, flags

from sitrain.configs import quickstart
from sitrain.methods import score
from sitrain.runtime import build, optimizer, sharding
from sitrain.runtime.staged import make_staged, on_host
from sitrain.tasks import maze
from sitrain.train import init_state
from sitrain.types import Verdict

WAVES = flags.DEFINE_list("waves", ["1", "4"], "Numbers of waves.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Interleaved rounds.")
MILLISECONDS = flags.DEFINE_float("milliseconds", 0.07, "Of a row to verify.")
PROBLEMS, ROWS = 512, 4096
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")


def slow(task, seconds: float):
  """The task with a verifier on the host that takes that long for a row."""

  def verify(answer, episodes, turns):
    time.sleep(seconds * len(answer))
    reward = (np.asarray(episodes.tokens).sum(axis=1) % 2).astype(np.float32)
    reward = np.repeat(reward[:, None], turns, axis=1)
    return Verdict(reward, np.ones_like(reward))

  def final(episodes, turn):
    return np.asarray(episodes.problem) + turn

  return on_host(task._replace(verify=verify, final=final, on_host=True))


def make_step(waves: int, seconds: float):
  """(one step of all verbs, a state to begin with)."""
  config = build.plain(quickstart.get_config())
  task = slow(maze.make(hinted=0.5), seconds)
  model, mesh = build.model_from(config, task), sharding.make_mesh()
  optim = optimizer.make(learning_rate=1e-4, steps=100)
  method = score.stage_one(
    {"policy": model}, task, optim, problems=PROBLEMS, samples=8, turns=(5, 5)
  )
  learn = lambda state, *given: (state, {})
  loop = make_staged(method, learn, mesh, waves=waves, steps=1)
  origin = build.origin_from(config, model)
  params, other = (origin.init(jax.random.key(i)) for i in range(2))
  return loop, init_state(params, optim, reference=other)


def seconds_of(loop, state) -> float:
  """Wall time of one step."""
  began = time.perf_counter()
  jax.block_until_ready(loop(state, jax.random.key(0)))
  return time.perf_counter() - began


def main(argv: list[str]) -> None:
  """Times all numbers of waves, with and without the verifier's time."""
  del argv
  each, found = MILLISECONDS.value / 1000, {}
  cases = [(int(w), t) for w in WAVES.value for t in (0.0, each)]
  made = {case: make_step(*case) for case in cases}
  for case in cases:
    seconds_of(*made[case])  # compiles
  times = {case: [] for case in cases}
  for _ in range(ROUNDS.value):
    for case in cases:
      times[case].append(seconds_of(*made[case]))
  for waves in (int(w) for w in WAVES.value):
    free, slowed = (
      statistics.median(times[waves, t]) for t in (0.0, each)
    )
    hidden = 1 - (slowed - free) / (each * ROWS)
    found[waves] = {"free": free, "slowed": slowed, "hidden": hidden}
    print(f"{waves} waves: {free * 1e3:.0f} ms without, {slowed * 1e3:.0f} ms "
          f"with {each * ROWS * 1e3:.0f} ms of verifying: {hidden:.0%} hidden")
  if OUTPUT.value:
    with open(OUTPUT.value, "w") as file:
      json.dump(found, file, indent=1)


if __name__ == "__main__":
  app.run(main)
