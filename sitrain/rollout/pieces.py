"""A rollout in slots that somebody watches: a number of steps at a time.

Episodes are those of `play` with as many slots. Between two calls the rows, the
caches and the weights, which are prepared once, stay on the device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from sitrain.rollout import contexts, refill
from sitrain.rollout.play import Replier, rollout_of
from sitrain.types import ROOT, Episodes, Params, Problems


class Now(NamedTuple):
  """What has been played by now."""

  ended: Bool[Array, " B"]  # nothing more will be written
  tokens: Int[Array, " B"]  # that the policy has written
  rows: Episodes  # [B T] from column 0 on, also of those that go on


class Pieces(NamedTuple):
  """The programs of a rollout in slots, which are to be compiled."""

  prepare: Callable[[Params], Params]  # for the others, once
  # (keys [P], (params, temperature), problems, live [P])
  begin: Callable[..., refill.Table]
  # (keys, (params, temperature), problems, table, steps)
  go_on: Callable[..., tuple[refill.Table, Now]]


def make(
  model: Any,
  *,
  slots: int,
  samples: int,
  reply: Replier,
  turns: tuple[int, ...],
  eos: tuple[int, ...],
  top_k: int = 0,
  top_p: float = 1.0,
) -> Pieces:
  """The programs of rollouts of this model; `go_on` makes up to `steps` steps.

  Options as in `play.play_on`. Problems that are not `live` come before the
  others; their rows stay empty, and count as ended from the beginning.
  """

  def rollout(keys, state, problems):
    params, temperature = state
    return rollout_of(
      keys, model, params, problems, contexts.begin(problems, 1),
      samples=samples, reply=reply, turns=turns, eos=eos,
      temperature=temperature, top_k=top_k, top_p=top_p,
    )

  def begin(
    keys: Key[Array, " P"], state: tuple[Params, Any], problems: Problems,
    live: Bool[Array, " P"],
  ) -> refill.Table:
    now = rollout(keys, state, problems)
    table = refill.begin(now, min(slots, now.keys.shape[0]))
    return table._replace(taken=jnp.sum(~live, dtype=jnp.int32) * samples)

  def go_on(
    keys: Key[Array, " P"], state: tuple[Params, Any], problems: Problems,
    table: refill.Table, steps: Int[Array, ""],
  ) -> tuple[refill.Table, Now]:
    now = rollout(keys, state, problems)
    table = refill.go_on(now, table, steps)
    rows = refill.episodes_of(table)
    rows = rows._replace(parent=jnp.full_like(rows.parent, ROOT))
    tokens = jnp.sum(rows.turn > 0, axis=1)
    return table, Now(refill.ended(now, table), tokens, rows)

  return Pieces(model.for_decoding, begin, go_on)
