"""Reads weights of a folder or of the hub, with a line of progress."""

from typing import Any

from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import weights
from sitrain.runtime import activity
from sitrain.types import Params


def weights_of(path: str, model: Decoder, wanted: Any) -> Params:
  """The parameters at `path`, with the shardings of `wanted`."""
  with activity.during(f"reading weights of {path}"):
    return weights.read(weights.locate(path), model, wanted)
