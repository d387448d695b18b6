"""Packages that only some jobs need, by the extra that installs them.

setup.cfg has the same extras. Imports nothing that takes long.
"""

import importlib.util
import sys

# extra -> the modules of its packages, as they are imported.
MODULES = {
  "train": ("absl", "matplotlib", "ml_collections", "tensorboardX"),
  "text": (
    "datasets", "huggingface_hub", "jinja2", "math_verify", "tokenizers",
    "transformers",
  ),
  "gcs": ("gcsfs",),
  "kernels": ("tokamax",),
  "tensorflow": ("tensorflow_text",),
  "wandb": ("wandb",),
  "trackio": ("trackio",),
  "mlflow": ("mlflow",),
}
# Modules that come along with one of these.
ALONG = {
  "google": "tensorflow", "latex2sympy2_extended": "text", "mpmath": "text",
  "pyarrow": "text", "sympy": "text", "tensorflow": "tensorflow",
}


def extra_of(module: str) -> str:
  """The extra that installs a module, or ""."""
  name = module.partition(".")[0]
  found = (extra for extra, names in MODULES.items() if name in names)
  return next(found, ALONG.get(name, ""))


def line(error: ImportError) -> str:
  """One line about a missing package of an extra, with the fix; or ""."""
  names = [name for names in MODULES.values() for name in names]
  # Some libraries raise ImportErrors of their own: "Install gcsfs to access".
  named = (name for name in names if name in str(error).split())
  name = (error.name or next(named, "")).partition(".")[0]
  return _missing((name,), extra) if (extra := extra_of(name)) else ""


def require(extra: str) -> None:
  """Ends the process with a line and exit code 2 where packages are missing."""
  if missing := [name for name in MODULES[extra] if not _found(name)]:
    print(f"error: {_missing(missing, extra)}", file=sys.stderr)
    sys.exit(2)


def _found(name: str) -> bool:
  spec = importlib.util.find_spec(name)
  # A folder of that name in the current one is no package.
  return spec is not None and spec.loader is not None and bool(spec.origin)


def _missing(names: list[str] | tuple[str, ...], extra: str) -> str:
  verb = "is" if len(names) == 1 else "are"
  return (
    f"{', '.join(names)} {verb} not installed: pip install 'sitrain[{extra}]'"
  )
