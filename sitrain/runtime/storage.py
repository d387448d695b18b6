"""Folders on gs:// and on disks: write checks, and errors in one line."""

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

# Cached listings of gcsfs do not show what other processes have written since.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
# Its final errors are raised too, and reported in one line.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

_FULL = "no space left"
# Numbers of errors of a disk that takes no more, and the same in the texts of
# Tensorstore, which raises ValueErrors.
_NO_MORE = {
  errno.ENOSPC: _FULL, errno.EDQUOT: "disk quota exceeded",
  errno.EFBIG: "file too large [os_error",
}
AGAIN = "start the same command again; finished checkpoints are intact"
FIXES = {  # by number, as in _NO_MORE
  errno.ENOSPC: f"free some space and {AGAIN}",
  errno.EDQUOT: f"free some space or raise the quota, and {AGAIN}",
  errno.EFBIG: f"raise the limit of file sizes (ulimit -f) and {AGAIN}",
}
# Text of an error, in lower case, and what the user should do about it.
_MEANINGS = (
  (
    (_FULL,),
    f"{_FULL} in {{}}: {FIXES[errno.ENOSPC]}",
  ),
  (
    (_NO_MORE[errno.EFBIG],),
    "{} has a file that is larger than this process may write:"
    f" {FIXES[errno.EFBIG]}",
  ),
  (
    ("quota",),
    f"the quota of {{}} is used up: {FIXES[errno.EDQUOT]}",
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
  """An error of a disk or a bucket, in one line, with the fix."""

  def __str__(self) -> str:
    return str(self.args[-1])  # Without "[Errno 28]".


def is_remote(path: Any) -> bool:
  """True for gs:// and similar, where files cannot be appended or renamed."""
  return "://" in str(path)


def chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and its causes; some libraries make cycles of them."""
  seen: list[BaseException] = []
  while error is not None and error not in seen:
    seen.append(error)
    yield error
    error = error.__cause__ or error.__context__


def is_of_bucket(error: BaseException) -> bool:
  """Whether gcsfs or Tensorstore raised it, for a bucket.

  Other errors may name a bucket, or a timeout, and mean something else.
  """
  module = type(error).__module__.partition(".")[0]
  tensorstore = re.match(r"[A-Z_]{5,}: .*gs://", str(error), re.DOTALL)
  return module == "gcsfs" or tensorstore is not None


def log_no_further_errors() -> None:
  """Keeps asyncio from logging what Orbax has raised already.

  Orbax reads and writes arrays concurrently and raises the first error. The
  others would be logged with a traceback whenever they are garbage collected.
  """
  logging.getLogger("asyncio").addFilter(_first_of_its_kind)


def _first_of_its_kind(record: logging.LogRecord) -> bool:
  return "exception was never retrieved" not in record.getMessage()


def takes_no_more(error: BaseException) -> int:
  """The errno if a disk is full, or a quota or a limit is used up; else 0."""
  return next(filter(None, map(_no_more, chain(error))), 0)


def _no_more(error: BaseException) -> int:
  number = getattr(error, "errno", None)
  if number is None:
    text = str(error).lower()
    number = next((n for n, words in _NO_MORE.items() if words in text), 0)
  return number if number in _NO_MORE else 0


def meaning(error: BaseException, place: Any) -> str:
  """One line on what is wrong with a place, with the fix; or ""."""
  for one in chain(error):
    if isinstance(one, StorageError):
      return one.args[-1]
    text = _reason(one)
    for words, line in _MEANINGS:
      if text and any(word in text for word in words):
        return line.format(place)
  return ""


def _reason(error: BaseException) -> str:
  """The text of a disk's or a bucket's error, in lower case; else ""."""
  text, module = str(error), type(error).__module__.partition(".")[0]
  if number := _no_more(error):
    text = _NO_MORE[number]
  elif module in ("gcsfs", "google", "aiohttp", "requests"):
    text = f"http {getattr(error, 'code', '')} {text}"
  elif isinstance(error, OSError):
    text = text if error.errno is None else ""  # gcsfs sets no errno.
  elif "gs://" not in text:
    return ""  # Tensorstore raises ValueError for everything.
  if text not in _NO_MORE.values():
    text = text.partition(" [")[0]
  plain = re.sub(r"(gs|https?)://\S+", "", text)
  return f"{type(error).__name__} {plain}".lower()


# Status codes of Tensorstore for corrupted bytes. They have other causes too,
# so the message has to match as well.
_OF_BYTES = re.compile(r"(DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION|Error)\b")
_BAD_BYTES = re.compile(
  r"Error decoding|Truncated|[Dd]ecompress|[Cc]orrupt|[Cc]hecksum|CRC"
  r"|is not valid for value of size"
)
_SYSTEM = re.compile(r"OS error (?!\d+: ENOENT)")
_PART = 200  # characters of a long text, from its start and from its end


def is_damage(error: BaseException, place: Any) -> bool:
  """Whether a read error proves that files under `place` are damaged.

  That is: a file is missing, is not JSON, or has other bytes than were written.
  Everything else may be temporary: open files, memory, permissions, network.
  """
  links = list(_causes(error))
  doubt = any(
    isinstance(x, (OSError, MemoryError))
    and not isinstance(x, FileNotFoundError) for x in links
  )
  if doubt or meaning(error, place):
    return False
  return any(_proves(one, place) for one in links)


def in_words(error: BaseException, place: Any) -> str:
  """Type and text of the cause of an error, in one line.

  Orbax wraps what Tensorstore says in pages of its settings. Paths are those
  below `place`, and the middle of a long text is left out.
  """
  links = list(_causes(error))
  found = next((x for x in links if _proves(x, place)), links[-1])
  text = re.split(r" \[(?:tensorstore_spec|source locations)", str(found))[0]
  text = " ".join(text.replace(f"{place}/", "").split())
  if len(text) > 2 * _PART:
    text = f"{text[:_PART]} ... {text[-_PART:]}"
  return f"{type(found).__name__}: {text}" if text else type(found).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """An error and its causes; not `__context__`, which may be unrelated."""
  seen: list[BaseException] = []
  while error is not None and error not in seen:
    seen.append(error)
    yield error
    error = error.__cause__


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
  """Whether a file under `place` is really missing.

  Some libraries report unreadable files as missing, and so does `Path.exists`.
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
  """The error to raise for an unreadable checkpoint that may be intact."""
  if isinstance(explanation := explained(error, place), StorageError):
    return explanation
  return StorageError(
    f"checkpoint {place} could not be read, and is left as it is:"
    f" {in_words(error, place)}: mend that and start the same command again"
  )


def explained(error: BaseException, place: Any) -> BaseException:
  """StorageError about `place`, or the error itself if it is not of storage."""
  line = meaning(error, place)
  if not line or isinstance(error, StorageError):
    return error
  number = takes_no_more(error)
  return StorageError(*((number, line) if number else (line,)))


@contextlib.contextmanager
def explaining(place: Any) -> Iterator[None]:
  """Turns errors of disks and buckets into StorageErrors about `place`."""
  try:
    yield
  except Exception as error:
    explanation = explained(error, place)
    if explanation is error:
      raise
    raise explanation from error


def write_object(path: epath.Path, content: str | bytes) -> None:
  """Replaces an object in one piece."""
  data = content.encode() if isinstance(content, str) else content
  with explaining(path):
    path.write_bytes(data)


def write_whole(path: Any, content: str | bytes) -> None:
  """Replaces a file or an object in one piece, or leaves it as it was.

  Makes the folder of a file. An error of a full disk names the folder, and no
  half-written file stays.
  """
  path = epath.Path(path)
  if is_remote(path):
    write_object(path, content)
    return
  data = content.encode() if isinstance(content, str) else content
  new = epath.Path(f"{path}.new")
  try:
    with explaining(path.parent):
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # Else a power cut may leave an empty file.
      os.replace(new, path)
  except BaseException:
    with contextlib.suppress(OSError):
      new.unlink()
    raise


def check_writable(folder: Any) -> None:
  """Writes, reads and deletes a small object, if the folder is on gs://.

  Raises StorageError if the bucket does not exist or one of the three is not
  allowed.
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
