"""A job on the workers of a VM: calls of remote.sh, and its answers parsed."""

import hashlib
import re
import shlex
from typing import NamedTuple

from sitrain.runtime.signals import RESTART

from .source import ROOT, Source

SCRIPT = ROOT / "launch" / "remote.sh"
BAD_INPUT = 2


class Job(NamedTuple):
  """A run of sitrain.main."""

  name: str
  config: str
  workdir: str
  flags: tuple[str, ...] = ()  # further ones, as --config.seed=1
  env_file: str = ""  # lines NAME=VALUE, as shells read them


class Worker(NamedTuple):
  """The state of a job on one host."""

  worker: int
  state: str  # none running exited lost stopped
  code: int  # -1 where it has not exited
  size: int  # bytes of its log
  next: int  # offset of the first byte of the log that was not sent
  id: str  # of what was started
  revision: str  # what is installed
  job: str = ""


def command(job: Job) -> list[str]:
  """What every worker runs."""
  return [
    "python", "-m", "sitrain.main", f"--config={job.config}",
    f"--workdir={job.workdir}", *job.flags,
  ]


def identity(job: Job, source: Source) -> str:
  """Equal for equal commands on equal code."""
  words = "\0".join([source.revision, *command(job)])
  return hashlib.sha256(words.encode()).hexdigest()[:12]


def folder(job: str) -> str:
  """The folder of a job on a worker, relative to the home folder."""
  return f"sitrain_jobs/{job}"


def make_folder(job: str) -> str:
  """Shell that makes the job's folder, which nobody else can read.

  The file of secrets is there before they are copied into it, so that it never
  has the permissions of an ordinary copy; it is empty where none are given.
  """
  path = shlex.quote(folder(job))
  return (
    f"mkdir -p {path} && chmod 700 {path} &&"
    f" install -m 600 /dev/null {path}/environment &&"
    f" rm -f {path}/packages.txt"
  )


def call_script(job: str, *words: str) -> str:
  """Shell that calls remote.sh, quoted for the worker's shell."""
  return shlex.join(["bash", f"{folder(job)}/remote.sh", *words])


def call_if_present(job: str, *words: str) -> str:
  """The same, without an error where the VM has never seen the job."""
  script = shlex.quote(f"{folder(job)}/remote.sh")
  return f"if [ -f {script} ]; then {call_script(job, *words)}; fi"


def status_of_all() -> str:
  """Shell that calls the status of every job that the VM has seen."""
  return (
    "for script in sitrain_jobs/*/remote.sh; do"
    ' if [ -f "$script" ]; then bash "$script" status; fi; done'
  )


def start(job: Job, source: Source) -> str:
  """Shell that starts the job where it does not run."""
  return call_script(job.name, "start", identity(job, source), *command(job))


_LINE = re.compile(
  r"^sitrain worker=(\d+) state=(\w+) code=(\S+) size=(\d+) next=(\d+)"
  r" id=(\S+) revision=(\S+)(?: job=(\S+))?$", re.MULTILINE,
)


def read(text: str) -> list[Worker]:
  """The workers that answered, in order."""
  return sorted(
    Worker(
      int(worker), state, -1 if code == "-" else int(code), int(size),
      int(next_offset), job_id, revision, job,
    )
    for worker, state, code, size, next_offset, job_id, revision, job
    in _LINE.findall(text)
  )


def read_log(text: str) -> str:
  """The log that follows the status line of a single worker."""
  found = _LINE.search(text)
  return text[found.end() + 1:] if found else ""


def overall_state(workers: list[Worker]) -> str:
  """running, done, again, failed, stopped or none, of the job as a whole.

  A host whose job vanished without an exit code, as after a reboot, makes it
  "again", and so does RESTART; any other exit code makes it "failed".
  """
  states = {worker.state for worker in workers}
  codes = {worker.code for worker in workers if worker.state == "exited"}
  if "stopped" in states:
    return "stopped"
  if codes - {0, RESTART}:
    return "failed"
  if states <= {"none"}:
    return "none"
  if RESTART in codes or states & {"lost", "none"}:
    return "again"
  return "running" if "running" in states else "done"


def exit_code(workers: list[Worker]) -> int:
  """The code of a failed job: the first that is neither 0 nor RESTART."""
  codes = [w.code for w in workers if w.state == "exited"]
  return next((c for c in codes if c not in (0, RESTART)), 0)
