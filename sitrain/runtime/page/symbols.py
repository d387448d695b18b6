"""What the symbols of a task mean whose problems are no text."""

import html
import importlib
import re
from collections.abc import Callable
from typing import Any

Drawing = Callable[[str], str]  # of a prompt; "" where there is none


def module_of(config: dict[str, Any]) -> Any:
  """The file of the package that has the task of a config, or ()."""
  options = config.get("task")
  name = options.get("name", "") if isinstance(options, dict) else ""
  if not isinstance(name, str) or not re.fullmatch(r"[a-z_0-9]+", name):
    return ()
  try:
    return importlib.import_module(f"sitrain.tasks.{name}")
  except ImportError:  # A run of another version, or an extra is missing.
    return ()


def of_task(config: dict[str, Any]) -> tuple[tuple[str, str], ...]:
  """(symbol, meaning) of the task of a config: SYMBOLS of its file, or ()."""
  return getattr(module_of(config), "SYMBOLS", ())


def drawing_of(config: dict[str, Any]) -> Drawing:
  """A problem as people read it: `drawing` of the task's file."""
  return getattr(module_of(config), "drawing", lambda prompt: "")


def legend(config: dict[str, Any]) -> str:
  """The symbols as a list; "" where there are none."""
  items = "".join(
    f"<div><dt>{html.escape(symbol)}</dt><dd>{html.escape(meaning)}</dd></div>"
    for symbol, meaning in of_task(config)
  )
  return f'<dl class="symbols">{items}</dl>' if items else ""
