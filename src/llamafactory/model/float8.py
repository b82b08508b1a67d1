# SPDX-License-Identifier: Apache-2.0
"""FP8 training (Micikevicius et al. 2022, arXiv:2209.05433) by torchao: matrix products of linear layers in float8.

Weights stay what they are; in each product weight, input and gradient are scaled by their largest entry and rounded to
8 bits (e4m3, gradients e5m2). Checkpoints and exports know nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..extras.packages import require

if TYPE_CHECKING:
    from ..extras.device import Device
    from ..hparams import TrainArgs

logger = get_logger(__name__)
_MULTIPLE = 16  # of rows and columns that the kernels take
_LEAST = (8, 9)  # compute capability of GPUs with float8: Ada, Hopper and later


def convert_to_float8(model: Any, args: TrainArgs, device: Device) -> int:
    """Let the linear layers of a model multiply in float8, all but the head; returns how many.

    Raises:
        ConfigError: torchao is missing, or the GPU has no float8.
    """
    library = require("torchao.float8", f"fp8_backend: {args.fp8.fp8_backend}", "torchao")
    if device.type == "cuda" and torch.cuda.get_device_capability(device.index) < _LEAST:
        raise ConfigError(f"fp8: {device.name} has no float8 (compute capability 8.9 or more); leave it out")
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(f"fp8: {device.name} ({device.type}) has no float8; leave it out")
    head = model.get_output_embeddings()
    taken: list[str] = []

    def is_taken(module: nn.Module, name: str) -> bool:
        fits = type(module) is nn.Linear and not any(size % _MULTIPLE for size in module.weight.shape)
        if fits and module is not head:
            taken.append(name)
            return True
        return False

    library.convert_to_float8_training(model, module_filter_fn=is_taken)
    if not taken:
        raise ConfigError(f"fp8: no linear layer of this model has sizes that {_MULTIPLE} divides")
    logger.info_rank0("fp8: %d linear layers multiply in float8", len(taken))
    return len(taken)
