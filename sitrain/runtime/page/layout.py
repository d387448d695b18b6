"""The frame of a page: one file, with its style, its script, and no network."""

import base64
import functools
import hashlib
import html
import importlib.resources
from collections.abc import Sequence

from etils import epath

from sitrain.runtime.storage import write_whole


@functools.cache
def part(name: str) -> str:
  """A file that stands beside this one."""
  files = importlib.resources.files("sitrain.runtime.page")
  return (files / name).read_text(encoding="utf-8")


def write(target: epath.Path, text: str) -> None:
  """Writes a page; half of a surrogate pair, which is no text, is a "?"."""
  write_whole(target, text.encode("utf-8", errors="replace"))


def section(title: str, body: str) -> str:
  """A part of a page with its title; "" without content."""
  if not body:
    return ""
  return f'<h2 id="{_anchor(title)}">{html.escape(title)}</h2>\n{body}\n'


def folded(title: str, body: str) -> str:
  """What is shown on a click; "" without content."""
  if not body:
    return ""
  return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def page(
  *, title: str, name: str, below: Sequence[str], sections: dict[str, str]
) -> str:
  """The page; `below` are paragraphs of HTML, `sections` has HTML by title.

  The policy in its head forbids every load, and every script but ours: what a
  model has written is escaped, and could do nothing if it were not.
  """
  script = part("script.js")
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
  )
  links = "".join(
    f'<a href="#{_anchor(each)}">{html.escape(each)}</a>'
    for each, body in sections.items() if body
  )
  paragraphs = "".join(f"<p {each}</p>" for each in below)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(f'{name}: {title}')}</title>"
    f"<style>{part('style.css')}</style></head><body>\n"
    f'<p class="name">{html.escape(name)}</p><h1>{html.escape(title)}</h1>'
    f"{paragraphs}<nav>{links}</nav>\n"
    + "".join(section(each, body) for each, body in sections.items())
    + f"<script>{script}</script></body></html>\n"
  )


def _anchor(title: str) -> str:
  return "".join(c if c.isalnum() else "-" for c in title.lower())
