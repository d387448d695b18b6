"""Turns the cloud's notice of a preemption into SIGTERM.

Compute Engine has a metadata server, where a request waits until a value
changes. It announces a preemption or a host maintenance before the processes of
the VM get a signal.
"""

import os
import pathlib
import signal
import threading
import time
import urllib.request
from collections.abc import Callable

from sitrain.runtime.logs import note

# Values under computeMetadata/v1/instance that announce the end of the VM.
ENDS = {
  "preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE",
}
HOST = "metadata.google.internal"
PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")
WAIT = 60  # seconds that the server holds a request
PAUSE = 10.0  # seconds after an error


def is_on_compute_engine() -> bool:
  """Whether this machine has a metadata server; same rules as google-auth.

  GCE_METADATA_HOST names one; NO_GCE_CHECK=true disables the check.
  """
  if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
    return False
  try:
    google = "Google" in PRODUCT.read_text()
  except OSError:
    google = False
  return google or "GCE_METADATA_HOST" in os.environ


def end_process() -> None:
  """Sends SIGTERM to this process; signals.py handles it."""
  os.kill(os.getpid(), signal.SIGTERM)


def watch(act: Callable[[], None] = end_process) -> list[threading.Thread]:
  """Waits in threads for notices; calls `act` once for each kind.

  Starts no threads where there is no metadata server.
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
  etag, last_error = "0", ""  # Etag 0: the first reply comes at once.
  while True:
    began, before = time.monotonic(), etag
    try:
      value, etag = _request(name, etag)
    except Exception as error:  # noqa: BLE001  Keep watching.
      if last_error != str(error):  # Log each error once.
        last_error = str(error)
        note(f"no notice of {name}: {type(error).__name__}: {error}")
      time.sleep(PAUSE)
      continue
    if value == end:
      act()
      return
    if etag == before and time.monotonic() - began < 1.0:
      time.sleep(min(1.0, PAUSE))  # The server did not wait for a change.


def _request(name, etag) -> tuple[str, str]:
  """(value, etag), when the value changes or after WAIT seconds."""
  host = os.environ.get("GCE_METADATA_HOST", HOST)
  request = urllib.request.Request(
    f"http://{host}/computeMetadata/v1/instance/{name}"
    f"?wait_for_change=true&timeout_sec={WAIT}&last_etag={etag}",
    headers={"Metadata-Flavor": "Google"},
  )
  with urllib.request.urlopen(request, timeout=WAIT + 30) as reply:
    return reply.read().decode().strip(), reply.headers.get("ETag", "0")
