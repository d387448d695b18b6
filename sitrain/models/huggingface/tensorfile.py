"""Files of safetensors: the header, and rows of one tensor at a time.

Local files are mapped into memory, those of gs:// are read in ranges, so what
is not asked for is never read. The format: 8 bytes with the length of the
header, the header as JSON, the tensors one after the other.
"""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import fsspec
import ml_dtypes
import numpy as np
from etils import epath

from sitrain.models.huggingface import download

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library

Fetch = Callable[[int, int], np.ndarray]  # (start, stop) -> uint8


class Tensor(NamedTuple):
  """One tensor of a file."""

  name: str
  file: str
  dtype: np.dtype
  shape: tuple[int, ...]
  start: int  # its first byte in the file
  fetch: Fetch


def read_headers(folder: Any) -> dict[str, Tensor]:
  """All tensors of a folder by name, from one file or many; none is read.

  Raises ValueError for files that are missing, cut off or damaged.
  """
  folder = epath.Path(folder)
  if (folder / SINGLE).exists():
    return read_header(folder / SINGLE)
  if not (folder / INDEX).exists():
    raise ValueError(
      f"{folder} holds neither {SINGLE} nor {INDEX}: give a checkpoint in"
      " safetensors"
    )
  places, found = download.read_json(folder / INDEX)["weight_map"], {}
  for file in sorted(set(places.values())):
    if not (folder / file).exists():
      raise ValueError(f"{folder} lacks {file}, which {INDEX} names: copy it")
    found |= read_header(folder / file)
  return found


def read_header(path: epath.Path) -> dict[str, Tensor]:
  """The tensors of a file by name; none of them is read.

  Raises ValueError for a file that is no safetensors or not whole, and for a
  tensor that is not of floating point numbers.
  """
  size, fetch = int(path.stat().length), opened(path)
  length = int.from_bytes(fetch(0, 8).tobytes(), "little") if size > 8 else 0
  if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
    raise ValueError(
      f"{path} is no safetensors file or was cut off ({size} bytes): copy it"
      " again"
    )
  try:
    header = json.loads(fetch(8, 8 + length).tobytes())
  except ValueError as error:
    raise ValueError(f"{path} has a damaged header: copy it again") from error
  header.pop("__metadata__", None)
  promised = max((x["data_offsets"][1] for x in header.values()), default=0)
  if size < 8 + length + promised:
    raise ValueError(
      f"{path} was cut off: it has {size} of {8 + length + promised} bytes:"
      " copy it again"
    )
  return {
    name: _tensor(name, path, entry, 8 + length, fetch)
    for name, entry in header.items()
  }


def _tensor(name, path, entry, begin, fetch):
  if entry["dtype"] not in DTYPES:
    raise ValueError(
      f"tensor {name} of {path} is of {entry['dtype']}: supported are"
      f" {', '.join(DTYPES)}; give a checkpoint that is not quantized"
    )
  dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
  start, stop = entry["data_offsets"]
  if stop - start != math.prod(shape) * dtype.itemsize:
    raise ValueError(
      f"tensor {name} of {path} has {stop - start} bytes for"
      f" {entry['dtype']}{list(shape)}: copy the file again"
    )
  return Tensor(name, str(path), dtype, shape, begin + start, fetch)


def opened(path: epath.Path) -> Fetch:
  """How to fetch bytes of a file, from several threads at once."""
  if "://" not in str(path):
    data = np.memmap(path, np.uint8, "r") if path.stat().length else b""
    return lambda start, stop: data[start:stop]
  files, name = fsspec.url_to_fs(str(path))

  def fetch(start, stop):
    return np.frombuffer(files.cat_file(name, start, stop), np.uint8)

  return fetch


def rows(tensor: Tensor, start: int, stop: int) -> np.ndarray:
  """Elements start..stop-1 of the first axis; a view where that is free."""
  width = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
  data = tensor.fetch(tensor.start + start * width, tensor.start + stop * width)
  if data.nbytes != (stop - start) * width:
    raise ValueError(
      f"{tensor.file} has become shorter while it was read: copy it again"
    )
  return data.view(tensor.dtype).reshape(stop - start, *tensor.shape[1:])


def part(tensor: Tensor, first: int, count: int) -> Tensor:
  """Some elements of the first axis, as a tensor of its own."""
  shape = (count, *tensor.shape[1:])
  width = math.prod(shape[1:]) * tensor.dtype.itemsize
  return tensor._replace(shape=shape, start=tensor.start + first * width)


def header_of(
  shapes: dict[str, tuple[int, ...]], dtype: np.dtype
) -> tuple[bytes, int]:
  """First bytes of a file with tensors of one dtype, and how many follow."""
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  start = 0
  for name, shape in shapes.items():
    stop = start + math.prod(shape) * dtype.itemsize
    header[name] = {
      "dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, stop]
    }
    start = stop
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # Tensors start at a multiple of 8 bytes.
  return len(text).to_bytes(8, "little") + text, start


def write_whole(path: epath.Path, parts: Iterable[bytes | memoryview]) -> None:
  """Writes a file atomically: a reader sees all of it or nothing."""
  if "://" in str(path):  # An object appears when it is closed.
    _write(path, parts)
    return
  new = path.parent / f"{path.name}.new"
  _write(new, parts)
  new.replace(path)


def _write(path, parts):
  with path.open("wb") as file:
    for part in parts:
      file.write(part)
