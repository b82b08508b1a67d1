# SPDX-License-Identifier: Apache-2.0
"""AWQ (Lin et al. 2023, arXiv:2306.00978): channels that carry large inputs get finer steps.

Columns of a weight are multiplied by ``s = mean|x|^a`` before they are rounded, and the module that makes the inputs is
divided by it, so the model computes what it did. ``a`` is searched for every input (equations 4 and 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...model.grid import Grid
from . import nearest

if TYPE_CHECKING:
    from .blocks import Block, SharedInput

EXPONENTS = tuple(step / 10 for step in range(10))  # 0 = no scaling
TOKENS = 256  # of calibration that each choice is judged on
SAME = 1e-6  # relative squared error that rounding of float32 may make; a wrong place makes about 1

Divide = Callable[[Tensor], None]


def fold(block: Block, grid: Grid, dtype: torch.dtype) -> None:
    """Scale the inputs of a float32 block's layers, in place, wherever the block still computes the same.

    Args:
        block: With the inputs of its layers measured; their moments are scaled along.
        grid: Number format to come.
        dtype: Type of its scales.
    """
    expected = block.outputs(TOKENS)
    for shared in block.inputs:
        layers = [block.layers[name] for name in shared.names]
        divide = _source(block, shared, layers, expected)
        if divide is None:
            continue
        scale = _search(block, shared, layers, expected, grid, dtype)
        divide(scale)
        for layer in layers:
            layer.weight.mul_(scale)
        shared.moments.div_(scale[:, None] * scale)
        shared.magnitude.div_(scale)


def _search(
    block: Block, shared: SharedInput, layers: list[nn.Linear], expected: list[Tensor], grid: Grid, dtype: torch.dtype
) -> Tensor:
    """Return the scales ``[in]`` with which the block's output suffers least when these layers alone are rounded."""
    before = [layer.weight.clone() for layer in layers]
    best, least = torch.ones_like(shared.magnitude), float("inf")
    for exponent in EXPONENTS:
        scale = shared.magnitude.clamp(min=1e-4) ** exponent
        scale = scale / (scale.max() * scale.min()).sqrt()
        moments = shared.moments / (scale[:, None] * scale)
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.copy_(nearest.quantize(weight * scale, moments, grid, dtype).values() / scale)
        loss = block.loss(expected, TOKENS)
        if loss < least:
            best, least = scale, loss
    for layer, weight in zip(layers, before, strict=True):
        layer.weight.copy_(weight)
    return best


def _source(block: Block, shared: SharedInput, layers: list[nn.Linear], expected: list[Tensor]) -> Divide | None:
    """Find the module whose output, divided by any ``s``, is made good by these layers' columns; None = there is none.

    What a block computes between two modules is not written anywhere: each place is tried with random scales.
    """
    width = layers[0].in_features
    random = torch.rand(width, generator=torch.Generator().manual_seed(0)).to(layers[0].weight.device) + 0.5
    for divide, touched in _places(block, layers, width):
        weights = [*touched, *(layer.weight for layer in layers)]
        before = [weight.clone() for weight in weights]
        divide(random)
        for layer in layers:
            layer.weight.mul_(random)
        same = block.loss(expected, 1) < SAME
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
        if same:
            return divide
    return None


def _places(block: Block, layers: list[nn.Linear], width: int) -> Iterator[tuple[Divide, list[Tensor]]]:
    """Yield ways to divide an output of ``width`` channels, with the weights each of them changes."""
    for module in sorted(block.module.modules(), key=lambda module: isinstance(module, nn.Linear)):  # norms first
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, Tensor) or weight.shape[0] != width or module in layers:
            continue
        tensors = [weight, *([bias] if isinstance(bias, Tensor) else [])]
        if isinstance(module, nn.Linear) or weight.dim() == 1:
            yield _division(tensors, offset=0.0), tensors
        if weight.dim() == 1:  # Gemma's norms multiply by 1 + weight
            yield _division(tensors, offset=1.0), tensors


def _division(tensors: list[Tensor], offset: float) -> Divide:
    def divide(scale: Tensor) -> None:
        for number, tensor in enumerate(tensors):
            by = scale.view(-1, *[1] * (tensor.dim() - 1))
            shift = offset if number == 0 else 0.0
            tensor.add_(shift).div_(by).sub_(shift)

    return divide
