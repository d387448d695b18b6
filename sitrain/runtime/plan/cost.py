"""What a compiled program costs: products, traffic, collectives, seconds."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sitrain.runtime.plan import hlo
from sitrain.runtime.plan.chips import Chip
from sitrain.runtime.plan.traffic import traffic

COLLECTIVES = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all",
  "collective-permute",
)
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
  "conditional", "call", "after-all", "partition-id", "replica-id", "iota",
}


class Work(NamedTuple):
  """One instruction, and how often it runs."""

  name: str
  loop: str  # "once", or the trip counts of the loops that it stands in
  times: float
  flops: float
  bytes: float  # that pass between the chip's memory and its core
  collective: str  # its kind, or ""
  sent: float  # bytes that the chip sends to others
  buffer: float  # bytes of its result in the chip's memory
  shape: str
  source: str  # what it was traced from


class Cost(NamedTuple):
  """A run of a program on one chip."""

  flops: float
  bytes: float
  sent: float
  compute_seconds: float
  sent_seconds: float
  collectives: list[dict]  # kind, loop, dtype, count, bytes, sent: a run's


def works(program: hlo.Program, steps: int) -> list[Work]:
  """All that a run of the program does.

  `steps` is what the loops that end by a value make together, one after the
  other: the most tokens that a row can get. Of branches the dearest counts.
  """
  inner = _dynamic(program)
  each = math.ceil(steps / max(len(inner), 1))
  return list(_walk(program, program.entry, 1.0, (), (inner, each)))


def _dynamic(program) -> set[str]:
  """Names of the innermost loops that end by a value."""
  found = {}
  for part, instructions in program.parts.items():
    for one in instructions.values():
      if one.opcode == "while":
        if hlo.trips(program, part, one) == hlo.DYNAMIC:
          found[one.name] = hlo.called(one, ("body",))[0]
  holds = lambda part: any(
    one.name in found or any(map(holds, _inside(one)))
    for one in program.parts[part].values()
  )
  return {name for name, body in found.items() if not holds(body)}


def _inside(one) -> list[str]:
  """The computations that an instruction runs as parts of the program."""
  if one.opcode in ("while", "call", "async-start"):
    return hlo.called(one, ("body", "calls", "to_apply"))
  return hlo.branches(one) if one.opcode == "conditional" else []


def _walk(program, part, times, loops, dynamic) -> Iterator[Work]:
  for one in program.parts[part].values():
    inside = _inside(one)
    if one.opcode == "while":
      count = hlo.trips(program, part, one)
      name = str(count)
      if count == hlo.DYNAMIC:
        inner, each = dynamic
        count = each if one.name in inner else 1
        name = f"decode {count}"
      # Loops of one round are no loops.
      deeper = (*loops, name) if count > 1 else loops
      yield from _walk(program, inside[0], times * count, deeper, dynamic)
    elif one.opcode == "conditional":
      ways = [
        list(_walk(program, name, times, loops, dynamic)) for name in inside
      ]
      yield from max(ways, key=lambda way: sum(
        (w.flops + w.bytes) * w.times for w in way
      ))
    elif inside:
      for name in inside:
        yield from _walk(program, name, times, loops, dynamic)
    elif one.opcode not in _FREE and not one.opcode.endswith("-done"):
      yield _work(program, part, one, times, " x ".join(loops) or "once")


def _work(program, part, one, times, loop) -> Work:
  kind, sent = _sent(program, part, one)
  source = re.search(r'op_name="([^"]*)"', one.rest)
  return Work(
    name=one.name, loop=loop, times=times,
    flops=hlo.flops(program, part, one), bytes=traffic(program, part, one),
    collective=kind, sent=sent, buffer=hlo.size(one.kind, everywhere=False),
    shape=one.kind, source=source[1] if source else "",
  )


def _sent(program, part, one) -> tuple[str, float]:
  """(kind of a collective or "", bytes that a chip sends in it on a ring)."""
  if one.opcode == "fusion":  # A TPU fuses them with what reads or writes them.
    for name in hlo.called(one, ("calls",)):
      for inner in program.parts[name].values():
        kind, sent = _sent(program, name, inner)
        if kind == "all-reduce" and "reduce-scatter" in one.name + name:
          return "reduce-scatter", sent / 2
        if kind:
          return kind, sent
    return "", 0.0
  kind = one.opcode.removesuffix("-start")
  if kind not in COLLECTIVES:
    return "", 0.0
  within = program.parts[part]
  given = sum(
    hlo.size(within[n].kind, everywhere=True) for n in one.operands
    if n in within
  )
  others = group(one.rest) - 1
  if kind == "collective-permute":
    return kind, given
  if kind == "all-gather":
    return kind, given * others
  share = others / (others + 1)
  return kind, given * share * (2 if kind == "all-reduce" else 1)


def group(rest: str) -> int:
  """How many chips take part in a collective together."""
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest)
  if mesh:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    names = re.findall(r"'([^']+)'", mesh[2])
    return math.prod(int(sizes.get(name, 1)) for name in names)
  iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
  if iota:
    return int(iota[2])
  first = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
  return len(first[1].split(",")) if first else 1


def cost_of(done: list[Work], chip: Chip) -> Cost:
  """Sums over a run, and its seconds on a chip as by the roofline.

  An instruction takes as long as its products at the chip's peak in bf16 or
  its traffic at the memory's bandwidth, whichever is more; collectives come on
  top, at the bandwidth of all links. Nothing overlaps and nothing waits.
  """
  flops, moved, sent = (
    sum(getattr(w, name) * w.times for w in done)
    for name in ("flops", "bytes", "sent")
  )
  seconds = sum(
    w.times * max(w.flops / chip.flops, w.bytes / chip.bandwidth) for w in done
  )
  found = {}
  for w in done:
    if w.collective and w.sent:
      dtype = w.shape.lstrip("(").split("[")[0]
      row = found.setdefault((w.collective, w.loop, dtype), [0, 0.0, 0.0])
      row[0] += w.times
      row[1] += w.times * hlo.size(w.shape, everywhere=True)
      row[2] += w.times * w.sent
  names = ("kind", "loop", "dtype", "count", "bytes", "sent")
  rows = [dict(zip(names, (*key, *row))) for key, row in found.items()]
  rows.sort(key=lambda row: -row["sent"])
  return Cost(flops, moved, sent, seconds, sent / chip.links, rows)


def largest(done: list[Work], count: int) -> list[dict]:
  """The largest results that the program holds, whichever live together."""
  order = sorted(done, key=lambda w: -w.buffer)[:count]
  return [
    {"bytes": w.buffer, "shape": w.shape[:120], "source": w.source[-160:]}
    for w in order
  ]
