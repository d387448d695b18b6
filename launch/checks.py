"""What is checked in the cloud and on this machine before a slice is paid for.

That the VM's own account may write to the bucket can only be tested on the VM:
`remote.sh check_bucket` does it as soon as there is one.
"""

import os

from sitrain.runtime.options import ConfigError, closest

from . import accelerators, gcloud, machine
from .gcloud import Vm
from .machine import Runner

_KEY = "~/.ssh/google_compute_engine"  # gcloud's own


def check_all(runner: Runner, vm: Vm, workdir: str) -> None:
  """Raises ConfigError for what would fail once there is a VM."""
  check_bucket(runner, workdir)
  check_zone(runner, vm)
  if accelerators.is_multi_host(vm.type):
    check_ssh_agent(runner, vm)


def check_bucket(runner: Runner, workdir: str) -> None:
  """Raises ConfigError where the workdir's bucket does not exist."""
  found = machine.call(runner, gcloud.list_bucket(workdir), accept=("gone",))
  if found.code:
    bucket = "/".join(workdir.split("/")[:3])
    raise ConfigError(
      f"--workdir={workdir}: there is no such bucket: `gcloud storage buckets"
      f" create {bucket}` makes it"
    )


def check_zone(runner: Runner, vm: Vm) -> None:
  """Raises ConfigError where the zone does not have the type."""
  types = machine.call(runner, gcloud.list_types(vm)).output.split()
  if vm.type not in types:
    has = closest(vm.type, types) if types else "it has no TPUs"
    raise ConfigError(f"--type={vm.type} is not in --zone={vm.zone}: {has}")


def check_ssh_agent(runner: Runner, vm: Vm) -> None:
  """Raises ConfigError where the agent lacks the key that gcloud uses.

  gcloud refuses to reach several hosts without it, after they are paid for.
  """
  flags = dict(flag.partition("=")[::2] for flag in vm.ssh_flags)
  if "--plain" in flags:
    return
  name = flags.get("--ssh-key-file", _KEY)
  path = os.path.expanduser(name)
  if not os.path.exists(path):
    raise ConfigError(
      f"there is no SSH key {name}, which gcloud reaches the {vm.type}'s hosts"
      f" with: `ssh-keygen -t rsa -f {name}` makes one, `ssh-add {name}` adds"
      " it to the SSH agent"
    )
  words = runner.execute(["ssh-keygen", "-lf", path]).output.split()
  fingerprint = words[1] if len(words) > 1 else path
  agent = runner.execute(["ssh-add", "-l"])
  if agent.code or fingerprint not in agent.output.split():
    start = 'eval "$(ssh-agent)" && ' if agent.code == 2 else ""
    raise ConfigError(
      f"the SSH agent does not have the key {name}, without which gcloud"
      f" reaches one host only, and a {vm.type} has several: run"
      f" `{start}ssh-add {name}`"
    )
