"""Plans of SCoRe's stage II on pods and their scaling, without a TPU.

  python -m benchmarks.plans
  python -m benchmarks.plans --show

Compiles each case by `sitrain.plan`, one after the other, and stores the
results in benchmarks/results/plan_*.json; stored cases are not compiled again.
Needs sitrain[tpu]; a program takes half a minute to four minutes of a core.
Weak scaling has constant rows a chip on growing pods.
"""

import json
import pathlib
import subprocess
import sys

from absl import app, flags

ONLY = flags.DEFINE_list("only", [], "Names of cases; default: all.")
MINUTES = flags.DEFINE_float("minutes", 90, "That a case may take.")
SHOW = flags.DEFINE_bool("show", False, "Print stored plans, compile nothing.")

RESULTS = pathlib.Path(__file__).parent / "results"
TEXT, MAZE = "configs/score_math.py", "configs/quickstart.py"


def case(config, model, topology, mesh, *programs, **stage):
  """Flags of sitrain.plan for stage II; `mesh` is (data, fsdp, tensor).

  `stage` is set for stage I as well, which must also divide by the mesh.
  """
  axes = zip(("data", "fsdp", "tensor"), mesh)
  return [
    f"--config={config}", f"--model={model}", f"--topology={topology}",
    "--stage=stage2", "--nolargest", f"--programs={','.join(programs)}",
    *(f"--config.mesh.{axis}={size}" for axis, size in axes),
    *(f"--config.stage.{of}.{n.replace('__', '.')}={v}"
      for of in ("stage1", "stage2") for n, v in stage.items()),
  ]


def text(name, model, topology, mesh, problems, microbatches):
  """SCoRe on MATH, staged: collect, in 4 waves, and learn."""
  return {
    f"text_{name}_{program}": case(
      TEXT, model, topology, mesh, program, method__problems=problems,
      microbatches=microbatches,
    ) for program in ("generate", "learn")
  }


def weak(chips):
  """4 problems, so 32 rows, a chip; 4 of them are updated on at a time."""
  sizes = {4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
  return case(
    TEXT, "qwen2.5-1.5b", f"v5e:{sizes[chips]}", (1, chips, 1), "learn",
    method__problems=4 * chips, waves=4, microbatches=8,
  )


CASES = {
  "refused_1.5b_v5e_8": case(TEXT, "qwen2.5-1.5b", "v5e:2x4", (8, 1, 1)),
  "maze_1.5b_v5e_8": case(MAZE, "qwen2.5-1.5b", "v5e:2x4", (1, 8, 1)),
  **text("1.5b_v5e_8", "qwen2.5-1.5b", "v5e:2x4", (1, 8, 1), 64, 16),
  "weak_4": weak(4),
  "weak_16": weak(16),
  "weak_64": weak(64),
  "weak_256": weak(256),
  "maze_8b_v5p_32": case(
    MAZE, "qwen3-8b", "v5p:2x4x4", (1, 32, 1), microbatches=2
  ),
  **text("8b_v5p_32", "qwen3-8b", "v5p:2x4x4", (1, 32, 1), 256, 32),
  "maze_8b_v6e_64": case(
    MAZE, "qwen3-8b", "v6e:8x8", (1, 64, 1), microbatches=1
  ),
  **text("8b_v6e_64", "qwen3-8b", "v6e:8x8", (1, 64, 1), 256, 32),
  "maze_27b_v5p_128": case(
    MAZE, "gemma-2-27b", "v5p:4x4x8", (1, 32, 4), microbatches=2
  ),
  **text("27b_v5p_128", "gemma-2-27b", "v5p:4x4x8", (1, 32, 4), 256, 32),
}


def file_of(name: str) -> pathlib.Path:
  """The path of the plan of a case."""
  return RESULTS / f"plan_{name}.json"


def compile_case(name: str, minutes: float) -> None:
  """Plans a case; a refused config is a result, too."""
  command = [
    sys.executable, "-m", "sitrain.plan", *CASES[name],
    f"--output={file_of(name)}",
  ]
  print(" ".join(["python", *command[1:]]), flush=True)
  subprocess.run(command, timeout=60 * minutes, check=False)


def rows_of(name: str) -> list[str]:
  """Lines of a Markdown table: the programs of a case."""
  found = json.loads(file_of(name).read_text())
  lines = []
  for stage in found["stages"]:
    for row in stage["programs"]:
      sizes = [
        f"{row[n] / 2**30:.2f}" if row.get(n) is not None else "-"
        for n in ("arguments", "temporaries", "total")
      ]
      tokens = stage["tokens"] / stage["chips"]
      sent = row.get("sent", 0) / tokens * row.get("runs", 1)
      lines.append("| " + " | ".join([
        name, row["program"], *sizes, "yes" if row["fits"] else "no",
        f"{row.get('sent', 0) / 2**30:.1f}", f"{sent / 2**20:.3f}",
        f"{row['step_seconds']:.1f}" if "step_seconds" in row else "-",
        f"{row['compile_seconds']:.0f}",
        f"{row.get('compile_core_seconds', 0):.0f}",
      ]) + " |")
  return lines


def main(argv: list[str]) -> None:
  """Plans the missing cases and prints all."""
  del argv
  names = [name for name in CASES if not ONLY.value or name in ONLY.value]
  for name in names:
    if not SHOW.value and not file_of(name).exists():
      compile_case(name, MINUTES.value)
  print(
    "| case | program | arguments GiB | temporaries | total | fits | sent GiB "
    "a chip and run | sent MiB a chip and token of its rows | s an iteration | "
    "compiled in s | of a core |\n" + "|---" * 11 + "|"
  )
  for name in names:
    if file_of(name).exists():
      print("\n".join(rows_of(name)), flush=True)


if __name__ == "__main__":
  app.run(main)
