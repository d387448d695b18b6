"""Bytes that an instruction moves between a chip's memory and its core."""

import re
from collections.abc import Iterator

from sitrain.runtime.plan import collectives, hlo

_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{")
_CUTS = ("dynamic-slice", "slice", "gather")


def traffic(
  program: hlo.Program, part: str, one: hlo.Instruction
) -> float:
  """Bytes that an instruction reads from and writes to the main memory.

  Slicing, or writing a slice, counts only the slice. Arrays in a memory of the
  core do not count.
  """
  within = program.parts[part]
  kinds = [within[n].kind for n in one.operands if n in within]
  if one.opcode.endswith("-start"):
    # The start of a copy or collective returns a tuple of its operand and its
    # result.
    alone = 0.0 if one.kind.startswith("(") else sum(
      hlo.size(kind, all_memories=False) for kind in kinds
    )
    return hlo.size(one.kind, all_memories=False) + alone
  if one.opcode in _CUTS:
    return _cut(kinds[0], one.kind)
  if one.opcode == "dynamic-update-slice":
    return 2 * hlo.size(kinds[1], all_memories=False)
  written = hlo.size(one.kind, all_memories=False)
  if one.opcode != "fusion":
    return written + sum(hlo.size(kind, all_memories=False) for kind in kinds)
  name, piece = hlo.called(one, ("calls",))[0], collectives.piece(program, one)
  if piece == "done":
    return 0.0
  same = _aliases(one) if piece else {}
  if piece:  # Results that alias operands are not written.
    written = sum(
      hlo.size(kind, all_memories=False)
      for n, kind in enumerate(hlo.arrays(one.kind)) if n not in same
    )
  kept = set(same.values()) if piece == "step" else set()
  for inner, update in _fused(program, name):
    if update.opcode == "dynamic-update-slice":  # In place.
      whole = hlo.size(update.kind, all_memories=True)
      if written >= whole:
        part_of = inner[update.operands[1]].kind
        written += hlo.size(part_of, all_memories=True) - whole
  return written + sum(
    _read(program, name, number) for number, kind in enumerate(kinds)
    if hlo.size(kind, all_memories=False) and number not in kept
  )


def _cut(whole, part) -> float:
  """A slice is read from the memory of the whole and written to its own."""
  away = hlo.size(whole, all_memories=False) > 0
  read = hlo.size(part, all_memories=True) if away else 0.0
  return read + hlo.size(part, all_memories=False)


def _aliases(one) -> dict[int, int]:
  """result -> operand, for the results of a fusion that alias an operand."""
  text = one.rest.partition("output_to_operand_aliasing={")[2]
  found = _ALIAS.findall(text.partition("calls=")[0])
  return {int(result or 0): int(operand) for result, operand in found}


def _fused(program, name) -> Iterator[tuple[dict, hlo.Instruction]]:
  """(computation, instruction) pairs of a fusion and its inner fusions."""
  for one in program.parts[name].values():
    yield program.parts[name], one
    if one.opcode == "fusion":
      yield from _fused(program, hlo.called(one, ("calls",))[0])


def _read(program, name, number) -> float:
  """Bytes that a fusion reads of an operand; of sliced operands the slices."""
  inner = program.parts[name]
  parameter = next(
    one for one in inner.values()
    if one.opcode == "parameter" and int(one.inside) == number
  )
  return _read_value(program, inner, parameter)


def _read_value(program, inner, value) -> float:
  whole, total = hlo.size(value.kind, all_memories=True), 0.0
  for user in inner.values():
    if value.name not in user.operands:
      continue
    first = user.operands[0] == value.name
    if user.opcode == "bitcast":
      total += _read_value(program, inner, user)
    elif user.opcode == "fusion":
      name = hlo.called(user, ("calls",))[0]
      total += _read(program, name, user.operands.index(value.name))
    elif user.opcode in _CUTS and first:
      total += hlo.size(user.kind, all_memories=True)
    elif not (user.opcode == "dynamic-update-slice" and first):
      return whole
  return min(total, whole)
