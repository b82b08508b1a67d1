# SPDX-License-Identifier: Apache-2.0
"""Training for an export in few bits (quantization-aware training): every forward rounds the weights as export will.

The straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): products are taken with ``Q(W)``, the gradient of
``Q(W)`` is handed to ``W`` as it is. ``Q`` is the grid of ``export_quantization_method: rtn``: symmetric integers, one
scale for each group of neighbouring inputs. With LoRA it is ``Q(W + s B A)``, what an export merges and then rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from .config import read_config
from .grid import IntGrid, nearest
from .wrapping import beneath_adapters

if TYPE_CHECKING:
    from ..hparams import TrainArgs

logger = get_logger(__name__)


@dataclass(frozen=True)
class Rounding:
    """The values that export leaves.

    Attributes:
        bits: Of a weight.
        group: Weights of a row that share a scale.
        dtype: Type that the export is written in, its scales too.
    """

    bits: int
    group: int
    dtype: torch.dtype

    def values(self, weight: Tensor) -> Tensor:
        """``code * scale`` of a weight ``[out, in]``, in ``dtype``."""
        grid = IntGrid(self.bits, self.group, search=False)
        return nearest(weight.to(self.dtype).float(), None, grid, self.dtype).values()


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounding: Rounding) -> Tensor:
        return rounding.values(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class RoundedLinear(nn.Linear):
    """A linear layer that multiplies with its rounded weight."""

    rounding: Rounding

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., in]`` → ``[..., out]``."""
        weight: Tensor = _StraightThrough.apply(self.weight, self.rounding)
        return nn.functional.linear(x, weight, self.bias)


class RoundedLora(LoraLinear):
    """A LoRA layer that multiplies with base and adapter, merged and rounded; without the adapter, with its base."""

    rounding: Rounding

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``x [..., in]`` → ``[..., out]``."""
        base = self.get_base_layer()
        if self.disable_adapters:
            y: Tensor = base(x)
            return y
        weight = base.weight.float()
        for adapter in self.active_adapters:
            weight = weight + self.get_delta_weight(adapter)
        weight = _StraightThrough.apply(weight, self.rounding)
        return nn.functional.linear(x, weight.to(x.dtype), base.bias)


def round_weights(model: Any, args: TrainArgs) -> int:
    """Let the linear layers of a model's blocks multiply with rounded weights; returns how many.

    Args:
        model: Ready to train.
        args: The run's; ``args.qat`` says how.

    Raises:
        ConfigError: The groups do not divide a layer, or the model keeps its experts in one tensor.
    """
    core = beneath_adapters(model)
    prefix, blocks = _blocks(core)
    adapted = args.finetuning.finetuning_type == "lora"
    rounding = Rounding(int(args.qat.qat.removeprefix("int")), args.qat.qat_group_size, _exported(core, args, adapted))
    count = 0
    for name, layer in list(blocks.named_modules()):
        if ".lora_" in name or name.endswith(".base_layer") or not isinstance(layer, nn.Linear | LoraLinear):
            continue
        if layer.in_features % rounding.group:
            raise ConfigError(
                f"qat_group_size: {rounding.group} does not divide the {layer.in_features} inputs of {prefix}.{name}; "
                "take a smaller one"
            )
        count += 1
        if isinstance(layer, LoraLinear):
            layer.__class__ = RoundedLora
        elif layer.weight.requires_grad:
            layer.__class__ = RoundedLinear
        else:  # nothing changes it any more
            layer.weight.data = rounding.values(layer.weight.data).to(layer.weight.dtype)
            continue
        layer.rounding = rounding
    logger.info_rank0(
        "qat: %d linear layers compute with weights of %d bits, groups of %d", count, rounding.bits, rounding.group
    )
    return count


def _blocks(model: Any) -> tuple[str, nn.ModuleList]:
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            if any(weight.dim() > 2 for weight in module.parameters()):
                raise ConfigError("qat: this model keeps its experts in one tensor, which export does not quantize")
            return name, module
    raise ConfigError(f"qat: no list of {count} blocks in {model.config.model_type}, which export does not quantize")


def _exported(model: Any, args: TrainArgs, adapted: bool) -> torch.dtype:
    """The type in which export writes: that of the saved model, or of the file an adapter is merged into."""
    held: torch.dtype = next(iter(model.parameters())).dtype
    if not adapted:
        return held
    config = read_config(args.model)
    stored: torch.dtype = config.dtype or config.get_text_config().dtype or torch.float32
    if torch.finfo(held).bits < torch.finfo(stored).bits:
        logger.warning_rank0(
            "qat: the run holds in %s what the file holds in %s, which export rounds from: set bf16: false, else the "
            "export is near to what is trained, not equal to it",
            held,
            stored,
        )
    return stored
