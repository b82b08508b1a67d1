# SPDX-License-Identifier: Apache-2.0
"""Weights and optimizer state in a checkpoint: each process writes its parts, any number of processes reads them.

The files are safetensors with their places in the header (torch.distributed.checkpoint's layout for Hugging Face), so
that nothing is pickled, and transformers reads a folder of such weights as a model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ...extras.errors import ConfigError, first_line
from ...extras.files import read_json, write_json

OPTIMIZER = "optimizer"
_GROUPS = "groups.json"


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write the parts of all weights; all processes call this together."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, weight in model.state_dict(keep_vars=True).items():
        # transformers looks for both names of a tied weight, and a file takes no memory twice.
        found[name] = weight.detach().clone() if id(weight) in seen else weight.detach()
        seen.add(id(weight))
    write_tensors(found, folder)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read weights that :func:`save_weights` wrote, in place; all processes call this together.

    Raises:
        ConfigError: They cannot be read, or are of another model.
    """
    read_tensors(dict(model.state_dict()), folder)


def save_optimizer(model: nn.Module, optimizer: Any, folder: Path, engine: str) -> None:
    """Write the parts of an optimizer's state, and the settings of its groups; all processes call this together.

    Args:
        model: Its weights in parts.
        optimizer: Of these weights.
        folder: The checkpoint.
        engine: Key of what cut them.
    """
    state = optimizer.state
    parts = {
        f"{name}.{key}": value
        for name, weight in model.named_parameters()
        for key, value in state.get(weight, {}).items()
        if isinstance(value, Tensor)
    }
    write_tensors(parts, folder / OPTIMIZER)
    write_groups(optimizer, folder / OPTIMIZER, engine=engine)


def load_optimizer(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Read what :func:`save_optimizer` wrote; all processes call this together.

    torch's own way asks the optimizer for room by a step, and fails at a group without weights.

    Raises:
        ConfigError: It cannot be read, or is of another optimizer.
    """
    place = folder / OPTIMIZER
    weights = dict(model.named_parameters())
    room = room_for(weights, place)
    read_tensors(room, place)
    read_groups(optimizer, place)
    for group in optimizer.param_groups:
        on_device = group.get("fused") or group.get("capturable")
        ours = {id(weight) for weight in group["params"]}
        for name, value in room.items():
            name, _, key = name.rpartition(".")
            if id(weights[name]) in ours:
                moved = value.to(weights[name].device) if on_device else value
                optimizer.state[weights[name]][key] = moved


def write_groups(optimizer: Any, place: Path, **more: Any) -> None:
    """Write the settings of an optimizer's groups, and what else its engine must know, on the first process."""
    if dist.get_rank() == 0:
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            for group in optimizer.param_groups
        ]
        write_json(place / _GROUPS, {"groups": groups, **more})


def read_groups(optimizer: Any, place: Path) -> dict[str, Any]:
    """Give an optimizer the settings that :func:`write_groups` wrote; return all that it wrote.

    Raises:
        ConfigError: They cannot be read, or are of another optimizer.
    """
    written: dict[str, Any] = read_json(place / _GROUPS, dict, "resume_from_checkpoint")
    groups = written.get("groups", [])
    if len(groups) != len(optimizer.param_groups):
        raise ConfigError(f"resume_from_checkpoint: {place} is of another optimizer")
    for group, known in zip(optimizer.param_groups, groups, strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in known.items()})
    return written


def room_for(weights: Mapping[str, nn.Parameter], place: Path) -> dict[str, Tensor]:
    """Return empty tensors for a state: cut as their weights are where they have their shape (moments), else whole."""
    with _in_one_line(place):
        described = HuggingFaceStorageReader(str(place)).read_metadata().state_dict_metadata
    room: dict[str, Tensor] = {}
    for name, value in described.items():
        weight = weights.get(name.rpartition(".")[0])
        if weight is None or not isinstance(value, TensorStorageMetadata):
            raise ConfigError(f"resume_from_checkpoint: {place} has a state for {name}, which is not trained here")
        kind = value.properties.dtype
        same = value.size == weight.shape
        room[name] = torch.zeros_like(weight, dtype=kind).detach() if same else torch.zeros(value.size, dtype=kind)
    return room


def saved_by(folder: Path) -> str:
    """Return the key of the engine that wrote a checkpoint: ``fsdp``, ``deepspeed``, another, or empty."""
    groups = folder / OPTIMIZER / _GROUPS
    if groups.is_file():
        return str(read_json(groups, dict, "resume_from_checkpoint").get("engine", "fsdp"))
    return "fsdp" if any(folder.glob("shard-*-model-*.safetensors")) else ""


def write_tensors(tensors: dict[str, Any], folder: Path) -> None:
    """Write what this process holds of tensors; all processes call this together."""
    save_together(tensors, folder)


def save_together(tensors: dict[str, Any], folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """As :func:`write_tensors`, which may put it off; ``group`` is of the processes that wait for each other."""
    with _quiet():
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, process_group=group)


def read_tensors(tensors: dict[str, Any], folder: Path) -> None:
    """Read tensors in place; all processes call this together.

    Raises:
        ConfigError: They cannot be read, or are not there.
    """
    with _in_one_line(folder), _quiet():
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """As ``extras.errors.in_one_line``, which cannot see a CheckpointException: it is no Exception."""
    try:
        yield
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
