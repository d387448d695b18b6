"""Gets a VM into the state READY, whatever state it is in."""

from typing import NamedTuple

from launch import gcloud, machine
from launch.gcloud import Vm
from launch.machine import LaunchError, Machine
from sitrain.runtime.options import ConfigError

ABSENT = "ABSENT"
# These do not come back by themselves, and are made anew.
DEAD = ("PREEMPTED", "TERMINATED", "SUSPENDED")


class Found(NamedTuple):
  """What is there under a name."""

  state: str  # of the VM, or of the request as long as that is not ACTIVE
  type: str


def _ask(act: Machine, words: list[str]) -> list[str]:
  result = machine.call(act, words, accept=("gone",))
  return [ABSENT] if result.code else result.output.strip().split("\t")


def find(act: Machine, vm: Vm) -> Found:
  """The VM, or else the request for it; ABSENT if there is neither.

  Raises LaunchError for a request that has failed.
  """
  state, *kind = _ask(act, gcloud.describe(vm))
  found = Found(state, kind[0] if kind else "")
  if state == "READY":
    return found
  asked, *why = _ask(act, gcloud.describe_queued(vm))
  if asked == ABSENT:
    return found
  if asked == "FAILED":
    raise LaunchError(
      f"the queued request {vm.name} failed: {' '.join(why) or 'no reason'}:"
      " give the command `delete`, then ask again"
    )
  # An active request whose VM is not to be seen yet is about to have one.
  granted = asked == "ACTIVE" and state != ABSENT
  return found if granted else Found(asked, found.type)


def of_sweep(act: Machine, vm: Vm) -> list[str]:
  """The VMs that a sweep of the name has made, NAME-0 and so on."""
  names = machine.call(act, gcloud.list_vms(vm)).output.split()
  return sorted(names, key=lambda name: int(name.rpartition("-")[2]))


def check_there(act: Machine, vm: Vm) -> None:
  """Raises ConfigError where there are only the VMs of a sweep of the name."""
  if find(act, vm).state == ABSENT and (names := of_sweep(act, vm)):
    raise ConfigError(
      f"{vm.name} is not there, but a sweep's {', '.join(names)}: give one of"
      " them as --name"
    )


def delete(act: Machine, vm: Vm) -> None:
  """Deletes the VM, by its request if it has one."""
  asked, *_ = _ask(act, gcloud.describe_queued(vm))
  queued = asked != ABSENT
  words = gcloud.delete_queued(vm) if queued else gcloud.delete(vm)
  machine.call(act, words, accept=("gone",))


def create(act: Machine, vm: Vm) -> None:
  """Creates the VM or asks for it; one that is there already is fine."""
  words = gcloud.create_queued(vm) if vm.queued else gcloud.create(vm)
  machine.call(act, words, accept=("exists",))


def check_type(vm: Vm, found: Found) -> None:
  """Raises ConfigError where the VM that is there is of another type."""
  if found.type and vm.type and found.type != vm.type:
    raise ConfigError(
      f"{vm.name} is there already, as a {found.type}: give another --name, or"
      f" `delete` it first to have a {vm.type}"
    )


def ensure(act: Machine, vm: Vm) -> bool:
  """Waits until the VM is READY; True where it had to be made.

  Raises LaunchError after as many VMs as the machine has tries.
  """
  made, told = 0, ""
  while True:
    found = find(act, vm)
    check_type(vm, found)
    if found.state != told:
      act.say(f"{vm.name}: {found.state.lower().replace('_', ' ')}")
      told = found.state
    if found.state == "READY":
      return made > 0
    if found.state in DEAD:
      delete(act, vm)
    elif found.state == "STOPPED":
      machine.call(act, gcloud.start(vm))
    elif found.state == ABSENT:
      if made == act.tries:
        raise LaunchError(f"{vm.name} vanished {made} times: try another zone")
      act.say(f"{vm.name}: creating a {vm.type} in {vm.zone}")
      create(act, vm)
      made += 1
    else:
      act.sleep(act.poll)
