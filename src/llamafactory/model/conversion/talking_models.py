# SPDX-License-Identifier: Apache-2.0
"""Models that also speak (Qwen Omni): a part that was trained by itself, put back into the whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig

from ...extras.errors import ConfigError, first_names, in_one_line
from ...extras.files import publish_folder
from ...extras.locks import staging_folder
from ..adapters import load_adapter
from ..config import has_talker, language_class
from ..merging import merge
from .weight_files import free_folder, read_tensors, require_model, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_SHARD = "5GB"


def merge_talking_adapter(
    model_path: str,
    lora_path: str,
    save_path: str,
    extra_file: str = "spk_dict.pt",
    submodule_name: str = "thinker",
) -> None:
    """Write the whole model with an adapter merged into one of its parts.

    Args:
        model_path: Folder of the whole model.
        lora_path: The adapter, trained on the part.
        save_path: The new folder.
        extra_file: Goes along if it is there.
        submodule_name: The part; the thinker is the one that writes.

    Raises:
        ConfigError: The model has no such part, the adapter does not fit, or the new folder is taken.
    """
    whole = require_model(model_path, "model_path")
    free_folder(save_path, "save_path")
    config = AutoConfig.from_pretrained(whole)
    part = getattr(config, f"{submodule_name}_config", None)
    if part is None:
        raise ConfigError(f"submodule_name: models of type {config.model_type} have no part {submodule_name!r}")
    if submodule_name != "thinker" or not has_talker(config):
        raise ConfigError(f"submodule_name: only the thinker can be loaded by itself, not {submodule_name!r}")
    kind = language_class(part)
    with in_one_line(f"model_path: the {submodule_name} of '{model_path}' cannot be loaded"):
        model = kind.from_pretrained(whole, config=part, dtype="auto")
    merged = merge(load_adapter(model, lora_path, trainable=False), model.dtype)
    with tempfile.TemporaryDirectory(prefix="thinker-") as folder:
        merged.save_pretrained(folder)
        del model, merged
        put_part_back(model_path, folder, save_path, extra_file, submodule_name)


def put_part_back(
    model_path: str,
    thinker_path: str,
    save_path: str,
    extra_file: str = "spk_dict.pt",
    submodule_name: str = "thinker",
) -> None:
    """Write the whole model with the weights of a part that was trained whole.

    Args:
        model_path: Folder of the whole model.
        thinker_path: Folder of the trained part.
        save_path: The new folder.
        extra_file: Goes along if it is there.
        submodule_name: The part.

    Raises:
        ConfigError: A tensor of the part is missing or has no place; the new folder is taken.
    """
    whole, part = require_model(model_path, "model_path"), require_model(thinker_path, "thinker_path")
    final = free_folder(save_path, "save_path")
    prefix = f"{submodule_name}."
    fresh = {prefix + name.removeprefix(prefix): value for name, value in read_tensors(part, "thinker_path")}
    left = set(fresh)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, value in read_tensors(whole, "model_path"):
            if not name.startswith(prefix):
                yield name, value
                continue
            if name not in fresh or fresh[name].shape != value.shape:
                raise ConfigError(f"thinker_path: it has no {name.removeprefix(prefix)} of shape {list(value.shape)}")
            left.discard(name)
            yield name, fresh[name].to(value.dtype)

    with staging_folder(final, "save_path") as staging, torch.no_grad():
        write_tensors(tensors(), staging, _SHARD)
        if left:
            raise ConfigError(f"thinker_path: the whole model has no place for {first_names(sorted(left), 3)}")
        for file in whole.iterdir():
            is_weight = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
            if file.is_file() and not is_weight and (file.suffix != ".pt" or file.name == extra_file):
                shutil.copy(file, staging / file.name)
        publish_folder(staging, final)
