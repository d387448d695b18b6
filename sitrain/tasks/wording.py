"""Texts of prompts: a text of the config, or a file."""

from etils import epath

from sitrain.tasks import fields

FILE = "file:"


def wording(text: str, *needed: str) -> str:
  """The text, or the content of the file where it is "file:" and a path.

  Raises ValueError for a file that cannot be read, an empty text, a text that
  lacks one of `needed`, such as "{problem}", and for what is no text.
  """
  content = text
  if text.startswith(FILE):
    path = epath.Path(text.removeprefix(FILE))
    try:
      # Some editors put a byte-order mark before the text.
      content = path.read_text().removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
      raise ValueError(f"the wording {text} cannot be read: {error}") from error
  fields.read(content, fields.text, f"the wording {content[:30]!a}")
  if not content.strip():
    raise ValueError(f"the wording {text!r} is empty: write the question")
  for part in needed:
    if part not in content:
      raise ValueError(f"the wording {content[:60]!r} lacks {part}: put it in")
  return content.strip("\n")
