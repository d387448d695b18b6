"""The package versions of a run: saved in its workdir and compared later."""

import logging
from importlib import metadata
from typing import Any

from etils import epath

from sitrain.runtime.storage import write_whole

_LOG = logging.getLogger("sitrain")
_FILE = "packages.txt"
_INSTALLERS = ("pip", "setuptools", "wheel")  # they change no sample


def installed() -> dict[str, str]:
  """name -> version of packages from an index, as `pip freeze` lists them."""
  found = {}
  for each in metadata.distributions():
    name = (each.name or "").lower().replace("_", "-")
    # Installs from a folder or a URL have no version that pip could install,
    # and a source tree on the path (its egg-info) was never installed.
    if not name or name in _INSTALLERS or not each.read_text("INSTALLER"):
      continue
    if not each.read_text("direct_url.json"):
      found.setdefault(name, each.version)
  return found


def keep(workdir: Any, found: dict[str, str]) -> None:
  """Writes workdir/packages.txt; warns if a resumed run has other versions.

  The file works with pip's --requirement and --constraint.
  """
  path = epath.Path(workdir) / _FILE
  if not path.exists():
    lines = (f"{name}=={version}\n" for name, version in sorted(found.items()))
    write_whole(path, "".join(lines))
    return
  pairs = (line.partition("==") for line in path.read_text().split())
  begun = {name: version for name, _, version in pairs}
  if changes := differences(begun, found):
    _LOG.warning(
      "the run began with other versions (%s), so that its samples may differ"
      " from here on: pip install -r %s brings them back", changes, path,
    )


def differences(old: dict[str, str], new: dict[str, str]) -> str:
  """Up to five versions that differ, those of JAX first; "" for none.

  Packages of only one side do not count: they change no sample.
  """
  names = [n for n in sorted(old.keys() & new.keys()) if old[n] != new[n]]
  names.sort(key=lambda name: not name.startswith(("jax", "libtpu")))
  shown = [f"{name} {old[name]}, now {new[name]}" for name in names[:5]]
  more = [f"{len(names) - 5} more"] if len(names) > 5 else []
  return "; ".join(shown + more)
