"""Losses and advantages against verl's, TRL's and optax's own functions."""

import ast
import importlib
import pathlib
import re

import numpy as np
import pytest

from benchmarks import references
from benchmarks.compared_losses import difference, draw

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "references.md"


@pytest.mark.parametrize("peer", references.PEERS)
def test_losses_are_those_of_the_peer(peer):
  """In value and gradient; docs/references.md has the differences."""
  if peer not in references.installed():
    pytest.skip(f"{peer} is not installed: see docs/references.md")
  found = {}
  for one in references.PEERS[peer]():
    found[one.ours, one.peer] = difference(one)
  assert found and not {k: x for k, x in found.items() if not x < 1e-5}, found


def test_a_difference_is_found_where_there_is_one():
  """In the value, in the gradient alone, and where one is no number."""
  one, *_ = references.PEERS["optax"]()
  assert difference(one) < 1e-6
  for other in (lambda: one.there() + 1e-3, lambda: one.there() * np.nan):
    assert not difference(one._replace(there=other)) < 1e-4
  torch = pytest.importorskip("torch")
  at = draw()[0]
  half = one._replace(
    at=at, here=lambda x: (x**2).sum(), there=lambda x: (x**2).sum()
  )
  assert difference(half) < 1e-6
  wrong = lambda x: (x.detach() * x).sum()  # The same value, half the slope.
  assert difference(half._replace(there=wrong)) > 0.4
  nan = lambda x: (x**2).sum() + 0 * torch.sqrt(0 * x).sum()
  assert np.isnan(difference(half._replace(there=nan)))


def listed():
  """{module.function: names of tests} of the page's first table."""
  text, _ = PAGE.read_text().split("## Against the functions of other")
  rows = re.findall(
    r"^\| `((?:losses|curate)\.[\w.]+)` \|(.*)\|$", text, re.MULTILINE
  )
  return {name: re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
          for name, text in rows}


def functions_of(module):
  path = ROOT / "sitrain" / (module.replace(".", "/") + ".py")
  return [
    node.name for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
  ]


# Files of which every public function is a loss, an aggregate or an advantage.
WHOLE = (
  "losses.imitation", "losses.policy_gradient", "losses.preference",
  "losses.reduce", "losses.regularizers", "losses.value", "curate.advantage",
  "curate.anchors", "curate.roles", "curate.segments",
)


def test_every_loss_and_advantage_is_compared_with_a_reference():
  """The page names a test for each, and these tests exist."""
  rows, tests = listed(), {}
  every = {f"{m}.{name}" for m in WHOLE for name in functions_of(m)}
  assert not every - set(rows), "not on the page"
  for name, found in rows.items():
    module, function = name.rsplit(".", 1)
    assert hasattr(importlib.import_module(f"sitrain.{module}"), function), name
    assert found, f"{name}: no test is named"
    for file, test in found:
      text = tests.setdefault(file, (ROOT / "tests" / file).read_text())
      assert f"\ndef {test}(" in text, (name, file, test)
