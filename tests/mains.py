"""The main as its users run it: as processes, each with a text on its screen.

Run as a script it is a server: it imports the main once and forks a process
for every case, before JAX has begun, which saves the seconds of the imports.
"""

import ast
import functools
import gc
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags as known

from sitrain.runtime.cores import xla_has_flag

ROOT = Path(__file__).parent.parent
# The smallest run of several stages: most of its time is the compiler's, and
# files that run the same config share its programs.
QUICK = ("--config=configs/quickstart.py:quick", "--config.model.layers=1")
# A run of one stage that starts from nothing.
ALONE = (
  "--config.stages=('stage1',)", "--config.stage.stage1.start=init",
  "--config.stage.stage1.held.reference=init",
)
# A user's process, but with the compiled programs of all tests.
ONE_THREAD = (
  "--xla_cpu_multi_thread_eigen=false "
  "--xla_force_host_platform_device_count=1"
)
# They take half of the seconds in which the compiler makes a test's program.
EMITTERS = "xla_cpu_use_fusion_emitters"


def imported(name: str) -> Any:
  """A main as a module. Its flags are taken away again, as others have them.

  It is for tests that call functions of a main and give what flags would.
  """
  importlib.import_module("sitrain.runtime.distributed")  # Its flags stay.
  before = set(known.FLAGS)
  module = importlib.import_module(name)
  for flag in set(known.FLAGS) - before:
    delattr(known.FLAGS, flag)
  return module


def options_of(module: Any) -> dict[str, Any]:
  """The options that a main gives to run_main, in its last line."""
  source = inspect.getsource(module)
  given = re.findall(r"^  run_main\(main, (\w+)=(.+)\)$", source, re.M)
  return {name: ast.literal_eval(value) for name, value in given}


class Done(NamedTuple):
  """What is left of a process."""

  code: int
  out: str
  err: str


def flags(given):
  """XLA's flags for tests, which compile more than they compute."""
  quick = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"
  if not quick or EMITTERS in given or not xla_has_flag(EMITTERS):
    return given
  return f"{given} --{EMITTERS}=false".strip()


def environment(cache, **more):
  given = {
    "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ONE_THREAD,
    "SITRAIN_CACHE": str(cache), "NO_GCE_CHECK": "true",
    # Mains ask for the cache; scripts look at what the compiler says, of which
    # a stored program says less.
    "JAX_COMPILATION_CACHE_DIR": "",
  }
  whole = {**os.environ, **given, **more}
  return whole | {"XLA_FLAGS": flags(whole["XLA_FLAGS"])}


def start(arguments, cache, *, module="sitrain.main", **more):
  """`python -m` a main of the package, running."""
  # Whoever runs the tests in the background may have made Ctrl-C ignored.
  hear = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
  return subprocess.Popen(
    [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, text=True,
    env=environment(cache, **more), stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, preexec_fn=hear,
  )


def finish(process, seconds=300):
  """Waits for a process, up to a limit."""
  try:
    out, err = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.kill()
    raise AssertionError(process.communicate()[1][-2000:]) from None
  return Done(process.returncode, out, err)


def json_of(done):
  """The JSON that a script printed; Gloo may write on its line, too."""
  assert done.code == 0, done.err[-3000:]
  start = done.out.find('{"')
  assert start >= 0, done.out
  return json.JSONDecoder().raw_decode(done.out, start)[0]


def lines(done):
  """The lines of a process on stderr, without those on its phases."""
  found = done.err.splitlines()
  return [line for line in found if not line.startswith("reading problems")]


def wait_for(process, happened, seconds=120):
  """Waits until `happened()`, while the process runs."""
  until = time.monotonic() + seconds
  while not happened():
    assert process.poll() is None, "it ended: " + process.communicate()[1]
    if time.monotonic() > until:
      process.kill()
      raise AssertionError(f"nothing after {seconds} s")
    time.sleep(0.005)


def serve(**more):
  """Opens the server, in this environment; returns ask and close.

  ask(arguments, cache, module=..., **environment) -> Done runs a main.
  """
  server = subprocess.Popen(
    [sys.executable, __file__], cwd=ROOT, text=True, stdin=subprocess.PIPE,
    stdout=subprocess.PIPE, env=environment("", **more),
  )

  def ask(arguments, cache, *, module="sitrain.main", **more):
    more = {"SITRAIN_CACHE": str(cache)} | more
    if "XLA_FLAGS" in more:
      more["XLA_FLAGS"] = flags(more["XLA_FLAGS"])
    server.stdin.write(json.dumps([module, arguments, more]) + "\n")
    server.stdin.flush()
    return Done(*json.loads(server.stdout.readline()))

  return ask, lambda: server.communicate(timeout=20)


def _fork(module, arguments, more, out, err):
  child = os.fork()
  if child:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  os.dup2(out.fileno(), 1)
  os.dup2(err.fileno(), 2)
  os.environ.update(more)
  sys.argv = [module, *arguments]
  # The interpreter itself is to print what is not caught, and to end.
  from sitrain.runtime.errors import run_main

  main = importlib.import_module(module)
  run_main(main.main, **options_of(main))
  sys.exit(0)


def _serve():
  # Before the forks: that is the point. No main: their flags would clash.
  import matplotlib.figure  # noqa: F401
  import ml_collections.config_flags  # noqa: F401
  import tensorboardX  # noqa: F401  It imports torch where that is there.
  from transformers import AutoTokenizer  # noqa: F401

  import sitrain.evaluate.run
  import sitrain.runtime.page.one_run
  import sitrain.runtime.requested_samples
  import sitrain.runtime.stage  # noqa: F401

  gc.set_threshold(100_000, 10, 10)  # see conftest.py
  gc.freeze()
  answers = os.fdopen(os.dup(1), "w")
  file = tempfile.TemporaryFile
  for line in sys.stdin:
    with file("w+") as out, file("w+") as err:
      code = _fork(*json.loads(line), out, err)
      texts = [f.seek(0) or f.read() for f in (out, err)]
    answers.write(json.dumps([code, *texts]) + "\n")
    answers.flush()


if __name__ == "__main__":
  _serve()
