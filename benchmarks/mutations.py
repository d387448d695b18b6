"""Answers of MATH with one change: none may be right unless it is equal.

python -m benchmarks.mutations --data=FOLDER

FOLDER has math_train.jsonl and math500.jsonl. Each distinct gold answer is
changed in a digit, a sign, a factor, an order or an exponent. Every changed
answer that the strict verifier accepts is printed with the result of an
independent check: math-verify alone reads both answers, without the parser and
the arithmetic of sitrain, and sympy compares them. Prints counts by kind;
--output writes JSON.
"""

import collections
import json
import pathlib
import re
import time

import numpy as np
import sympy
from absl import app, flags
from math_verify import LatexExtractionConfig, parse
from rich.console import Console
from rich.table import Table

from sitrain.tasks.verifiers import grading, pool

DATA = flags.DEFINE_string("data", None, "Folder of the jsonl files.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes of the pool.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the changes.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")

FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
PAIR = re.compile(r"([\[(]\s*)([^,()\[\]]+)(\s*,\s*)([^,()\[\]]+)(\s*[\])])")


def mutations(answer: str, rng: np.random.Generator) -> dict[str, str]:
  """`answer` (LaTeX without a box) changed in one place, by kind of change."""
  found = {}
  digits = [hit.start() for hit in re.finditer(r"\d", answer)]
  for name in ("digit", "other digit"):
    if digits:
      at = int(rng.choice(digits))
      new = rng.choice([d for d in "0123456789" if d != answer[at]])
      found[name] = answer[:at] + str(new) + answer[at + 1:]
  signs = [hit.start() for hit in re.finditer(r"[+-]", answer)]
  if signs:
    at = int(rng.choice(signs))
    other = "+" if answer[at] == "-" else "-"
    found["sign"] = answer[:at] + other + answer[at + 1:]
  elif re.match(r"[\d\\]", answer) and "text" not in answer[:6]:
    found["sign"] = "-" + answer
  numbers = list(re.finditer(r"(?<![\d.,])[1-9]\d*(?![\d.,])", answer))
  if numbers:
    hit = numbers[int(rng.integers(len(numbers)))]
    factor = int(rng.choice([2, 3, 10]))
    new = str(int(hit[0]) * factor)
    found["factor"] = answer[:hit.start()] + new + answer[hit.end():]
  answer = re.sub(r"\\(?:left|right)(?![a-z])", "", answer)
  pair = PAIR.search(answer) or FRACTION.search(answer)
  if pair:
    start, end = (2, 4) if pair.re is PAIR else (1, 2)
    one, other = pair[start], pair[end]
    swapped = list(answer[pair.start():pair.end()])
    base = pair.start()
    swapped[pair.start(end) - base:pair.end(end) - base] = one
    swapped[pair.start(start) - base:pair.end(start) - base] = other
    new = "".join(swapped)
    found["order"] = answer[:pair.start()] + new + answer[pair.end():]
  powers = list(re.finditer(r"\^(\d)|\^\{(\d+)\}", answer))
  if powers:
    hit = powers[int(rng.integers(len(powers)))]
    new = f"^{{{int(hit[1] or hit[2]) + 1}}}"
    found["exponent"] = answer[:hit.start()] + new + answer[hit.end():]
  return {
    kind: new for kind, new in found.items()
    if "".join(new.split()) != "".join(answer.split())
  }


def independent(pair: tuple[str, str]) -> str:
  """Two answers by math-verify and sympy alone: "equal", "differ" or "?"."""
  read = [
    parse(f"${text}$", (LatexExtractionConfig(),), parsing_timeout=None)
    for text in pair
  ]
  if not all(read):
    return "?"
  one, other = (x[0] for x in read)
  if one == other:
    return "equal"
  try:
    return "equal" if sympy.simplify(one - other) == 0 else "differ"
  except Exception:
    return "?"


def main(_) -> None:
  """Grades all changed answers and prints the accepted ones."""
  rng, rows = np.random.default_rng(SEED.value), []
  for name in ("math_train", "math500"):
    path = pathlib.Path(DATA.value) / f"{name}.jsonl"
    rows += [json.loads(line)["answer"] for line in path.open()]
  changed = [
    (gold, new, kind) for gold in dict.fromkeys(rows)
    for kind, new in mutations(gold, rng).items()
  ]
  processes = pool.make(workers=WORKERS.value, seconds=10.0, memory=1024)
  golds = [gold for gold, _, _ in changed]
  texts = [rf"The final answer is \boxed{{{new}}}." for _, new, _ in changed]
  begun = time.perf_counter()
  grades = grading.grade_math(golds, texts, pool=processes)
  took = time.perf_counter() - begun
  console, table = Console(), Table(title="Changed answers of MATH")
  for name in ("kind", "answers", "refused", "granted", "unknown"):
    table.add_column(name)
  by_kind = collections.Counter((k, g.status) for (*_, k), g in
                                zip(changed, grades))
  for kind in sorted({kind for *_, kind in changed}):
    counts = {s: n for (k, s), n in by_kind.items() if k == kind}
    refused = counts.get("wrong", 0) + counts.get("none", 0)
    right, total = counts.get("right", 0), sum(counts.values())
    table.add_row(kind, *map(str, (
      total, refused, right, total - refused - right
    )))
  console.print(table)
  granted = [row for row, g in zip(changed, grades) if g.right]
  checked = [independent(row[:2]) for row in granted]
  for row, result in zip(granted, checked):
    console.print(f"  granted {row!r}: {result}", markup=False,
                  highlight=False)
  unknown = [(*row, g.status) for row, g in zip(changed, grades) if not g.known]
  for row in unknown:
    console.print(f"  unknown {row!r}", markup=False, highlight=False)
  console.print(f"{len(changed)} answers, {len(changed) / took:,.0f} a second")
  processes.close()
  if OUTPUT.value:
    pathlib.Path(OUTPUT.value).write_text(json.dumps({
      "answers": len(changed), "granted": granted, "unknown": unknown,
        "independent": checked,
    }, indent=2) + "\n")


if __name__ == "__main__":
  flags.mark_flag_as_required("data")
  app.run(main)
