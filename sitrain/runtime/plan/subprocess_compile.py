"""Compiles a program for a TPU in a subprocess, up to memory assignment.

The TPU compiler first optimizes and schedules a program and assigns its memory.
Then it generates machine code, which takes most of the time, and of which a
plan only needs the size. The compiler cannot stop between the two, but it can
dump its intermediate results to files. So a subprocess compiles with the dump
on, and is killed as soon as the files are complete.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

import jax

from sitrain.runtime import build
from sitrain.runtime.plan import chips, programs

POLL = 0.2  # seconds between two checks of the dumped files
_TEXT = "*after_optimizations_after_buffer_assignment.txt"
_MEMORY = "*after_optimizations-buffer-assignment.txt"
_ERROR = "error.txt"
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(.*)$", re.MULTILINE)


class Compiled(NamedTuple):
  """The text and the memory of a compiled program."""

  text: str  # its instructions, scheduled
  memory: dict[str, int]  # bytes of arguments, temporaries, outputs, code


def compile_here(lowered: Any) -> Compiled:
  """Compiles for this machine, in this process."""
  made = lowered.compile()
  sizes = made.memory_analysis()
  outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  return Compiled(made.as_text(), {
    "arguments": sizes.argument_size_in_bytes,
    "temporaries": sizes.temp_size_in_bytes, "outputs": max(outputs, 0),
    "code": sizes.generated_code_size_in_bytes,
  })


def compile_completely(lowered: Any) -> Compiled:
  """Compiles for a TPU in this process, including the machine code.

  Memory comes from the buffer assignment, because `memory_analysis` subtracts
  outputs that alias donated arguments from the temporaries a second time.
  """
  with tempfile.TemporaryDirectory() as name:
    made = lowered.compile(compiler_options=_dump(name))
    found = next(pathlib.Path(name).glob(_MEMORY)).read_text()
  code = made.memory_analysis().generated_code_size_in_bytes
  return Compiled(made.as_text(), memory_of(found) | {"code": code})


def _dump(name: str) -> dict[str, Any]:
  """Options with which the compiler dumps its results to a folder."""
  return {"xla_dump_to": name, "xla_dump_hlo_as_text": True}


def compile_in_subprocess(
  config: dict, folder: Any, target: chips.Target, stage: str, program: str
) -> Compiled:
  """A program of a stage, compiled for a TPU in a subprocess.

  No machine code is generated, so `code` in its memory is 0. Raises the same as
  compiling in this process: JaxRuntimeError where the compiler fails.
  """
  with tempfile.TemporaryDirectory() as name:
    place = pathlib.Path(name)
    (place / "request.json").write_text(json.dumps({
      "config": config, "folder": str(folder), "topology": target.name,
      "stage": stage, "program": program,
    }))
    with _compiler_process(place) as process:
      text = _program_text(place)
      while not text and process.poll() is None:
        time.sleep(POLL)
        text = _program_text(place)
    if not text:
      raise jax.errors.JaxRuntimeError(_failure(place, process.returncode))
    return Compiled(text, memory_of(next(place.glob(_MEMORY)).read_text()))


def _program_text(place) -> str:
  """The text of the program, once the file is complete; else "".

  It is written last, and ends with the closing bracket of its entry.
  """
  for path in place.glob(_TEXT):
    text = path.read_text()
    if "\nENTRY " in text and text.endswith("}\n\n"):
      return text
  return ""


@contextlib.contextmanager
def _compiler_process(place: pathlib.Path):
  """A process that compiles the request in `place`; killed after the block."""
  module = "sitrain.runtime.plan.subprocess_compile"
  command = [sys.executable, "-m", module, str(place)]
  with (place / "log.txt").open("w") as log:
    process = subprocess.Popen(
      command, stdout=log, stderr=log, env=os.environ | {"EPATH_USE_TF": "0"}
    )
    try:
      yield process
    finally:
      process.kill()
      process.wait()


def _failure(place, code) -> str:
  """Why a process ended before its program was complete."""
  error, log = place / _ERROR, (place / "log.txt").read_text()
  if error.exists():
    return error.read_text()
  return f"the compiler's process ended with code {code}: {log[-2000:]}"


def memory_of(assignment: str) -> dict[str, int]:
  """Bytes in a chip's memory by kind, from a buffer assignment.

  Allocations with a color are in the memory of the core and are left out.
  """
  found = {"arguments": 0, "temporaries": 0, "outputs": 0, "code": 0}
  for size, what in _ALLOCATION.findall(assignment):
    if ", color" in what:
      continue
    kind = "temporaries"
    if ", parameter " in what:
      kind = "arguments"
    elif "maybe-live-out" in what:
      kind = "outputs"
    found[kind] += int(size)
  return found


def _end_with_parent() -> None:
  """Ends this process when its parent is gone."""
  parent = os.getppid()
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)


def main(place: pathlib.Path) -> None:
  """Compiles the program of a request; writes the error where that fails."""
  request = json.loads((place / "request.json").read_text())
  threading.Thread(target=_end_with_parent, daemon=True).start()
  target = chips.target_of(request["topology"])
  jax.config.update("jax_threefry_partitionable", True)
  plan = programs.planned(
    build.plain(request["config"]), request["folder"], target, request["stage"]
  )
  lowered = programs.lowered(plan)[request["program"]]
  try:
    lowered.compile(compiler_options=_dump(str(place)))
  except jax.errors.JaxRuntimeError as error:
    (place / _ERROR).write_text(str(error))
    sys.exit(1)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
