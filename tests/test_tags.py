"""Control tags, and the two methods that differ by them, in plain Python."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import tags
from sitrain.methods import chain_of_hindsight, mistake_tuning
from sitrain.tasks import strings
from sitrain.types import Verdict

PROMPT, GOOD, BAD, END = [4, 8], 8, 9, 3  # "i" and "j" of the fake's alphabet
TASK = fakes.task(None, again=[2], eos=(END,), prompt=PROMPT)
TEXTS = [[5, 3], [6, 6, 3], [7, 3], [5, 5, 3], [6, 3]]
REWARD = np.array([1, 0, 0, 0, np.nan])
KNOWN = np.array([1, 1, 1, 1, 0])
NAMES = {"good": "i", "bad": "j"}


def sampled():
  """(problems, rows, verdict): three samples of problem 0, two of problem 1."""
  rows = fakes.pack(
    [fakes.transcribe(PROMPT, [text], []) for text in TEXTS],
    problem=[0, 0, 0, 1, 1],
  )
  column = lambda x: jnp.asarray(x, jnp.float32)[:, None]
  return TASK.problems(None, 2), rows, Verdict(column(REWARD), column(KNOWN))


def texts_trained(batch):
  """Per row (its tokens, the tokens that are trained)."""
  batch = jax.device_get(batch)
  return [
    (fakes.strip(row), row[mask > 0].tolist())
    for row, mask in zip(batch.tokens, batch.mask)
  ]


def curated(make, **options):
  method = make(
    fakes.SILENT, TASK, None, problems=2, samples=3, turns=(4,), **NAMES,
    **options,
  )
  curate = jax.jit(lambda key, *a: method.curate(key, None, *a))
  return [curate(jax.random.key(seed), *sampled()) for seed in range(6)]


def test_right_and_wrong_samples_have_their_tags():
  for batch, metrics in curated(mistake_tuning.make):
    assert texts_trained(batch) == [
      ([4, GOOD, *TEXTS[0]], TEXTS[0]),
      *(([4, BAD, *TEXTS[b]], TEXTS[b]) for b in (1, 2, 3)),
      ([4, BAD, *TEXTS[4]], []),  # its verdict is not known
    ]
    np.testing.assert_array_equal(batch.inputs, batch.tokens)
    assert metrics["curate/good"] == (1, 4)


@pytest.mark.parametrize("train_bad", [True, False])
def test_a_sample_is_chained_with_one_of_the_other_kind(train_bad):
  partners = set()
  for batch, _ in curated(chain_of_hindsight.make, train_bad=train_bad):
    found = texts_trained(batch)
    bad = lambda b: TEXTS[b] if train_bad else []
    # Row 0 is right: one of the wrong ones of its problem follows.
    (wrong,) = (
      b for b in (1, 2)
      if found[0][0] == [4, GOOD, *TEXTS[0], BAD, *TEXTS[b]]
    )
    partners.add(wrong)
    assert found[0][1] == TEXTS[0] + bad(wrong)
    for b in (1, 2):
      assert found[b] == (
        [4, BAD, *TEXTS[b], GOOD, *TEXTS[0]], bad(b) + TEXTS[0]
      )
    # Problem 1 has no right sample, so what follows row 3 is not trained.
    assert found[3][1] == bad(3) and found[4][1] == []
    assert found[3][0][: 2 + len(TEXTS[3])] == [4, BAD, *TEXTS[3]]
  assert partners == {1, 2}


def test_only_the_last_token_of_the_prompt_is_replaced():
  rows = fakes.pack([
    fakes.transcribe([4, 4, 8], [[5, 3], [6, 3]], [[8]]),
    fakes.transcribe([8], [[7, 3], [6, 3]], [[8]]),
  ])
  found = tags.retagged(rows, jnp.array([9, 8]))
  assert fakes.strip(found.tokens[0]) == [4, 4, 9, 5, 3, 8, 6, 3]
  np.testing.assert_array_equal(found.tokens[1], rows.tokens[1])
  np.testing.assert_array_equal(found.turn, rows.turn)


def test_a_task_asks_with_its_tag():
  plain, tagged = strings.make(), strings.make(tag="<ok>")
  draw = lambda task: jax.jit(lambda key: task.problems(key, 4))(
    jax.random.key(0)
  )
  one, other = draw(plain), draw(tagged)
  (ok,) = plain.tokenizer.encode("<ok>")
  np.testing.assert_array_equal(one.prompt, other.prompt[:, :-1])
  assert set(other.prompt[:, -1].tolist()) == {ok}
  np.testing.assert_array_equal(one.answer, other.answer)
  assert tags.ids_of(tagged, "<ok>", "<bad>")[0] == ok
  with pytest.raises(ValueError, match="set the task's tag='<ok>'"):
    tags.ids_of(plain, "<ok>", "<bad>")
  with pytest.raises(ValueError, match="each must be one token"):
    tags.ids_of(tagged, "<ok>", "ab")
  with pytest.raises(ValueError, match="no token for"):
    tags.ids_of(tagged, "<ok>", "<worse>")
  with pytest.raises(ValueError, match="set it to one token"):
    strings.make(tag="ab")


def test_only_single_turns_are_chained():
  with pytest.raises(ValueError, match="give one"):
    chain_of_hindsight.make(
      fakes.SILENT, TASK, None, problems=2, samples=3, turns=(4, 4), **NAMES
    )
