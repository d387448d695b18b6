"""The share of a host verifier's time that overlaps with sampling.

  python -m benchmarks.overlap

Steps of sampling and verifying mazes, without the update, with a verifier on
the host that takes as long as the sampling (it sleeps, like a verifier that
waits for other processes). One wave cannot overlap; n waves overlap for all but
one n-th of the time, and so does a delay of one step over n steps of a call.
Medians over interleaved rounds, each against the same sampling without a
verifier.
"""

import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.rounds import interleaved, timed
from sitrain.configs import quickstart
from sitrain.methods import score
from sitrain.runtime import build, optimizer, sharding, stopping
from sitrain.runtime.host import on_host
from sitrain.runtime.staged import lower_staged, make_staged
from sitrain.tasks import maze
from sitrain.train import init_state
from sitrain.types import Stage, Verdict

ROUNDS = flags.DEFINE_integer("rounds", 7, "Interleaved rounds.")
PROBLEMS = flags.DEFINE_integer("problems", 256, "Of a step, 8 samples each.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
CASES = {"1 wave": (1, 0), "4 waves": (4, 0), "1 wave, delayed": (1, 1)}
SAMPLES, STEPS, TURNS = 8, 4, (5, 5)


def hosted(task, seconds: float):
  """The task with a host verifier that takes `seconds` for a row."""

  def verify(answer, episodes, turns):
    time.sleep(seconds * len(answer))
    reward = (episodes.tokens.sum(axis=1) % 2).astype(np.float32)
    reward = np.repeat(reward[:, None], turns, axis=1)
    return Verdict(reward, np.ones_like(reward))

  def final(episodes, turns):
    return episodes.problem[:, None] + np.arange(1, turns + 1)

  return on_host(task._replace(verify=verify, final=final, on_host=True))


def make_case(waves: int, delay: int, problems: int):
  """(a function from seconds a row to a loop of STEPS steps, a state)."""
  config = build.plain(quickstart.get_config())
  task, mesh = maze.make(hinted=0.5), sharding.make_mesh()
  model = build.model_from(config, task)
  optim = optimizer.make(learning_rate=1e-4, steps=100)
  origin = build.origin_from(config, model)
  params, other = (origin.init(jax.random.key(i)) for i in range(2))
  state = init_state(
    {"policy": params}, optim, held={"reference": other}
  )
  state = jax.device_put(state, sharding.replicated(mesh))

  def stage_of(seconds):
    method = score.stage_one(
      {"policy": model}, hosted(task, seconds), optim, problems=problems,
      samples=SAMPLES, turns=TURNS,
    )
    return Stage(
      name="overlap", method=method, optimizer=optim, steps=STEPS,
      steps_per_call=STEPS, parts={"waves": waves}, fused=False,
      until=stopping.never(), window=0, start="init",
      held={"reference": "init"},
      restart=True, best="", delay=delay,
    )

  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )
  idle = lambda state, *given: (state, {})
  lowered = lower_staged(
    stage_of(0.0), idle, mesh, abstract, jax.random.key(0)
  )
  programs = {name: program.compile() for name, program in lowered.items()}
  return lambda seconds: make_staged(stage_of(seconds), programs, mesh), state


def _call(loop, state):
  """One call; the loop donates its state."""
  return loop(jax.tree.map(jnp.copy, state), jax.random.key(0))


def measure(rounds: int, problems: int) -> dict:
  """Seconds of a call with and without verifying, and the hidden share."""
  rows, found = problems * SAMPLES * STEPS, {}
  for name, (waves, delay) in CASES.items():
    loop_of, state = make_case(waves, delay, problems)
    free = timed(_call, loop_of(0.0), state)
    verifying = statistics.median(free() for _ in range(4))
    slowed = timed(_call, loop_of(verifying / rows), state)
    runs = {"free": free, "slowed": slowed}
    seconds = interleaved(runs, rounds)
    hidden = [
      1 - (slow - fast) / verifying
      for fast, slow in zip(seconds["free"], seconds["slowed"])
    ]
    medians = {k: statistics.median(s) for k, s in seconds.items()}
    found[name] = medians | {
      "verifying": verifying, "hidden": statistics.median(hidden),
      "bound": 1 - 1 / max(waves, delay * STEPS, 1),
    }
  return found


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  found = measure(ROUNDS.value, PROBLEMS.value)
  for name, row in found.items():
    print(
      "{name:16} {free:.3f} s, with {verifying:.3f} s of verifying "
      "{slowed:.3f} s: {hidden:.0%} hidden of at most {bound:.0%}"
      .format(name=name, **row)
    )
  if OUTPUT.value:
    pathlib.Path(OUTPUT.value).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
  app.run(main)
