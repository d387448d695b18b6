r"""One of the mains on many command lines, in a process of its own.

Their flags clash, so a process can have one of them; and to start a process
for every wrong command line would take minutes.

  CASES='["sitrain.export", [["--workdir=x"], ...]]' \
    python tests/many_inputs.py
"""

import importlib
import json
import os
import sys

import mains
from absl import flags

from sitrain.runtime import distributed, overrides
from sitrain.runtime.errors import one_line

# Whether it is or not, nothing may be logged to it.
sys.modules["wandb"] = None


def main(_):
  """Prints [kind of the error, its line] of each as JSON."""
  name, cases = json.loads(os.environ["CASES"])
  module = importlib.import_module(name)
  distributed.start = lambda **options: None
  print(json.dumps([outcome(module, words) for words in cases]))


def outcome(module, words):
  for flag in list(flags.FLAGS):
    if flag.startswith("config."):  # Fields that an earlier one has given.
      delattr(flags.FLAGS, flag)
    else:
      flags.FLAGS[flag].unparse()
  sys.argv = [module.__name__, *words]
  try:
    module.main(overrides.parse(sys.argv, **mains.options_of(module)))
  except (SystemExit, Exception) as error:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return kinds, one_line(error)
  return [], ""


if __name__ == "__main__":
  main(sys.argv)
