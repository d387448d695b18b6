"""Command lines of gcloud, as lists of words: nothing here runs anything.

Flags as in `gcloud compute tpus tpu-vm|queued-resources ... --help`.
"""

from typing import NamedTuple

_TPUS = ("compute", "tpus")
# These flags of ssh and scp are known to `gcloud alpha` alone.
_ALPHA = ("--batch-size", "--tunnel-through-iap")


class Vm(NamedTuple):
  """A TPU VM (all hosts of a slice) and how it is created."""

  name: str
  zone: str
  type: str = ""
  project: str = ""  # "": the one that gcloud is set to
  software: str = ""
  spot: bool = False
  reserved: bool = False
  queued: bool = False
  valid_until: str = ""  # a duration: how long a queued request may wait
  create_flags: tuple[str, ...] = ()
  ssh_flags: tuple[str, ...] = ()


def _location(vm: Vm) -> list[str]:
  project = [f"--project={vm.project}"] if vm.project else []
  return [f"--zone={vm.zone}", *project, "--quiet"]


def _tpus(*words: str) -> list[str]:
  return ["gcloud", *_TPUS, *words]


def _capacity(vm: Vm) -> list[str]:
  spot = ["--spot"] if vm.spot else []
  reserved = ["--reserved"] if vm.reserved else []
  return [
    f"--accelerator-type={vm.type}", *spot, *reserved, *vm.create_flags
  ]


def create(vm: Vm) -> list[str]:
  """Creates the VM, and waits until it is there."""
  return _tpus(
    "tpu-vm", "create", vm.name, *_location(vm), f"--version={vm.software}",
    *_capacity(vm),
  )


def create_queued(vm: Vm) -> list[str]:
  """Puts a request for the VM into the queue."""
  until = [f"--valid-until-duration={vm.valid_until}"] if vm.valid_until else []
  return _tpus(
    "queued-resources", "create", vm.name, *_location(vm),
    f"--node-id={vm.name}", f"--runtime-version={vm.software}", *_capacity(vm),
    *until, "--async",
  )


def describe(vm: Vm) -> list[str]:
  """State and type of the VM, with a tab between."""
  fields = "--format=value(state,acceleratorType.basename())"
  return _tpus("tpu-vm", "describe", vm.name, *_location(vm), fields)


def describe_queued(vm: Vm) -> list[str]:
  """State of the request, and why it failed if it did."""
  fields = "--format=value(state.state,state.failedData.error.message)"
  return _tpus("queued-resources", "describe", vm.name, *_location(vm), fields)


def list_types(vm: Vm) -> list[str]:
  """The TPU types that the VM's zone has, a line each."""
  format_flag = "--format=value(type)"
  return _tpus("accelerator-types", "list", *_location(vm), format_flag)


def list_vms(vm: Vm) -> list[str]:
  """Names of all VMs in the VM's zone, a line each."""
  format_flag = "--format=value(name.basename())"
  return _tpus("tpu-vm", "list", *_location(vm), format_flag)


def list_queued(vm: Vm) -> list[str]:
  """Names of all requests in the queue of the VM's zone, a line each."""
  format_flag = "--format=value(name.basename())"
  return _tpus("queued-resources", "list", *_location(vm), format_flag)


def start(vm: Vm) -> list[str]:
  """Starts a VM that was stopped."""
  return _tpus("tpu-vm", "start", vm.name, *_location(vm))


def delete(vm: Vm) -> list[str]:
  """Deletes the VM."""
  return _tpus("tpu-vm", "delete", vm.name, *_location(vm))


def delete_queued(vm: Vm) -> list[str]:
  """Deletes the request and its VM."""
  return _tpus(
    "queued-resources", "delete", vm.name, *_location(vm), "--force"
  )


def _remote(vm: Vm, *words: str) -> list[str]:
  alpha = any(flag.partition("=")[0] in _ALPHA for flag in vm.ssh_flags)
  return ["gcloud", *(["alpha"] if alpha else []), *_TPUS, "tpu-vm", *words]


def ssh(vm: Vm, command: str, *, worker: str) -> list[str]:
  """Runs a line of shell on a worker, or on "all" at the same time."""
  return _remote(
    vm, "ssh", vm.name, *_location(vm), f"--worker={worker}", *vm.ssh_flags,
    f"--command={command}",
  )


def scp(vm: Vm, files: list[str], target: str) -> list[str]:
  """Copies files to a path, which may be a folder/, on every worker."""
  return _remote(
    vm, "scp", *files, f"{vm.name}:{target}", *_location(vm), "--worker=all",
    *vm.ssh_flags,
  )


def list_bucket(workdir: str) -> list[str]:
  """Fails where the bucket of gs://bucket/... is missing or closed to us."""
  bucket = workdir.removeprefix("gs://").partition("/")[0]
  return ["gcloud", "storage", "ls", f"gs://{bucket}", "--quiet"]


def read(path: str) -> list[str]:
  """Prints a file of a bucket."""
  return ["gcloud", "storage", "cat", path, "--quiet"]
