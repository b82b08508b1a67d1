# SPDX-License-Identifier: Apache-2.0
"""Whole weights out of parts and back, one at a time: what is written for others is plain safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ...extras.errors import ConfigError, in_one_line
from ...hparams.sharding import sharding_of
from ...model.sharding.shard import shard

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def sharded(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> nn.Module:
    """Return the same model, cut into parts if the run asks for it; nothing may be added to it any more."""
    sharding = sharding_of(args)
    return model if sharding is None else shard(model, sharding, arguments.device.type)


def gather(model: nn.Module, read: Callable[[Tensor], Tensor | None] | None = None) -> dict[str, Tensor]:
    """Return what a model is saved as, on the CPU of the first process; all call this together.

    Of a model with adapters it is what is trained, else all. The other processes hold one whole weight at a time, and
    get nothing.

    Args:
        model: Its weights in parts.
        read: Makes a weight whole, on the first process; without it parts are DTensors.
    """
    read = read or _whole
    only_trained = hasattr(model, "peft_config")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    found: dict[str, Tensor] = {}
    known: dict[int, Tensor | None] = {}  # a tied weight has two names
    for name, weight in model.state_dict(keep_vars=True).items():
        if only_trained and name not in trained:
            continue
        if id(weight) not in known:
            known[id(weight)] = read(weight)
        whole = known[id(weight)]
        if whole is not None:
            found[name] = whole
    return found


def _whole(weight: Tensor) -> Tensor | None:
    full = weight.detach()
    full = full.full_tensor() if isinstance(full, DTensor) else full
    return full.cpu() if dist.get_rank() == 0 else None


def load_adapter_weights(model: Any, folder: Path) -> None:
    """Put this process's part of an adapter that was saved whole into a model that has one.

    Raises:
        ConfigError: The file cannot be read, or is of another adapter.
    """
    file = folder / "adapter_model.safetensors"
    with in_one_line(f"resume_from_checkpoint: {file}"):
        read = load_file(file)
    ours = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {name: value.shape for name, value in read.items()} != {name: value.shape for name, value in ours.items()}:
        raise ConfigError(f"resume_from_checkpoint: {file} is of another adapter than the one that is trained")
    for name, value in ours.items():
        copy_part(value, read[name])


def copy_part(weight: Tensor, whole: Tensor) -> None:
    """Put into a sharded weight what belongs there of the whole one."""
    if not isinstance(weight, DTensor):
        weight.detach().copy_(whole)
        return
    mesh = weight.device_mesh
    part = distribute_tensor(whole.to(mesh.device_type), mesh, weight.placements, src_data_rank=None)
    weight.to_local().detach().copy_(part.to_local())
