"""Weights of the Hugging Face hub as parameters of the decoder, and back.

Tensors are read slice by slice, layer by layer, straight into the shards of
the arrays: a process reads what its devices hold, and never holds a model.
"""

import collections
import functools
import itertools
import json
import math
import re
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import download, families, layout, tensorfile
from sitrain.models.huggingface.tensorfile import Tensor
from sitrain.types import Params

locate = download.locate
read_config = download.read_config
_NO_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$")  # tables of old files


def from_folder(folder: Any, **options: Any) -> Decoder:
  """The decoder of a checkpoint; `options` are those of families.EXECUTION.

  Raises ValueError for other options and for what is not supported.
  """
  for name in options:
    if name not in families.EXECUTION:
      raise ValueError(
        f"{name} of {folder} is decided by its config.json: only"
        f" {', '.join(families.EXECUTION)} can be set"
      )
  return Decoder(**families.decoder_fields(read_config(folder)), **options)


def is_scorer(folder: Any) -> bool:
  """Whether a checkpoint scores texts (...ForSequenceClassification)."""
  return families.is_scorer(read_config(folder))


def check_writes(folder: Any) -> None:
  """Raises ValueError for a checkpoint that writes no text."""
  if is_scorer(folder):
    raise ValueError(
      f"it is a {read_config(folder)['architectures'][0]}, which scores texts"
      " and writes none: give it to a role, as config.roles.NAME.path"
    )


def read(folder: Any, model: Decoder, abstract: Params) -> Params:
  """The parameters of a checkpoint, laid out as `abstract` says.

  Args:
    folder: with config.json and safetensors, on a disk or gs://.
    model: the decoder that they are for.
    abstract: ShapeDtypeStructs, as of `decoder.init`; numbers are cast, slice
      by slice, where a dtype is not the file's.

  Raises ValueError for files that are missing or damaged, and for tensors that
  are missing, of another shape than config.json says, or that nobody uses.
  """
  config = read_config(folder)
  families.check_fits(model, config)
  names, found = families.names(config), tensorfile.read_headers(folder)
  leaves, tree = _by_path(abstract), jax.tree.structure(abstract)
  if odd := sorted(leaves.keys() ^ names.keys()):
    raise ValueError(
      f"the wanted parameters differ from the model of {folder} in {odd[0]}"
    )
  spans = _spans(names, leaves)
  sources = {
    path: _sources(folder, found, names[path], path, leaf.shape, spans[path])
    for path, leaf in leaves.items()
  }
  _check_rest(folder, found, sources, config)
  arrays = [
    layout.read_array(path, sources[path], leaf)
    for path, leaf in leaves.items()
  ]
  return jax.tree.unflatten(tree, arrays)


def _spans(names, leaves) -> dict[str, tuple[int, int]]:
  """The first row of each parameter in its tensor, and the rows of that.

  Parameters of one name are parts of one tensor, one after the other.
  """
  first, total = {}, collections.Counter()
  for path, name in names.items():
    shape = leaves[path].shape[layout.stacked(path) :]
    first[path] = total[name]
    total[name] += layout.stored_shape(path, shape)[0]
  return {path: (row, total[names[path]]) for path, row in first.items()}


def _sources(folder, found, template, path, shape, span) -> list[Tensor]:
  """The tensors of a parameter, layer by layer, checked."""
  count, (first, total) = layout.stacked(path), span
  own, *rest = layout.stored_shape(path, shape[count:])
  wanted, sources = (total, *rest), []
  for index in np.ndindex(shape[:count]):
    name = template.format(*index)
    if name not in found:
      raise ValueError(
        f"{folder} has no tensor {name}, which its config.json calls for: copy"
        " the files again, or correct config.json"
      )
    if found[name].shape != wanted:
      raise ValueError(
        f"tensor {name} of {folder} is {list(found[name].shape)}, its"
        f" config.json calls for {list(wanted)}: correct one of them"
      )
    sources.append(tensorfile.part(found[name], first, own))
  return sources


def _check_rest(folder, found, sources, config):
  """Raises ValueError for a tensor that no parameter is made of."""
  kind = families.family(config)
  used = {tensor.name for each in sources.values() for tensor in each}
  for name in found:
    if name in used or name.startswith(kind.others or ("\0",)):
      continue
    if _NO_WEIGHTS.search(name):
      continue
    if name == kind.prefix + "lm_head.weight":
      if _same(found[name], sources["embed"][0]):
        continue
      raise ValueError(
        f"{folder} has {name} unlike its embedding, but its config.json has"
        " tie_word_embeddings: correct config.json"
      )
    raise ValueError(
      f"tensor {name} of {folder} has no place in the architecture of its"
      " config.json: correct config.json, or take the tensor out"
    )


def _same(one: Tensor, other: Tensor, rows: int = 4096) -> bool:
  """Whether two tensors are bit for bit the same, read in parts."""
  if (one.shape, one.dtype) != (other.shape, other.dtype):
    return False
  starts = range(0, one.shape[0], rows)
  spans = [(i, min(i + rows, one.shape[0])) for i in starts]
  part = lambda tensor, span: tensorfile.rows(tensor, *span).tobytes()
  return all(part(one, span) == part(other, span) for span in spans)


def write(
  folder: Any,
  model: Decoder,
  params: Params,
  config: dict[str, Any],
  *,
  dtype: Any,
  shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes parameters as safetensors, with config.json, as transformers does.

  Args:
    folder: on a disk or gs://; without a model in it.
    model: the decoder that `params` are of.
    params: the tree of `decoder.init`, with any sharding.
    config: its config.json, as of `read_config` or `describe.config_of`.
    dtype: of the files; numbers are rounded to it.
    shard_bytes: one file holds more only if it is one tensor.

  One tensor at a time is on the host. Every file is written atomically,
  config.json the last. All processes must call this; only the first writes.
  Raises ValueError where the model is not that of `config`, for parameters
  that its architecture has no tensor for, and where the folder is taken.
  """
  folder, config = epath.Path(folder), families.text_config(config)
  families.check_fits(model, config)
  _check_all_named(params, config)
  plan = _plan(config, params, np.dtype(dtype), shard_bytes)
  _check_free(folder, plan)
  main = jax.process_index() == 0
  if main:
    folder.mkdir(parents=True, exist_ok=True)
  total = 0
  for file, entries in plan.items():
    shapes = {name: shape for name, (_, shape) in entries.items()}
    header, size = tensorfile.header_of(shapes, np.dtype(dtype))
    parts = itertools.chain([header], _bytes(params, entries, dtype))
    if main:
      tensorfile.write_whole(folder / file, parts)
    else:
      collections.deque(parts, maxlen=0)
    total += size
  if main:
    _write_json(folder, plan, config, total, np.dtype(dtype))
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("sitrain_weights_written")


def _check_all_named(params, config):
  """Raises ValueError where a parameter has no tensor, or a tensor none."""
  odd = sorted(_by_path(params).keys() ^ families.names(config).keys())
  if odd:
    raise ValueError(
      f"these parameters differ from {config['architectures'][0]} in"
      f" {', '.join(odd)}: export a policy, with its adapters merged; a scalar"
      " head has no place there"
    )


def _plan(config, params, dtype, shard_bytes):
  """file -> name of a tensor -> (its parts, its shape), in their order.

  A part is (path, index on the stacked axes) of a parameter.
  """
  leaves, entries = _by_path(params), {}
  for path, template in families.names(config).items():
    count, shape = layout.stacked(path), leaves[path].shape
    rows, *rest = layout.stored_shape(path, shape[count:])
    for index in np.ndindex(shape[:count]):
      name = template.format(*index)
      parts, (before, *_) = entries.get(name, ((), (0,)))
      entries[name] = (*parts, (path, index)), (before + rows, *rest)
  files, room = [], 0
  for name, entry in entries.items():
    size = math.prod(entry[1]) * dtype.itemsize
    if size > room or not files:
      files.append({})
      room = shard_bytes
    files[-1][name] = entry
    room -= size
  if len(files) == 1:
    return {tensorfile.SINGLE: files[0]}
  name = "model-{:05d}-of-{:05d}.safetensors"
  return {name.format(i, len(files)): f for i, f in enumerate(files, 1)}


def _by_path(tree):
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  path_of = functools.partial(
    jax.tree_util.keystr, simple=True, separator="/"
  )
  return {path_of(path): leaf for path, leaf in flat}


def _check_free(folder, plan):
  """Raises ValueError where a folder holds other weights, or a model."""
  names = [p.name for p in folder.iterdir()] if folder.exists() else []
  other = [n for n in names if n.endswith(".safetensors") and n not in plan]
  if other or "config.json" in names or tensorfile.INDEX in names:
    raise ValueError(
      f"{folder} holds a model already: give another folder, or delete it"
    )


def _bytes(params, entries, dtype):
  """The tensors of a file, one after the other."""
  leaves = _by_path(params)
  for parts, _ in entries.values():
    for path, index in parts:
      value = layout.host_slice(leaves[path], index, dtype)
      yield layout.stored(path, value).view(np.uint8).data


def _write_json(folder, plan, config, total, dtype):
  texts = {}
  if len(plan) > 1:
    places = {name: file for file, names in plan.items() for name in names}
    texts[tensorfile.INDEX] = {
      "metadata": {"total_size": total}, "weight_map": places
    }
  # Older readers know the dtype by its older name.
  texts["config.json"] = config | {
    "dtype": dtype.name, "torch_dtype": dtype.name
  }
  for file, value in texts.items():
    text = json.dumps(value, indent=2).encode()
    tensorfile.write_whole(folder / file, [text])
