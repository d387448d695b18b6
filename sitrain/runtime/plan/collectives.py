"""Bytes that chips send each other in an instruction.

The TPU compiler overlaps collectives with products: a collective starts in its
own fusion, is repeated in every fusion that overlaps with a part of it, and
again where it ends. It is counted where it starts.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sitrain.runtime.plan import hlo

KINDS = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all",
  "collective-permute",
)
_STEP = "async_collective_fusion"  # prefix of a fusion that continues one
_TARGET = re.compile(r'custom_call_target="AsyncCollective(Start|Done)"')


class Sent(NamedTuple):
  """The part of one chip in a collective, on a ring."""

  kind: str
  dtype: str
  bytes: float  # of its result on the chip
  sent: float  # bytes that the chip sends


NOTHING = Sent("", "", 0.0, 0.0)


def piece(program: hlo.Program, one: hlo.Instruction) -> str:
  """"start", "step" or "done" for a fusion of a collective; else ""."""
  if one.opcode != "fusion":
    return ""
  name = hlo.called(one, ("calls",))[0]
  for inner in program.parts[name].values():
    found = _TARGET.search(inner.rest) if inner.opcode == "custom-call" else ()
    if found:
      return found[1].lower()
  return "step" if name.startswith(_STEP) else ""


def sent(program: hlo.Program, part: str, one: hlo.Instruction) -> Sent:
  """The collective in an instruction; NOTHING if there is none."""
  if one.opcode != "fusion":
    return _alone(program, part, one)
  if piece(program, one) in ("step", "done"):
    return NOTHING
  for name in hlo.called(one, ("calls",)):
    for inner in program.parts[name].values():
      found = sent(program, name, inner)
      if found.kind == "all-reduce" and "reduce-scatter" in one.name + name:
        share = group(inner.rest)
        return found._replace(
          kind="reduce-scatter", bytes=found.bytes / share, sent=found.sent / 2
        )
      if found.kind:
        return found
  return NOTHING


def _alone(program, part, one) -> Sent:
  kind = one.opcode.removesuffix("-start")
  if kind not in KINDS:
    return NOTHING
  within = program.parts[part]
  operands = [within[n].kind for n in one.operands if n in within]
  given = sum(hlo.size(x, all_memories=True) for x in operands)
  count = group(one.rest)
  share = (count - 1) / count
  found = {
    "all-gather": (given * count, given * (count - 1)),
    "all-reduce": (given, 2 * given * share),
    "reduce-scatter": (given / count, given * share),
    "all-to-all": (given, given * share),
    "collective-permute": (given, given),
  }[kind]
  return Sent(kind, ", ".join(dict.fromkeys(_dtypes(operands))), *found)


def _dtypes(kinds) -> Iterator[str]:
  for kind in kinds:
    yield kind.lstrip("(").split("[")[0]


def group(rest: str) -> int:
  """The number of chips in a group of a collective."""
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
