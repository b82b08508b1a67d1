# SPDX-License-Identifier: Apache-2.0
"""HQQ (half-quadratic quantization): 1 to 8 bits, no calibration. transformers 5 has no loader of it, so its own layers
take the place of linear ones once the model is loaded, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantizer import Quantizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments

_GROUP = 64  # weights that share a scale and a zero


def _quantize(layer: nn.Linear, settings: QuantizationArguments, dtype: torch.dtype) -> nn.Module:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    config = BaseQuantizeConfig(nbits=settings.quantization_bit, group_size=_GROUP, axis=1)
    layer.requires_grad_(False)  # else the copy of a bias belongs to a graph
    packed: nn.Module = HQQLinear(layer, config, compute_dtype=dtype, device=str(layer.weight.device))
    return packed


def _settle(model: PreTrainedModel, settings: QuantizationArguments, dtypes: Dtypes) -> None:
    import torch
    from hqq.core.quantize import HQQLinear

    from .layers import linear_to_quantize, settle_layers

    for name, layer in linear_to_quantize(model):
        model.set_submodule(name, _quantize(layer, settings, getattr(torch, dtypes.compute)))
    settle_layers(model, HQQLinear, _dense)


def _dense(layer: Any, dtype: torch.dtype) -> Tensor:
    from hqq.core.quantize import HQQLinear

    weight: Tensor = HQQLinear.dequantize(layer)
    return weight.to(dtype)


def _stored_bits(settings: QuantizationArguments) -> float:
    """A scale and a zero of 16 bits a group; ten weights of 3 bits lie in 32, those of 5 and 6 in 8 each."""
    assert settings.quantization_bit is not None
    return {3: 3.2, 5: 8, 6: 8}.get(settings.quantization_bit, settings.quantization_bit) + 32 / _GROUP


quantizer = Quantizer(
    "hqq",
    bits=dict.fromkeys((1, 2, 3, 4, 5, 6, 8), ()),
    packages=(("hqq", "hqq"),),
    stored_bits=_stored_bits,
    quantize=_quantize,
    settle=_settle,
)
