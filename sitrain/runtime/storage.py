"""Folders on gs:// and on disks: may a run write there, and what went wrong."""

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import fsspec
import jax
from etils import epath

# A listing that gcsfs keeps does not show what others have written since.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
# What it gives up on is raised too, and then told in one line.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

_FULL = "no space left"
AGAIN = "start the same command again; finished checkpoints are intact"
# What an error says, in small letters, and what that means for its user.
_MEANINGS = (
  (
    (_FULL,),
    f"{_FULL} for a checkpoint in {{}}: free some space and {AGAIN}",
  ),
  (
    ("quota",),
    f"the quota of {{}} is used up: free some space or raise it, and {AGAIN}",
  ),
  (
    ("forbidden", "permission_denied", "http 403", "access denied"),
    "no permission for {}: give this machine's account the role"
    " roles/storage.objectUser on the bucket, or name another place",
  ),
  (
    ("credentials", "unauthenticated", "http 401"),
    "no credentials for {}: run `gcloud auth application-default login`, or use"
    " a machine with a service account",
  ),
  (
    ("unavailable", "http 5", "http 429", "http 408", "resource_exhausted",
     "deadline_exceeded", "cannot connect", "server disconnected", "timeout"),
    f"{{}} does not answer, though it was asked again and again: {AGAIN}",
  ),
)  # fmt: skip


class StorageError(OSError):
  """One line on a disk or a bucket, and how to mend it."""


def is_remote(path: Any) -> bool:
  """True for gs:// and its like, where there is no appending or renaming."""
  return "://" in str(path)


def chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what it came from; some libraries make rings of them."""
  seen: list[BaseException] = []
  while error is not None and error not in seen:
    seen.append(error)
    yield error
    error = error.__cause__ or error.__context__


def is_of_bucket(error: BaseException) -> bool:
  """Whether a library that talks to buckets has raised it.

  Other errors may name a bucket, or say timeout, and mean something else.
  """
  module = type(error).__module__.partition(".")[0]
  tensorstore = re.match(r"[A-Z_]{5,}: .*gs://", str(error), re.DOTALL)
  return module == "gcsfs" or tensorstore is not None


def meaning(error: BaseException, place: Any) -> str:
  """One line on what is wrong with a place and how to mend it, or ""."""
  for one in chain(error):
    if isinstance(one, StorageError):
      return one.args[-1]
    text = _said(one)
    for words, line in _MEANINGS:
      if text and any(word in text for word in words):
        return line.format(place)
  return ""


def _said(error: BaseException) -> str:
  """What an error of a disk or a store says, in small letters; else ""."""
  text, module = str(error), type(error).__module__.partition(".")[0]
  if isinstance(error, OSError) and error.errno == errno.ENOSPC:
    text = _FULL
  elif module in ("gcsfs", "google", "aiohttp", "requests"):
    text = f"http {getattr(error, 'code', '')} {text}"
  elif isinstance(error, OSError):
    text = text if error.errno is None else ""  # Those of gcsfs have none.
  elif not ("gs://" in text or _FULL in text.lower()):
    return ""  # Tensorstore has ValueErrors for all; those of a place name it.
  plain = re.sub(r"(gs|https?)://\S+", "", text.partition(" [")[0])
  return f"{type(error).__name__} {plain}".lower()


# The states in which Tensorstore reports bytes that are not what was written;
# it has them for other things, too, so its words have to say so as well.
_OF_BYTES = re.compile(r"(DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION|Error)\b")
_BAD_BYTES = re.compile(
  r"Error decoding|Truncated|[Dd]ecompress|[Cc]orrupt|[Cc]hecksum|CRC"
  r"|is not valid for value of size"
)
_SYSTEM = re.compile(r"OS error (?!\d+: ENOENT)")


def is_damage(error: BaseException, place: Any) -> bool:
  """Whether an error of reading proves that files below `place` are damaged.

  A file is missing, is no JSON, or holds other bytes than were written. All
  else may be gone the next time: open files, memory, rights, connections.
  """
  links, link = [], error
  while link is not None and link not in links:
    links.append(link)
    link = link.__cause__  # What else was going on then proves nothing.
  doubt = any(
    isinstance(x, (OSError, MemoryError))
    and not isinstance(x, FileNotFoundError) for x in links
  )
  if doubt or meaning(error, place):
    return False
  return any(_proves(one, place) for one in links)


def _proves(error: BaseException, place: Any) -> bool:
  text = str(error).partition(" [tensorstore_spec")[0]
  if isinstance(error, FileNotFoundError):
    return _is_missing(error, place)
  if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
    return True
  if not isinstance(error, ValueError) or _SYSTEM.search(text):
    return False
  if text.startswith("NOT_FOUND:"):
    return True
  return bool(_OF_BYTES.match(text) and _BAD_BYTES.search(text))


def _is_missing(error: FileNotFoundError, place: Any) -> bool:
  """Whether a file below `place` is missing; some only say so.

  Python's own `exists` says so, too, of what may not be looked at.
  """
  name = str(error.filename or error)
  below = str(place).partition("://")[2] or str(place)
  if below not in name:
    return False
  if is_remote(place) or error.errno == errno.ENOENT:
    return True
  found = re.search(re.escape(below) + r"[^\s'\"]*", name)
  try:
    os.stat(found[0])
  except FileNotFoundError:
    return True
  except OSError:
    return False
  return False


def unreadable(error: BaseException, place: Any) -> BaseException:
  """What to raise where a checkpoint could not be read, and may be whole."""
  if isinstance(told := explained(error, place), StorageError):
    return told
  lines = str(error).strip().splitlines()
  said = f"{type(error).__name__}: {lines[0][:200]}" if lines else repr(error)
  return StorageError(
    f"checkpoint {place} could not be read, and is left as it is: {said}: mend"
    " that and start the same command again"
  )


def explained(error: BaseException, place: Any) -> BaseException:
  """StorageError about `place`, or the error itself if it is of no place."""
  line = meaning(error, place)
  if not line or isinstance(error, StorageError):
    return error
  full = line.startswith(_FULL)
  return StorageError(*((errno.ENOSPC, line) if full else (line,)))


@contextlib.contextmanager
def explaining(place: Any) -> Iterator[None]:
  """Errors of the disk or the store become StorageErrors about `place`."""
  try:
    yield
  except Exception as error:
    told = explained(error, place)
    if told is error:
      raise
    raise told from error


def write_object(path: epath.Path, content: str | bytes) -> None:
  """Replaces an object as a whole; asks again where that may help."""
  data = content.encode() if isinstance(content, str) else content
  with explaining(path):
    path.write_bytes(data)


def check_writable(folder: Any) -> None:
  """Writes, reads and deletes a small object, where the folder is on gs://.

  Raises StorageError where there is no such bucket or where one of the three is
  not allowed.
  """
  if not is_remote(folder):
    return
  bucket = "/".join(str(folder).split("/")[:3])
  path = epath.Path(folder) / f".writable_{jax.process_index()}"
  try:
    with explaining(bucket):
      path.write_text("sitrain")
      path.read_text()
      path.unlink()
  except FileNotFoundError as error:
    raise StorageError(
      f"bucket {bucket} does not exist: `gcloud storage buckets create"
      f" {bucket}` makes it, or give another --workdir"
    ) from error
