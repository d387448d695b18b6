"""P(True) against plain next-token logits, and its calibration by hand."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from sitrain.evaluate import judgement, tables, truth
from sitrain.evaluate.player import Judged, Played, Player
from sitrain.models import decoder
from sitrain.tasks import chain
from sitrain.types import PAD, Episodes

RNG = np.random.default_rng(0)


def next_token(model, params, row, temperature):
  """Probabilities of the token after a row."""
  row = jnp.array([row], jnp.int32)

  @jax.jit
  def of(params):
    attend = decoder.sees_rows(jnp.zeros_like(row), jnp.zeros_like(row))
    hidden, _ = model.apply({"params": params}, row, attend)
    logits = model.apply({"params": params}, hidden[0, -1], method="logits")
    return jax.nn.softmax(logits / temperature)

  return np.asarray(of(params))


def test_p_true_equals_the_next_token_s_distribution():
  """Ragged rows, one without the turn, against logits of a plain pass."""
  model = decoder.Decoder(
    vocabulary=11, layers=2, width=16, heads=2, kv_heads=1, head_size=8,
    mlp_size=24,
  )
  tokens = RNG.integers(0, 11, (3, 8)).astype(np.int32)
  turn = np.array([
    [0, 0, 1, 1, 1, 0, 2, 2], [0, 1, 0, 0, 2, 2, PAD, PAD], [0] * 8
  ], np.int32)
  zero = np.zeros_like(turn)
  episodes = Episodes(
    jnp.asarray(np.where(turn == PAD, PAD, tokens)), jnp.asarray(turn),
    zero.astype(np.float32), zero, np.arange(3), np.full(3, -1),
  )
  params = jax.jit(decoder.init, static_argnums=0)(model, jax.random.key(0))
  for question in ([], [5, 9]):
    both, alone = jax.jit(lambda params, question=question: [
      truth.p_true(
        model, params, episodes, turn=1, question=question, temperature=0.7,
        **labels
      ) for labels in (dict(right=[3], wrong=[7, 2]), dict(right=[3, 7]))
    ])(params)
    for b, end in enumerate((5, 2)):
      row = [*tokens[b, :end], *question]
      chance = next_token(model, params, row, 0.7)
      total = chance[[3, 7, 2]].sum()
      assert float(both[b]) == pytest.approx(chance[3] / total, rel=1e-4)
      assert float(alone[b]) == pytest.approx(chance[[3, 7]].sum(), rel=1e-4)
    assert np.isnan(both[2]) and np.isnan(alone[2])
  with pytest.raises(ValueError, match="each once"):
    truth.p_true(model, params, episodes, turn=1, right=[3], wrong=[3])
  with pytest.raises(ValueError, match="one or more"):
    truth.p_true(model, params, episodes, turn=1, right=[])


def test_a_study_of_p_true_reads_every_row_once(monkeypatch):
  """Five rows in parts of two; one wrote nothing, and one is not known."""
  turn = np.array([[0, 1], [0, 1], [0, PAD], [0, 1], [0, 1]])
  right = np.array([[1], [0], [1], [1], [1.0]])
  known = np.array([[1], [1], [1], [0], [1.0]])
  tokens = np.arange(10).reshape(5, 2)
  found = Played(tokens, turn, Judged(right, known, *[0 * right] * 3))
  monkeypatch.setattr(judgement, "played", lambda *a, **o: ((), found))
  sizes, chance = [], np.array([0.9, 0.2, np.nan, 0.3, 0.6])

  def ask(params, episodes):
    sizes.append(len(episodes.tokens))
    return chance[episodes.tokens[:, 0] // 2]

  told = judgement.study(
    Player((), (), (), 1, 1), ask, {}, jax.random.key(0), problems=5, batch=2,
    temperature=1.0,
  )
  assert sizes == [2, 2, 2] and told["rows"] == 3
  errors = [0.1**2, 0.2**2, 0.4**2]
  assert told["brier"] == pytest.approx(sum(errors) / 3)
  assert told["auroc"] == 1.0
  shown = io.StringIO()
  Console(file=shown, width=120).print(tables.calibration_table({"a": told}))
  assert "brier" in shown.getvalue()


def test_labels_of_p_true_are_single_tokens():
  task = chain.critic()
  ids = {name: task.tokenizer.encode(name)[0] for name in ("<ok>", "<bad>")}
  what = judgement.asked(task, "12", ["<ok>", "<bad>"])
  assert what == ((1, 2), (ids["<ok>"],), (ids["<bad>"],))
  assert judgement.asked(task, "", ["<ok>"]) == ((), (ids["<ok>"],), ())
  with pytest.raises(ValueError, match="'12' has 2 tokens"):
    judgement.asked(task, "", ["12"])
  for labels in ([], ["<ok>", "<bad>", "1"]):
    with pytest.raises(ValueError, match="give the one of a right"):
      judgement.asked(task, "", labels)
