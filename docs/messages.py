"""The messages that the package can print, found in its code.

docs/generate.py makes a page of them, and the tests compare the headings of
docs/troubleshooting.md with them.
"""

import ast
import functools
import pathlib
import re
from typing import NamedTuple

from sitrain.runtime import alarms

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Message(NamedTuple):
  """An error or a warning of the package."""

  text: str  # {...} where a value is put in
  kind: str
  file: str
  line: int


@functools.cache
def messages() -> list[Message]:
  """The texts of `raise`, logged warnings, alarms and lines of sitrain/."""
  found = []
  for path in sorted((ROOT / "sitrain").rglob("*.py")):
    file = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Return) and file.startswith("sitrain/runtime/"):
        # A line about what was found, which another function prints.
        text = _template(node.value) if node.value else ""
        if len(text.split()) >= 5:
          found.append(Message(text, "line", file, node.lineno))
        continue
      call = node.exc if isinstance(node, ast.Raise) else node
      if not isinstance(call, ast.Call) or not call.args:
        continue
      name = ast.unparse(call.func)
      raised = isinstance(node, ast.Raise)
      if raised or re.search(r"\b(warn|warning|error)$", name):
        if text := _template(call.args[0]):
          found.append(Message(text, name, file, node.lineno))
  found += [
    Message(f"{alarm.means}: {alarm.fix}", "alarm", "alarms while it trains", 0)
    for alarm in alarms.ALARMS
  ]
  return found


def _template(node: ast.expr) -> str:
  """A string or an f-string, with the names of what is put in; or ""."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return " ".join(node.value.split())
  if isinstance(node, ast.JoinedStr):
    parts = [
      part.value if isinstance(part, ast.Constant)
      else "{" + ast.unparse(part.value) + "}" for part in node.values
    ]
    return " ".join("".join(parts).split())
  if isinstance(node, ast.IfExp):
    return _template(node.body)
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
    left, right = _template(node.left), _template(node.right)
    return f"{left} {right}".strip()
  return ""


def page() -> str:
  """All messages, by the file that prints them."""
  lines = [
    "# Messages", "",
    "Errors, warnings and alarms of the package, made from the code; `{...}` is"
    " a value. Search for a few words of yours. Most say themselves what to do;"
    " [Troubleshooting](troubleshooting.md) has those that need more. Missing"
    " are texts that are put together in several places.", "",
  ]
  file = ""
  for message in messages():
    if message.file != file:
      file = message.file
      lines += ["", f"## {file}", ""]
    lines.append(f"- `{message.text.replace('`', chr(39))}`")
  return "\n".join(lines) + "\n"
