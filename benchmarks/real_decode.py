"""Decoding of a real model: sitrain beside transformers' generate.

  python -m benchmarks.real_decode --folder=FOLDER --transformers=PYTHON

`--rows` prompts of `--prompt` tokens, each continued by `--new` tokens, at
temperature 1 and with no end token; prefill included. FOLDER and PYTHON are
those of `benchmarks.real_step`. With `--dtype=bfloat16` both hold the weights
in bfloat16. Prints the median seconds of a run, on the clock and of all cores,
the peak of resident memory, and how many times faster sitrain is; see
alternate.py. transformers uses all cores, a dynamic cache and sdpa.
"""

from absl import app, flags

from benchmarks import real
from benchmarks.rounds import modules

ROWS = flags.DEFINE_integer("rows", 64, "Rows.", 1)
PROMPT = flags.DEFINE_integer("prompt", 64, "Tokens of a prompt.", 2)
NEW = flags.DEFINE_integer("new", 128, "Tokens that are written in a row.", 1)
flags.adopt_module_key_flags(real)


def main(argv: list[str]) -> None:
  """Checks the flags and measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  case = real.case_of(
    batch=ROWS.value, prompt=PROMPT.value, new=NEW.value
  )
  commands = modules("real_decode", {"transformers": real.PYTHON.value})
  racing = {name: (command, case) for name, command in commands.items()}
  real.run(racing, case)


if __name__ == "__main__":
  app.run(main)
