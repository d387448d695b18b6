"""The sampler's flags, checked and combined with the config into a plan."""

from typing import Any, NamedTuple

from sitrain.runtime import build, fields, requested_policy
from sitrain.runtime.checks import check_config
from sitrain.runtime.options import ConfigError
from sitrain.runtime.test_sets import retasked
from sitrain.runtime.workdir import absolute


class Plan(NamedTuple):
  """The values of the flags, with config.evaluate for those not given."""

  output: str
  workdir: str  # "": a model without a run
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
  mesh: tuple[str, ...]  # as in --mesh; (): that of the config, where it fits


# Fields that change no sample.
FREE = ("output", "workdir", "batch", "slots", "ks", "draws", "mesh")


def plan_from(config: dict, given: Any) -> Plan:
  """Raises ConfigError for flags that do not fit each other; `given`: FLAGS."""
  check_output(given.output)
  temperature, seed, batch = requested_policy.drawing(
    config, given, "temperature", "seed", "batch"
  )
  limits, n = requested_policy.turn_limits(config, given.turns), given.samples
  if temperature == 0 and n > 1:
    raise ConfigError(
      f"--samples={n} of --temperature=0 would be equal: give --samples=1"
    )
  ks = given.ks or [2**i for i in range(n.bit_length())]
  if not all(str(k).isdigit() and 1 <= int(k) <= n for k in ks):
    raise ConfigError(
      f"--ks={','.join(map(str, ks))}: give numbers from 1 to --samples={n}"
    )
  stage = requested_policy.stage_of(config, given)
  return Plan(
    output=absolute(given.output, "--output"), workdir=absolute(given.workdir),
    stage=stage, which=given.which,
    samples=n, temperature=temperature, top_k=given.top_k, top_p=given.top_p,
    turns=limits, problems=given.problems, batch=batch,
    slots=given.slots, seed=seed, ks=tuple(sorted({int(k) for k in ks})),
    verifiers=tuple(given.verifiers), draws=given.draws,
    mesh=tuple(given.mesh),
  )  # fmt: skip


def check_output(output: str) -> None:
  """Raises ConfigError for no output, and for one that cannot be written."""
  if not output:
    raise ConfigError(
      "--output is missing: give a file, as --output=samples.jsonl"
    )
  requested_policy.check_output(output)


def options_of(config: dict, plan: Plan) -> dict[str, Any]:
  """Everything that the samples depend on."""
  return requested_policy.depends_on(config, plan, FREE)


def config_of(given: Any) -> dict:
  """The config of --config or of the workdir, with the flags' test set."""
  if given.workdir and given.config is not None:
    raise ConfigError(
      f"--workdir={given.workdir} has a config of its own: leave out --config"
    )
  if given.workdir:
    config = build.config_of_run(absolute(given.workdir))
  elif given.config is None:
    raise ConfigError(
      "--config is missing: say which, as --config=humaneval, or --workdir of a"
      " run"
    )
  else:
    config = fields.placed(build.plain(given.config))
    check_config(config, trains=False)
    if given.stage or not config["model"].get("path", ""):
      raise ConfigError(
        f"--stage={given.stage} belongs to a run: give its --workdir"
        if given.stage
        else "--config.model.path is missing: give it, or --workdir of a run"
      )
  return retasked(
    config, name=given.task, source=given.source, split=given.split
  )
