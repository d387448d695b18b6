"""Reference-answer correction on rows written by hand, by plain Python."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate.select import row_noise
from sitrain.methods import cct, pair_sft, rac
from sitrain.tasks import chain
from sitrain.types import PAD, Problems, Verdict

TASK = chain.make(operations=(2, 2))
IDS = TASK.tokenizer.encode
PROMPTS = [IDS("3+4+2="), IDS("1+1+1=")]
GOLD = [IDS("79;"), IDS("23;")]
# (problem, own answer, whether it is right, whether that is known).
ROWS = [
  (p, text, text == ("79;" if p == 0 else "23;"), known)
  for p in range(2)
  for text, known in (
    ("79;", 1), ("23;", 1), ("8;", 1), ("78;", 1), ("70;", 0), ("1234", 1)
  )
]


def curated(method=rac, *, given=(0, 1), pay=1.0, **options):
  method = method.make(
    fakes.SILENT, TASK, None, problems=2, samples=6, turns=(4, 4), **options
  )
  # The second given turn is no solution.
  solution = jnp.asarray([gold + IDS("00;") for gold in GOLD], jnp.int32)
  has = jnp.isin(jnp.arange(2), jnp.asarray(given))
  solution = jnp.where(has[:, None], solution, PAD)
  answer = jnp.zeros((2, 1), jnp.int32)
  problems = Problems(jnp.asarray(PROMPTS, jnp.int32), answer, solution)
  rows = fakes.pack(
    [fakes.transcribe(PROMPTS[p], [IDS(text)], []) for p, text, *_ in ROWS],
    problem=[row[0] for row in ROWS],
  )
  reward = jnp.asarray([[pay * row[2]] for row in ROWS])
  known = jnp.asarray([[float(row[3])] for row in ROWS])
  reward = jnp.where(known > 0, reward, jnp.nan)
  key = jax.random.key(2)
  batch, metrics = method.curate(
    key, None, problems, rows, Verdict(reward, known)
  )
  return batch, metrics, np.asarray(row_noise(key, rows.tokens))[:, 0]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("also_correct", [True, False])
def test_the_solution_stands_behind_own_answers(share, also_correct):
  batch, metrics, noise = curated(share=share, also_correct=also_correct)
  kinds = [
    "plain" if noise[b] >= share
    else "fix" if known and (also_correct or not right) else ""
    for b, (_, _, right, known) in enumerate(ROWS)
  ]
  count = {kind: kinds.count(kind) for kind in ("plain", "fix")}
  total = sum(count.values())
  assert share != 0.5 or min(count.values()) > 1
  parts = {"fix": share, "plain": 1 - share}
  for b, (problem, text, *_) in enumerate(ROWS):
    gold, kind = GOLD[problem], kinds[b]
    before = PROMPTS[problem] + (
      IDS(text) + IDS("?") if kind == "fix" else []
    )
    mask = np.asarray(batch.mask[b])
    if not kind:
      assert not mask.any()
      continue
    assert fakes.strip(batch.tokens[b]) == before + gold
    want = np.zeros(len(mask))
    want[len(before) : len(before) + len(gold)] = 1
    np.testing.assert_array_equal(mask, want)
    alone = min(count.values()) == 0
    weight = 1.0 if alone else parts[kind] * total / count[kind]
    found = np.asarray(batch.targets.weight[b])[mask > 0]
    np.testing.assert_allclose(found, weight, rtol=1e-5)
  assert metrics["curate/corrections"].total == count["fix"]
  assert metrics["curate/kept"].total == total


def test_problems_without_a_solution_are_left_out():
  """They have no share in the weights, either."""
  batch, metrics, noise = curated(given=(0,), share=0.5)
  mask = np.asarray(batch.mask)
  assert not mask[6:].any()
  rows = int(mask.any(axis=1).sum())
  assert metrics["curate/kept"].total == rows
  weight = np.asarray(batch.targets.weight)[:, 0][mask.any(axis=1)]
  assert weight.mean() == pytest.approx(1.0)


def test_a_part_of_the_reward_makes_no_attempt_right():
  """As that of an answer that has no more than the form of one."""
  batch, metrics, _ = curated(share=1.0, also_correct=False, pay=0.5)
  assert metrics["curate/confident"].total == 0
  # All whose verdict is known are corrected.
  assert metrics["curate/corrections"].total == sum(row[3] for row in ROWS)
  for method in (pair_sft, cct):
    assert not curated(method, pay=0.5)[0].mask.any()
    assert curated(method)[0].mask.any()


def test_what_cannot_be_corrected_is_refused():
  make = lambda **options: rac.make(
    fakes.SILENT, TASK, None, problems=1, samples=2,
    **{"turns": (4, 4)} | options,
  )
  with pytest.raises(ValueError, match="share=1.5: set it from 0 to 1"):
    make(share=1.5)
  with pytest.raises(ValueError, match="needs 2 or more"):
    make(turns=(4,))
