"""The parameters of a role as the decoder takes them: whole.

Where adapters are trained, `state.frozen["base"]` holds what they adapt, and
the policy and its reference share it.
"""

from sitrain.models import lora
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
