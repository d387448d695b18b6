"""A plan on the screen."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

GIB, TOP = 2**30, 8  # collectives of a program that are shown
ASSUMPTIONS = [
  "every turn is written to its limit: decoding loops with an early exit run"
  " all their steps",
  "an instruction takes the time of its products at the chip's peak in bf16 or"
  " of its traffic at the memory's bandwidth, whichever is more",
  "collectives go at the bandwidth of all links of a chip in one direction;"
  " nothing overlaps, nothing waits, and the host takes no time",
]

NO_CODE = [
  "programs are compiled as for a run up to their schedule and memory; machine"
  " code is not generated, and its memory is left out"
  " (--machine_code)",
]


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
  """Prints lines with the time since the start; with a spinner on terminals."""
  began, last = time.monotonic(), {"text": ""}
  spins = console.is_terminal
  status = console.status("starting") if spins else contextlib.nullcontext()

  def report(text: str) -> None:
    spent = f"{time.monotonic() - began:6.0f} s"
    console.print(f"{spent}  {text}", markup=False, highlight=False)
    last["text"] = text
    if spins:
      status.update(text)

  with status:
    yield report


def amount(value: float, unit: str) -> str:
  """A number with the prefix that keeps it short, as "1.2 TFLOP"."""
  if not math.isfinite(value):
    return "-"
  for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
    if value >= size:
      return f"{value / size:.1f} {prefix}{unit}"
  return f"{value / 1e3:.1f} k{unit}" if value else "0"


def parameters(count: int) -> str:
  """In millions, as 0.1 M and 1,544 M."""
  millions = count / 1e6
  return f"{millions:,.0f} M" if millions >= 10 else f"{millions:.2g} M"


def gib(value: Any) -> str:
  """Bytes as GiB; "-" where they are not known."""
  known = isinstance(value, (int, float)) and math.isfinite(value)
  return f"{value / GIB:.2f}" if known else "-"


def _table(title: str, *titles: str, words: Sequence[str]) -> Table:
  """An empty table; columns named in `words` are left-aligned."""
  table = Table(title=title)
  for each in titles:
    table.add_column(each, justify="left" if each in words else "right")
  return table


def memory_table(found: dict) -> Table:
  """The memory of every program."""
  table = _table(
    f"{found['topology']}: GiB a chip, of {found['chip']['memory'] / GIB:.1f}",
    "program", "arguments", "temporaries", "outputs", "held", "total", "fits",
    "compiled in", words=("program",),
  )
  parts = ("arguments", "temporaries", "outputs", "held", "total")
  for stage in found["stages"]:
    for row in stage["programs"]:
      table.add_row(
        f"{row['stage']}/{row['program']}", *(gib(row.get(n)) for n in parts),
        "yes" if row["fits"] else "NO", f"{row['compile_seconds']:.0f} s",
      )
  return table


def cost_table(found: dict) -> Table:
  """The cost of every program that compiled."""
  table = _table(
    "one run on one chip", "program", "flops", "traffic", "sent", "seconds",
    "of them to send", "runs an iteration", words=("program",),
  )
  for stage in found["stages"]:
    for row in stage["programs"]:
      if "seconds" in row:
        table.add_row(
          f"{row['stage']}/{row['program']}", amount(row["flops"], ""),
          amount(row["bytes"], "B"), amount(row["sent"], "B"),
          f"{row['seconds']:.3g}", f"{row['sent_seconds']:.3g}",
          f"{row['runs']:.3g}",
        )
  return table


def collective_table(rows: Sequence[dict]) -> Table:
  """The collectives of all programs that send the most."""
  table = _table(
    "collectives of one run: bytes of results, and sent", "program", "kind",
    "dtype", "loop", "count", "bytes", "sent",
    words=("program", "kind", "dtype", "loop"),
  )
  for row in rows:
    for one in row.get("collectives", [])[:TOP]:
      table.add_row(
        f"{row['stage']}/{row['program']}", one["kind"], one["dtype"],
        one["loop"], f"{one['count']:.0f}", amount(one["bytes"], "B"),
        amount(one["sent"], "B"),
      )
  return table


def lines_of(stage: dict, found: dict) -> Iterator[str]:
  """The report of a stage, line by line."""
  name, mesh = stage["stage"], stage["mesh"]
  axes = " ".join(f"{axis}={size}" for axis, size in mesh.items())
  active = stage.get("active_parameters", stage["parameters"])
  of_them = "" if active == stage["parameters"] else (
    f" ({parameters(active)} of them for a token)"
  )
  yield (
    f"{name}: {parameters(stage['parameters'])} trained parameters{of_them}, "
    f"mesh {axes}, {stage['rows']} rows of {stage['problems']} problems, "
    f"{stage['microbatches']} microbatches"
  )
  if math.isfinite(stage["step_seconds"]):
    rate = stage["tokens"] / max(stage["step_seconds"], 1e-9)
    yield (
      f"{name}: an iteration takes at least {stage['step_seconds']:.3g} s, or "
      f"{rate:,.0f} tokens/s at the most"
    )
  if stage.get("largest_batch", -1) >= 0:
    yield (
      f"{name}: about {stage['largest_batch']} problems an iteration fit, by a "
      "line through two batches"
    )
  for row in stage["programs"]:
    if row["fits"]:
      continue
    why = row["reason"] or f"needs {gib(row['total'])} GiB"
    yield f"{name}/{row['program']} does not fit {found['topology']}: {why}"
    for one in row["largest"]:
      yield f"  {gib(one['bytes'])} GiB  {one['shape'][:60]}  {one['source']}"


def search_table(name: str, ranked: Sequence[dict]) -> Table:
  """Meshes and batches, the best first."""
  table = _table(
    f"{name}: meshes and batches, the best first", "data", "fsdp", "tensor",
    "problems", "microbatches", "GiB", "fits", "seconds", "ms a row", words=(),
  )
  for one in ranked:
    totals = [row["total"] for row in one["programs"]]
    table.add_row(
      *(str(one["mesh"][axis]) for axis in ("data", "fsdp", "tensor")),
      str(one["problems"]), str(one["microbatches"]), gib(max(totals)),
      "yes" if one["fits"] else "NO", f"{one['step_seconds']:.3g}",
      f"{one['step_seconds'] / one['rows'] * 1e3:.3g}",
    )
  return table


def show(found: dict, console: Console) -> None:
  """Prints tables of memory and cost, the estimates and their assumptions."""
  for name, ranked in found["search"].items():
    console.print(search_table(name, ranked))
  console.print(memory_table(found))
  rows = [row for stage in found["stages"] for row in stage["programs"]]
  if any("seconds" in row for row in rows):
    console.print(cost_table(found))
  if any(row.get("collectives") for row in rows):
    console.print(collective_table(rows))
  plain = dict(markup=False, highlight=False)
  for stage in found["stages"]:
    for line in lines_of(stage, found):
      console.print(line, **plain)
  console.print("assumed: " + "; ".join(found["assumptions"]), **plain)
