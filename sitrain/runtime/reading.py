"""Weights of a folder or of the hub, and a line while they are read."""

from typing import Any

from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import weights
from sitrain.runtime import activity
from sitrain.types import Params


def weights_of(path: str, model: Decoder, wanted: Any) -> Params:
  """The parameters at `path`, placed as `wanted` says; see weights.read."""
  with activity.during(f"reading weights of {path}"):
    return weights.read(weights.locate(path), model, wanted)
