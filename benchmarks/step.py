"""One RL step side by side: sitrain, tunix's GRPO, TRL's GRPO.

  python -m benchmarks.step --tunix=PYTHON --trl=PYTHON

8 prompts of 64 tokens x 8 samples: rollout, reference log-probabilities, a
trivial reward, one update of AdamW with a KL of 0.04 to the reference, for the
model of `benchmarks.decode`, which also describes the environments of the
peers. Each contestant runs its own training loop, which waits between the
steps.
"""

from benchmarks.decode import SIZES, run_with_peers
from benchmarks.rounds import format_ratio, modules, race, workers

CASES = ("32", "128")  # new tokens


def parse(name: str) -> dict:
  """The case of a number of new tokens; raises ValueError for other words."""
  if not name.isdecimal() or int(name) < 1:
    raise ValueError(f"case {name!r}: write a number of new tokens, as in 32")
  return {"model": SIZES, "problems": 8, "samples": 8, "prompt": 64,
          "new": int(name), "beta": 0.04}


def measure(rounds: int, cases: list[str], pythons: dict[str, str]) -> dict:
  """The result of `race` for every case, a number of new tokens.

  `pythons` has the interpreters of "tunix" and "trl"; an empty one leaves its
  peer out.
  """
  found = {}
  with workers(modules("step", pythons)) as started:
    for name in cases:
      found[name] = race(started, parse(name), rounds)
      show(name, found[name])
  return found


def show(name: str, one: dict) -> None:
  """Prints a row a contestant."""
  for peer, seconds in one["medians"].items():
    ratio = one["ratios"].get(peer)
    line = f"N={name:4} {peer:8} {seconds:7.2f} s a step  "
    line += f"sitrain is {format_ratio(ratio)} times as fast" if ratio else ""
    print(f"{line}  [{one['facts'][peer]['settings']}]", flush=True)


if __name__ == "__main__":
  run_with_peers(measure, parse, CASES, "New tokens.")
