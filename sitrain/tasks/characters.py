"""A tokenizer with one token per character, for tasks that need no other."""

from typing import Any

import numpy as np

from sitrain.types import PAD, Tokenizer

UNKNOWN = "\ufffd"  # what an id outside of the alphabet reads as


def make(alphabet: str) -> Tokenizer:
  """Tokenizer in which the id of a character is its place in `alphabet`.

  `decode` takes any integer sequence, skips PAD, and writes U+FFFD for other
  ids outside of the alphabet, since a model may have a larger vocabulary.
  Raises ValueError for a repeated character, and in `encode` for one that the
  alphabet lacks.
  """
  ids = {character: i for i, character in enumerate(alphabet)}
  if len(ids) < len(alphabet):
    raise ValueError(f"alphabet {alphabet!r} repeats a character: list it once")

  def encode(text: str) -> list[int]:
    for place, character in enumerate(text):
      if character not in ids:
        raise ValueError(
          f"no token for {character!r} at place {place} of {text!r}: "
          f"use only the characters {alphabet!r}"
        )
    return [ids[character] for character in text]

  def decode(tokens: Any) -> str:
    flat = [int(token) for token in np.asarray(tokens).reshape(-1)]
    known = range(len(alphabet))
    return "".join(
      alphabet[token] if token in known else UNKNOWN
      for token in flat
      if token != PAD
    )

  return Tokenizer(encode, decode, len(alphabet))
