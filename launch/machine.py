"""Runs commands, classifies their failures and retries those that may pass."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from sitrain.runtime.options import ConfigError


class LaunchError(ValueError):
  """A failure in the cloud that waiting does not mend."""


class Result(NamedTuple):
  """Exit code and output of a command."""

  code: int
  output: str
  error: str


class Runner(NamedTuple):
  """All side effects of the launcher, so that tests can replace them."""

  execute: Callable[[list[str]], Result]
  sleep: Callable[[float], None]  # seconds
  say: Callable[[str], None]  # a line of the launcher
  show: Callable[[str], None]  # text of the job's log
  poll: float  # seconds between two polls
  tries: int  # of a command that fails for a reason that may pass
  backoff: float  # seconds after the first failure; doubles up to 5 minutes


# The kinds of failure, and what to do about those that stay; first match wins.
_KINDS = (
  ("passes", r"per minute|rateLimitExceeded", "wait a minute"),
  ("stays", r"accelerator.*not.{0,5} found|zonal accelerator",
   "this zone does not have that --type: `gcloud compute tpus"
   " accelerator-types list --zone=ZONE` tells what it has"),
  ("stays", r"[Qq]uota", "ask for more quota, or try --spot or another zone"),
  ("stays", r"SERVICE_DISABLED|API has not been used|API .*not enabled",
   "run `gcloud services enable tpu.googleapis.com`"),
  ("stays", r"active account|auth login|Reauthentication|credentials",
   "run `gcloud auth login`"),
  ("stays", r"core/project|project property|\[project\].*required",
   "give --project"),
  ("stays", r"PERMISSION_DENIED|permission|\b403\b|does not have .* access",
   "check the account (`gcloud auth list`), its roles and --project"),
  ("exists", r"ALREADY_EXISTS|already exists", ""),
  ("down", r"terminal state|TPU has state|maintenance event", ""),
  ("gone", r"NOT_FOUND|not found|\b404\b", ""),
  ("full", r"no more capacity|nsufficient.*capacity|RESOURCE_EXHAUSTED"
   r"|stockout|code.{0,3}\b8\b",
   "nothing of that type is free: try --queued, --spot or another zone"),
  ("passes", r"UNAVAILABLE|DEADLINE|ABORTED|INTERNAL|\b50[0234]\b|[Tt]imed out"
   r"|[Cc]onnection (reset|aborted|refused)|ConnectionError|SSLError"
   r"|return code \[255\]|Temporary failure|Name or service not known",
   "check the network, then start the same command again"),
)


def failure(result: Result) -> tuple[str, str]:
  """The kind of a failed command, and what a user can do about it.

  Kinds: "passes" and "full" are worth another try, "exists", "gone" and
  "down" speak about the VM, "stays" about everything else; "" is no failure.
  """
  if result.code == 0:
    return "", ""
  message = error_message(result)
  for kind, pattern, advice in _KINDS:
    # Errors of programs on a worker are not errors of gcloud.
    if message.startswith("ERROR: ") and re.search(pattern, message):
      return kind, advice
  return ("passes" if result.code == 255 else "stays"), ""


def error_message(result: Result) -> str:
  """gcloud's last ERROR, or else the last line of what ran, as one line."""
  text = result.error.strip() or result.output.strip()
  start = max(text.rfind("ERROR: (gcloud"), text.rfind("ERROR: gcloud"))
  if start >= 0:
    return " ".join(text[start:].split())
  # ssh to several workers tells about each of them.
  lines = [
    line for line in text.splitlines()
    if line.strip() and not line.startswith(("#####", "SSH: ", "SCP: "))
  ]
  errors = [line for line in lines if "error" in line.lower()]
  last = (errors or lines or [f"exit code {result.code}"])[-1]
  return " ".join(last.split()).removeprefix("ERROR: ")


def call(
  runner: Runner, words: list[str], *, accept: tuple[str, ...] = ()
) -> Result:
  """Runs a command until it succeeds or fails in an accepted way.

  Raises LaunchError, in one line, when it fails for good.
  """
  for attempt in range(max(runner.tries, 1)):
    result = runner.execute(words)
    kind, advice = failure(result)
    if not kind or kind in accept:
      return result
    message = error_message(result)
    if kind not in ("passes", "full"):
      break
    if attempt + 1 < runner.tries:
      delay = min(runner.backoff * 2**attempt, 300.0)
      runner.say(f"{message[:200]}; again in {delay:.0f} s")
      runner.sleep(delay)
  message = message.removeprefix("ERROR: ")
  raise LaunchError(f"{message}: {advice}" if advice else message)


def find_program(name: str) -> None:
  """Raises ConfigError where a program is not installed."""
  advice = " (cloud.google.com/sdk/docs/install)" * (name == "gcloud")
  if shutil.which(name) is None:
    raise ConfigError(f"{name} is not on PATH: install it{advice}")


def execute(words: list[str]) -> Result:
  """Runs a command here, without a terminal; at most two hours.

  Raises ConfigError where the program is not installed.
  """
  find_program(words[0])
  try:
    done = subprocess.run(
      words, stdin=subprocess.DEVNULL, capture_output=True, timeout=7200,
      env=os.environ | {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
    )
  except subprocess.TimeoutExpired:
    return Result(255, "", f"{shlex.join(words[:6])}: timed out")
  output, error = (
    text.decode(errors="replace") for text in (done.stdout, done.stderr)
  )
  return Result(done.returncode, output, error)
