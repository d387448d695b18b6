"""Rewrites tests so that comparisons follow Python's own rules only."""

import ast
import functools


@functools.lru_cache(maxsize=4096)
def guarded(tests: str) -> str:
  """Tests in which every side of a comparison goes through `__plain__`.

  `f(1) == [2]` becomes `__plain__(f(1)) == [2]`: an answer whose class equals
  everything is refused (see `sandbox_child.plain`). Line numbers stay the same.
  ValueError where the tests are no Python.
  """
  try:
    tree = ast.parse(tests)
  except (SyntaxError, ValueError) as error:
    raise ValueError(f"the tests of a program are no Python: {error}") from None
  lines = tests.encode().splitlines(keepends=True)
  marks = []
  for side in _sides(tree):
    marks.append((side.lineno, side.col_offset, b"__plain__("))
    marks.append((side.end_lineno, side.end_col_offset, b")"))
  # From the end, so that the places of earlier marks stay valid.
  for line, column, text in sorted(marks, reverse=True):
    old = lines[line - 1]
    lines[line - 1] = old[:column] + text + old[column:]
  return b"".join(lines).decode()


def _sides(tree):
  """Sides of all comparisons that are no constants."""
  # Python 3.11 has no positions for the parts of an f-string.
  strings = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
  inside = {id(n) for string in strings for n in ast.walk(string)}
  for node in ast.walk(tree):
    if isinstance(node, ast.Compare) and id(node) not in inside:
      for side in (node.left, *node.comparators):
        if not isinstance(side, ast.Constant):
          yield side
