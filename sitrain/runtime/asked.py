"""What a user of the sampler asks for: its flags, checked, as a plan."""

from typing import Any, NamedTuple

from etils import epath

from sitrain.runtime import build, checkpoint, fields, policy
from sitrain.runtime.checks import check_config
from sitrain.runtime.options import ConfigError
from sitrain.runtime.task import options_of as task_options
from sitrain.runtime.testset import retasked
from sitrain.runtime.workdir import absolute


class Plan(NamedTuple):
  """What the flags ask for, and where they are silent config.evaluate."""

  output: str
  workdir: str  # "": the model as it is
  stage: str
  which: str
  samples: int
  temperature: float
  top_k: int
  top_p: float
  turns: tuple[int, ...]  # token limits
  problems: int
  batch: int
  slots: int
  seed: int
  ks: tuple[int, ...]
  verifiers: tuple[str, ...]
  draws: int
  mesh: tuple[str, ...]  # as --mesh has it; (): the config's, where it fits


# They change no sample.
FREE = ("output", "workdir", "batch", "slots", "ks", "draws", "mesh")


def plan_from(config: dict, given: Any) -> Plan:
  """Raises ConfigError for flags that do not fit each other; `given`: FLAGS."""
  options = config["evaluate"]
  heat, seed, batch = (
    options.get(name, default) if value is None else value
    for name, value, default in (
      ("temperature", given.temperature, 1.0), ("seed", given.seed, 0),
      ("batch", given.batch, 256),
    )
  )
  limits, n = tuple(options["turns"]), given.samples
  if given.turns > len(limits):
    raise ConfigError(
      f"--turns={given.turns}: config.evaluate.turns={limits} has limits for "
      f"{len(limits)}"
    )
  if heat == 0 and n > 1:
    raise ConfigError(
      f"--samples={n} of --temperature=0 would be equal: give --samples=1"
    )
  words = given.ks or [2**i for i in range(n.bit_length())]
  if not all(str(k).isdigit() and 1 <= int(k) <= n for k in words):
    raise ConfigError(
      f"--ks={','.join(map(str, words))}: give numbers from 1 to --samples={n}"
    )
  stage = given.stage
  if given.workdir:
    folder = epath.Path(absolute(given.workdir))
    stage = policy.stage_of(config, folder, stage)
  return Plan(
    output=absolute(given.output), workdir=absolute(given.workdir),
    stage=stage, which=given.which,
    samples=n, temperature=heat, top_k=given.top_k, top_p=given.top_p,
    turns=limits[: given.turns], problems=given.problems, batch=batch,
    slots=given.slots, seed=seed, ks=tuple(sorted({int(k) for k in words})),
    verifiers=tuple(given.verifiers), draws=given.draws,
    mesh=tuple(given.mesh),
  )  # fmt: skip


def options_of(config: dict, plan: Plan) -> dict[str, Any]:
  """All that the samples are a function of."""
  task = task_options(config, "evaluate")
  found = {k: v for k, v in plan._asdict().items() if k not in FREE}
  found |= {
    "task": task, "model": config["model"],
    "tokenizer": config.get("tokenizer", {}),
  }
  if plan.workdir:
    found["run"] = absolute(plan.workdir)
    # A stage that has been trained on is another policy.
    folder = epath.Path(plan.workdir) / plan.stage
    found["checkpoints"] = checkpoint.steps(folder)
  return found


def config_of(given: Any) -> dict:
  """The config of --config or of the workdir, with the flags' own test set."""
  if given.workdir and given.config is not None:
    raise ConfigError("--workdir has a config of its own: leave out --config")
  if given.workdir:
    config = build.config_of_run(absolute(given.workdir))
  elif given.config is None:
    raise ConfigError(
      "--config is missing: say which file of configs/, or --workdir of a run"
    )
  else:
    config = fields.placed(build.plain(given.config))
    check_config(config, trains=False)
    if given.stage or not config["model"].get("path", ""):
      raise ConfigError(
        f"--stage={given.stage} is of a run: give its --workdir" if given.stage
        else "--config.model.path is missing: a model, or --workdir of a run"
      )
  return retasked(
    config, name=given.task, source=given.source, split=given.split
  )
