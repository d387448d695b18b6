"""Gets a VM into the state READY, whatever state it is in."""

import re
from typing import NamedTuple

from sitrain.runtime.options import ConfigError

from . import gcloud, machine
from .gcloud import Vm
from .machine import LaunchError, Runner

ABSENT = "ABSENT"
# These do not come back by themselves, and are made anew.
DEAD = ("PREEMPTED", "TERMINATED", "SUSPENDED")


class Found(NamedTuple):
  """The state of a VM, or of the request for it."""

  state: str  # of the VM, or of the request as long as that is not ACTIVE
  type: str


def _describe(runner: Runner, words: list[str]) -> list[str]:
  result = machine.call(runner, words, accept=("gone",))
  return [ABSENT] if result.code else result.output.strip().split("\t")


def find(runner: Runner, vm: Vm) -> Found:
  """The VM, or else the request for it; ABSENT if there is neither.

  Raises LaunchError for a request that has failed.
  """
  state, *kind = _describe(runner, gcloud.describe(vm))
  found = Found(state, kind[0] if kind else "")
  if state == "READY":
    return found
  request, *reason = _describe(runner, gcloud.describe_queued(vm))
  if request == ABSENT:
    return found
  if request == "FAILED":
    raise LaunchError(
      f"the queued request {vm.name} failed: {' '.join(reason) or 'no reason'}:"
      " give the command `delete`, then ask again"
    )
  # An active request whose VM is not to be seen yet is about to have one.
  granted = request == "ACTIVE" and state != ABSENT
  return found if granted else Found(request, found.type)


def sweep_vms(runner: Runner, vm: Vm) -> list[str]:
  """VMs and requests of a sweep of the name: NAME-0 and so on."""
  lists = gcloud.list_vms(vm), gcloud.list_queued(vm)
  known = [machine.call(runner, words).output.split() for words in lists]
  names = {
    name for names in known for name in names
    if re.fullmatch(rf"{re.escape(vm.name)}-\d+", name)
  }
  return sorted(names, key=lambda name: int(name.rpartition("-")[2]))


def check_exists(runner: Runner, vm: Vm) -> None:
  """Raises ConfigError where there are only the VMs of a sweep of the name."""
  if find(runner, vm).state == ABSENT and (names := sweep_vms(runner, vm)):
    raise ConfigError(
      f"{vm.name} is not there, but a sweep's {', '.join(names)}: give one of"
      " them as --name"
    )


def delete(runner: Runner, vm: Vm) -> None:
  """Deletes the VM, by its request if it has one."""
  request, *_ = _describe(runner, gcloud.describe_queued(vm))
  queued = request != ABSENT
  words = gcloud.delete_queued(vm) if queued else gcloud.delete(vm)
  machine.call(runner, words, accept=("gone",))


def create(runner: Runner, vm: Vm) -> None:
  """Creates the VM or asks for it; one that is there already is fine."""
  words = gcloud.create_queued(vm) if vm.queued else gcloud.create(vm)
  machine.call(runner, words, accept=("exists",))


def check_type(vm: Vm, found: Found) -> None:
  """Raises ConfigError where the VM that is there is of another type."""
  if found.type and vm.type and found.type != vm.type:
    raise ConfigError(
      f"{vm.name} is there already, as a {found.type}: give another --name, or"
      f" `delete` it first to have a {vm.type}"
    )


def ensure(runner: Runner, vm: Vm) -> bool:
  """Waits until the VM is READY; True where it had to be made.

  Raises LaunchError after as many VMs as the machine has tries.
  """
  made, last_state = 0, ""
  while True:
    found = find(runner, vm)
    check_type(vm, found)
    if found.state != last_state:
      runner.say(f"{vm.name}: {found.state.lower().replace('_', ' ')}")
      last_state = found.state
    if found.state == "READY":
      return made > 0
    if found.state in DEAD:
      delete(runner, vm)
    elif found.state == "STOPPED":
      machine.call(runner, gcloud.start(vm))
    elif found.state == ABSENT:
      if made == runner.tries:
        raise LaunchError(f"{vm.name} vanished {made} times: try another zone")
      runner.say(f"{vm.name}: creating a {vm.type} in {vm.zone}")
      create(runner, vm)
      made += 1
    else:
      runner.sleep(runner.poll)
