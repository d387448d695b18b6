"""Reports programs that do not fit, with their largest buffers."""

import math
import re
from typing import Any

import jax

from sitrain.runtime import sharding
from sitrain.runtime.plan.chips import Target

BUFFERS = 5  # how many of the largest are listed
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def state_bytes(abstract: Any) -> int:
  """Bytes per chip of a tree of shapes, by their shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(abstract)
  )


def overfull(abstract: Any, known: dict, target: Target) -> dict[str, Any]:
  """The row of a stage whose state alone is too large; nothing is compiled.

  Its largest buffers are the largest arrays of the state.
  """
  leaves = jax.tree_util.tree_leaves_with_path(abstract)
  named = sorted(
    ((state_bytes(x), sharding.path_name(path), x) for path, x in leaves),
    key=lambda one: -one[0],
  )
  total = known["state_bytes"]
  return {
    "stage": known["stage"], "program": "state", "arguments": total,
    "total": total, "fits": False, "compile_seconds": 0.0, "largest": [
      {"bytes": size, "shape": f"{x.dtype}{list(x.shape)} split as "
       f"{x.sharding.spec}"[:120], "source": name}
      for size, name, x in named[:BUFFERS]
    ],
    "reason": (
      f"parameters, optimizer and reference alone take {total / 2**30:.1f} GiB"
      f" of {target.chip.memory / 2**30:.2f} GiB; split them over more chips by"
      " config.mesh.fsdp"
    ),
  }


def refused(message: str, target: Target) -> dict[str, Any]:
  """The row of a program that the compiler refused, from its message."""
  number = r"([\d.]+)([KMGT]?)"
  used = re.search(rf"Used {number} of {number} hbm", message) or re.search(
    rf"\({number}\) exceeds available HBM \({number}\)", message
  )
  wanted, most = (
    (float(used[1]) * _UNITS[used[2]], float(used[3]) * _UNITS[used[4]])
    if used else (math.nan, target.chip.memory)
  )
  largest = [
    {
      "bytes": float(one[1]) * _UNITS[one[2]], "shape": one[4][:120],
      "source": (one[3] or "")[-160:],
    }
    for one in re.finditer(
      rf"Size: {number}(?:B)?\s+(?:Operator: op_name=\"([^\"]*)\"[^\n]*\s+)?"
      r"Shape: ([^\n]+)", message,
    )
  ]
  reason = message.split("\n")[0]
  if used:
    reason = f"needs {wanted / 2**30:.1f} GiB of {most / 2**30:.2f} GiB"
  return {"fits": False, "total": wanted, "largest": largest[:BUFFERS],
          "reason": reason}
