"""A supervised step of a real model: sitrain, its adapters, transformers.

  python -m benchmarks.real_step --folder=FOLDER --transformers=PYTHON
  python -m benchmarks.real_step --folder=FOLDER --rank=16

One step of AdamW on the mean negative log-likelihood of `--rows` rows of
`--columns` tokens, the gradient clipped to norm 1. FOLDER is a checkpoint of
the Hugging Face hub. PYTHON is an interpreter that has torch and transformers;
without it they are left out. With `--dtype=bfloat16` parameters and optimizer
stay in float32, in both (transformers then runs under torch's autocast). With
`--rank` sitrain also trains adapters of that rank beside the frozen model.

Prints the median seconds of a step, on the clock and of all cores, the peak of
resident memory, and how many times faster sitrain is; see alternate.py.
"""

from absl import app, flags

from benchmarks import alternate, real
from benchmarks.rounds import modules

ROWS = flags.DEFINE_integer("rows", 16, "Rows of a step.", 1)
COLUMNS = flags.DEFINE_integer("columns", 210, "Tokens of a row.", 2)
RANK = flags.DEFINE_integer("rank", 0, "Of adapters; 0: none are trained.", 0)
flags.adopt_module_key_flags(real)


def contestants(case: dict, python: str) -> alternate.Racing:
  """The command and the case of each; sitrain first."""
  commands = modules("real_step", {"transformers": python})
  found = {"sitrain": (commands["sitrain"], case | {"rank": 0})}
  if case["rank"]:
    found["adapters"] = commands["sitrain"], case
  if python:
    found["transformers"] = commands["transformers"], case | {"rank": 0}
  return found


def main(argv: list[str]) -> None:
  """Checks the flags and measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  case = real.case_of(
    rows=ROWS.value, columns=COLUMNS.value, rank=RANK.value
  )
  real.run(contestants(case, real.PYTHON.value), case)


if __name__ == "__main__":
  app.run(main)
