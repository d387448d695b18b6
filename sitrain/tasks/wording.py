"""What a policy is asked: a text of the config, or a file."""

from etils import epath

from sitrain.tasks import fields

FILE = "file:"


def wording(text: str, *needed: str) -> str:
  """The text, or what stands in the file where it is "file:" and a path.

  Raises ValueError for a file that cannot be read, an empty text, one that
  lacks what is `needed`, as "{problem}", and what is no text.
  """
  said = text
  if text.startswith(FILE):
    path = epath.Path(text.removeprefix(FILE))
    try:
      # Some editors put a byte-order mark before the text.
      said = path.read_text().removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
      raise ValueError(f"the wording {text} cannot be read: {error}") from error
  fields.read(said, fields.text, f"the wording {said[:30]!a}")
  if not said.strip():
    raise ValueError(f"the wording {text!r} is empty: write what is asked")
  for part in needed:
    if part not in said:
      raise ValueError(f"the wording {said[:60]!r} lacks {part}: put it in")
  return said.strip("\n")
