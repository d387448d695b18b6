"""Low-rank adapters as folders of PEFT, and back.

A folder has adapter_config.json and adapter_model.safetensors. There the matrix
W [out, in] of a module has lora_A [r, in] and lora_B [out, r], and its model
computes with W + lora_alpha / r * lora_B lora_A. Ours are these, transposed.
"""

import json
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sitrain.models.huggingface import download, families, layout, tensorfile
from sitrain.models.parameters import INPUTS
from sitrain.types import Params

CONFIG, WEIGHTS = download.ADAPTER_FILES
# Options of adapter_config.json that are read, or that change no number of
# adapters that have been trained. Others must have their neutral value.
_READ = (
  "auto_mapping", "base_model_name_or_path", "ensure_weight_tying",
  "eva_config", "exclude_modules", "inference_mode", "init_lora_weights",
  "lora_alpha", "lora_dropout", "loftq_config", "peft_type", "peft_version",
  "r", "revision", "target_modules", "task_type",
)  # fmt: skip
_NEUTRAL = {
  "bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16,
}
# First values of PEFT that leave the weights of the base as they are.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


class Form(NamedTuple):
  """What a run and a folder have to agree on."""

  rank: int
  alpha: float
  names: tuple[str, ...]  # of the projections, sorted


def modules(config: dict[str, Any]) -> dict[str, str]:
  """Each projection -> its module in transformers, {} for the layer's number.

  `config` is the config.json of the base.
  """
  prefix, found = families.family(config).prefix, {}
  for path, tensor in families.names(config).items():
    name = path.removeprefix("layers/")
    if name in INPUTS and name != path:
      module = tensor.removeprefix(prefix).removesuffix(".weight")
      # Files have the prefix in front, and transformers has it inside.
      found[name] = module.replace("model.", f"model.{prefix}", 1)
  return found


def names(config: dict[str, Any]) -> dict[str, str]:
  """Path of every adapter ("layers/query_a") -> PEFT's name of the tensor.

  {} stands for the number of the layer.
  """
  return {
    f"layers/{name}_{part}":
      f"base_model.model.{module}.lora_{part.upper()}.weight"
    for name, module in modules(config).items() for part in "ab"
  }


def write(
  folder: Any, adapters: Params, config: dict[str, Any], *, base: str,
  alpha: float, dtype: Any,
) -> None:
  """Writes adapters as a folder that `PeftModel.from_pretrained` loads.

  Args:
    folder: on a disk or gs://; without adapters in it.
    adapters: the tree of `lora.adapters`, with any sharding.
    config: the config.json of the base.
    base: the folder of the base, or its name on the hub, with "@revision".
    alpha: the model computes with W + alpha / rank * A B.
    dtype: of the file.

  adapter_config.json is written last: a folder that has it is complete. All
  processes must call this; only the first writes. Raises ValueError for what
  PEFT has no place for, and where the folder is taken.
  """
  folder, known = epath.Path(folder), names(config)
  leaves = _by_path(adapters)
  _check_written(folder, leaves, config)
  tensors = {
    known[path].format(i): layout.stored(path, layer)
    for path, leaf in leaves.items()
    for i, layer in enumerate(_on_host(leaf.astype(dtype)))
  }
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    rank = next(x.shape[1] for p, x in leaves.items() if p.endswith("_b"))
    chosen = sorted({path[len("layers/"):-2] for path in leaves})
    text = _config_of(config, chosen, base, rank, alpha)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    header, _ = tensorfile.header_of(shapes, np.dtype(dtype))
    parts = (tensor.view(np.uint8).data for tensor in tensors.values())
    tensorfile.write_whole(folder / WEIGHTS, [header, *parts])
    text = json.dumps(text, indent=2).encode()
    tensorfile.write_whole(folder / CONFIG, [text])
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("sitrain_adapters_written")


def _by_path(adapters: Params) -> dict[str, Any]:
  """The leaves by their path, as "layers/query_a"."""
  layers = adapters["layers"].items()
  rest = {name: x for name, x in adapters.items() if name != "layers"}
  return rest | {f"layers/{name}": x for name, x in layers}


def _on_host(leaf: jax.Array) -> np.ndarray:
  if jax.process_count() > 1:
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
  return np.asarray(leaf)


def _check_written(folder, leaves, config):
  named = config["architectures"][0]
  if odd := sorted(leaves.keys() - names(config).keys()):
    raise ValueError(
      f"{', '.join(odd)} of these parameters are no adapters of {named}: export"
      " the model with its adapters merged"
    )
  _check_separate(config, {path[len("layers/"):-2] for path in leaves})
  if (folder / CONFIG).exists():
    raise ValueError(f"{folder} holds adapters already: give another folder")


def _check_separate(config, chosen):
  """Raises ValueError for projections that are one matrix in transformers.

  An adapter of PEFT is one of all of them together.
  """
  known = modules(config)
  theirs = list(known.values())
  shared = [name for name in chosen if theirs.count(known[name]) > 1]
  if shared:
    raise ValueError(
      f"{known[shared[0]].format(0)} of {config['architectures'][0]} is one"
      " matrix of several projections, whose adapters here are none of PEFT:"
      " merge them into their base"
    )


def _config_of(config, chosen, base, rank, alpha) -> dict[str, Any]:
  """adapter_config.json: the options that every version of PEFT reads."""
  theirs = [modules(config)[name] for name in chosen]
  targets: Any = sorted({module.rpartition(".")[2] for module in theirs})
  prefix = families.family(config).prefix
  if prefix:  # Modules beside the text model have the same last names.
    targets = rf".*\.{prefix[:-1]}\..*\.({'|'.join(targets)})"
  hub = download.hub_name(base)
  is_folder = "://" in base or epath.Path(base).expanduser().exists()
  named = (base, None) if is_folder or not hub.name else hub
  return {
    "peft_type": "LORA", "task_type": "CAUSAL_LM",
    "base_model_name_or_path": named[0], "revision": named[1],
    "inference_mode": True, "r": rank,
    "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
    "lora_dropout": 0.0, "target_modules": targets, "bias": "none",
    "fan_in_fan_out": False, "init_lora_weights": True, "use_rslora": False,
    "modules_to_save": None, "layers_to_transform": None,
    "layers_pattern": None, "rank_pattern": {}, "alpha_pattern": {},
  }


def form_of(folder: Any, config: dict[str, Any]) -> Form:
  """Rank, alpha and projections of the adapters in a folder.

  `config` is the config.json of the base. Raises ValueError for what is no
  plain LoRA of all layers, with the option or the tensor.
  """
  folder = epath.Path(folder)
  given = download.read_json(folder / CONFIG)
  _check_plain(folder, given)
  layers = families.decoder_fields(config)["layers"]
  known = {
    tensor.format(i): path[len("layers/"):-2]
    for path, tensor in names(config).items() for i in range(layers)
  }
  found = tensorfile.read_header(folder / WEIGHTS)
  if odd := [tensor for tensor in found if tensor not in known]:
    raise ValueError(
      f"tensor {odd[0]} of {folder} is no adapter of a projection of"
      f" {config['architectures'][0]}: give adapters of this model, of its"
      f" {', '.join(modules(config))} alone"
    )
  chosen = sorted({known[tensor] for tensor in found})
  _check_separate(config, chosen)
  lacking = [x for x, n in known.items() if n in chosen and x not in found]
  if lacking or not chosen:
    raise ValueError(
      f"{folder} has no {lacking[0] if lacking else 'adapters'}: give adapters"
      f" of all {layers} layers"
    )
  return Form(int(given["r"]), float(given["lora_alpha"]), tuple(chosen))


def _check_plain(folder, given):
  """Raises ValueError for options that make other adapters of the tensors."""
  for name in ("peft_type", "r", "lora_alpha"):
    if not given.get(name):
      raise ValueError(f"{folder / CONFIG} has no {name}: it is not complete")
  odd = {
    name: value for name, value in given.items()
    if name not in _READ and value and value != _NEUTRAL.get(name)
  }
  if given["peft_type"] != "LORA":
    odd["peft_type"] = given["peft_type"]
  start = given.get("init_lora_weights", True)
  if not any(start is known or start == known for known in _STARTS):
    odd["init_lora_weights"] = start  # It has changed the base, too.
  for name, value in odd.items():
    raise ValueError(
      f"{folder / CONFIG} has {name}={value!r}: only plain LoRA adapters are"
      " supported; merge these into their base (merge_and_unload() of PEFT) and"
      " give that as config.model.path"
    )


def read(folder: Any, config: dict[str, Any], abstract: Params) -> Params:
  """The adapters in a folder, laid out as `abstract` says.

  Args:
    folder: one of which `form_of` is that of `abstract`.
    config: the config.json of the base.
    abstract: ShapeDtypeStructs, as of `lora.adapters`.

  Raises ValueError for tensors of other shapes.
  """
  found = tensorfile.read_header(epath.Path(folder) / WEIGHTS)
  known, arrays = names(config), {}
  for path, leaf in _by_path(abstract).items():
    sources = [found[known[path].format(i)] for i in range(leaf.shape[0])]
    wanted = layout.stored_shape(path, leaf.shape[1:])
    for tensor in sources:
      if tensor.shape != wanted:
        raise ValueError(
          f"tensor {tensor.name} of {folder} is {list(tensor.shape)}, and that"
          f" of this model {list(wanted)}: give adapters of this model"
        )
    name = path.removeprefix("layers/")
    arrays[name] = layout.read_array(path, sources, leaf)
  return {"layers": arrays}
