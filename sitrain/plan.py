"""Plans a config for a pod, on a machine without its chips.

  sitrain plan --config=score_math --topology=v5e:2x4 \\
    --config.mesh.data=1 --config.mesh.fsdp=8

Compiles every program of the stages and shows their memory on a chip, products,
traffic, collectives, and an estimate of an iteration's time. The TPU compiler
is stopped after it has assigned memory, before it generates machine code, which
takes far longer; with --machine_code it is not. Neither weights nor data are
read: only the shapes of a model are used, from --model=qwen3-8b, from a folder
with a config.json, or from the name in config.model.path. Exit code 1 if
something does not fit.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import json
import sys
import tempfile
from collections.abc import Callable

import jax
from absl import flags
from etils import epath
from rich.console import Console

from sitrain.runtime import build, fields, logs, overrides
from sitrain.runtime.cores import use_cores
from sitrain.runtime.errors import run_main
from sitrain.runtime.metrics import finite
from sitrain.runtime.options import ConfigError
from sitrain.runtime.plan import chips, models, show, stages
from sitrain.runtime.workdir import absolute, check_file

CONFIG = overrides.define(
  "The run: a name, as quickstart, or a file; with :arguments if it has any."
)
TOPOLOGY = flags.DEFINE_string(
  "topology", "local", "A TPU slice, as v5e:16x16, or local: this machine."
)
MODEL = flags.DEFINE_string(
  "model", "", "Shapes: a known name, as qwen3-8b, or a folder; default: the "
  "config's model."
)
STAGE = flags.DEFINE_string("stage", "", "Only this stage; default: all.")
PROGRAMS = flags.DEFINE_list(
  "programs", [], "Only these programs, of loop, pose, generate, learn;"
  " default: all."
)
LARGEST = flags.DEFINE_bool(
  "largest", True, "Estimate the largest batch: compiles everything once more."
)
SEARCH = flags.DEFINE_bool(
  "search", False, "Try meshes and batches, and rank them."
)
TRIES = flags.DEFINE_integer(
  "tries", 6, "Candidates that --search compiles.", lower_bound=1
)
OUTPUT = flags.DEFINE_string("output", "", "JSON file to write.")
CODE = flags.DEFINE_bool(
  "machine_code", False, "For a TPU, make the machine code too: its size "
  "counts then, and compiling takes several times as long."
)
flags.declare_key_flag("config")  # --help is to show it.
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def plan(
  config: dict, target: chips.Target, report: Callable[[str], None]
) -> dict:
  """The plan of all chosen stages, as a JSON value."""
  names = stages.check_stage(config, STAGE.value)
  stages.check_programs(PROGRAMS.value)
  options = dict(only=PROGRAMS.value, report=report, code=CODE.value)
  whole = CODE.value or target.name == chips.LOCAL
  found = {
    "topology": target.name, "chip": target.chip._asdict(),
    "model": MODEL.value or config["model"].get("path", ""),
    "jax": jax.__version__, "stages": [], "search": {},
  }
  with tempfile.TemporaryDirectory() as folder:
    config = models.with_shapes(config, MODEL.value, folder)
    found["assumptions"] = (
      show.ASSUMPTIONS + ([] if whole else show.NO_CODE)
      + models.assumptions(config)
    )
    for name in names:
      given = config, folder, target
      if SEARCH.value:
        ranked = stages.search(
          *given, name, tries=TRIES.value, **options
        )
        found["search"][name] = ranked
        found["stages"] += ranked[:1]
        continue
      stage = stages.plan_stage(*given, name, **options)
      if LARGEST.value:
        stage["largest_batch"] = stages.largest_batch(
          *given, stage, **options
        )
      found["stages"].append(stage)
  found["fits"] = all(stage["fits"] for stage in found["stages"])
  return found


def main(argv: list[str]) -> None:
  """Checks the flags, plans and shows."""
  if CONFIG.value is None:
    raise ConfigError("--config is missing: say which, as --config=quickstart")
  logs.quiet_libraries()
  output = absolute(OUTPUT.value, "--output")
  if output:
    check_file(output, f"--output={output}")
  chips.check_topology(TOPOLOGY.value)
  if TOPOLOGY.value == chips.LOCAL:
    use_cores()
  target = chips.target_of(TOPOLOGY.value)
  jax.config.update("jax_threefry_partitionable", True)
  with show.progress(Console(stderr=True)) as report:
    found = plan(fields.placed(build.plain(CONFIG.value)), target, report)
  show.show(found, Console(width=None if sys.stdout.isatty() else 110))
  if output:
    text = json.dumps(finite(found), indent=1)
    epath.Path(output).write_text(text + "\n")
  if not found["fits"]:
    sys.exit(1)


if __name__ == "__main__":
  run_main(main)
