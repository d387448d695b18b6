"""The parameters of a role as the decoder takes them: whole.

Where adapters are trained, `state.frozen["base"]` holds what they adapt, and
the policy and its reference share it.
"""

from typing import Any

from sitrain.models import lora
from sitrain.models.parameters import computed
from sitrain.types import Params, TrainState


def whole(params: Params, state: TrainState) -> Params:
  """Parameters of a role, joined to the frozen base where they adapt one."""
  if "base" not in state.frozen:
    return params
  return lora.join(state.frozen["base"], params, scale=state.frozen["scale"])


def policy(state: TrainState) -> Params:
  """Parameters of the policy."""
  return whole(state.params["policy"], state)


def anchor(state: TrainState) -> Params:
  """Parameters of the reference policy; the base where adapters have no other.

  Raises ValueError where the stage has none.
  """
  if state.reference != ():
    return whole(state.reference, state)
  if "base" in state.frozen:
    return state.frozen["base"]
  raise ValueError("this method needs a reference: set anchor of its stage")


def for_sampling(state: TrainState, dtype: Any) -> TrainState:
  """The state as samplers read it: roles whole, and in the dtype of the model.

  Without the optimizer. So it holds what is to be gathered before decoding.
  """
  adapted = "base" in state.frozen
  known = adapted or state.reference != ()
  roles = {"policy": computed(policy(state), dtype)}
  frozen = state.frozen
  if adapted:
    frozen = {k: frozen[k] for k in frozen if k not in ("base", "scale")}
  return state._replace(
    frozen=frozen, params=dict(state.params) | roles, opt_state=(),
    reference=computed(anchor(state), dtype) if known else (),
  )
