"""The cost of a compiled program: products, traffic, collectives, seconds."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sitrain.runtime.plan import collectives, hlo
from sitrain.runtime.plan.chips import Chip
from sitrain.runtime.plan.traffic import traffic

_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
  "conditional", "call", "after-all", "partition-id", "replica-id", "iota",
}


class Work(NamedTuple):
  """One instruction, and how often it runs."""

  name: str
  loop: str  # "once", or the trip counts of the loops around it
  times: float
  flops: float
  bytes: float  # traffic between the chip's memory and its core
  collective: collectives.Sent
  buffer: float  # bytes of its result in the chip's memory
  shape: str
  source: str  # the operation that it was traced from


class Cost(NamedTuple):
  """The cost of one run of a program on one chip."""

  flops: float
  bytes: float
  sent: float
  compute_seconds: float
  sent_seconds: float
  collectives: list[dict]  # kind, loop, dtype, count, bytes, sent per run


def works(
  program: hlo.Program, steps: int, *, rounds: int = 1, refills: int = 1
) -> list[Work]:
  """All instructions of a run of the program. The costliest branch counts.

  `steps` is the sum of the steps of all dynamic loops (those that end by a
  computed value): the most tokens of a row. If dynamic loops are nested, slots
  are refilled: the inner loop makes all `steps`, `rounds` times, the outer one
  runs `refills` times, once per read of prompts, and later dynamic loops have
  nothing left to do.
  """
  inner, outer = _dynamic(program)
  nested = {name for found in outer.values() for name in found}
  last = nested or inner
  each = math.ceil(steps * rounds / max(len(last), 1))
  counts = dict.fromkeys(outer, refills) | dict.fromkeys(inner, 0)
  # An inner loop runs again in every round of the outer one.
  counts |= dict.fromkeys(last, each / refills if nested else each)
  return list(_walk(program, program.entry, 1.0, (), counts))


def _dynamic(program) -> tuple[set[str], dict[str, set[str]]]:
  """Dynamic loops: the innermost, and the outer ones with their inner ones."""
  bodies = {}
  for part, instructions in program.parts.items():
    for one in instructions.values():
      if one.opcode == "while":
        if hlo.trips(program, part, one) == hlo.DYNAMIC:
          bodies[one.name] = hlo.called(one, ("body",))[0]

  def loops_in(part):
    for one in program.parts[part].values():
      if one.name in bodies:
        yield one.name
      for name in _inside(one):
        yield from loops_in(name)

  nested = {name: set(loops_in(body)) for name, body in bodies.items()}
  inner = {name for name, found in nested.items() if not found}
  outer = {name: found & inner for name, found in nested.items() if found}
  return inner, outer


def _inside(one) -> list[str]:
  """The computations that an instruction calls."""
  if one.opcode in ("while", "call", "async-start"):
    return hlo.called(one, ("body", "calls", "to_apply"))
  return hlo.branches(one) if one.opcode == "conditional" else []


def _walk(program, part, times, loops, counts) -> Iterator[Work]:
  for one in program.parts[part].values():
    inside = _inside(one)
    if one.opcode == "while":
      count = hlo.trips(program, part, one)
      name = str(count)
      if count == hlo.DYNAMIC:
        count = counts[one.name]
        name = f"decode {count:.0f}"
      # A loop of one iteration does not count as a loop.
      deeper = (*loops, name) if count > 1 else loops
      if count:
        yield from _walk(program, inside[0], times * count, deeper, counts)
    elif one.opcode == "conditional":
      ways = [
        list(_walk(program, name, times, loops, counts)) for name in inside
      ]
      yield from max(ways, key=lambda way: sum(
        (w.flops + w.bytes) * w.times for w in way
      ))
    elif inside:
      for name in inside:
        yield from _walk(program, name, times, loops, counts)
    elif one.opcode not in _FREE and not one.opcode.endswith("-done"):
      yield _work(program, part, one, times, " x ".join(loops) or "once")


def _work(program, part, one, times, loop) -> Work:
  source = re.search(r'op_name="([^"]*)"', one.rest)
  return Work(
    name=one.name, loop=loop, times=times,
    flops=hlo.flops(program, part, one), bytes=traffic(program, part, one),
    collective=collectives.sent(program, part, one),
    buffer=hlo.size(one.kind, all_memories=False),
    shape=one.kind, source=source[1] if source else "",
  )


def cost_of(done: list[Work], chip: Chip) -> Cost:
  """Sums over a run, and its seconds on a chip by the roofline model.

  An instruction takes the time of its products at the chip's peak in bf16 or of
  its traffic at the memory's bandwidth, whichever is more. Collectives are
  added, at the bandwidth of all links. Nothing overlaps and nothing waits.
  """
  flops, moved, sent = (
    sum(each(w) * w.times for w in done)
    for each in (lambda w: w.flops, lambda w: w.bytes,
                 lambda w: w.collective.sent)
  )
  seconds = sum(
    w.times * max(w.flops / chip.flops, w.bytes / chip.bandwidth) for w in done
  )
  found = {}
  for w in done:
    one = w.collective
    if one.sent:
      row = found.setdefault((one.kind, w.loop, one.dtype), [0, 0.0, 0.0])
      row[0] += w.times
      row[1] += w.times * one.bytes
      row[2] += w.times * one.sent
  names = ("kind", "loop", "dtype", "count", "bytes", "sent")
  rows = [dict(zip(names, (*key, *row))) for key, row in found.items()]
  rows.sort(key=lambda row: -row["sent"])
  return Cost(flops, moved, sent, seconds, sent / chip.links, rows)


def largest(done: list[Work], count: int) -> list[dict]:
  """The largest results of the program, whether or not they live together."""
  order = sorted(done, key=lambda w: -w.buffer)[:count]
  return [
    {"bytes": w.buffer, "shape": w.shape[:120], "source": w.source[-160:]}
    for w in order
  ]
