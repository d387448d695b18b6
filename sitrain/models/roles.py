"""The parameters of a role as the decoder takes them.

A role is trained (`state.params`) or held fixed (`state.held`). Where adapters
are trained, `state.frozen["base"]` holds what they adapt, and a role whose tree
has no embeddings of its own is adapters of that base.
"""

from typing import Any

from sitrain.models import lora
from sitrain.models.parameters import computed
from sitrain.types import Params, TrainState


def join_base(params: Params, state: TrainState) -> Params:
  """Parameters of a role, joined to the frozen base where they adapt it."""
  if "base" not in state.frozen or "layers" not in params or "embed" in params:
    return params
  return lora.join(state.frozen["base"], params, scale=state.frozen["scale"])


def params_of(state: TrainState, role: str) -> Params:
  """The parameters of a trained or held role, as the decoder takes them.

  Raises ValueError where the stage has no such role.
  """
  known = {**state.held, **state.params}
  if role not in known:
    raise ValueError(
      f"this method needs the role {role!r}: set held.{role} of its stage to "
      "'init', '<stage>/last' or '<stage>/best'"
    )
  return join_base(known[role], state)


def check_trained(state: TrainState, *roles: str) -> None:
  """Raises ValueError where a role is not among those that the stage trains."""
  for role in roles:
    if role not in state.params:
      raise ValueError(
        f"this method trains the role {role!r}: name it in trained, as in "
        f"trained={roles}"
      )


def for_sampling(state: TrainState, dtype: Any) -> TrainState:
  """The state as samplers read it: adapters joined, in the compute dtype.

  Without the optimizer, the table and the base: it has only the arrays that a
  rollout reads, which are gathered before decoding.
  """
  ready = lambda roles: {
    role: computed(params_of(state, role), dtype) for role in roles
  }
  inner = ("base", "scale")
  return state._replace(
    frozen={k: x for k, x in state.frozen.items() if k not in inner},
    params=ready(state.params), opt_state=(), held=ready(state.held),
  )
