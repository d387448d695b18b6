"""The protocol of a worker on its standard streams.

It needs the standard library alone. A worker is `python -m
benchmarks.peers.NAME`, in the environment of its library.
It reads one JSON object a line and answers each with one line:

  {"action": "prepare", "case": {...}} -> {"parameters": n, "settings": "..."}
  {"action": "run"} -> {"seconds": s, ...}; "given": what `run` takes, by name
  {"action": "quit"} -> nothing; it ends

An answer of {"error": "..."} describes a failure. Between two lines it waits
for its input and uses no processor.
"""

import json
import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any


def serve(prepare: Callable[[dict], tuple[Callable[..., dict], dict]]) -> None:
  """Answers messages until {"action": "quit"}.

  `prepare(case) -> (run, facts)` compiles and warms up; `run(**given) -> facts`
  is timed, and must not return before its work is done.
  """
  # The output of libraries goes to the log; the pipe gets the answers alone.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  run = None
  for line in sys.stdin:
    message = json.loads(line)
    if message["action"] == "quit":
      return
    try:
      if message["action"] == "prepare":
        run = None  # frees the memory of the last case
        run, answer = prepare(message["case"])
      else:
        began = time.perf_counter()
        answer = run(**message.get("given", {}))
        answer = {"seconds": time.perf_counter() - began} | answer
    except Exception as error:
      traceback.print_exc()
      answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)


def step_by_step(loop: Callable[[Callable[[], None]], None]) -> Callable:
  """A training loop of a library as a function of one step a call.

  `loop(gate)` runs in its own thread and must call `gate()` before each step,
  where it waits for the call. Where the loop ends or fails, the waiting call
  raises RuntimeError.
  """
  go, arrived = queue.Queue(), queue.Queue()

  def gate():
    arrived.put("")
    go.get()

  def run_loop():
    try:
      loop(gate)
      arrived.put("the loop has ended")
    except BaseException as error:
      traceback.print_exc()
      arrived.put(f"{type(error).__name__}: {error}")

  def wait():
    failed = arrived.get()
    if failed:
      raise RuntimeError(failed)

  def step():
    go.put(())
    wait()

  threading.Thread(target=run_loop, daemon=True).start()
  wait()
  return step


def prompts(case: dict, rows: int) -> list[list[int]]:
  """`rows` prompts of `case["prompt"]` tokens each, the same in all workers.

  Token 0 is only the first token, which some libraries read as a begin token.
  """
  others = case["model"]["vocabulary"] - 1
  return [
    [0] + [1 + (7919 * row + 104729 * at * (row + 1) + at * at) % others
           for at in range(1, case["prompt"])]
    for row in range(rows)
  ]


def share_of_even(tokens: list[int]) -> float:
  """The reward of the benchmarks, any function of the tokens."""
  return sum(token % 2 == 0 for token in tokens) / max(len(tokens), 1)


def seconds_of_cores() -> float:
  """Of all threads of this process until now, those of the system included."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def spent(before: float) -> dict[str, float]:
  """Seconds of cores since then as "cpu", and the "peak" of memory in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "cpu": seconds_of_cores() - before,
    "peak": peak * (1 if sys.platform == "darwin" else 1024),
  }


def jax_facts(params: Any, dtype: str) -> dict:
  """What a worker of sitrain answers to "prepare"."""
  import jax  # noqa: PLC0415  Not every worker has it.

  size = sum(x.size for x in jax.tree.leaves(params))
  settings = f"jax {jax.__version__}, {jax.device_count()} devices, {dtype}"
  return {"parameters": size, "settings": settings}


def torch_facts(model: Any, dtype: str) -> dict:
  """What a worker of transformers answers to "prepare"."""
  import torch  # noqa: PLC0415  Not every worker has them.
  import transformers  # noqa: PLC0415

  settings = (
    f"transformers {transformers.__version__}, torch {torch.__version__},"
    f" {torch.get_num_threads()} threads, {dtype}"
  )
  size = sum(p.numel() for p in model.parameters())
  return {"parameters": size, "settings": settings}
