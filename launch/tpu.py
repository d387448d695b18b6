"""Runs configs on Cloud TPU VMs.

  python -m launch.tpu run --name=score-math --type=v5p-16 --zone=us-east5-a \\
    --config=configs/score_math.py --workdir=gs://bucket/run

makes the VM (or reuses it), sends the committed code, installs it, starts the
job on all workers, follows the log, and starts again after a preemption until
the job is done. The same command, given again, continues from the current
state; the job itself does not depend on it. Flags --config.FIELD=VALUE, and
all that follows a --, go to sitrain.main. docs/launch.md says what a project
of Google Cloud needs first.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from sitrain.runtime.options import ConfigError

from . import (
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
from . import flags as command_line
from . import run as runs
from .gcloud import Vm
from .jobs import Job
from .machine import LaunchError, Runner
from .source import Source


def source_of(runner: Runner, job: Job, flags: argparse.Namespace) -> Source:
  """The code to send; a dry run writes nothing into the repository."""
  if flags.dry_run:
    source.check_clean(runner, allow_dirty=flags.allow_dirty)
    code = source.head(runner)
  else:
    code = source.find(runner, allow_dirty=flags.allow_dirty)
  source.check_file(runner, code, job.config)
  return code


def check_config(job: Job, vm: Vm) -> None:
  """Raises ConfigError where the job could not begin on such a VM."""
  from . import fit  # Not above: `logs` and `stop` do not wait for JAX.

  fit.check(job, accelerators.devices_of(vm.type))


def run(
  runner: Runner, vm: Vm, flags: argparse.Namespace, more: tuple[str, ...]
) -> int:
  """The command `run`: 1 when somebody stopped the job."""
  job = command_line.job_from(flags, more)
  code = source_of(runner, job, flags)
  check_config(job, vm)
  if flags.dry_run:
    screen.print_commands(run_commands(vm, job, code), sys.stdout.write)
    return 0
  checks.check_all(runner, vm, job.workdir)
  state = "failed"
  try:
    state = runs.run(runner, vm, job, code, restarts=flags.restarts)
  finally:
    if state == "done" and flags.delete_at_end:
      vms.delete(runner, vm)
      runner.say(f"{vm.name}: deleted")
    else:
      runner.say(f"{vm.name}, if it is there, costs money; `delete` deletes it")
  return int(state != "done")


def run_commands(vm: Vm, job: Job, code: Source) -> list[list[str]]:
  """Every command of a run for which nothing is there yet."""
  archive = f"/tmp/sitrain-{job.name}.tar.gz"
  log = jobs.call_if_present(job.name, "status", "0")
  follow = gcloud.ssh(vm, log, worker="0")
  status = jobs.call_if_present(job.name, "status")
  everywhere = gcloud.ssh(vm, status, worker="all")
  return [
    gcloud.list_bucket(job.workdir),
    gcloud.list_types(vm),
    gcloud.describe(vm),
    gcloud.describe_queued(vm),
    gcloud.create_queued(vm) if vm.queued else gcloud.create(vm),
    everywhere,
    *runs.launch_commands(vm, job, code, archive),
    follow,
    everywhere,
    gcloud.read(runs.heartbeat(job)),
  ]


def run_sweep(
  runner: Runner, vm: Vm, flags: argparse.Namespace, more: tuple[str, ...]
) -> int:
  """The command `sweep`: 1 when any point did not get done."""
  job = command_line.job_from(flags, more)
  if flags.together < 1:
    raise ConfigError(f"--together={flags.together}: give 1 or more")
  assignments = sweep.assign(vm, sweep.jobs_of(job, flags.grid), flags.together)
  code = source_of(runner, job, flags)
  for one in (one for _, own in assignments for one in own):
    check_config(one, vm)
  if flags.dry_run:
    for each, own in assignments:
      for one in own:
        screen.print_commands(run_commands(each, one, code), sys.stdout.write)
    return 0
  checks.check_all(runner, vm, job.workdir)
  pool = ThreadPoolExecutor(len(assignments))
  try:
    futures = [
      pool.submit(run_points, runner, *each, code, flags)
      for each in assignments
    ]
    ends = [end for future in futures for end in future.result()]
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
  Console().print(screen.ends_table(sorted(ends)))
  return int(any(end != "done" for *_, end in ends))


def run_points(
  runner: Runner, vm: Vm, own: list[Job], code: Source,
  flags: argparse.Namespace,
) -> list[tuple[str, str, str]]:
  """Jobs one after the other on one VM: name, workdir and end of each."""
  runner = screen.prefixed(runner, vm.name)
  ends = []
  for job in own:
    try:
      end = runs.run(runner, vm, job, code, restarts=flags.restarts)
    except (LaunchError, ConfigError) as error:
      end = str(error)
      runner.say(f"{job.name}: {end}")
    ends.append((job.name, job.workdir, end))
  if flags.delete_at_end and all(end == "done" for *_, end in ends):
    vms.delete(runner, vm)
  return ends


def show_status(runner: Runner, vm: Vm, job: str) -> None:
  """The command `status`: the VM, or those of the sweep of that name.

  `job`: one of its jobs; "": all that it has seen.
  """
  found = vms.find(runner, vm)
  names = vms.sweep_vms(runner, vm) if found.state == vms.ABSENT else []
  for name in names or [vm.name]:
    each = vm._replace(name=name)
    state = vms.find(runner, each).state if names else found.state
    runner.say(f"{name}: {state.lower().replace('_', ' ')}")
    if state == "READY":
      workers = runs.worker_states(runner, each, job)
      for title in sorted({worker.job for worker in workers}):
        own = [worker for worker in workers if worker.job == title]
        Console().print(screen.workers_table(f"{name}: {title}", own))


def show_logs(
  runner: Runner, vm: Vm, name: str, flags: argparse.Namespace
) -> None:
  """The command `logs`."""
  words = jobs.call_if_present(name, "logs", str(flags.lines))
  command = gcloud.ssh(vm, words, worker=flags.worker)
  runner.show(machine.call(runner, command).output)
  if flags.follow:
    workers = runs.worker_states(runner, vm, name)
    runs.follow_log(runner, vm, name, workers[0].size if workers else 0)


def manage(runner: Runner, vm: Vm, flags: argparse.Namespace) -> None:
  """The commands for what is there already."""
  name = getattr(flags, "job", "") or vm.name
  if flags.dry_run:
    commands = management_commands(vm, name, flags)
    screen.print_commands(commands, sys.stdout.write)
  elif flags.command == "status":
    show_status(runner, vm, flags.job)
  elif flags.command == "logs":
    vms.check_exists(runner, vm)
    show_logs(runner, vm, name, flags)
  elif flags.command == "stop":
    vms.check_exists(runner, vm)
    runs.stop(runner, vm, name)
    runner.say(f"{name}: stopped; {vm.name} is still there and costs money")
  else:
    vms.check_exists(runner, vm)
    vms.delete(runner, vm)
    runner.say(f"{vm.name}: deleted")


def management_commands(
  vm: Vm, name: str, flags: argparse.Namespace
) -> list[list[str]]:
  """Every command of `status`, `logs`, `stop` or `delete`."""
  if flags.command == "delete":
    return [gcloud.describe_queued(vm), gcloud.delete(vm)]
  more = [str(flags.lines)] if flags.command == "logs" else []
  worker = flags.worker if flags.command == "logs" else "all"
  line = jobs.call_if_present(name, flags.command, *more)
  command = gcloud.ssh(vm, line, worker=worker)
  first = [gcloud.describe(vm)] if flags.command == "status" else []
  return [*first, command]


def dispatch(
  runner: Runner, flags: argparse.Namespace, more: tuple[str, ...]
) -> int:
  """Runs one command; its exit code."""
  vm = command_line.vm_from(flags)
  if flags.command == "run":
    return run(runner, vm, flags, more)
  if flags.command == "sweep":
    return run_sweep(runner, vm, flags, more)
  manage(runner, vm, flags)
  return 0


def main(words: list[str]) -> int:
  """Runs the command line; 2 for bad input, 1 for trouble in the cloud."""
  try:
    flags, more = command_line.parse(__doc__, words)
    runner = screen.make_runner(
      poll=flags.poll, tries=flags.tries, backoff=flags.backoff
    )
    return dispatch(runner, flags, more)
  except KeyboardInterrupt:
    message = "the job goes on without this; the same command joins it"
    code = 130
  except ConfigError as error:
    message, code = f"error: {error}", 2
  except LaunchError as error:
    message, code = f"error: {error}", 1
  print(" ".join(message.split()), file=sys.stderr, flush=True)
  return code


if __name__ == "__main__":
  # The exit does not wait for threads of a sweep that wait for gcloud.
  code = main(sys.argv[1:])
  sys.stdout.flush()
  os._exit(code) if code == 130 else sys.exit(code)
