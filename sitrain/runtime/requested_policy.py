"""The policy and the problems that a main is asked for by its flags.

A model without a run (--config), or a stage of a run (--workdir), and how its
tokens are drawn. What is called a plan here is any NamedTuple with the fields
workdir, stage and which.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath
from jax.sharding import Mesh

from sitrain.runtime import checkpoint, memory, overrides, placing, policy
from sitrain.runtime.options import ConfigError
from sitrain.runtime.task import check_context, options_of
from sitrain.runtime.workdir import absolute, check_file
from sitrain.types import Params, Task

_DEFAULTS = {"temperature": 1.0, "seed": 0, "batch": 256}


def define() -> None:
  """The flags that the mains which sample have in common."""
  overrides.define("A name or a file of a config, for a model as it is.")
  flags.DEFINE_string(
    "workdir", "", "Workdir of a run, instead of --config; also given without"
    " the flag's name, as an argument."
  )
  flags.DEFINE_string(
    "stage", "", "Stage of the run; default: the last trained."
  )
  flags.DEFINE_enum(
    "which", "last", ["last", "best"], "Checkpoint of the stage."
  )
  flags.DEFINE_string(
    "task", "", "Another task than the config's, as humaneval."
  )
  flags.DEFINE_string(
    "source", "", "Data set of the task; default: the config's."
  )
  flags.DEFINE_string(
    "split", None, "Split of --source; --split= where it is a file without any."
  )
  flags.DEFINE_float(
    "temperature", None, "0: greedy; default: config.evaluate.temperature.",
    lower_bound=0.0,
  )
  flags.DEFINE_integer(
    "top_k", 0, "Sample from this many most likely tokens; 0: all.",
    lower_bound=0,
  )
  flags.DEFINE_float(
    "top_p", 1.0, "Sample from the most likely tokens of this probability;"
    " 1: all.",
    lower_bound=1e-6, upper_bound=1.0,
  )
  flags.DEFINE_integer(
    "problems", 0, "Only the first N; 0: all.", lower_bound=0
  )
  flags.DEFINE_integer(
    "batch", None,
    "Rows on the device at once; default: config.evaluate.batch.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "seed", None, "Of sampling; default: config.evaluate.seed."
  )
  placing.define()
  flags.declare_key_flag("mesh")


def check_output(output: str) -> None:
  """Raises ConfigError for no .jsonl, and for what cannot be written."""
  if not output.endswith(".jsonl"):
    raise ConfigError(
      f"--output={output}: give a file whose name ends in .jsonl"
    )
  check_file(absolute(output, "--output"), f"--output={output}")


def drawing(config: dict, given: Any, *names: str) -> tuple[Any, ...]:
  """The flags of `names`; for those not given, config.evaluate has them."""
  known = _DEFAULTS | config["evaluate"]
  flag = lambda name: getattr(given, name)
  return tuple(known[n] if flag(n) is None else flag(n) for n in names)


def turn_limits(config: dict, turns: int) -> tuple[int, ...]:
  """The first token limits of config.evaluate; ConfigError for too many."""
  limits = tuple(config["evaluate"]["turns"])
  if turns > len(limits):
    raise ConfigError(
      f"--turns={turns}: config.evaluate.turns={limits} has limits for"
      f" {len(limits)}"
    )
  return limits[:turns]


def stage_of(config: dict, given: Any) -> str:
  """The stage of --workdir that is asked for; --stage without a run."""
  if not given.workdir:
    return given.stage
  folder = epath.Path(absolute(given.workdir))
  return policy.stage_of(config, folder, given.stage)


def depends_on(
  config: dict, plan: Any, free: Sequence[str]
) -> dict[str, Any]:
  """What samples depend on: the plan but for its fields `free`, the config."""
  found = {k: v for k, v in plan._asdict().items() if k not in free} | {
    "task": options_of(config, "evaluate"), "model": config["model"],
    "tokenizer": config.get("tokenizer", {}),
  }
  if plan.workdir:
    found["run"] = absolute(plan.workdir)
    # After more training the stage is another policy.
    folder = epath.Path(plan.workdir) / plan.stage
    found["checkpoints"] = checkpoint.steps(folder)
  return found


def load(
  config: dict, plan: Any, model: Any, mesh: Mesh
) -> tuple[Params, str]:
  """The parameters of a stage of a run, or of config.model.path; what it is.

  To sample from: as `policy.unstacked` gives them.
  """
  if plan.workdir:
    folder = epath.Path(plan.workdir) / plan.stage
    params, of = policy.restored(config, model, mesh, folder, plan.which)
  else:
    of = config["model"]["path"]
    params = policy.of_model(of, model, mesh)
  return policy.unstacked(params), of


def check_size(
  config: dict, plan: Any, model: Any, task: Task, mesh: Mesh, *, rows: int,
  samples: int, slots: int, prompt: int, written: int, field: str,
) -> None:
  """Raises ConfigError where dialogues or rows are too large, before loading.

  For the model's context, and for the memory that is free. `rows` are played
  at a time, `samples` of a problem, with prompts of up to `prompt` tokens and
  `written` after them, by config.`field`.
  """
  check_context(config, field, task, written)
  what = f"config.model.path={config['model'].get('path', '')}"
  shapes = policy.shapes_of(model, mesh)
  if plan.workdir:
    folder = epath.Path(plan.workdir) / plan.stage
    what = f"the {plan.which} checkpoint of {folder}"
    shapes = policy.shapes_of_stage(config, model, mesh, folder, plan.which)
  sampled = memory.Sampled(rows, samples, prompt, written, slots)
  memory.check(
    model, shapes, mesh, sampled, what=what, memory=memory.free()
  )
