"""Runs a job on a VM until it is done, whatever happens to the VM meanwhile."""

import json
import pathlib
import tempfile
from typing import NamedTuple

from . import gcloud, jobs, machine, source, vms
from .gcloud import Vm
from .jobs import Job, Worker
from .machine import LaunchError, Runner
from .source import Source

# The most preemptions in a row without a step in between.
MAX_PREEMPTIONS = 20
# Bytes of the log that are shown of a job that runs already.
TAIL_BYTES = 20_000
# Polls of workers that go on after others have ended.
MAX_POLLS = 6


class EndCounts(NamedTuple):
  """How often the job has ended since it last made progress."""

  failures: int = 0
  preemptions: int = 0
  at: tuple[str, int] = ("", -1)  # stage and step


def launch_commands(
  vm: Vm, job: Job, code: Source, archive: str, packages: str = ""
) -> list[list[str]]:
  """Everything between a VM that is READY and a job that runs, in order.

  `packages`: a file of the versions that are to be installed; "": the newest.
  """
  name, folder = job.name, jobs.folder(job.name)
  secrets = [job.env_file] if job.env_file else []
  check = jobs.call_script(name, "check_bucket", job.workdir)
  setup = jobs.call_script(name, "setup", code.revision)
  return [
    gcloud.ssh(vm, jobs.make_folder(name), worker="all"),
    source.archive(code, archive),
    gcloud.scp(
      vm, [archive, str(jobs.SCRIPT), *([packages] if packages else [])],
      f"{folder}/",
    ),
    *(gcloud.scp(vm, [file], f"{folder}/environment") for file in secrets),
    gcloud.ssh(vm, check, worker="0"),
    gcloud.ssh(vm, setup, worker="all"),
    gcloud.ssh(vm, jobs.start(job, code), worker="all"),
  ]


def launch(runner: Runner, vm: Vm, job: Job, code: Source) -> None:
  """Sends the code, installs it and starts the job on all workers."""
  runner.say(f"{vm.name}: installing {code.revision[:12]}, starting {job.name}")
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    archive, packages = str(folder / "source.tar.gz"), ""
    if versions := versions_of(runner, job):
      packages = str(folder / "packages.txt")
      pathlib.Path(packages).write_text(versions)
    for words in launch_commands(vm, job, code, archive, packages):
      machine.call(runner, words)


def versions_of(runner: Runner, job: Job) -> str:
  """What was installed where the run began, as lines name==version; or ""."""
  found = runner.execute(gcloud.read(f"{job.workdir}/packages.txt"))
  if found.code and "matched no objects" not in found.error:
    runner.say(
      f"packages.txt of the workdir was not read, so that the newest versions"
      f" are installed: {machine.error_message(found)}"
    )
  lines = found.output.split() if found.code == 0 else []
  return "".join(f"{line}\n" for line in lines if "==" in line)


def worker_states(runner: Runner, vm: Vm, name: str) -> list[Worker]:
  """The state of the job on every worker; "": of all jobs that they have."""
  one = jobs.call_if_present(name, "status")
  status = one if name else jobs.status_of_all()
  words = gcloud.ssh(vm, status, worker="all")
  return jobs.read(machine.call(runner, words).output)


def stop(runner: Runner, vm: Vm, name: str) -> None:
  """Stops the job on every worker; it saves first."""
  words = gcloud.ssh(vm, jobs.call_if_present(name, "stop"), worker="all")
  machine.call(runner, words)


def wait_until_ended(runner: Runner, vm: Vm, name: str) -> None:
  """Waits until the job has ended on every worker; stops it where it hangs.

  After a preemption some may be saving still, which a signal would cut short.
  """
  for _ in range(MAX_POLLS):
    workers = worker_states(runner, vm, name)
    if all(worker.state != "running" for worker in workers):
      return
    runner.sleep(runner.poll)
  stop(runner, vm, name)


def heartbeat(job: Job) -> str:
  """The file in which a run records its stage and step."""
  return f"{job.workdir}/heartbeat.json"


def progress_of(runner: Runner, job: Job) -> tuple[str, int]:
  """Stage and step in the workdir's heartbeat, ("", -1) where there is none."""
  found = runner.execute(gcloud.read(heartbeat(job)))
  try:
    beat = json.loads(found.output)
    return str(beat["stage"]), int(beat["step"])
  except (ValueError, KeyError, TypeError):
    return "", -1


def count_end(
  counts: EndCounts, end: str, at: tuple[str, int], *, restarts: int, code: int
) -> EndCounts:
  """The counts after one more end of the job, "failed" or not.

  Raises LaunchError when that was the last one allowed.
  """
  # A job that resumes repeats steps: only those beyond the last end count.
  # A heartbeat that could not be read (-1) says nothing.
  known = at[1] >= 0
  if known and (at[0] != counts.at[0] or at[1] > counts.at[1]):
    counts = EndCounts(at=at)
  if end == "failed":
    counts = counts._replace(failures=counts.failures + 1)
  else:
    counts = counts._replace(preemptions=counts.preemptions + 1)
  if counts.preemptions > MAX_PREEMPTIONS:
    raise LaunchError(
      f"the job ended {counts.preemptions} times without a step in between"
    )
  if code == jobs.BAD_INPUT or counts.failures > restarts:
    raise LaunchError(
      f"the job failed with exit code {code}: its log says why; --restarts=N"
      " starts it again"
    )
  return counts


def follow_log(runner: Runner, vm: Vm, name: str, offset: int) -> None:
  """Shows worker 0's log until its job runs no more or cannot be reached."""
  while True:
    status = jobs.call_if_present(name, "status", str(offset))
    result = runner.execute(gcloud.ssh(vm, status, worker="0"))
    workers = jobs.read(result.output)
    if not workers:
      return
    runner.show(jobs.read_log(result.output))
    offset = workers[0].next
    if offset == workers[0].size:
      if workers[0].state != "running" or vms.find(runner, vm).state != "READY":
        return
      runner.sleep(runner.poll)


def attach(runner: Runner, vm: Vm, job: Job, code: Source) -> tuple[bool, int]:
  """Starts the job on a VM that is READY, unless it runs or is done there.

  Returns whether it was done, and from where on its log is news.
  """
  workers = worker_states(runner, vm, job.name)
  same = {w.id for w in workers} == {jobs.identity(job, code)}
  state = jobs.overall_state(workers)
  size = workers[0].size if workers else 0
  if state == "done" and same:
    runner.say(f"{job.name}: was already done")
    return True, size
  if state == "running":
    note = "" if same else ", with other code or flags: `stop` it to change"
    runner.say(f"{job.name}: runs already{note}")
    return False, max(size - TAIL_BYTES, 0)
  if any(worker.state == "running" for worker in workers):
    wait_until_ended(runner, vm, job.name)
  launch(runner, vm, job, code)
  return False, size


def run_once(runner: Runner, vm: Vm, job: Job, code: Source) -> tuple[str, int]:
  """Starts or joins the job; its final state and its exit code.

  Returns when no worker runs it any more.
  """
  done, offset = attach(runner, vm, job, code)
  if done:
    return "done", 0
  state = "running"
  while state == "running":
    follow_log(runner, vm, job.name, offset)
    workers = worker_states(runner, vm, job.name)
    state = jobs.overall_state(workers)
    offset = workers[0].size if workers else 0
    if state == "running":
      runner.sleep(runner.poll)
  if any(worker.state == "running" for worker in workers):
    wait_until_ended(runner, vm, job.name)
  return state, jobs.exit_code(workers)


def run(
  runner: Runner, vm: Vm, job: Job, code: Source, *, restarts: int = 0
) -> str:
  """Makes the VM, runs the job to its end; "done", or "stopped" by hand.

  A second call with the same names goes on where the first one was. Raises
  LaunchError when the job has failed too often, or the cloud has.
  """
  counts = EndCounts(at=progress_of(runner, job))
  while True:
    vms.ensure(runner, vm)
    try:
      state, number = run_once(runner, vm, job, code)
    except LaunchError:
      # A VM that is taken away makes whatever is under way fail.
      if vms.find(runner, vm).state == "READY":
        raise
      state, number = "again", 0
    if state in ("done", "stopped"):
      runner.say(f"{job.name}: {state}")
      return state
    reason = f"failed with exit code {number}" if number else "was preempted"
    runner.say(f"{job.name}: {reason}")
    counts = count_end(
      counts, state, progress_of(runner, job), restarts=restarts, code=number
    )
