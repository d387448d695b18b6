"""Stands in for gcloud: keeps VMs in a file, and runs ssh's commands here.

Put on PATH as `gcloud` by tests/test_launch.py, or called by it as `answer`,
with FAKE naming its folder:

  calls.jsonl   every command line that it was given
  world.json    vms and requests by name; `creations` and `queues`, the states
                that each new VM and request goes through, one per describe;
                `fail`, errors to play; `heartbeats`, one per read; `packages`,
                the workdir's packages.txt; `types`, what the zone has
  home/NAME/I   the home folder of worker I of a VM
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

HOSTS = 2
WORLD = threading.Lock()
WIDE = {"--project", "--quiet", "--format"}
# As printed by `gcloud ... --help` of version 528.
CREATE = WIDE | {
  "--zone", "--accelerator-type", "--spot", "--reserved", "--network",
  "--subnetwork", "--service-account", "--labels", "--tags", "--metadata",
  "--scopes", "--internal-ips", "--data-disk", "--async",
}
SSH = WIDE | {
  "--zone", "--worker", "--internal-ip", "--ssh-flag", "--ssh-key-file",
  "--strict-host-key-checking", "--plain",
}
KNOWN = {
  "tpu-vm create": CREATE | {"--version", "--preemptible"},
  "tpu-vm describe": WIDE | {"--zone"},
  "tpu-vm start": WIDE | {"--zone", "--async"},
  "tpu-vm delete": WIDE | {"--zone", "--async"},
  "tpu-vm ssh": SSH | {"--command", "--output-directory"},
  "tpu-vm scp": SSH | {"--recurse", "--compress", "--scp-flag"},
  "queued-resources create": CREATE | {
    "--node-id", "--runtime-version", "--valid-until-duration", "--guaranteed",
  },
  "queued-resources describe": WIDE | {"--zone"},
  "queued-resources delete": WIDE | {"--zone", "--force", "--async"},
  "tpu-vm list": WIDE | {"--zone"},
  "queued-resources list": WIDE | {"--zone"},
  "accelerator-types list": WIDE | {"--zone"},
  "storage ls": WIDE,
  "storage cat": WIDE,
}
REQUIRED = {
  "tpu-vm create": {"--zone", "--version"},
  "queued-resources create": {
    "--zone", "--node-id", "--runtime-version", "--accelerator-type",
  },
}
ALPHA = {"--batch-size", "--tunnel-through-iap"}


class Failed(Exception):
  """How a command fails: message, exit code."""


def fake():
  return pathlib.Path(os.environ["FAKE"])


def fail(name, text, code=1):
  raise Failed(f"ERROR: (gcloud.{name.replace(' ', '.')}) {text}", code)


def parse(words):
  """(command, positional arguments, flags) of a command line."""
  words, track = list(words), set()
  if words[0] == "alpha":
    words, track = words[1:], ALPHA
  if words[:2] == ["compute", "tpus"]:
    words = words[2:]
  name, words = " ".join(words[:2]), words[2:]
  flags = {}
  for word in words:
    if word.startswith("--"):
      flag, _, value = word.partition("=")
      flags[flag] = value
  unknown = set(flags) - KNOWN[name] - track
  missing = REQUIRED.get(name, set()) - set(flags)
  if unknown or missing:
    fail(name, f"unrecognized arguments: {unknown}, missing {missing}", 2)
  return name, [w for w in words if not w.startswith("--")], flags


def play_errors(world, name, words):
  """The errors that a test has ordered, each a number of times."""
  for each in world["fail"]:
    if each["times"] and re.search(each["match"], " ".join([name, *words])):
      each["times"] -= 1
      raise Failed(each["error"], each.get("code", 1))


def missing(name, what):
  fail(name, f"NOT_FOUND: Resource 'projects/p/{what}' was not found")


def homes(vm, worker="all"):
  chosen = range(HOSTS) if worker == "all" else [int(worker)]
  for i in chosen:
    home = fake() / "home" / vm / str(i)
    home.mkdir(parents=True, exist_ok=True)
    yield i, home


def end_processes(vm):
  for file in (fake() / "home" / vm).glob("*/sitrain_jobs/*/pid"):
    try:
      os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
    except ProcessLookupError:
      pass


def new_vm(world, vm, kind):
  states = world["creations"].pop(0) if world["creations"] else ["READY"]
  world["vms"][vm] = {"type": kind, "states": states}


def step(things, name, command):
  if name not in things:
    missing(command, name)
  thing = things[name]
  states = thing["states"]
  thing["now"] = states.pop(0) if len(states) > 1 else states[0]
  return thing["now"]


def tpu_vm(world, command, rest, flags):
  verb, vms = command.split()[1], world["vms"]
  if verb == "list":
    return "".join(f"{name}\n" for name in vms)
  if verb == "create":
    if rest[0] in vms:
      fail(command, f"ALREADY_EXISTS: {rest[0]} already exists")
    new_vm(world, rest[0], flags["--accelerator-type"])
  elif verb == "describe":
    state = step(vms, rest[0], command)
    return f"{state}\t{vms[rest[0]]['type']}\n"
  elif rest[0] not in vms:
    missing(command, rest[0])
  elif verb == "ssh":
    now = vms[rest[0]]["now"]
    if now != "READY":
      fail(command, f'This TPU has terminal state "{now}"')
  elif verb == "start":
    vms[rest[0]]["states"] = ["READY"]
  else:
    end_processes(rest[0])
    shutil.rmtree(fake() / "home" / rest[0], ignore_errors=True)
    del vms[rest[0]]
  return ""


def queued(world, command, rest, flags):
  verb, requests = command.split()[1], world["requests"]
  if verb == "list":
    return "".join(f"{name}\n" for name in requests)
  if verb == "create":
    states = world["queues"].pop(0) if world["queues"] else ["ACTIVE"]
    kind = flags["--accelerator-type"]
    requests[rest[0]] = {"states": states, "type": kind}
  elif verb == "describe":
    state = step(requests, rest[0], command)
    if state == "ACTIVE" and rest[0] not in world["vms"]:
      new_vm(world, rest[0], requests[rest[0]]["type"])
    return f"{state}\n"
  else:
    if "--force" not in flags:
      fail(command, "FAILED_PRECONDITION: the node is still there")
    del requests[rest[0]]
    if rest[0] in world["vms"]:
      tpu_vm(world, "tpu-vm delete", rest, {})
  return ""


def ssh(rest, flags):
  codes, output, error = [], "", ""
  for i, home in homes(rest[0], flags.get("--worker", "0")):
    env = os.environ | {"HOME": str(home), "WORKER": str(i), "PATIENCE": "5"}
    env["PATH"] = f"{fake() / 'remote'}:{env['PATH']}"
    # As gcloud and ssh do: the words are split and joined by spaces again.
    line = " ".join(flags["--command"].split(" "))
    done = subprocess.run(
      ["bash", "-c", line], cwd=home, env=env, timeout=60, text=True,
      capture_output=True, stdin=subprocess.DEVNULL,
    )
    error += f"SSH: Attempting to connect to worker {i}...\n{done.stderr}"
    output += done.stdout
    codes.append(done.returncode)
  return next((code for code in codes if code), 0), output, error


def scp(rest, flags):
  *files, target = rest
  vm, _, folder = target.partition(":")
  for _, home in homes(vm, flags["--worker"]):
    for file in files:
      to = home / folder
      to = to / pathlib.Path(file).name if to.is_dir() else to
      # scp leaves the permissions of a file that is there as they are.
      (shutil.copyfile if to.exists() else shutil.copy)(file, to)
  return ""


def storage(world, command, rest):
  if command == "storage ls":
    if rest[0] not in world["buckets"]:
      fail(command, f"{rest[0]} not found: 404.")
    return f"{rest[0]}/runs/\n"
  if rest[0].endswith("/packages.txt") and world["packages"]:
    return world["packages"]
  beats = world["heartbeats"]
  if not beats:
    fail(command, "The following URLs matched no objects or files")
  return json.dumps(beats.pop(0) if len(beats) > 1 else beats[0])


def change(words):
  """What everything but ssh does: it looks at the world and changes it."""
  with open(fake() / "calls.jsonl", "a") as file:
    file.write(json.dumps(words) + "\n")
  file = fake() / "world.json"
  world = json.loads(file.read_text())
  command, rest, flags = parse(words)
  try:
    play_errors(world, command, words)
    if command.startswith("storage"):
      return storage(world, command, rest)
    if command == "accelerator-types list":
      return "\n".join(world["types"])
    if command == "tpu-vm scp":
      return scp(rest, flags)
    if command.startswith("tpu-vm"):
      return tpu_vm(world, command, rest, flags)
    return queued(world, command, rest, flags)
  finally:
    file.write_text(json.dumps(world))


def answer(words):
  """(exit code, standard output, standard error) of a command line."""
  try:
    with WORLD:
      output = change(words)
    command, rest, flags = parse(words)
    return ssh(rest, flags) if command == "tpu-vm ssh" else (0, output, "")
  except Failed as failed:
    return failed.args[1], "", failed.args[0]


if __name__ == "__main__":
  code, output, error = answer(sys.argv[1:])
  sys.stdout.write(output)
  sys.stderr.write(error)
  sys.exit(code)
