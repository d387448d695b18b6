"""Bytes that an instruction moves between a chip's memory and its core."""

from collections.abc import Iterator

from sitrain.runtime.plan import hlo

_CUTS = ("dynamic-slice", "slice", "gather")


def traffic(
  program: hlo.Program, part: str, one: hlo.Instruction
) -> float:
  """What an instruction reads from and writes to the main memory.

  Of what a slice is cut out of, or written into, only the slice counts; what
  lies in a memory of the core does not.
  """
  within = program.parts[part]
  kinds = [within[n].kind for n in one.operands if n in within]
  if one.opcode.endswith("-start"):
    return sum((hlo.size(kind, everywhere=False) for kind in kinds), 0.0)
  if one.opcode in _CUTS:
    return 2 * hlo.size(one.kind, everywhere=False)
  if one.opcode == "dynamic-update-slice":
    return 2 * hlo.size(kinds[1], everywhere=False)
  written = hlo.size(one.kind, everywhere=False)
  if one.opcode != "fusion":
    return written + sum(hlo.size(kind, everywhere=False) for kind in kinds)
  name = hlo.called(one, ("calls",))[0]
  for inner, update in _fused(program, name):
    if update.opcode == "dynamic-update-slice":  # In place.
      whole = hlo.size(update.kind, everywhere=True)
      if written >= whole:
        part_of = inner[update.operands[1]].kind
        written += hlo.size(part_of, everywhere=True) - whole
  return written + sum(
    _read(program, name, number) for number, kind in enumerate(kinds)
    if hlo.size(kind, everywhere=False)
  )


def _fused(program, name) -> Iterator[tuple[dict, hlo.Instruction]]:
  """(their computation, instructions) of a fusion and those inside of it."""
  for one in program.parts[name].values():
    yield program.parts[name], one
    if one.opcode == "fusion":
      yield from _fused(program, hlo.called(one, ("calls",))[0])


def _read(program, name, number) -> float:
  """What a fusion reads of an operand: of a slice only what it takes."""
  inner = program.parts[name]
  parameter = next(
    one for one in inner.values()
    if one.opcode == "parameter" and int(one.inside) == number
  )
  return _read_value(program, inner, parameter)


def _read_value(program, inner, value) -> float:
  whole, total = hlo.size(value.kind, everywhere=True), 0.0
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
      total += hlo.size(user.kind, everywhere=True)
    elif not (user.opcode == "dynamic-update-slice" and first):
      return whole
  return min(total, whole)
