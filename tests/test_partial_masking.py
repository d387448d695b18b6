"""Partial answer masking on rows written by hand, against plain Python."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.methods import partial_masking, verbs
from sitrain.tasks import chain
from sitrain.types import Problems, TokenScores

TASK = chain.critic(operations=(2, 2))
IDS = TASK.tokenizer.encode
PROMPT, RIGHT, FIX = IDS("3+4+2="), IDS("79<end>"), IDS("<fix>")
# (problem, attempt, verdict): which case it is, if verdicts are a yes or a no,
# and if they must name the first wrong step. Problem 1 has no right sample.
ROWS = [
  (0, "79<end>", "<ok>", "good", "good"),
  (0, "78<end>", "<bad@2>", "bad", "bad"),
  (0, "78<end>", "<ok>", "", ""),
  (0, "79<end>", "<bad@2>", "", ""),
  (0, "7<end>", "<bad@1>", "bad", ""),
  (0, "68<end>", "<bad@2>", "bad", ""),
  *[(1, "78<end>", "<bad@2>", "", "")] * 3,
  *[(1, "68<end>", "<ok>", "", "")] * 3,
]


def sampled():
  """(problems, rows) of the two problems, which are the same one."""
  answer = jnp.asarray([[9, 2, 3, 4, 2, *IDS("++")]] * 2, jnp.int32)
  problems = Problems(
    jnp.asarray([PROMPT] * 2, jnp.int32), answer, jnp.full((2, 1), -1)
  )
  rows = fakes.pack(
    [fakes.transcribe(PROMPT, [IDS(a), IDS(v)], [[]]) for _, a, v, *_ in ROWS],
    problem=[row[0] for row in ROWS],
  )
  return problems, rows


def curated(**options):
  method = partial_masking.make(
    fakes.SILENT, TASK, None, problems=2, samples=4, turns=(4, 4, 4), **options
  )
  problems, rows = sampled()
  verdict, _ = method.judge(None, None, problems, rows)
  curate = jax.jit(lambda *a: method.curate(jax.random.key(0), None, *a))
  return method, *curate(problems, rows, verdict)


def transcribed(named, bad, wrong):
  """Per row (its text, the weight of each of its tokens), by the paper."""
  cases = [row[4] if named else row[3] for row in ROWS]
  left_out = {0.0: "bad", 1.0: "good"}.get(bad)
  cases = ["" if case == left_out else case for case in cases]
  count = {case: cases.count(case) for case in ("good", "bad")}
  total, found = sum(count.values()), []
  for (_, first, verdict, *_), case in zip(ROWS, cases):
    share = {"good": 1 - bad, "bad": bad}.get(case, 0.0)
    whole = total if min(count.values()) == 0 else share * total
    each = whole / count[case] if case else 0.0
    of_first = {"good": each, "bad": each * wrong}.get(case, 0.0)
    parts = [(PROMPT, 0.0), (IDS(first), of_first), (IDS(verdict), each)]
    if case == "bad":
      parts += [(FIX, 0.0), (RIGHT, each)]
    found.append((
      sum((text for text, _ in parts), []),
      [weight for text, weight in parts for _ in text],
    ))
  return found


@pytest.mark.parametrize("named, bad, wrong", [
  (False, 0.5, 0.0), (False, 0.2, 0.25), (True, 0.5, 0.0), (True, 0.7, 1.0),
  (False, 0.0, 1.0), (False, 1.0, 0.0),
])
def test_wrong_attempts_are_read_and_their_repairs_imitated(
  named, bad, wrong, monkeypatch
):
  method, batch, metrics = curated(named=named, bad=bad, wrong=wrong)
  want = transcribed(named, bad, wrong)
  noise = np.random.default_rng(0).uniform(-3, -0.1, batch.tokens.shape)
  total = count = 0.0
  for b, (text, weights) in enumerate(want):
    if not any(weights):
      assert not np.any(batch.mask[b])
      continue
    assert fakes.strip(batch.tokens[b]) == text
    found = np.asarray(batch.targets.weight * batch.mask)[b, : len(text)]
    np.testing.assert_allclose(found, weights, rtol=1e-5)
    for t, weight in enumerate(weights):
      total -= weight * noise[b, t]
      count += weight > 0
  scores = TokenScores(*[jnp.asarray(noise, jnp.float32)] * 2)
  monkeypatch.setattr(verbs, "token_scores", lambda *a, **k: scores)
  monkeypatch.setattr(verbs, "join_base", lambda params, state: params)
  term = method.loss({"policy": ()}, None, batch)[0]["nll"]
  np.testing.assert_allclose(term, (total, count), rtol=1e-5)
  assert metrics["curate/kept"].total == sum(any(w) for _, w in want)


def test_what_is_no_mixture_is_refused():
  make = lambda task=TASK, **options: partial_masking.make(
    fakes.SILENT, task, None, problems=1,
    **{"turns": (4, 4, 4), "samples": 2} | options,
  )
  with pytest.raises(ValueError, match="attempt, verdict, repair"):
    make(turns=(4, 4))
  for options in ({"bad": 1.5}, {"wrong": -1.0}, {"wrong": float("inf")}):
    with pytest.raises(ValueError, match="set it (from 0 to 1|to 0 or more)"):
      make(**options)
  with pytest.raises(ValueError, match="samples=1: .* the samples"):
    make(samples=1)
  with pytest.raises(ValueError, match="verdicts of the policy"):
    make(chain.make())
