"""Runs configs on Cloud TPU VMs.

  python -m launch.tpu run --name=score-math --type=v5p-16 --zone=us-east5-a \\
    --config=configs/score_math.py --workdir=gs://bucket/run

makes the VM (or reuses it), sends the committed code, installs it, starts the
job on all workers, follows the log, and starts again after a preemption until
the job is done. The same command again goes on from wherever things are; the
job itself does not depend on it. Flags --config.FIELD=VALUE, and all that
follows a --, go to sitrain.main.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from launch import (
  accelerators,
  checks,
  gcloud,
  jobs,
  machine,
  screen,
  source,
  sweep,
  vms,
)
from launch import flags as command_line
from launch import run as runs
from launch.gcloud import Vm
from launch.jobs import Job
from launch.machine import LaunchError, Machine
from launch.source import Source
from sitrain.runtime.options import ConfigError


def code_of(act: Machine, job: Job, flags: argparse.Namespace) -> Source:
  """What would be sent; a dry run writes nothing into the repository."""
  if flags.dry_run:
    source.check_clean(act, allow_dirty=flags.allow_dirty)
    code = source.head(act)
  else:
    code = source.find(act, allow_dirty=flags.allow_dirty)
  source.check_file(act, code, job.config)
  return code


def check_config(job: Job, vm: Vm) -> None:
  """Raises ConfigError where the job could not begin on such a VM."""
  from launch import fit  # Not above: `logs` and `stop` do not wait for JAX.

  fit.check(job, accelerators.devices_of(vm.type))


def run(
  act: Machine, vm: Vm, flags: argparse.Namespace, more: tuple[str, ...]
) -> int:
  """The command `run`: 1 when somebody stopped the job."""
  job = command_line.job_from(flags, more)
  code = code_of(act, job, flags)
  check_config(job, vm)
  if flags.dry_run:
    screen.dry(plan(vm, job, code), sys.stdout.write)
    return 0
  checks.check_all(act, vm, job.workdir)
  how = "failed"
  try:
    how = runs.run(act, vm, job, code, restarts=flags.restarts)
  finally:
    if how == "done" and flags.delete_at_end:
      vms.delete(act, vm)
      act.say(f"{vm.name}: deleted")
    else:
      act.say(f"{vm.name}, if it is there, costs money; `delete` deletes it")
  return int(how != "done")


def plan(vm: Vm, job: Job, code: Source) -> list[list[str]]:
  """Every command of a run for which nothing is there yet."""
  archive = f"/tmp/sitrain-{job.name}.tar.gz"
  follow = gcloud.ssh(vm, jobs.ask(job.name, "status", "0"), worker="0")
  everywhere = gcloud.ssh(vm, jobs.ask(job.name, "status"), worker="all")
  return [
    gcloud.list_bucket(job.workdir),
    gcloud.list_types(vm),
    gcloud.describe(vm),
    gcloud.describe_queued(vm),
    gcloud.create_queued(vm) if vm.queued else gcloud.create(vm),
    everywhere,
    *runs.commands(vm, job, code, archive),
    follow,
    everywhere,
    gcloud.read(runs.heartbeat(job)),
  ]


def run_sweep(
  act: Machine, vm: Vm, flags: argparse.Namespace, more: tuple[str, ...]
) -> int:
  """The command `sweep`: 1 when any point did not get done."""
  job = command_line.job_from(flags, more)
  if flags.together < 1:
    raise ConfigError(f"--together={flags.together}: give 1 or more")
  shares = sweep.share(vm, sweep.jobs_of(job, flags.grid), flags.together)
  code = code_of(act, job, flags)
  for one in (one for _, mine in shares for one in mine):
    check_config(one, vm)
  if flags.dry_run:
    for each, mine in shares:
      for one in mine:
        screen.dry(plan(each, one, code), sys.stdout.write)
    return 0
  checks.check_all(act, vm, job.workdir)
  pool = ThreadPoolExecutor(len(shares))
  try:
    futures = [pool.submit(points, act, *s, code, flags) for s in shares]
    ends = [end for future in futures for end in future.result()]
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
  Console().print(screen.ends_table(sorted(ends)))
  return int(any(end != "done" for *_, end in ends))


def points(
  act: Machine, vm: Vm, mine: list[Job], code: Source,
  flags: argparse.Namespace,
) -> list[tuple[str, str, str]]:
  """Jobs one after the other on one VM: name, workdir and end of each."""
  act = screen.within(act, vm.name)
  ends = []
  for job in mine:
    try:
      end = runs.run(act, vm, job, code, restarts=flags.restarts)
    except (LaunchError, ConfigError) as error:
      end = str(error)
      act.say(f"{job.name}: {end}")
    ends.append((job.name, job.workdir, end))
  if flags.delete_at_end and all(end == "done" for *_, end in ends):
    vms.delete(act, vm)
  return ends


def show_status(act: Machine, vm: Vm, job: str) -> None:
  """The command `status`: the VM, or those of the sweep of that name.

  `job`: one of its jobs; "": all that it has seen.
  """
  found = vms.find(act, vm)
  names = vms.of_sweep(act, vm) if found.state == vms.ABSENT else []
  for name in names or [vm.name]:
    each = vm._replace(name=name)
    state = vms.find(act, each).state if names else found.state
    act.say(f"{name}: {state.lower().replace('_', ' ')}")
    if state == "READY":
      workers = runs.look(act, each, job)
      for title in sorted({worker.job for worker in workers}):
        mine = [worker for worker in workers if worker.job == title]
        Console().print(screen.workers_table(f"{name}: {title}", mine))


def show_logs(
  act: Machine, vm: Vm, name: str, flags: argparse.Namespace
) -> None:
  """The command `logs`."""
  words = jobs.ask(name, "logs", str(flags.lines))
  act.show(machine.call(act, gcloud.ssh(vm, words, worker=flags.worker)).output)
  if flags.follow:
    workers = runs.look(act, vm, name)
    runs.follow_log(act, vm, name, workers[0].size if workers else 0)


def look_after(act: Machine, vm: Vm, flags: argparse.Namespace) -> None:
  """The commands for what is there already."""
  name = getattr(flags, "job", "") or vm.name
  if flags.dry_run:
    screen.dry(small_plan(vm, name, flags), sys.stdout.write)
  elif flags.command == "status":
    show_status(act, vm, flags.job)
  elif flags.command == "logs":
    vms.check_there(act, vm)
    show_logs(act, vm, name, flags)
  elif flags.command == "stop":
    vms.check_there(act, vm)
    runs.halt(act, vm, name)
    act.say(f"{name}: stopped; {vm.name} is still there and costs money")
  else:
    vms.check_there(act, vm)
    vms.delete(act, vm)
    act.say(f"{vm.name}: deleted")


def small_plan(
  vm: Vm, name: str, flags: argparse.Namespace
) -> list[list[str]]:
  """Every command of `status`, `logs`, `stop` or `delete`."""
  if flags.command == "delete":
    return [gcloud.describe_queued(vm), gcloud.delete(vm)]
  more = [str(flags.lines)] if flags.command == "logs" else []
  worker = flags.worker if flags.command == "logs" else "all"
  asked = gcloud.ssh(vm, jobs.ask(name, flags.command, *more), worker=worker)
  return [gcloud.describe(vm), asked] if flags.command == "status" else [asked]


def dispatch(
  act: Machine, flags: argparse.Namespace, more: tuple[str, ...]
) -> int:
  """Runs one command; its exit code."""
  vm = command_line.vm_from(flags)
  if flags.command == "run":
    return run(act, vm, flags, more)
  if flags.command == "sweep":
    return run_sweep(act, vm, flags, more)
  look_after(act, vm, flags)
  return 0


def main(words: list[str]) -> int:
  """Runs the command line; 2 for bad input, 1 for trouble in the cloud."""
  try:
    flags, more = command_line.parse(__doc__, words)
    act = screen.make(
      poll=flags.poll, tries=flags.tries, backoff=flags.backoff
    )
    return dispatch(act, flags, more)
  except KeyboardInterrupt:
    said, code = "the job goes on without this; the same command joins it", 130
  except ConfigError as error:
    said, code = f"error: {error}", 2
  except LaunchError as error:
    said, code = f"error: {error}", 1
  print(" ".join(said.split()), file=sys.stderr, flush=True)
  return code


if __name__ == "__main__":
  # Threads of a sweep that still wait for gcloud do not hold the exit up.
  code = main(sys.argv[1:])
  sys.stdout.flush()
  os._exit(code) if code == 130 else sys.exit(code)
