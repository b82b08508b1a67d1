# SPDX-License-Identifier: Apache-2.0
"""What will be trained, in one line; every parameter, on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .quantizers.layers import quantized_layers

if TYPE_CHECKING:
    from torch import nn


def trainable_line(model: nn.Module) -> str:
    """``trainable params: 4,884,480 of 139,400,064 (3.5039%)``; tied weights are counted once."""
    total = sum(parameter.numel() for parameter in model.parameters()) + _unpacked(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"trainable params: {trained:,} of {total:,} ({100 * trained / total:.4f}%)"


def _unpacked(model: nn.Module) -> int:
    """How many more weights quantized layers have than elements: several of few bits lie in one."""
    layers = [layer for _, layer in quantized_layers(model)]
    elements = sum(
        parameter.numel() for layer in layers for key, parameter in layer.named_parameters() if key != "bias"
    )
    return sum(layer.in_features * layer.out_features for layer in layers) - elements


def parameter_table(model: nn.Module) -> str:
    """One line a parameter: name, shape, dtype, device, trained or frozen."""
    return "\n".join(
        f"{name}  {tuple(parameter.shape)}  {parameter.dtype}  {parameter.device}  "
        f"{'trained' if parameter.requires_grad else 'frozen'}"
        for name, parameter in model.named_parameters()
    )
