"""Whether a config can run on a slice, before the slice is paid for."""

from absl import flags
from jax.sharding import AbstractMesh

from sitrain.runtime import batches, build, overrides, sharding
from sitrain.runtime.errors import one_line
from sitrain.runtime.options import ConfigError

from . import source
from .jobs import Job


def check(job: Job, devices: int, *, slices: int = 1) -> None:
  """Raises ConfigError for what would end the job as soon as it starts.

  A config that cannot be read, fields that it does not have, a mesh that
  `slices` of `devices` each cannot make, and problems that do not divide over
  it. Model, data and memory are not looked at.
  """
  config = read(job)
  try:
    sizes = sharding.mesh_sizes(devices * slices, **config["mesh"])
    sharding.over_slices(slices, *sizes)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  mesh = AbstractMesh(sizes, sharding.AXES)
  for name in config["stages"]:
    method = config["stage"].get(name, {}).get("method", {})
    batches.check_problems(f"stage.{name}", method.get("problems", 0), mesh)


def read(job: Job) -> dict:
  """The config that the job will have."""
  known = flags.FlagValues()
  words = ["launch", f"--config={source.ROOT}/{source.config_file(job.config)}"]
  words += [word for word in job.flags if word.startswith("--config.")]
  overrides.define("The run.", flag_values=known, sys_argv=words)
  try:
    overrides.parse(words, known)
  except Exception as error:
    raise ConfigError(one_line(error)) from error
  return build.plain(known["config"].value)
