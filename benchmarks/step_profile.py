"""Time of the parts of a quickstart step: rollout, scoring, update, host.

python -m benchmarks.step_profile --workdir=/tmp/sitrain

Times the compiled parts of a step of a fused stage with a reference, such as
stage II of the quickstart, on its last parameters, interleaved, and reads the
share of the host from the metrics of that run. Prints a table; --output writes
it as JSON.
"""

import json
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags
from etils import epath

from benchmarks.profiled import read_config
from sitrain.models.logprobs import token_scores
from sitrain.models.roles import params_of
from sitrain.runtime import build, policy, sharding, sinks
from sitrain.runtime.errors import run_main
from sitrain.runtime.stage import compile_loop, parts_of
from sitrain.runtime.start import Run, layout
from sitrain.train import init_state, make_iteration
from sitrain.types import Stage

WORKDIR = flags.DEFINE_string("workdir", "/tmp/sitrain", "A finished run.")
STAGE = flags.DEFINE_string("stage", "stage2", "The stage to profile.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Interleaved rounds.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def open_run(folder: str, config: dict) -> tuple[Run, Stage]:
  """The run as its main would open it, without sinks."""
  mesh = sharding.make_mesh(**config["mesh"])
  task = build.task_from(config, folder)
  model = build.model_from(config, task)
  run = build.run_from(config, task, model, mesh)._replace(
    workdir=folder, sink=sinks.silent(), show=lambda *_: None,
    save_every=1, keep=2, profile=(0, 0), max_gap=math.inf,
  )
  known = build.stages_from(config, task, run, folder)
  return run, next(s for s in known if s.name == STAGE.value)


def compiled_parts(run: Run, stage: Stage) -> dict:
  """Compiled functions of (state, key), one for each part of a step."""
  collect, judge, learn = parts_of(stage, run.mesh)

  def scored(state, episodes):
    rows = episodes
    return token_scores(
      run.model, params_of(state, "reference"), rows.tokens, rows.turn,
      rows.path, inputs=rows.tokens, temperature=1.0,
    )

  iteration = make_iteration(collect, judge, learn)
  named = {"rollout": collect, "verify": judge, "reference scoring": scored,
           "update": learn, "whole step": iteration}
  return {name: jax.jit(part) for name, part in named.items()}


def timed(function, *args) -> float:
  began = time.perf_counter()
  jax.block_until_ready(function(*args))
  return time.perf_counter() - began


def measure(run: Run, stage: Stage, state, rounds: int) -> dict:
  """Seconds per part, `rounds` values each, the parts interleaved."""
  parts, key = compiled_parts(run, stage), jax.random.key(0)
  problems, episodes = parts["rollout"](state, key)
  verdict, _ = parts["verify"](state, key, problems, episodes)
  calls = {
    "rollout": (state, key),
    "verify": (state, key, problems, episodes),
    "reference scoring": (state, episodes),
    "update": (state, key, problems, episodes, verdict),
    "whole step": (state, key),
  }
  for name, args in calls.items():
    timed(parts[name], *args)
  seconds = {name: [] for name in calls}
  for _ in range(rounds):
    for name, args in calls.items():
      seconds[name].append(timed(parts[name], *args))
  written = int((episodes.turn >= 1).sum())
  return {"seconds": seconds, "tokens": written}


def host_share(folder: str, stage: str) -> float:
  """Host seconds between fused calls as a share of the stage, of its run."""
  path = pathlib.Path(folder, "metrics.jsonl")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  rows = [row for row in rows if row["stage"] == stage]
  host = sum(row["run/host_seconds"] for row in rows)
  return host / (host + sum(row["run/seconds"] for row in rows))


def main(argv: list[str]) -> None:
  """Prints and writes the table."""
  config = read_config(WORKDIR.value, STAGE.value)
  run, stage = open_run(WORKDIR.value, config)
  with jax.set_mesh(run.mesh):
    params = policy.of_stage(
      config, run.model, run.mesh, epath.Path(WORKDIR.value) / stage.name,
      "last",
    )
    began = time.perf_counter()
    compile_loop(run, stage, layout(run, stage))
    compiled = time.perf_counter() - began
    reference = jax.tree.map(jnp.copy, params)
    state = init_state(
      {"policy": params}, stage.optimizer, held={"reference": reference}
    )
    found = measure(run, stage, state, ROUNDS.value)
  whole = statistics.median(found["seconds"]["whole step"])
  table = {
    name: {"milliseconds": 1e3 * statistics.median(values),
           "share": statistics.median(values) / whole}
    for name, values in found["seconds"].items()
  }
  rollout = table["rollout"]["milliseconds"] / 1e3
  result = {
    "device": jax.devices()[0].device_kind, "jax": jax.__version__,
    "parts": table, "tokens_per_rollout": found["tokens"],
    "rollout_tokens_per_second": found["tokens"] / rollout,
    "host_share": host_share(WORKDIR.value, stage.name),
    "compile_seconds": compiled,
  }
  print(json.dumps(result, indent=1))
  if OUTPUT.value:
    pathlib.Path(OUTPUT.value).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
  run_main(main)
