"""Sampling side by side: sitrain, tunix's sampler, transformers' generate.

  python -m benchmarks.decode --tunix=PYTHON --trl=PYTHON

Every contestant samples at temperature 1 from a random Llama of the same sizes
(4.07 M parameters, float32), with no end token, in its own process; a peer runs
in its own environment, made once with

  python3 -m venv FOLDER && FOLDER/bin/pip install google-tunix
  python3 -m venv FOLDER && FOLDER/bin/pip install torch==2.13.0 trl

and named by its interpreter, FOLDER/bin/python. On a GPU, without tunix:

  python -m benchmarks.decode --trl=PYTHON --cases=qwen3-0.6b:256x128x512

Prints tokens per second with the prefill and without compilation, and how many
times faster sitrain is: the median over the rounds and its 95 % bootstrap
interval; then the bytes that XLA counts for a decode step of sitrain, as a
ratio to weights and filled cache.
"""

import json
import pathlib
from collections.abc import Callable

from absl import app, flags

from benchmarks.rounds import format_ratio, modules, race, workers
from benchmarks.traffic import traffic

SIZES = {
  "layers": 4, "width": 256, "heads": 4, "kv_heads": 4, "head_size": 64,
  "mlp": 896, "vocabulary": 512, "tied": False, "dtype": "float32",
}
MODELS = {
  "": SIZES,
  # The sizes of Qwen3-0.6B, for accelerators; without tunix.
  "qwen3-0.6b": {
    "layers": 28, "width": 1024, "heads": 16, "kv_heads": 8, "head_size": 128,
    "mlp": 3072, "vocabulary": 151936, "tied": True, "dtype": "bfloat16",
  },
}
CASES = ("64x64x128", "32x512x512", "256x64x128", "1x64x128", "16x64x128")
INSTALL = {"tunix": "google-tunix", "trl": "torch==2.13.0 trl"}


def parse(name: str) -> dict:
  """The case of a name such as 64x64x128: rows, prompt, new tokens.

  Another model precedes it, as in qwen3-0.6b:256x128x512. Raises ValueError for
  any other name.
  """
  model, _, sizes = name.rpartition(":")
  parts = sizes.split("x")
  known = model in MODELS and len(parts) == 3
  if not known or not all(part.isdigit() for part in parts):
    raise ValueError(
      f"case {name!r}: write ROWSxPROMPTxNEW, as in 64x64x128, or before it"
      " qwen3-0.6b:"
    )
  batch, prompt, new = map(int, parts)
  return {"model": MODELS[model], "batch": batch, "prompt": prompt, "new": new}


def report_missing(pythons: dict[str, str]) -> None:
  """Prints which peers are left out, and how to install them."""
  for name, python in pythons.items():
    if not python:
      print(
        f"{name} is left out. To include it: python3 -m venv FOLDER && "
        f"FOLDER/bin/pip install {INSTALL[name]}; then "
        f"--{name}=FOLDER/bin/python"
      )


def measure(rounds: int, cases: list[str], pythons: dict[str, str]) -> dict:
  """The result of `race` for every case, with tokens per second and `traffic`.

  `pythons` has the interpreters of "tunix" and "trl" (whose environment holds
  transformers); an empty one leaves its peer out.
  """
  pythons = {"tunix": pythons["tunix"], "transformers": pythons["trl"]}
  found = {}
  with workers(modules("decode", pythons)) as started:
    for name in cases:
      case = parse(name)
      one = race(started, case, rounds)
      tokens = case["batch"] * case["new"]
      written = {peer: run["tokens"] for peer, run in one["last"].items()}
      if set(written.values()) != {tokens}:
        raise ValueError(f"{name}: expected {tokens} tokens, not {written}")
      one["tokens_per_second"] = {
        peer: tokens / seconds for peer, seconds in one["medians"].items()
      }
      one["traffic"] = traffic(case)
      show(name, one)
      found[name] = one
  return found


def show(name: str, one: dict) -> None:
  """Prints a row a contestant."""
  for peer, speed in one["tokens_per_second"].items():
    ratio = one["ratios"].get(peer)
    line = f"{name:12} {peer:13} {speed:8.0f} tokens/s  "
    line += f"sitrain is {format_ratio(ratio)} times as fast" if ratio else ""
    print(f"{line}  [{one['facts'][peer]['settings']}]", flush=True)
  moved = one["traffic"]
  print(f"{name:12} a step moves {moved['accessed'] / 1e6:.1f} MB, "
        f"{moved['ratio']:.2f} x (weights + filled cache)", flush=True)


def run_with_peers(
  measure: Callable, parse: Callable, cases: tuple[str, ...], what: str
) -> None:
  """The command line of a benchmark with peers: its flags, then `measure`.

  `parse` reads a case and raises ValueError for one that it cannot read.
  """
  rounds = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.", 1)
  chosen = flags.DEFINE_list("cases", list(cases), what)
  tunix = flags.DEFINE_string("tunix", "", "Interpreter that has tunix.")
  trl = flags.DEFINE_string("trl", "", "Interpreter that has TRL.")
  output = flags.DEFINE_string("output", "", "JSON file.")

  def main(argv):
    if len(argv) > 1:
      raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
    try:
      for name in chosen.value:
        parse(name)
    except ValueError as error:
      raise app.UsageError(f"--cases: {error}") from error
    pythons = {"tunix": tunix.value, "trl": trl.value}
    report_missing(pythons)
    found = measure(rounds.value, chosen.value, pythons)
    if output.value:
      pathlib.Path(output.value).write_text(json.dumps(found, indent=1))

  app.run(main)


if __name__ == "__main__":
  run_with_peers(measure, parse, CASES, "ROWSxPROMPTxNEW.")
