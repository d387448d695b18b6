"""What CI leaves out, and what it runs because its subject has changed."""

import re

import mains
import nightly


def test_every_nightly_test_has_a_subject_that_exists():
  marked = {
    path.name for path in nightly.TESTS.glob("test_*.py")
    if re.search(r"mark\.nightly\b", path.read_text())
    and path.name != "test_ci.py"
  }
  assert marked == set(nightly.SUBJECTS)
  lacking = [
    path for paths in nightly.SUBJECTS.values() for path in paths
    if not (mains.ROOT / path).exists()
  ]
  assert not lacking


def test_every_nightly_test_is_described():
  text = (mains.ROOT / "docs" / "testing.md").read_text()
  assert [name for name in nightly.SUBJECTS if name not in text] == []


def test_a_change_chooses_what_it_is_about():
  assert nightly.chosen([]) == [f"tests/{name}" for name in nightly.SUBJECTS]
  assert nightly.chosen(["README.md", "sitrain/runtime/planner.py"]) == []
  assert nightly.chosen(["tests/test_plan.py"]) == ["tests/test_plan.py"]
  found = nightly.chosen(["sitrain/models/decoder.py"])
  assert "tests/test_collectives.py" in found
  assert "tests/test_survival.py" not in found
