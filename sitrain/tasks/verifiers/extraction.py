"""Finds the program in a model's text: between markers, or in a fence.

A model's text is never parsed as Python here. It is read line by line, because
a pattern over the text could take time that grows with its square.
"""

import re
import textwrap
from typing import NamedTuple

BEGIN, DONE = "[BEGIN]", "[DONE]"
DEFINITION = re.compile(r"^[ \t]*(?:async +def|def|class)\b", re.MULTILINE)
NAME = re.compile(r"^(?:async +def|def|class) +(\w+)", re.MULTILINE)
MARKER = re.compile(r"\[BEGIN\]|\[DONE\]")
# A comment sign or Markdown may precede a marker on its line.
PREFIX = re.compile(r"[\s#*_`>]*")
SPECIAL = re.compile(r"(?:[\s#*_`.]|<\|[^|<>\n]{1,40}\|>|</s>)*")
ENDS = re.compile(r"(?:<\|[^|<>\s]{1,40}\|>|</s>|<end_of_turn>)\s*$")
FENCE = re.compile(r"([ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?)(`{3,}|~{3,})(.*)")
# A fence that begins behind a sentence: "Here it is: ```python".
BEHIND = re.compile(
  r"([ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?)[^`~]{1,300}"
  r"(?::[ \t]*(?=`+\s*$)|[ \t:](?=`+i?py))(`{3,})"
  r"((?:i?py(?:thon)?[0-9.]*)?\s*)", re.IGNORECASE
)
# The first word of an info string: python3.11, py, ipython, {.python}.
PYTHON = re.compile(r"[{\s.]*(?:i?py(?:thon)?[0-9.]*)?(?![\w-])", re.IGNORECASE)
ANY = ("", "txt", "text", "plaintext", "code", "pycon")
THOUGHT = "</think>"
MAX_SEARCHED = 200_000  # characters at the end of a text that are searched
# How a program begins that stands in no fence.
END = re.compile(r"\[END\](?=[\s*_`]{0,9}$)", re.MULTILINE)
# What stands in the body of a function, and hardly ever outside of it.
BODY = re.compile(
  r"^(?:return|yield|for|while|with|try|if(?! __name__))\b", re.MULTILINE
)
CODE = re.compile(r"\s*(?:def|class|import|from|async def|@\w)\b")


class Block(NamedTuple):
  """A fenced block: its info string, its lines, and whether it was closed."""

  info: str
  text: str
  closed: bool


def strict_program(text: str) -> str:
  """The program of a text in the form that the prompt requests, else "".

  It is the text in the last [BEGIN] ... [DONE], where [BEGIN] may be in the
  prompt; or, without such a pair, in the only fenced block of Python. Text
  before </think> does not count. For rewards.
  """
  text = _final_part(text)
  marked = _marked(text)
  if marked is not None:
    return _unfenced(marked)
  blocks = [block for block in _fenced(text) if _is_python(block)]
  if len(blocks) == 1 and blocks[0].closed:
    return trimmed(blocks[0].text)
  return _before_fence(text)


def lenient_program(text: str) -> str:
  """The likeliest program of a text: all of it if nothing is marked.

  It is the program of `strict_program`, else the text after the last [BEGIN],
  else the last fenced block that defines something, with the blocks before it
  whose names it uses, else the last fenced block, else a block that was never
  closed, else the text itself. For reports.
  """
  found = strict_program(text)
  if found:
    return found
  text = _final_part(text)
  if BEGIN in text and not _fenced(text.rpartition(BEGIN)[0]):
    return _unfenced(text.rpartition(BEGIN)[2].partition(DONE)[0])
  blocks = _fenced(_loose(text), loose=True)
  python = [b for b in blocks if _is_python(b)] or [
    b for b in blocks if b.info.strip().lower() in ANY
  ]
  defining = [b.text for b in python if DEFINITION.search(b.text)]
  if defining:
    return trimmed(_with_helpers(defining))
  before = _before_fence(text, strictly=False)
  if before:
    return before
  if python:
    return trimmed(python[-1].text)
  return trimmed(text.partition(DONE)[0])


def _final_part(text: str) -> str:
  """The text after </think>, with "\\n" as the only line end.

  Without the special tokens that end a turn, which may follow a fence.
  """
  text = text[-MAX_SEARCHED:].replace("\r\n", "\n")
  for _ in range(8):
    end = ENDS.search(text, max(0, len(text) - 60))
    if not end:
      break
    text = text[:end.start()]
  rest = text.rpartition(THOUGHT)[2]
  return rest if rest.strip() else text


def _marked(text: str) -> str | None:
  """What stands between the last two markers; None where there is no pair."""
  if BEGIN in text and DONE not in text:
    text = END.sub(DONE, text)
  places = [(hit.start(), hit[0]) for hit in MARKER.finditer(text)]
  pairs = _pairs(text, places)
  likely = [pair for pair in pairs if _own_line(text, pair[0])]
  # A sentence may name the markers, but it is one line.
  likely = likely or [x for x in pairs if "\n" in text[x[0]:x[1]].strip()]
  if likely:
    start, end = likely[-1]
    return _bare(text[start + len(BEGIN):end])
  first = next((at for at, mark in places if mark == DONE), None)
  if first is not None and not any(
    at < first for at, mark in places if mark == BEGIN
  ):
    return _bare(trimmed(text[:first]))
  if pairs and not _fenced(text):
    start, end = pairs[-1]
    return _bare(text[start + len(BEGIN):end])
  return None if pairs or first is None or _fenced(text) else ""


def _pairs(text, places) -> list[tuple[int, int]]:
  """(start of a [BEGIN], start of its [DONE]).

  A [DONE] at the end of its line is preferred to one inside, as in a string.
  """
  found: list[tuple[int, int]] = []
  start = inside = None
  for at, mark in places:
    if mark == BEGIN:
      if start is not None and inside is not None:
        found.append((start, inside))
      if start is None or inside is not None or _own_line(text, at):
        start, inside = at, None
    elif start is not None:
      if _ends_line(text, at):
        found.append((start, at))
        start = inside = None
      elif inside is None:
        inside = at
  if start is not None and inside is not None:
    found.append((start, inside))
  return found


def _own_line(text: str, at: int) -> bool:
  # Only near characters are read: a text may be one line of markers.
  near = text[max(0, at - 100):at]
  line = near.rpartition("\n")
  return bool(line[1] or at <= 100) and bool(PREFIX.fullmatch(line[2]))


def _ends_line(text: str, at: int) -> bool:
  end = at + len(DONE)
  near = text[end:end + 200].partition("\n")
  complete = bool(near[1]) or len(text) <= end + 200
  return complete and bool(SPECIAL.fullmatch(near[0]))


def _bare(text: str) -> str:
  """The text without Markdown next to the markers."""
  head, line, rest = text.partition("\n")
  if line and not head.strip(" \t*_`"):
    text = line + rest
  elif CODE.match(head):  # "[BEGIN] def f(x):"
    text = text.lstrip(" \t")
  head, line, rest = text.rpartition("\n")
  return head if line and not rest.strip(" \t*_`#") else text


def _unfenced(text: str) -> str:
  """The program in the text between markers, which may be fenced."""
  body = trimmed(text)
  lines = body.split("\n")
  if FENCE.match(lines[0]):
    blocks = _fenced(body, loose=True)
    defining = [b.text for b in blocks if DEFINITION.search(b.text)]
    return trimmed(defining[-1] if defining else blocks[0].text)
  if not DEFINITION.search(body.partition("```")[0]) and "```" in body:
    blocks = [b for b in _fenced(body) if _is_python(b)]
    if len(blocks) == 1:  # a sentence before the fence
      return trimmed(blocks[0].text)
  fences = [i for i, line in enumerate(lines) if FENCE.match(line)]
  if fences == [len(lines) - 1]:  # the prompt had opened it
    return trimmed("\n".join(lines[:-1]))
  return body


def _is_python(block: Block) -> bool:
  return bool(PYTHON.match(block.info))


def _fenced(text: str, *, loose: bool = False) -> list[Block]:
  """The fenced blocks of a text; an open one is the last.

  A fence is closed by one of the same sign, at least as long, and not further
  to the right: a docstring may hold an example in a fence. loose: text behind
  the sign is allowed, and opens another block if it names Python.
  """
  blocks: list[Block] = []
  info, sign, indent, inside = "", "", 0, None
  for line in text.split("\n"):
    found = FENCE.match(line)
    if inside is None:
      if not found and "`" in line:
        found = BEHIND.fullmatch(line[:400])
      if found and "`" not in found[3]:
        info, sign, indent, inside = found[3], found[2], len(found[1]), []
    elif found and _closes(found, sign, indent, loose):
      blocks.append(Block(info, "\n".join(inside), True))
      inside = None
      if found[3].strip() and PYTHON.match(found[3]):
        info, inside = found[3], []
    else:
      inside.append(_shifted(line, indent))
  if inside is not None:
    blocks.append(Block(info, "\n".join(inside), False))
  return blocks


def _closes(found: re.Match, sign: str, indent: int, loose: bool) -> bool:
  same = found[2][0] == sign[0] and len(found[2]) >= len(sign)
  bare = not found[1].strip() and (loose or not found[3].strip())
  return same and bare and len(found[1]) <= indent


def _shifted(line: str, indent: int) -> str:
  """A line without the indentation of its fence."""
  space = len(line) - len(line.lstrip(" \t"))
  return line[min(indent, space):]


def _before_fence(text: str, *, strictly: bool = True) -> str:
  """A program before the only fence of a text, which the prompt had opened."""
  lines = text.split("\n")
  fences = [i for i, line in enumerate(lines) if FENCE.match(line)]
  if len(fences) != 1 or FENCE.match(lines[fences[0]])[3].strip():
    return ""
  head, tail = lines[:fences[0]], lines[fences[0] + 1:]
  body = "\n".join(head)
  if strictly and ("".join(tail).strip() or not CODE.match(body)):
    return ""
  return trimmed(body) if DEFINITION.search(body) else ""


def _loose(text: str) -> str:
  """Moves fences in quotes or on a line with code to their own lines."""
  if re.search(r"^> ?[`~]{3}", text, re.MULTILINE):
    text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
  lines = []
  for line in text.split("\n"):
    one = re.fullmatch(r"```(\w*) +(\S.*?) *```\s*", line[:4000])
    head = line.rstrip()
    if one:
      lines += [f"```{one[1]}", one[2], "```"]
    elif head.endswith("```") and head.strip("` \t") and "#" not in head:
      lines += [head[:-3], "```"]
    else:
      lines.append(line)
  return "\n".join(lines)


def _with_helpers(blocks: list[str]) -> str:
  """The last block, after the earlier blocks that define names it uses."""
  *others, program = blocks[-20:]
  for block in reversed(others):
    new = set(NAME.findall(block)) - set(NAME.findall(program))
    if new & set(re.findall(r"\w+", program)) and not (
      set(NAME.findall(block)) - new
    ):
      program = f"{block}\n\n{program}"
  return program


def trimmed(text: str) -> str:
  """Without blank lines around it, and without the indentation of the whole.

  Only of a program: the body of a function keeps its indentation.
  """
  lines = text.replace("\r\n", "\n").rstrip().split("\n")
  first = next((i for i, line in enumerate(lines) if line.strip()), 0)
  found = "\n".join(lines[first:])
  space = re.match(r"[ \t]*", lines[first])[0]
  if not space:
    return found
  flat = "\n".join(line.removeprefix(space) for line in lines[first:])
  return flat if NAME.search(flat) and not BODY.search(flat) else found


def normalised(program: str) -> str:
  """A program without layout, for counting votes.

  Drops lines of comments, blank lines, space at the end of lines and common
  indentation. Names and expressions are left alone.
  """
  lines = [line.rstrip() for line in program.expandtabs(4).split("\n")]
  kept = [x for x in lines if x and not x.lstrip().startswith("#")]
  return textwrap.dedent("\n".join(kept))
