# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of torch.distributed.checkpoint as folders that transformers reads, and back.

Its ``.metadata`` is a pickle. Ours is unpickled with the few classes that describe tensors, so that a file from
elsewhere runs no code.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from ...extras.errors import ConfigError, first_names, in_one_line
from ...extras.files import publish_folder
from ...extras.locks import staging_folder
from .weight_files import free_folder, read_tensors, require_model, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_METADATA = "torch.distributed.checkpoint.metadata"
_DESCRIBES = {
    *((_METADATA, name) for name in (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"), ("torch.serialization", "_get_layout"),
    ("torch", "Size"), ("collections", "OrderedDict"), ("pathlib", "PosixPath"), ("pathlib", "Path"),
    *(("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
}  # fmt: skip
_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
# A trainer's own names around the model -> what they hold.
_WRAPPED = ("", "model.", "module.", "model_state_dict.", "state_dict.")


def dcp_to_hf(dcp_path: str, hf_path: str, config_path: str, shard_size: str = "5GB") -> int:
    """Write the weights of a distributed checkpoint as safetensors beside a model's files.

    Args:
        dcp_path: Folder with ``.metadata`` and ``*.distcp``; what it holds of optimizers is left.
        hf_path: The new folder.
        config_path: Folder with the model's ``config.json``, whose other small files go along.
        shard_size: Most bytes a file of weights.

    Returns:
        How many tensors there are.

    Raises:
        ConfigError: The checkpoint cannot be read or is of another model; the new folder is taken.
    """
    source, model = Path(dcp_path), require_model(config_path, "config_path")
    final = free_folder(hf_path, "hf_path")
    if not (source / ".metadata").is_file():
        raise ConfigError(f"dcp_path: '{dcp_path}' has no .metadata, so it is no checkpoint of torch's DCP")
    with in_one_line(f"dcp_path: {source / '.metadata'} cannot be read"):
        stored = _Reader(source).read_metadata().state_dict_metadata
    wanted = _expected_names(model)
    prefix = _prefix(stored, wanted)
    names = [name for name, value in stored.items()
             if isinstance(value, TensorStorageMetadata) and name.removeprefix(prefix) in wanted]  # fmt: skip
    with staging_folder(final, "hf_path") as staging:
        _copy_files(model, staging)
        write_tensors(_loaded(source, stored, names, prefix), staging, shard_size)
        publish_folder(staging, final)
    return len(names)


def hf_to_dcp(hf_path: str, dcp_path: str) -> int:
    """Write a model's weights as a distributed checkpoint; any number of processes reads it.

    Returns:
        How many tensors there are.

    Raises:
        ConfigError: The model cannot be read, or the new folder is taken.
    """
    source, final = require_model(hf_path, "hf_path"), free_folder(dcp_path, "dcp_path")
    state = dict(read_tensors(source, "hf_path"))
    with staging_folder(final, "dcp_path") as staging:
        dcp.save(state, storage_writer=dcp.FileSystemWriter(staging), no_dist=True)
        _copy_files(source, staging)
        publish_folder(staging, final)
    return len(state)


def _loaded(source: Path, stored: dict[str, Any], names: list[str], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        room = {name: torch.empty(stored[name].size, dtype=stored[name].properties.dtype)}
        with in_one_line(f"dcp_path: {name} cannot be read"):
            dcp.load(room, storage_reader=_Reader(source), no_dist=True)
        yield name.removeprefix(prefix), room[name]


def _expected_names(model: Path) -> set[str]:
    """The names in a checkpoint of the model that ``config.json`` describes; nothing is loaded."""
    from transformers import AutoConfig

    from ..config import language_class

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return set(language_class(config).from_config(config).state_dict())


def _prefix(stored: dict[str, Any], wanted: set[str]) -> str:
    best = max(_WRAPPED, key=lambda one: sum(one + name in stored for name in wanted))
    missing = sorted(name for name in wanted if best + name not in stored)
    if len(missing) == len(wanted):
        raise ConfigError(f"dcp_path: it holds other tensors than the model: {first_names(sorted(stored), 3)}")
    # A head that is tied to the embedding may be left out.
    if [name for name in missing if name != "lm_head.weight"]:
        raise ConfigError(f"dcp_path: tensors of the model are missing: {first_names(missing, 3)}")
    return best


def _copy_files(source: Path, folder: Path) -> None:
    for pattern in _FILES:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, folder / file.name)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DESCRIBES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which describes no tensor")
        return super().find_class(module, name)


class _Reader(dcp.FileSystemReader):
    """torch's reader, with a list of what may be unpickled."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read ``.metadata``, which describes all files."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            found = _Unpickler(file).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError("it describes no checkpoint")
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found
