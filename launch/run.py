"""Runs a job on a VM until it is done, whatever happens to the VM meanwhile."""

import json
import pathlib
import tempfile
from typing import NamedTuple

from launch import gcloud, jobs, machine, source, vms
from launch.gcloud import Vm
from launch.jobs import Job, Worker
from launch.machine import LaunchError, Machine
from launch.source import Source

# So often a run may be preempted without a step in between.
PREEMPTIONS = 20
# Of the log of a job that runs already, so many bytes are shown.
TAIL = 20_000
# So often workers are looked at that go on after others have ended.
LOOKS = 6


class Tally(NamedTuple):
  """Ends of the job since it last got any further."""

  failures: int = 0
  preemptions: int = 0
  at: tuple[str, int] = ("", -1)  # stage and step


def commands(
  vm: Vm, job: Job, code: Source, archive: str, packages: str = ""
) -> list[list[str]]:
  """Everything between a VM that is READY and a job that runs, in order.

  `packages`: a file of the versions that are to be installed; "": the newest.
  """
  name, folder = job.name, jobs.folder(job.name)
  secrets = [job.env_file] if job.env_file else []
  return [
    gcloud.ssh(vm, jobs.make_folder(name), worker="all"),
    source.archive(code, archive),
    gcloud.scp(
      vm, [archive, str(jobs.SCRIPT), *([packages] if packages else [])],
      f"{folder}/",
    ),
    *(gcloud.scp(vm, [file], f"{folder}/environment") for file in secrets),
    gcloud.ssh(vm, jobs.do(name, "check_bucket", job.workdir), worker="0"),
    gcloud.ssh(vm, jobs.do(name, "setup", code.revision), worker="all"),
    gcloud.ssh(vm, jobs.start(job, code), worker="all"),
  ]


def launch(act: Machine, vm: Vm, job: Job, code: Source) -> None:
  """Sends the code, installs it and starts the job on all workers."""
  act.say(f"{vm.name}: installing {code.revision[:12]}, starting {job.name}")
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    archive, packages = str(folder / "source.tar.gz"), ""
    if versions := versions_of(act, job):
      packages = str(folder / "packages.txt")
      pathlib.Path(packages).write_text(versions)
    for words in commands(vm, job, code, archive, packages):
      machine.call(act, words)


def versions_of(act: Machine, job: Job) -> str:
  """What was installed where the run began, as lines name==version; or ""."""
  found = act.execute(gcloud.read(f"{job.workdir}/packages.txt"))
  lines = found.output.split() if found.code == 0 else []
  return "".join(f"{line}\n" for line in lines if "==" in line)


def look(act: Machine, vm: Vm, name: str) -> list[Worker]:
  """How the job stands on every worker; "": all jobs that they have seen."""
  asked = jobs.ask(name, "status") if name else jobs.ask_all()
  words = gcloud.ssh(vm, asked, worker="all")
  return jobs.read(machine.call(act, words).output)


def halt(act: Machine, vm: Vm, name: str) -> None:
  """Stops the job on every worker; it saves first."""
  words = gcloud.ssh(vm, jobs.ask(name, "stop"), worker="all")
  machine.call(act, words)


def settle(act: Machine, vm: Vm, name: str) -> None:
  """Waits until the job has ended on every worker; stops it where it hangs.

  After a preemption some may be saving still, which a signal would cut short.
  """
  for _ in range(LOOKS):
    if all(worker.state != "running" for worker in look(act, vm, name)):
      return
    act.sleep(act.poll)
  halt(act, vm, name)


def heartbeat(job: Job) -> str:
  """The file in which a run says how far it is."""
  return f"{job.workdir}/heartbeat.json"


def progress_of(act: Machine, job: Job) -> tuple[str, int]:
  """Stage and step in the workdir's heartbeat, ("", -1) where there is none."""
  found = act.execute(gcloud.read(heartbeat(job)))
  try:
    beat = json.loads(found.output)
    return str(beat["stage"]), int(beat["step"])
  except (ValueError, KeyError, TypeError):
    return "", -1


def count(
  tally: Tally, end: str, at: tuple[str, int], *, restarts: int, code: int
) -> Tally:
  """The tally after one more end of the job, "failed" or not.

  Raises LaunchError when that was the last one allowed.
  """
  # A job that resumes repeats steps: only those beyond the last end count.
  # A heartbeat that could not be read (-1) says nothing.
  known = at[1] >= 0
  if known and (at[0] != tally.at[0] or at[1] > tally.at[1]):
    tally = Tally(at=at)
  if end == "failed":
    tally = tally._replace(failures=tally.failures + 1)
  else:
    tally = tally._replace(preemptions=tally.preemptions + 1)
  if tally.preemptions > PREEMPTIONS:
    raise LaunchError(
      f"the job ended {tally.preemptions} times without a step in between"
    )
  if code == jobs.BAD_INPUT or tally.failures > restarts:
    raise LaunchError(
      f"the job failed with exit code {code}: its log says why; --restarts=N"
      " starts it again"
    )
  return tally


def follow_log(act: Machine, vm: Vm, name: str, offset: int) -> None:
  """Shows worker 0's log until its job runs no more or cannot be reached."""
  while True:
    words = gcloud.ssh(vm, jobs.ask(name, "status", str(offset)), worker="0")
    result = act.execute(words)
    workers = jobs.read(result.output)
    if not workers:
      return
    act.show(jobs.read_log(result.output))
    offset = workers[0].next
    if offset == workers[0].size:
      if workers[0].state != "running" or vms.find(act, vm).state != "READY":
        return
      act.sleep(act.poll)


def attach(act: Machine, vm: Vm, job: Job, code: Source) -> tuple[bool, int]:
  """Starts the job on a VM that is READY, unless it runs or is done there.

  Returns whether it was done, and from where on its log is news.
  """
  workers = look(act, vm, job.name)
  same = {w.id for w in workers} == {jobs.identity(job, code)}
  how = jobs.verdict(workers)
  size = workers[0].size if workers else 0
  if how == "done" and same:
    act.say(f"{job.name}: was already done")
    return True, size
  if how == "running":
    note = "" if same else ", with other code or flags: `stop` it to change"
    act.say(f"{job.name}: runs already{note}")
    return False, max(size - TAIL, 0)
  if any(worker.state == "running" for worker in workers):
    settle(act, vm, job.name)
  launch(act, vm, job, code)
  return False, size


def play(act: Machine, vm: Vm, job: Job, code: Source) -> tuple[str, int]:
  """The job once, from start or wherever it is: how it ended, its exit code.

  Comes back when no worker runs it any more.
  """
  done, offset = attach(act, vm, job, code)
  if done:
    return "done", 0
  how = "running"
  while how == "running":
    follow_log(act, vm, job.name, offset)
    workers = look(act, vm, job.name)
    how = jobs.verdict(workers)
    offset = workers[0].size if workers else 0
    if how == "running":
      act.sleep(act.poll)
  if any(worker.state == "running" for worker in workers):
    settle(act, vm, job.name)
  return how, jobs.exit_code(workers)


def run(
  act: Machine, vm: Vm, job: Job, code: Source, *, restarts: int = 0
) -> str:
  """Makes the VM, runs the job to its end; "done", or "stopped" by hand.

  A second call with the same names goes on where the first one was. Raises
  LaunchError when the job has failed too often, or the cloud has.
  """
  tally = Tally(at=progress_of(act, job))
  while True:
    vms.ensure(act, vm)
    try:
      how, number = play(act, vm, job, code)
    except LaunchError:
      # A VM that is taken away makes whatever is under way fail.
      if vms.find(act, vm).state == "READY":
        raise
      how, number = "again", 0
    if how in ("done", "stopped"):
      act.say(f"{job.name}: {how}")
      return how
    why = f"failed with exit code {number}" if number else "was preempted"
    act.say(f"{job.name}: {why}")
    tally = count(
      tally, how, progress_of(act, job), restarts=restarts, code=number
    )
