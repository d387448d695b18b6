"""A step of RL of a real model: SCoRe's stage II beside a step of TRL's GRPO.

  python -m benchmarks.real_rl --folder=FOLDER --trl=PYTHON

`--problems` prompts of 64 tokens x 8 samples. sitrain writes two attempts of
`--new` / 2 tokens, TRL one of `--new`: the same number of tokens. Both score
them by a frozen copy of the model, reward even tokens, and make one update of
AdamW. No text ends early. FOLDER is a checkpoint of the Hugging Face hub,
PYTHON an interpreter that has TRL. With `--dtype=bfloat16` parameters and
optimizer stay in float32, in both (TRL then runs under torch's autocast).
Prints the median seconds of a step, on the clock and of all cores, the peak of
resident memory, and how many times faster sitrain is; see alternate.py.
"""

from absl import app, flags

from benchmarks import real
from benchmarks.rounds import modules

PROBLEMS = flags.DEFINE_integer("problems", 8, "Prompts of a step.", 1)
NEW = flags.DEFINE_integer("new", 128, "Tokens that are written in a row.", 2)
TRL = flags.DEFINE_string("trl", "", "Interpreter that has TRL.")
flags.adopt_module_key_flags(real)


def main(argv: list[str]) -> None:
  """Checks the flags and measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  case = real.case_of(
    problems=PROBLEMS.value, samples=8, prompt=64, new=NEW.value
  ) | {"beta": 0.04}
  commands = modules("real_rl", {"trl": TRL.value})
  real.run({name: (command, case) for name, command in commands.items()}, case)


if __name__ == "__main__":
  app.run(main)
