"""All benchmarks on this machine, as one table and one JSON file.

  python -m benchmarks.run --all --output=FOLDER
  python -m benchmarks.run --all --output=FOLDER --tunix=PYTHON --trl=PYTHON
  python -m benchmarks.run --only=phases,turns --output=FOLDER
  python -m benchmarks.run --guard

Each benchmark is its own process, `python -m benchmarks.NAME`. Its results are
stored in FOLDER, and a suite that was interrupted continues with the missing
ones. README.md in this folder has the results and explains them. --guard runs
the cheap part and prints its ratios to stored results; a difference is no
failure.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

from absl import app, flags
from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).parent.parent
STORED = ROOT / "benchmarks" / "results" / "guard.json"
SUITE = {
  "limits": [],
  "phases": [],
  "decode": ["--tunix", "--trl"],
  "step": ["--tunix", "--trl"],
  "turns": [],
  "refill": [],
  "growth": [],
  "overlap": [],
  "memory": [],
}
GUARD = {
  "phases": ["--rounds=3", "--prompt=16", "--new=16"],
  "decode": ["--rounds=3", "--cases=64x64x128"],
}


def machine() -> dict:
  """The machine and versions that the figures of a suite belong to."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {
    "processor": _processor(), "cores": os.cpu_count(),
    "python": platform.python_version(),
    "versions": {name: importlib.metadata.version(name) for name in packages},
    "date": datetime.date.today().isoformat(),
  }


def _processor() -> str:
  lines = pathlib.Path("/proc/cpuinfo")
  if lines.exists():
    for line in lines.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def run_one(name: str, arguments: list[str], folder: pathlib.Path) -> dict:
  """Runs a benchmark, or reads its stored result in `folder`.

  Raises RuntimeError where it fails.
  """
  path, part = folder / f"{name}.json", folder / "part"
  words = ["-m", f"benchmarks.{name}", *arguments]
  command = " ".join(["python", *words])
  print(f"\n$ {command}", flush=True)
  if path.exists():
    known = json.loads(path.read_text())
    if known["command"] == command:
      return known
  began = [sys.executable, *words, f"--output={part}"]
  if subprocess.run(began, cwd=ROOT).returncode:
    raise RuntimeError(f"{command} failed; see above")
  found = json.loads(part.read_text())
  found = {"command": command, "machine": machine(), "found": found}
  path.write_text(json.dumps(found, indent=1))
  return found


def rows_of(name: str, found: dict) -> list[tuple[str, str, float]]:
  """(name, unit, value) of the main figures of a benchmark."""
  if name == "limits":
    return [(what, "G/s", value / 1e9) for what, value in found.items()]
  if name == "phases":
    return [
      (f"{phase}", "ms", seconds * 1e3)
      for phase, seconds in found["seconds"].items()
    ] + [
      ("decoding", "tokens/s", found["decode_tokens_per_second"]),
      ("decoding: bandwidth", "share", found["decode_share_of_bandwidth"]),
      ("learning: products", "share", found["learn_share_of_products"]),
      ("compiling", "s", found["compile_seconds"]),
      ("peak memory", "MiB", found["peak_bytes"] / 2**20),
    ]
  if name in ("decode", "step"):
    return [row for case, one in found.items() for row in _raced(case, one)]
  if name in ("turns", "refill"):
    return [
      (f"{case}", "times as fast", one["ratio"]["median"])
      for case, one in found.items()
    ]
  if name == "overlap":
    return [(case, "share", one["hidden"]) for case, one in found.items()]
  if name == "growth":
    parts = ("update", "decode")
    return [
      (f"{part}: {key} of a + b T", "us", found[part]["fit"][key])
      for part in parts for key in ("a", "b")
    ] + [("update: R2 of a + b B", "", found["rows"]["fit"]["r2"])]
  return [
    (f"{kind}: grows with T * V", "MiB", one["grows_with_TV"] / 2**20)
    for kind, one in found.items()
  ]


def _raced(case, one):
  rows = []
  for peer, speed in one.get("tokens_per_second", {}).items():
    rows.append((f"{case}: {peer}", "tokens/s", speed))
  if "tokens_per_second" not in one:
    for peer, seconds in one["medians"].items():
      rows.append((f"N={case}: {peer}", "s", seconds))
  for peer, ratio in one["ratios"].items():
    rows.append((f"{case}: sitrain over {peer}", "ratio", ratio["median"]))
  if "traffic" in one:
    moved = one["traffic"]["ratio"]
    rows.append((f"{case}: bytes over weights and cache", "ratio", moved))
  return rows


def show(parts: dict, stored: dict) -> None:
  """Prints the table, with ratios to stored values where there are any."""
  table = Table("benchmark", "what", "value", "unit", "/ stored")
  for name, part in parts.items():
    known = {}
    if name in stored:
      rows = rows_of(name, stored[name]["found"])
      known = {what: value for what, _, value in rows}
    for what, unit, value in rows_of(name, part["found"]):
      old = known.get(what, 0)
      change = f"{value / old:.2f}" if old else ""
      table.add_row(name, what, f"{value:.4g}", unit, change)
  Console(width=100).print(table)


def run(suite: dict[str, list[str]], folder: pathlib.Path) -> dict:
  """Runs a suite; its results are also stored as suite.json in `folder`."""
  folder = folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  parts = {
    name: run_one(name, arguments, folder) for name, arguments in suite.items()
  }
  (folder / "suite.json").write_text(json.dumps(parts, indent=1))
  return parts


def chosen(only: list[str], peers: dict[str, str]) -> dict[str, list[str]]:
  """The benchmarks to run, with their arguments.

  Raises UsageError for an unknown name.
  """
  for name in only:
    if name not in SUITE:
      raise app.UsageError(f"--only={name}: one of {', '.join(SUITE)}")
  given = {flag: f"{flag}={python}" for flag, python in peers.items()}
  return {
    name: [given[flag] for flag in flags_ if peers[flag]]
    for name, flags_ in SUITE.items() if name in (only or SUITE)
  }


def main(argv: list[str]) -> None:
  """Runs the benchmarks that the flags name."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  stored = json.loads(STORED.read_text()) if STORED.exists() else {}
  if GUARD_FLAG.value:
    folder = pathlib.Path(OUTPUT.value or tempfile.mkdtemp())
    show(run(GUARD, folder), stored)
    return
  if not (ALL.value or ONLY.value) or not OUTPUT.value:
    raise app.UsageError("give --all or --only=NAMES, and --output=FOLDER")
  peers = {"--tunix": TUNIX.value, "--trl": TRL.value}
  show(run(chosen(ONLY.value, peers), pathlib.Path(OUTPUT.value)), {})


if __name__ == "__main__":
  ALL = flags.DEFINE_bool("all", False, "All benchmarks.")
  ONLY = flags.DEFINE_list("only", [], "Some of them, by name.")
  GUARD_FLAG = flags.DEFINE_bool("guard", False, "The cheap part of them.")
  TUNIX = flags.DEFINE_string("tunix", "", "Interpreter that has tunix.")
  TRL = flags.DEFINE_string("trl", "", "Interpreter that has TRL.")
  OUTPUT = flags.DEFINE_string("output", "", "Folder of the results.")
  app.run(main)
