"""Accuracy and speed of the verifiers on all rows of their data sets.

python -m benchmarks.verifiers --data=FOLDER

FOLDER has gsm8k_train.jsonl, gsm8k_test.jsonl, math_train.jsonl and
math500.jsonl. Every gold answer must equal itself, and no altered answer may
equal the gold answer. Prints a table and the rows that fail; --output writes
JSON.
"""

import collections
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import probes
from sitrain.tasks.verifiers import digits, equivalence, grading
from sitrain.tasks.verifiers import pool as pools
from sitrain.types import PAD

DATA = flags.DEFINE_string("data", None, "Folder of the jsonl files.")
SECTIONS = flags.DEFINE_list(
  "sections", ["pool", "gsm8k", "device", "math"], "What is measured."
)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes of the pool.")
ALTERED = flags.DEFINE_integer("altered", 200, "Altered answers of each set.")
WILD = flags.DEFINE_integer("wild", 24000, "Random texts for the device.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file.")

LENGTH = 160  # tokens of a wild text


def rows(*names: str) -> list[dict]:
  """Rows of some files of the data folder."""
  files = [pathlib.Path(DATA.value) / f"{name}.jsonl" for name in names]
  return [json.loads(line) for file in files for line in file.open()]


def pool(pool: pools.Pool) -> dict:
  """Overhead of the pool for an item, and for a worker that dies."""
  begun = time.perf_counter()
  pool.map(abs, [0])
  started = time.perf_counter()
  pool.map(abs, range(10000))
  ended = time.perf_counter()
  pool.map(os._exit, [3] * 50)
  return {
    "start, ms": 1e3 * (started - begun),
    "one item, us": 1e6 * (ended - started) / 10000,
    "one item whose worker dies, ms": 1e3 * (time.perf_counter() - ended) / 50,
  }


def gsm8k(pool: pools.Pool) -> dict:
  """All gold answers, strictly and leniently, and altered ones."""
  answers = [r["answer"] for r in rows("gsm8k_train", "gsm8k_test")]
  golds = [grading.gsm8k_gold(answer) for answer in answers]
  begun = time.perf_counter()
  strict = grading.grade_gsm8k(golds, answers)
  took = time.perf_counter() - begun
  changed = probes.altered(golds, ALTERED.value)
  wrong = grading.grade_gsm8k(
    [gold for gold, _, _ in changed], [f"#### {x}" for _, x, _ in changed]
  )
  lenient = grading.grade_gsm8k_lenient(golds, answers)
  return {
    "answers": len(golds),
    "equal to themselves, strict": mean(g.right for g in strict),
    "equal to themselves, lenient": mean(g.right for g in lenient),
    "altered answers": len(changed),
    "altered answers refused": mean(g.status == "wrong" for g in wrong),
    "answers a second, one process": len(golds) / took,
  }


def math(pool: pools.Pool) -> dict:
  """All gold answers by algebra alone and as graded, and altered ones."""
  golds = [r["answer"] for r in rows("math_train", "math500")]
  texts = [rf"The final answer is \boxed{{{gold}}}." for gold in golds]
  begun = time.perf_counter()
  # Not `grade_math`, which would only compare the strings.
  found = pool.map(equivalence.strict, list(zip(golds, golds)))
  took = time.perf_counter() - begun
  algebra = [r.value if r.status == "done" else r.status for r in found]
  graded = grading.grade_math(golds, texts, pool=pool)
  changed = probes.altered(golds, ALTERED.value)
  original = [gold for gold, _, _ in changed]
  others = [rf"The final answer is \boxed{{{x}}}." for _, x, _ in changed]
  begun = time.perf_counter()
  strict = grading.grade_math(original, others, pool=pool)
  slow = time.perf_counter() - begun
  lenient = grading.grade_math_lenient(original, others, pool=pool)
  return {
    "answers": len(golds),
    "equal to themselves, by algebra": mean(x == "right" for x in algebra),
    "equal to themselves, as graded": mean(g.right for g in graded),
    "altered answers": len(changed),
    "altered answers refused, strict": mean(
      g.status == "wrong" for g in strict
    ),
    "altered answers refused, lenient": mean(
      g.status == "wrong" for g in lenient
    ),
    "kinds of alterations": dict(
      collections.Counter(kind for _, _, kind in changed)
    ),
    "answers a second by algebra": len(golds) / took,
    "altered answers a second": len(changed) / slow,
    "not by algebra": [
      [gold, x] for gold, x in zip(golds, algebra) if x != "right"
    ],
    "not as graded": [
      [gold, g.status] for gold, g in zip(golds, graded) if not g.right
    ],
    "altered but not refused": [
      [*row, one.status, other.status]
      for row, one, other in zip(changed, strict, lenient)
      if (one.status, other.status) != ("wrong", "wrong")
    ],
  }


def device(pool: pools.Pool) -> dict:
  """The verifier on the device against the one on the host."""
  answers = [r["answer"] for r in rows("gsm8k_train", "gsm8k_test")]
  found = {"wild texts": WILD.value}
  for name, merges, split in (
    ("single digits", 4000, True), ("merged digits", 4000, False)
  ):
    tokenizer = probes.trained(answers, merges, split)
    table = digits.table(digits.strings(tokenizer, tokenizer.size))
    found[f"{name}: characters of a token"] = int(table.codes.shape[1])
    golds = [grading.gsm8k_gold(answer) for answer in answers]
    differ, _ = disagreements(tokenizer, table, golds, answers)
    found[f"{name}: agreement on gold answers"] = 1 - len(differ) / len(golds)
    golds, texts = wild(answers)
    differ, speed = disagreements(tokenizer, table, golds, texts)
    found[f"{name}: agreement on wild texts"] = 1 - len(differ) / len(golds)
    found[f"{name}: rows a second"] = speed
    found[f"{name}: disagreements"] = differ
  right = mean(g.right for g in grading.grade_gsm8k(golds, texts))
  found["wild texts that are right"] = right
  return found


def wild(answers: list[str]) -> tuple[list[str], list[str]]:
  """Gold numbers, and texts that may or may not have them as answer."""
  rng = np.random.default_rng(0)
  words = sorted({word for answer in answers[:500] for word in answer.split()})
  golds = [
    str(rng.integers(-200, 10 ** int(rng.integers(1, 9))))
    for _ in range(WILD.value)
  ]
  return golds, [probes.wild_text(rng, gold, words) for gold in golds]


def disagreements(
  tokenizer, table, golds: list[str], texts: list[str]
) -> tuple[list[list[str]], float]:
  """Rows on which host and device differ, and rows a second on the device.

  Both see the last LENGTH tokens, and the host their decoded text.
  """
  read = jax.jit(lambda ids, table, gold: digits.equal(
    gold, digits.answers(ids, table)
  ))
  size, found, took = 2000, [], []
  rows = [tokenizer.encode(text)[-LENGTH:] for text in texts]
  for start in range(0, len(rows), size):
    part, gold = rows[start:start + size], golds[start:start + size]
    ids = np.full((size, LENGTH), PAD, np.int32)
    for row, tokens in zip(ids, part):
      row[: len(tokens)] = tokens
    expected = digits.gold(gold + ["0"] * (size - len(gold)))
    begun = time.perf_counter()
    here = np.asarray(read(jnp.asarray(ids), table, expected))
    took.append(time.perf_counter() - begun)
    cut = [tokenizer.decode(row) for row in part]
    there = [grade.right for grade in grading.grade_gsm8k(gold, cut)]
    found += [
      [g, text, f"host {x:g}"]
      for g, text, x, y in zip(gold, cut, there, here) if x != y
    ]
  return found, size / float(np.median(took))


def mean(values) -> float:
  """Mean of booleans or numbers."""
  return float(np.mean(list(values)))


MEASURES = {"pool": pool, "gsm8k": gsm8k, "device": device, "math": math}


def shown(value) -> str:
  """A figure in a table."""
  if isinstance(value, float):
    return f"{value:.5f}" if value <= 1 else f"{value:,.0f}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def main(_) -> None:
  """Measures the sections and prints them."""
  unknown = set(SECTIONS.value) - set(MEASURES)
  if unknown:
    raise app.UsageError(f"sections are {', '.join(MEASURES)}, not {unknown}")
  console, results = Console(), {}
  processes = pools.make(workers=WORKERS.value, seconds=5.0, memory=1024)
  for section in SECTIONS.value:
    results[section] = MEASURES[section](processes)
    table = Table(title=section, show_header=False)
    for name, value in results[section].items():
      if not isinstance(value, list):
        table.add_row(name, shown(value))
    console.print(table)
    for name, value in results[section].items():
      if isinstance(value, list) and value:
        console.print(f"{name}:")
        for row in value:
          console.print("  " + repr(row), markup=False, highlight=False)
  processes.close()
  if OUTPUT.value:
    pathlib.Path(OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  flags.mark_flag_as_required("data")
  app.run(main)
