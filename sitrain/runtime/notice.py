"""The cloud's notice that it takes a machine away counts as SIGTERM.

Compute Engine tells its machines through a server of metadata; a request waits
there until a value changes. A TPU VM that is preempted, or whose host goes into
maintenance, is told so before anything is sent to its processes.
"""

import os
import pathlib
import signal
import threading
import time
import urllib.request
from collections.abc import Callable

from sitrain.runtime.logs import note

# Values under computeMetadata/v1/instance that mean that it ends.
ENDS = {
  "preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE",
}
HOST = "metadata.google.internal"
PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")
WAIT = 60  # seconds that the server holds a request
PAUSE = 10.0  # seconds after an error


def is_on_compute_engine() -> bool:
  """Whether this machine has such a server, as google-auth decides it.

  GCE_METADATA_HOST names one; NO_GCE_CHECK=true says that there is none.
  """
  if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
    return False
  try:
    google = "Google" in PRODUCT.read_text()
  except OSError:
    google = False
  return google or "GCE_METADATA_HOST" in os.environ


def end_process() -> None:
  """Sends this process SIGTERM, which signals.py hears."""
  os.kill(os.getpid(), signal.SIGTERM)


def watch(act: Callable[[], None] = end_process) -> list[threading.Thread]:
  """Waits in threads for a notice, and then calls `act`, once for each kind.

  No threads where there is nobody who tells.
  """
  if not is_on_compute_engine():
    return []
  threads = [
    threading.Thread(
      target=_follow, args=(name, end, act), name=name, daemon=True
    )
    for name, end in ENDS.items()
  ]
  for thread in threads:
    thread.start()
  return threads


def _follow(name, end, act) -> None:
  etag, last_error = "0", ""  # The first request is answered at once.
  while True:
    began, before = time.monotonic(), etag
    try:
      value, etag = _request(name, etag)
    except Exception as error:  # noqa: BLE001  A watcher may not die of a reply.
      if last_error != str(error):  # Not the same line every ten seconds.
        last_error = str(error)
        note(f"no notice of {name}: {type(error).__name__}: {error}")
      time.sleep(PAUSE)
      continue
    if value == end:
      act()
      return
    if etag == before and time.monotonic() - began < 1.0:
      time.sleep(min(1.0, PAUSE))  # It was asked to wait, and did not.


def _request(name, etag) -> tuple[str, str]:
  """The value once it is another than that of `etag`, or after WAIT seconds."""
  host = os.environ.get("GCE_METADATA_HOST", HOST)
  request = urllib.request.Request(
    f"http://{host}/computeMetadata/v1/instance/{name}"
    f"?wait_for_change=true&timeout_sec={WAIT}&last_etag={etag}",
    headers={"Metadata-Flavor": "Google"},
  )
  with urllib.request.urlopen(request, timeout=WAIT + 30) as reply:
    return reply.read().decode().strip(), reply.headers.get("ETag", "0")
