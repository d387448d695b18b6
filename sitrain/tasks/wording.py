"""What a policy is asked: a text of the config, or a file."""

from etils import epath

FILE = "file:"


def wording(text: str, *needed: str) -> str:
  """The text, or what stands in the file where it is "file:" and a path.

  Raises ValueError for a file that cannot be read, an empty text, and one that
  lacks what is `needed`, as "{problem}".
  """
  said = text
  if text.startswith(FILE):
    path = epath.Path(text.removeprefix(FILE))
    try:
      said = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
      raise ValueError(f"the wording {text} cannot be read: {error}") from error
  if not said.strip():
    raise ValueError(f"the wording {text!r} is empty: write what is asked")
  for part in needed:
    if part not in said:
      raise ValueError(f"the wording {said[:60]!r} lacks {part}: put it in")
  return said.strip("\n")
