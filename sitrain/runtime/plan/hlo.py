"""Reads the text of a compiled program: its instructions, loops and costs.

The totals of the compiler count the body of a loop once, however often it runs.
Here every computation is multiplied by the trip counts of its loops.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

DYNAMIC = 0  # the trip count of a loop that ends by a computed value
_SIZES = {"pred": 1, "token": 0, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")
_DOT = re.compile(
  r"lhs_contracting_dim(?:ension)?s\"?[=:][\[{]([\d,\"]*)[\]}]"
)
_SAME = ("copy", "bitcast", "convert")  # they keep the value
_CUTS = ("slice", "dynamic-slice")
_WHOLE = re.compile(r"-?\d+")
_BRANCHES = re.compile(
  r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+)"
)


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  kind: str  # the shape of the result, as it is written
  opcode: str
  operands: tuple[str, ...]
  inside: str  # the text between the brackets
  rest: str  # the attributes after them
  root: bool


class Program(NamedTuple):
  """A compiled program."""

  entry: str
  parts: dict[str, dict[str, Instruction]]  # computation -> name -> instruction


def parse(text: str) -> Program:
  """The computations in the text of `Compiled.as_text`."""
  parts, entry, now = {}, "", {}
  for line in text.splitlines():
    if head := _HEAD.match(line):
      now = parts[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif found := _NAME.match(line):
      one = _instruction(line[found.end():], found[2], bool(found[1]))
      now[one.name] = one
  for part in parts.values():
    part.update({one.name: _synchronous(one, parts) for one in part.values()})
  return Program(entry, parts)


def _synchronous(one: Instruction, parts: dict) -> Instruction:
  """A slice that is read ahead, as the slice itself.

  It is written as `async-start` of a computation with the slice as its root, or
  in short as `slice-start`, whose result holds operands, slice and a counter.
  """
  short = one.opcode.removesuffix("-start")
  if short in _CUTS and short != one.opcode:
    kind = arrays(one.kind)[len(one.operands)]
    return one._replace(opcode=short, kind=kind)
  if one.opcode == "async-start":
    within = parts[called(one, ("calls",))[0]].values()
    root = next(each for each in within if each.root)
    if root.opcode in _CUTS:
      return one._replace(opcode=root.opcode, kind=root.kind)
  return one


def _instruction(text, name, root) -> Instruction:
  kind, text = _bracket(text) if text[0] == "(" else text.split(" ", 1)
  opcode, text = text.lstrip().split("(", 1)
  inside, rest = _bracket("(" + text)
  operands = tuple(_OPERAND.findall(inside))
  return Instruction(name, kind, opcode, operands, inside[1:-1], rest, root)


def _bracket(text):
  """A text that begins with a bracket: (up to the closing one, the rest)."""
  depth = 0
  for found in re.finditer(r"[()]", text):
    depth += 1 if found[0] == "(" else -1
    if not depth:
      return text[: found.end()], text[found.end() :]
  return text, ""


def dims(kind: str) -> tuple[int, ...]:
  """The sizes of the first array in a shape."""
  found = _ARRAY.search(kind)
  return tuple(int(n) for n in found[2].split(",") if n) if found else ()


def arrays(kind: str) -> list[str]:
  """The shapes of the arrays in a shape, one by one."""
  return [found[0] for found in _ARRAY.finditer(kind)]


def size(kind: str, *, all_memories: bool) -> float:
  """Bytes of a shape; without `all_memories` only those in the main memory.

  Layouts with S(1) or higher are in a memory of the core.
  """
  total = 0.0
  for dtype, sizes, layout in _ARRAY.findall(kind):
    if all_memories or "S(" not in layout:
      bits = re.search(r"\d+", dtype)
      each = _SIZES.get(dtype, int(bits[0]) / 8 if bits else 0)
      total += each * math.prod(int(n) for n in sizes.split(",") if n)
  return total


def called(one: Instruction, what: tuple[str, ...]) -> list[str]:
  """Names of computations that an instruction calls as `what`."""
  return [name for key, name in _CALLED.findall(one.rest) if key in what]


def branches(one: Instruction) -> list[str]:
  """Names of the branches of a conditional."""
  found = _BRANCHES.findall(one.rest)
  return [n.strip().lstrip("%") for names in found for n in
          ",".join(filter(None, names)).split(",")]


def trips(program: Program, part: str, loop: Instruction) -> int:
  """How often the body of a while loop runs; DYNAMIC where it is not known.

  The compiler's own count where it gives one. Else from the bound that the
  condition compares a counter with, and the constant that the counter starts
  at.
  """
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
  if known:
    return int(known[1])
  within = program.parts[called(loop, ("condition",))[0]]
  root = next(one for one in within.values() if one.root)
  bound = [
    int(one.inside) for one in within.values()
    if one.opcode == "constant" and _WHOLE.fullmatch(one.inside)
  ]
  test = root
  if root.opcode == "fusion":
    inner = program.parts[called(root, ("calls",))[0]]
    test = next(one for one in inner.values() if one.root)
    bound += [
      int(one.inside) for one in inner.values()
      if one.opcode == "constant" and _WHOLE.fullmatch(one.inside)
    ]
  way = re.search(r"direction=(\w+)", test.rest)
  if test.opcode != "compare" or len(bound) != 1 or way[1] not in ("LT", "LE"):
    return DYNAMIC
  index = _counter(within, root)
  first = _first(program.parts[part], loop, index)
  step = _step(program.parts[called(loop, ("body",))[0]], index)
  return -(-(bound[0] - first + (way[1] == "LE")) // step)


def _counter(condition, test) -> int:
  """The index of a loop's counter in its tuple; -1 where not found."""
  reads = [condition[n] for n in test.operands if n in condition]
  index = [re.search(r"index=(\d+)", one.rest) for one in reads]
  return next((int(found[1]) for found in index if found), -1)


def _first(instructions, loop, index) -> int:
  """The constant that the counter of a loop starts at; 0 where not found."""
  start = instructions.get(loop.operands[0])
  if index < 0 or start is None or start.opcode != "tuple":
    return 0
  return _constant(instructions, start.operands[index])


def _step(body, index) -> int:
  """What an iteration adds to the counter: 2 in a loop unrolled by two.

  1 where it is not found.
  """
  root = next(one for one in body.values() if one.root)
  if index < 0 or root.opcode != "tuple":
    return 1
  after = body.get(root.operands[index])
  while after is not None and after.opcode in _SAME:
    after = body.get(after.operands[0])
  if after is None or after.opcode != "add":
    return 1
  found = [_constant(body, name) for name in after.operands]
  return max(*found, 1)


def _constant(instructions, name) -> int:
  """The integer constant of that name; 0 where it is not one."""
  one = instructions.get(name)
  while one is not None and one.opcode in _SAME:
    one = instructions.get(one.operands[0])
  plain = one is not None and one.opcode == "constant"
  return int(one.inside) if plain and _WHOLE.fullmatch(one.inside) else 0


def flops(program: Program, part: str, one: Instruction) -> float:
  """Floating point operations of the matrix products in an instruction.

  Elementwise operations are left out: reading their operands takes longer.
  """
  within = program.parts[part]
  # On GPUs products are library calls, which describe the product as JSON.
  axes = _DOT.search(one.rest) if one.opcode in ("dot", "custom-call") else ()
  if axes:
    left = dims(within[one.operands[0]].kind)
    shared = math.prod(left[int(n)] for n in re.findall(r"\d+", axes[1]))
    return 2.0 * math.prod(dims(one.kind)) * shared
  if one.opcode == "custom-call" and "ragged_dot_tiling" in one.rest:
    rows = dims(within[one.operands[-2]].kind)  # then the matrices
    return 2.0 * math.prod(dims(one.kind)) * rows[-1]
  if one.opcode == "convolution":
    return _convolution(within, one)
  return sum(
    flops(program, name, inner) for name in called(one, ("calls",))
    for inner in program.parts[name].values()
  ) if one.opcode == "fusion" else 0.0


def _convolution(within, one) -> float:
  """For TPUs products are convolutions, and batches are dilated windows."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
  left, right, out = (
    dict(zip(label, dims(kind))) for label, kind in zip(
      labels.groups(),
      (within[one.operands[0]].kind, within[one.operands[1]].kind, one.kind),
    )
  )
  places = 1.0
  for i, window in enumerate(_windows(one.rest)):
    axis = str(i)
    places *= _meetings(left[axis], right[axis], out[axis], **window)
  return 2.0 * out["b"] * out["f"] * right["i"] * places


def _windows(rest: str) -> Iterator[dict[str, int]]:
  """Stride, padding and dilations of every axis of a window."""
  text = re.search(r"window=\{([^}]*)\}", rest)
  given = dict(part.split("=") for part in text[1].split()) if text else {}
  count = len(given["size"].split("x")) if given else 0
  take = lambda name, i, default: given.get(
    name, "x".join([default] * count)
  ).split("x")[i]
  for i in range(count):
    yield dict(
      stride=int(take("stride", i, "1")),
      pad=int(take("pad", i, "0_0").split("_")[0]),
      spread=int(take("lhs_dilate", i, "1")),
      reach=int(take("rhs_dilate", i, "1")),
    )


def _meetings(size, window, out, *, stride, pad, spread, reach) -> int:
  """How often a position of the window covers an element, not padding."""
  if spread == stride == 1 and out == 1:
    return min(size, window)
  at = np.arange(out)[:, None] * stride + np.arange(window) * reach - pad
  return int(np.sum((at >= 0) & (at % spread == 0) & (at // spread < size)))
