"""The bytes that the tokens of a tokenizer spell."""

import json
import re
from collections.abc import Callable

_SPACE = "\u2581"  # SentencePiece writes a space as this


def of(tokenizer: str) -> Callable[[str], bytes]:
  """From a token to its bytes, for a tokenizer as the text of tokenizer.json.

  Raises ValueError for tokenizers that are neither byte-level nor of the kind
  of SentencePiece.
  """
  decoder = json.dumps(json.loads(tokenizer)["decoder"], ensure_ascii=False)
  if '"ByteLevel"' in decoder:
    return _byte_level(_letters())
  if _SPACE in decoder:
    return _piece
  raise ValueError(f"the decoder {decoder[:60]} does not tell bytes")


def _piece(token: str) -> bytes:
  """A SentencePiece token; `<0x0A>` is the byte 10."""
  byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
  if byte:
    return bytes([int(byte[1], 16)])
  return token.replace(_SPACE, " ").encode()


def _byte_level(letters: dict[str, int]) -> Callable[[str], bytes]:
  def spell(token: str) -> bytes:
    if all(letter in letters for letter in token):
      return bytes(letters[letter] for letter in token)
    return token.encode()  # as the decoder of such tokenizers does

  return spell


def _letters() -> dict[str, int]:
  """The byte that each letter of byte-level tokens stands for, as in GPT-2.

  Printable bytes stand for themselves; the others, in order, for the letters
  from U+0100 on.
  """
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in shown]
  letters = {chr(byte): byte for byte in shown}
  return letters | {chr(256 + n): byte for n, byte in enumerate(hidden)}
