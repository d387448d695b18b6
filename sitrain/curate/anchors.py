"""Groups in groups: turns that begin in one state, and their advantages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.curate.advantage import returns
from sitrain.types import PAD, Episodes

STATES = ("text", "reply")


def anchors(
  episodes: Episodes, turns: int, *, state: str
) -> Int[Array, "B K"]:
  """Ids in [0, B K) of the states in which turns begin, within each problem.

  Two turns of a problem have one id iff they begin after the same tokens, of
  which every one is compared. `state`: "text": all tokens before the turn;
  "reply": those between the turn before and this one, for turn 1 the prompt, so
  that turns of other numbers may be in one state. Columns without a token make
  no difference. Turns that were never written have ids, too, of no meaning.
  """
  order = jnp.argsort(episodes.turn == PAD, axis=1, stable=True)
  tokens, turn = (
    jnp.take_along_axis(x, order, axis=1)
    for x in (episodes.tokens, episodes.turn)
  )
  own = turn[:, None] == jnp.arange(1, turns + 1)[:, None]  # [B K T]
  end = jnp.argmax(own, axis=2)  # 0 where it was never written
  after = jnp.max(jnp.where(own, jnp.arange(1, own.shape[2] + 1), 0), axis=2)
  begin = jnp.zeros_like(end)
  if state == "reply":
    begin = jnp.pad(after[:, :-1], ((0, 0), (1, 0)))

  def one_more(t, ids):
    at = jnp.minimum(begin + t, tokens.shape[1] - 1)
    token = jnp.take_along_axis(tokens, at, axis=1)
    return _split(ids, jnp.where(begin + t < end, token, PAD))

  ids = jnp.broadcast_to(episodes.problem[:, None], end.shape)
  return jax.lax.fori_loop(0, jnp.max(end - begin), one_more, ids)


def _split(
  ids: Int[Array, "B K"], token: Int[Array, "B K"]
) -> Int[Array, "B K"]:
  """Ids of the different pairs (id, token), counted from 0."""
  pair = ids.reshape(-1), token.reshape(-1)
  order = jnp.lexsort(pair[::-1])
  differs = [x[order][1:] != x[order][:-1] for x in pair]
  rank = jnp.cumsum(jnp.pad(differs[0] | differs[1], (1, 0)))
  found = jnp.zeros_like(pair[0]).at[order].set(rank.astype(ids.dtype))
  return found.reshape(ids.shape)


def two_levels(
  reward: Float[Array, "B K"],
  counted: Bool[Array, "B K"],
  written: Bool[Array, "B K"],
  problem: Int[Array, " B"],
  anchor: Int[Array, "B K"],
  *,
  estimate: Callable,
  discount: float,
  weight: float,
) -> tuple[Float[Array, "B K"], Bool[Array, "B K"]]:
  """A_k = A of the episode + weight * A of the step, for each turn k.

  The first compares sums of all rewards of a row with those of its problem's
  other rows, the second the rewards to come, discounted, with those of the
  turns of the same `anchor` (`anchors`), whatever their rows are (Feng et al.
  2025, arXiv:2505.10978, GiGPO, Eqs. 3 and 5 to 8, as the authors' code numbers
  them). `estimate` compares: advantage.ESTIMATES. A turn alone in its state
  gets 0 for the step.

  `counted` and `written` as in advantage.returns. A row with a written turn
  whose reward is not known is in no group; the second result leaves it out.
  """
  total, known = returns(reward, counted, written, 1.0)
  counted = counted & known[:, :1]
  ahead, _ = returns(reward, counted, written, discount)
  mask = counted.astype(jnp.float32)
  episode = estimate(total[:, 0], problem, mask[:, 0])
  step = estimate(ahead.reshape(-1), anchor.reshape(-1), mask.reshape(-1))
  gain = episode[:, None] + weight * step.reshape(reward.shape)
  return jnp.where(counted, gain, 0.0), counted


def accompanied(
  anchor: Int[Array, "B K"], counted: Bool[Array, "B K"]
) -> Bool[Array, "B K"]:
  """Turns that count and are not the only such turn of their state."""
  ids, one = anchor.reshape(-1), counted.reshape(-1).astype(jnp.int32)
  count = jax.ops.segment_sum(one, ids, ids.shape[0])[ids]
  return counted & (count.reshape(anchor.shape) > 1)
