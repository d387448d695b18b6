"""What a worker says on its standard streams, with the standard library alone.

A worker is `python -m benchmarks.peers.NAME`, in whatever environment it needs.
It reads one JSON object a line and answers each with one line:

  {"action": "prepare", "case": {...}} -> {"parameters": n, "settings": "..."}
  {"action": "run"} -> {"seconds": s, ...}
  {"action": "quit"} -> nothing; it ends

An answer of {"error": "..."} says what went wrong. Between two lines it waits
for its input and uses no processor.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable


def serve(prepare: Callable[[dict], tuple[Callable[[], dict], dict]]) -> None:
  """Answers until told to quit.

  `prepare(case) -> (run, facts)` compiles and warms up; `run() -> facts` is
  what is timed, and must not return before its work is done.
  """
  # Whatever libraries print goes to the log, and answers alone to the pipe.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  run = None
  for line in sys.stdin:
    message = json.loads(line)
    if message["action"] == "quit":
      return
    try:
      if message["action"] == "prepare":
        run = None  # frees what the last case held
        run, answer = prepare(message["case"])
      else:
        began = time.perf_counter()
        answer = run()
        answer = {"seconds": time.perf_counter() - began} | answer
    except Exception as error:
      traceback.print_exc()
      answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)


def one_at_a_time(loop: Callable[[Callable[[], None]], None]) -> Callable:
  """A training loop that somebody else drives, as one step a call.

  `loop(gate)` runs in a thread of its own and must call `gate()` before each
  step; it waits there for the call. Where the loop ends or fails, so does the
  call that waits for it.
  """
  go, arrived = queue.Queue(), queue.Queue()

  def gate():
    arrived.put("")
    go.get()

  def whole():
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

  threading.Thread(target=whole, daemon=True).start()
  wait()
  return step


def prompts(case: dict, rows: int) -> list[list[int]]:
  """`rows` prompts of `case["prompt"]` tokens each, the same in all workers.

  Token 0 stands in front alone, where some take it for a begin token.
  """
  others = case["model"]["vocabulary"] - 1
  return [
    [0] + [1 + (7919 * row + 104729 * at * (row + 1) + at * at) % others
           for at in range(1, case["prompt"])]
    for row in range(rows)
  ]


def share_of_even(tokens: list[int]) -> float:
  """The reward of the benchmarks: any number that a text determines will do."""
  return sum(token % 2 == 0 for token in tokens) / max(len(tokens), 1)
