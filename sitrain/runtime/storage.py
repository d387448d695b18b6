"""Folders on gs:// and on disks: may a run write there, and what went wrong."""

import contextlib
import errno
import logging
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
