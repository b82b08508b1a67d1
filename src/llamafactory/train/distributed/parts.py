# SPDX-License-Identifier: Apache-2.0
"""Weights and optimizer state in a checkpoint: each process writes its parts, any number of processes reads them.

The files are safetensors with their places in the header (torch.distributed.checkpoint's layout for Hugging Face), so
that nothing is pickled, and transformers reads a folder of such weights as a model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

from ...extras.errors import ConfigError, first_line
from ...extras.files import read_json, write_json

OPTIMIZER = "optimizer"
_GROUPS = "groups.json"
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write the parts of all weights; all processes call this together."""
    _write(dict(model.state_dict()), folder)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read weights that :func:`save_weights` wrote, in place; all processes call this together.

    Raises:
        ConfigError: They cannot be read, or are of another model.
    """
    _read(dict(model.state_dict()), folder)


def save_optimizer(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Write the parts of an optimizer's state, and the settings of its groups; all processes call this together."""
    state = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    tensors, rest = _apart(state)
    _write(tensors, folder / OPTIMIZER)
    if dist.get_rank() == 0:
        write_json(folder / OPTIMIZER / _GROUPS, rest)


def load_optimizer(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Read what :func:`save_optimizer` wrote; all processes call this together.

    Raises:
        ConfigError: It cannot be read, or is of another optimizer.
    """
    state = get_optimizer_state_dict(model, optimizer, options=_FLAT)  # makes room, in a step that changes nothing
    tensors, rest = _apart(state)
    _read(tensors, folder / OPTIMIZER)
    known = read_json(folder / OPTIMIZER / _GROUPS, dict, "resume_from_checkpoint")
    settings = {name: known.get(name, value) for name, value in rest.items()}
    set_optimizer_state_dict(model, optimizer, {**tensors, **settings}, options=_FLAT)


def has_parts(folder: Path) -> bool:
    """Whether a checkpoint was written by several processes, each of its part."""
    return (folder / OPTIMIZER / _GROUPS).is_file() or any(folder.glob("shard-*-model-*.safetensors"))


def _apart(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def _write(tensors: dict[str, Any], folder: Path) -> None:
    with _quiet():
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _read(tensors: dict[str, Any], folder: Path) -> None:
    try:
        with _quiet():
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    except (CheckpointException, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"resume_from_checkpoint: {folder} cannot be read: {first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torch says at each step of a save which of its parts may change."""
    own = logging.getLogger("torch.distributed.checkpoint")
    level = own.level
    own.setLevel(logging.ERROR)
    try:
        yield
    finally:
        own.setLevel(level)
