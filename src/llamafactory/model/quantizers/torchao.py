# SPDX-License-Identifier: Apache-2.0
"""torchao, weights only: int8 or float8 anywhere, int4 on GPUs; and checkpoints of it.

Its schemes that round the inputs too cut the gradient (0.18 detaches what they give), so none of them can be chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras.packages import require_installed
from .quantizer import Quantizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ...extras.device import Device
    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments


def _check_device(settings: QuantizationArguments, device: Device) -> str | None:
    """Four bits are packed for kernels of GPUs."""
    if settings.quantization_bit != 4:
        return None
    if device.type != "cuda":
        return "torchao has kernels of 4 bits for GPUs only; 8, or another quantization_method"
    require_installed("mslk", "quantization_bit: 4 with quantization_method torchao", "mslk")
    return None


def _options(settings: QuantizationArguments, dtypes: Dtypes, whole: list[str] | None) -> dict[str, Any]:
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(_scheme(settings), modules_to_not_convert=whole)}


def _scheme(settings: QuantizationArguments) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if settings.quantization_bit == 4:
        return Int4WeightOnlyConfig(group_size=64)
    return Float8WeightOnlyConfig() if settings.quantization_type == "fp8" else Int8WeightOnlyConfig()


def _quantize(layer: nn.Linear, settings: QuantizationArguments, dtype: torch.dtype) -> nn.Module:
    from torchao.quantization import quantize_

    quantize_(layer, _scheme(settings))
    return layer


def _settle(model: PreTrainedModel, settings: QuantizationArguments, dtypes: Dtypes) -> None:
    from torch import nn
    from torchao.utils import TorchAOBaseTensor

    from .layers import settle_layers

    settle_layers(model, nn.Linear, _dense, lambda layer: isinstance(layer.weight, TorchAOBaseTensor))


def _dense(layer: Any, dtype: torch.dtype) -> Tensor:
    weight: Tensor = layer.stored.dequantize()
    return weight.to(dtype)


quantizer = Quantizer(
    "torchao",
    bits={8: ("int", "fp8"), 4: ()},
    packages=(("torchao", "torchao"),),
    check_device=_check_device,
    options=_options,
    quantize=_quantize,
    settle=_settle,
)
