# SPDX-License-Identifier: Apache-2.0
"""bitsandbytes: 4 bits (nf4 or fp4, scales quantized too) or 8, while the model loads; and checkpoints of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantizer import Packing, Quantizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments


def _options(settings: QuantizationArguments, dtypes: Dtypes, whole: list[str] | None) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    if settings.quantization_bit == 8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=whole,
        bnb_4bit_compute_dtype=dtypes.compute,
        bnb_4bit_quant_type=settings.quantization_type,
        bnb_4bit_use_double_quant=settings.double_quantization,
    )
    return {"quantization_config": config}


def _quantize(layer: nn.Linear, settings: QuantizationArguments, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes import nn as bnb

    inputs, outputs = layer.in_features, layer.out_features
    packed: Any
    if settings.quantization_bit == 8:
        packed = bnb.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, device="meta")
        weight: Any = bnb.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        packed = bnb.Linear4bit(inputs, outputs, bias=False, device="meta")
        double, kind = settings.double_quantization, settings.quantization_type
        weight = bnb.Params4bit(layer.weight.data, requires_grad=False, compress_statistics=double, quant_type=kind)
    packed.weight, packed.bias = weight.to(layer.weight.device), layer.bias
    return packed


def _settle(model: PreTrainedModel, settings: QuantizationArguments, dtypes: Dtypes) -> None:
    import bitsandbytes

    from .layers import settle_layers

    settle_layers(model, bitsandbytes.nn.Linear4bit, _dense_4bit)
    settle_layers(model, bitsandbytes.nn.Linear8bitLt, _dense_8bit)


def _dense_4bit(layer: Any, dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(layer.stored.data, layer.stored.quant_state)
    return weight.to(dtype)


def _pack(weight: Tensor, settings: QuantizationArguments) -> dict[str, Tensor]:
    """As the package's own layers quantize and save a weight; 4 bits with their scales' description as JSON."""
    from bitsandbytes import functional

    if settings.quantization_bit == 8:
        codes, scale, _ = functional.int8_vectorwise_quant(weight.half())
        return {"codes": codes, "scale": scale}
    kind, double = settings.quantization_type, settings.double_quantization
    codes, state = functional.quantize_4bit(weight, compress_statistics=double, quant_type=kind)
    return {"codes": codes, **state.as_dict(packed=True)}


def _unpack(parts: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    codes = parts.pop("codes")
    if "scale" in parts:
        return _dense_rows(codes, parts["scale"]).to(dtype)
    weight: Tensor = dequantize_4bit(codes, QuantState.from_dict(parts, codes.device))
    return weight.to(dtype)


def _dense_rows(codes: Tensor, scale: Tensor) -> Tensor:
    """Row i is ``W_q[i] s_i / 127``."""
    return codes.float() * (scale.float() / 127).unsqueeze(1)


def _dense_8bit(layer: Any, dtype: torch.dtype) -> Tensor:
    scale = layer.state.SCB if layer.stored.SCB is None else layer.stored.SCB
    return _dense_rows(layer.stored.data, scale).to(dtype)


def _stored_bits(settings: QuantizationArguments) -> float:
    """A scale of 32 bits for 64 weights; or one of 8, and of 32 for 256 of these (Dettmers et al. 2023, section 3)."""
    if settings.quantization_bit == 8:
        return 8
    return 4 + (8 / 64 + 32 / (64 * 256) if settings.double_quantization else 32 / 64)


quantizer = Quantizer(
    "bnb",
    bits={4: ("nf4", "fp4"), 8: ()},
    packages=(("bitsandbytes", "bitsandbytes"),),
    stored_bits=_stored_bits,
    options=_options,
    quantize=_quantize,
    settle=_settle,
    packing=Packing(_pack, _unpack),
)
