"""Results of families over seeds: stored, averaged, and in the documents."""

import pathlib
import re

import mains
import numpy as np
import pytest

from benchmarks import family_results

families = mains.imported("benchmarks.families")
ROOT = pathlib.Path(__file__).parent.parent


def row(seed, result, control, **others):
  return {
    "name": "toy", "metric": "accuracy_1 of toy", "control_is": "the base",
    "seed": seed, "result": result, "control": control, "others": others,
  }


def test_a_seed_is_stored_once_and_not_run_again(tmp_path, monkeypatch):
  monkeypatch.setattr(family_results, "RESULTS", tmp_path / "families")
  assert family_results.read("toy") == []
  assert families.missing("toy", [2, 0, 2]) == [2, 0]
  for seed in (2, 0):
    family_results.add(row(seed, 0.5, 0.25))
  assert families.missing("toy", [0, 1, 2]) == [1]
  assert [one["seed"] for one in family_results.read("toy")] == [0, 2]
  family_results.add(row(2, 0.5, 0.25))
  with pytest.raises(ValueError, match=r"toy.jsonl has a seed twice"):
    family_results.read("toy")


def test_means_and_intervals_over_seeds_by_hand():
  """t of two degrees of freedom is 4.3027; 12.706 of one."""
  rows = [row(0, 0.7, 0.5, sft=0.6, new=0.1), row(1, 0.8, 0.5, sft=0.8),
          row(2, 0.9, 0.8, sft=0.7)]
  found = family_results.compared(rows)
  assert found.others == {"sft": [0.6, 0.8, 0.7]}, "only some seeds have it"
  half = 4.3027 * 0.1 / np.sqrt(3)
  want = f"80.0 [{80 - 100 * half:.1f}, {80 + 100 * half:.1f}]"
  assert family_results.percent(found.result) == want
  # Differences of each seed: 20, 30 and 10 points.
  gap = family_results.against(found.result, found.control)
  assert gap == f"20.0 [{20 - 100 * half:.1f}, {20 + 100 * half:.1f}]"
  text = family_results.sentence(rows)
  assert want in text and gap in text and "(seeds 0, 1, 2)" in text
  one = family_results.sentence(rows[:1])
  assert "[" not in one and "70.0 %, after 50.0" in one and "(seed 0)" in one


def test_documents_have_the_stored_numbers():
  """Of every family's row in docs/methods.md, and each has one."""
  lines = (ROOT / "docs" / "methods.md").read_text().splitlines()
  start = next(i for i, x in enumerate(lines) if x.startswith("| family |"))
  shown = {}
  for line in lines[start + 2 :]:
    if not line.startswith("|"):
      break
    shown[re.search(r"`--config=(\w+)`", line)[1]] = line
  stored = {path.stem for path in family_results.RESULTS.glob("*.jsonl")}
  assert set(shown) == stored and stored <= set(families.FAMILIES)
  for name, line in shown.items():
    found = family_results.compared(family_results.read(name))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[-1] == str(len(found.seeds)), name
    for values in (found.control, found.result, *found.others.values()):
      assert family_results.percent(values) in line, (name, values)
    assert family_results.against(found.result, found.control) in line, name
    for values in found.others.values():
      assert family_results.against(found.result, values) in line, name
