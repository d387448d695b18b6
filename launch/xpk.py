"""Writes the xpk command that runs a config on the TPUs of a GKE cluster.

  python -m launch.xpk --name=score-math --cluster=mine --type=v5p-16 \\
    --image=us-docker.pkg.dev/project/repository/sitrain:1 \\
    --config=configs/score_math.py --workdir=gs://bucket/run

prints it; --execute runs it. The image is that of launch/Dockerfile. A job is
started again after a preemption, and after the exit code for one.
"""

import argparse
import re
import shlex
import subprocess
import sys

from sitrain.runtime.options import ConfigError
from sitrain.runtime.signals import RESTART

from . import accelerators, jobs, machine
from .jobs import Job

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,37}[a-z0-9])?")


def command(job: Job, flags: argparse.Namespace) -> list[str]:
  """`xpk workload create`, as in its own --help (AI-Hypercomputer/xpk)."""
  # xpk runs it in a subshell; with exec, signals reach the run itself.
  line = f"exec {shlex.join(jobs.command(job))}"
  optional = {"--project": flags.project, "--zone": flags.zone}
  return [
    "xpk", "workload", "create", f"--workload={job.name}",
    f"--cluster={flags.cluster}", f"--tpu-type={flags.type}",
    f"--num-slices={flags.slices}", f"--docker-image={flags.image}",
    f"--max-restarts={flags.restarts}", f"--restart-on-exit-codes={RESTART}",
    f"--termination-grace-period-seconds={flags.grace}",
    *(f"{name}={value}" for name, value in optional.items() if value),
    f"--command={line}",
  ]


def check_config(job: Job, kind: str, slices: int) -> None:
  """Raises ConfigError where the job could not begin on such slices.

  For a type whose devices are not known, "", only the config is read.
  """
  from launch import fit  # Not above: --help does not wait for JAX.

  if kind:
    fit.check(job, accelerators.devices_of(kind), slices=slices)
  else:
    fit.read(job)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m launch.xpk", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  for name, about in {
    "name": "of the workload",
    "cluster": "made by `xpk cluster create`",
    "type": "as v5p-64, v5litepod-16, v6e-256 or tpu7x-8",
    "image": "built from launch/Dockerfile, in a registry",
    "config": "the run: a name or file of configs/, with :arguments",
    "workdir": "gs://bucket/folder",
  }.items():
    parser.add_argument(f"--{name}", required=True, help=about)
  for name in ("project", "zone"):
    parser.add_argument(f"--{name}", default="", help="of the cluster")
  parser.add_argument("--slices", type=int, default=1, help="of that type")
  parser.add_argument("--restarts", type=int, default=50, help="at most")
  parser.add_argument(
    "--grace", type=int, default=120, help="seconds to save in when preempted"
  )
  parser.add_argument("--execute", action="store_true", help="run it")
  return parser


def main(words: list[str]) -> int:
  """Prints or runs the command; 2 for bad input."""
  flags, more = _parser().parse_known_args(words)
  job = Job(flags.name, flags.config, flags.workdir, tuple(more))
  try:
    wrong = [word for word in more if not word.startswith("--config.")]
    if wrong:
      raise ConfigError(f"{wrong[0]}: unknown; see --help")
    if "\n" in "".join(words):
      raise ConfigError("xpk takes no line breaks in flags: leave them out")
    if not _NAME.fullmatch(job.name):
      raise ConfigError(
        f"--name={job.name}: give up to 39 of a-z, 0-9 and -, a letter first"
      )
    known = not flags.type.startswith("tpu7x-")
    if known:
      accelerators.software_of(flags.type)
    if not job.workdir.startswith("gs://"):
      raise ConfigError(f"--workdir={job.workdir}: give gs://bucket/folder")
    for name, least in (("slices", 1), ("restarts", 0), ("grace", 0)):
      if (value := getattr(flags, name)) < least:
        raise ConfigError(f"--{name}={value}: give {least} or more")
    check_config(job, flags.type if known else "", flags.slices)
    words = command(job, flags)
    if not flags.execute:
      print(shlex.join(words))
      return 0
    machine.find_program(words[0])
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return subprocess.run(words, check=False).returncode


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
