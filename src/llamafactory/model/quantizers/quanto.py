# SPDX-License-Identifier: Apache-2.0
"""optimum-quanto, weights only: int8 or float8, while the model loads. It saves no checkpoint.

Its formats of fewer bits are left out: their first use compiles C++ for minutes, and bnb and hqq have as few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantizer import Quantizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments


def _options(settings: QuantizationArguments, dtypes: Dtypes, whole: list[str] | None) -> dict[str, Any]:
    from transformers import QuantoConfig

    kind = "float8" if settings.quantization_type == "fp8" else "int8"
    return {"quantization_config": QuantoConfig(weights=kind, modules_to_not_convert=whole)}


def _quantize(layer: nn.Linear, settings: QuantizationArguments, dtype: torch.dtype) -> nn.Module:
    from optimum.quanto import QLinear, qfloat8, qint8

    packed: Any = QLinear.from_module(layer, weights=qfloat8 if settings.quantization_type == "fp8" else qint8)
    packed.freeze()
    return packed


def _settle(model: PreTrainedModel, settings: QuantizationArguments, dtypes: Dtypes) -> None:
    from optimum.quanto import QLinear

    from .layers import settle_layers

    settle_layers(model, QLinear, _dense)


def _dense(layer: Any, dtype: torch.dtype) -> Tensor:
    weight: Tensor = layer.stored.dequantize()
    return weight.to(dtype)


quantizer = Quantizer(
    "quanto",
    bits={8: ("int", "fp8")},
    packages=(("optimum.quanto", "optimum-quanto"),),
    options=_options,
    quantize=_quantize,
    settle=_settle,
)
