"""What stays in one line of the site; a hook that mkdocs calls."""

import re

OPTION = r"(?<![\w-])--[\w.-]{1,30}(?![\w.-])"
MOST = 4  # intervals beside each other for which there is room
INTERVAL = r"(?<![\w.-])-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]"


def on_page_content(html: str, **_) -> str:
  """Marks options in code, which browsers would break behind their hyphens, and
  numbers with an interval in tables.

  docs/site.css keeps what is marked in one line. Blocks of code stay as they
  are: they are scrolled.
  """
  parts = re.split(r"(<pre.*?</pre>|<code>.*?</code>)", html, flags=re.S)
  for i, part in enumerate(parts):
    if part.startswith("<code>"):
      parts[i] = marked(part, OPTION, "option")
  return re.sub(
    r"<tr>.*?</tr>", lambda row: with_intervals(row[0]), "".join(parts),
    flags=re.S,
  )


def with_intervals(row: str) -> str:
  """The row of a table, with its intervals marked where they have room."""
  cells = re.split(r"(<td\b[^>]*>[^<]*</td>)", row)
  found = [marked(cell, INTERVAL, "interval") for cell in cells[1::2]]
  if sum(new != old for new, old in zip(found, cells[1::2])) > MOST:
    return row
  cells[1::2] = found
  return "".join(cells)


def marked(text: str, pattern: str, name: str) -> str:
  """A text in which all that a pattern matches has a class of that name."""
  return re.sub(pattern, rf'<span class="{name}">\g<0></span>', text)
