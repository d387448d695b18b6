"""What a main does before its imports, which take seconds. Import it first.

Sets what libraries read when they are imported, ends on Ctrl-C and SIGTERM
with a line in the place of a traceback (signals.py takes over later), and names
the extra of packages that are missing.
"""

import os
import signal
import sys
from typing import Any

from sitrain.runtime import extras

# etils: gs:// without TensorFlow, which knows no emulators and loads for long.
os.environ.setdefault("EPATH_USE_TF", "0")
# transformers: no "PyTorch was not found", for only its tokenizers are used.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# TensorFlow, if a reward or a tokenizer loads it: no lines about the CPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}  # as signals.py has them


def _leave(number: int, _: Any) -> None:
  os.write(2, b"error: stopped before anything was begun\n")
  os._exit(_CODES[number])


def _is_main() -> bool:
  """Whether this program is one of ours, and not one that imports us."""
  spec = getattr(sys.modules.get("__main__"), "__spec__", None)
  return spec is not None and spec.name.startswith("sitrain.")


def listen() -> None:
  """Ends the process with a line on Ctrl-C and SIGTERM, from now on."""
  for number in _CODES:
    signal.signal(number, _leave)


if _is_main():
  listen()
  extras.require("train")
