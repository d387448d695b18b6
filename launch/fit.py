"""Whether a config can run on a slice, before the slice is paid for.

  python -m launch.fit --type=v5p-16 --config=configs/score_math.py \\
    --workdir=gs://bucket/run

prints what every process is to run, or in one line why it could not begin.
launch.tpu asks by itself; launch/xpk.sh calls this.
"""

import argparse
import shlex
import sys

from absl import flags
from jax.sharding import AbstractMesh

from sitrain.runtime import batches, build, overrides, sharding
from sitrain.runtime.errors import one_line
from sitrain.runtime.options import ConfigError

from . import accelerators, jobs, source
from . import flags as command_line
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


def main(words: list[str]) -> int:
  """Prints the command line of a job; 2 where the job could not begin.

  Of types whose devices are not known, as tpu7x-8, only the config is read.
  """
  parser = argparse.ArgumentParser(
    prog="python -m launch.fit", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command_line.add(parser, "type", "config", "workdir")
  parser.add_argument("--slices", type=int, default=1, help="of that type")
  parser.set_defaults(name="job", env_file="")
  parser.error = command_line.refuse
  try:
    given, more = parser.parse_known_args(words)
    command_line.check_passed_on(more, ("type", "config", "workdir", "slices"))
    if "\n" in "".join(words):
      raise ConfigError("a command is one line: leave line breaks in flags out")
    if given.slices < 1:
      raise ConfigError(f"--slices={given.slices}: give 1 or more")
    job = command_line.job_from(given, tuple(more))
    if given.type.startswith("tpu7x-"):
      read(job)
    else:
      accelerators.software_of(given.type)
      check(job, accelerators.devices_of(given.type), slices=given.slices)
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(shlex.join(jobs.command(job)))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
