# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and steps of a sharded model, as the trainer asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ...extras.errors import ConfigError
from ...model.wrapping import beneath_adapters
from .parts import load_weights, save_weights, saved_by
from .whole import load_adapter_weights


def save_parts(model: Any, folder: Path) -> None:
    """Write each process's part of the weights, and beside them what makes a model of them."""
    save_weights(model, folder)
    if dist.get_rank() == 0:
        model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
        model.config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(folder)


def load_parts(model: Any, folder: Path) -> None:
    """Read the weights of a checkpoint, or its adapter, into what this process holds of them."""
    if hasattr(model, "peft_config"):
        load_adapter_weights(model, folder)
    else:
        load_weights(model, folder)


def require_kind(folder: Path, engine: str) -> None:
    """Refuse a checkpoint whose optimizer was cut by another engine.

    Args:
        folder: The checkpoint.
        engine: Key of the engine that goes on: ``fsdp``, ``deepspeed``, or empty for whole states.

    Raises:
        ConfigError: It is so.
    """
    was = saved_by(folder)
    if was != engine:
        says = f"by a run with {was}" if was else f"by a run without {engine}"
        raise ConfigError(
            f"resume_from_checkpoint: {folder} was saved {says}, and its state is only read by one like it"
        )


@contextmanager
def deferring(model: Any) -> Iterator[None]:
    """Of micro-batches before the last only replicas wait: whole gradients would need the memory that was saved."""
    core = beneath_adapters(model)
    core.set_requires_all_reduce(False)
    try:
        yield
    finally:
        core.set_requires_all_reduce(True)
