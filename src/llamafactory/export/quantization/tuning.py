# SPDX-License-Identifier: Apache-2.0
"""Scales tuned end to end: with all codes fixed, the quantized model learns to predict what the whole one predicts.

Each scale gets a factor, trained by Adam on ``KL(whole || quantized)`` of the next-token distributions over the
calibration rows. Codes stay, so nothing is stored that was not stored before (after the second phase of EfficientQAT,
Chen et al. 2024, arXiv:2407.11062, with the model itself as teacher in the place of the text).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from ...model.grid import Quantized
from .blocks import Row, forward, in_float32, replaced

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RATE = 2e-3  # of a factor: the largest relative step
TOKENS = 256  # of calibration that one step sees, at least
CHUNK = 256  # tokens whose distributions are in memory at once
SEED = 0


class _Product(torch.autograd.Function):
    """``x W^T``, with the gradient of ``W`` handed to the scales of its groups."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
        context.save_for_backward(x, weight, levels)
        return x @ weight.T

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor]:
        x, weight, levels = context.saved_tensors
        of_weight = gradient.flatten(0, -2).T @ x.flatten(0, -2)
        of_scale = (of_weight.unflatten(1, levels.shape[1:]) * levels).sum(-1, dtype=torch.float32)
        return gradient @ weight, None, None, of_scale


class TunedLinear(nn.Module):
    """A linear layer over codes, whose scales have factors that learn.

    Args:
        quantized: Codes and scales.
        layer: The layer that it takes the place of; its bias is used, and its weight holds the values of the moment.
    """

    def __init__(self, quantized: Quantized, layer: nn.Linear) -> None:
        super().__init__()
        self.quantized, self.layer = quantized, [layer]  # in a list: no submodule
        self.bias = layer.bias
        levels = quantized.levels()
        self.levels = levels.to(torch.int8 if levels.abs().max() < 128 else torch.int16)
        self.factor = nn.Parameter(torch.ones_like(quantized.scale, dtype=torch.float32))
        self.settle()

    def settle(self) -> None:
        """Let the factors change the scales, and the scales the weight."""
        scale = (self.quantized.scale.float() * self.factor.detach()).to(self.quantized.scale.dtype)
        self.result = Quantized(self.quantized.codes, scale, self.quantized.zero)
        self.layer[0].weight.data.copy_(self.result.values())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to ``[..., in]``, in the type of the export, as its readers do."""
        weight = self.layer[0].weight.detach()
        y: Tensor = _Product.apply(x.to(weight.dtype), weight, self.levels, self.quantized.scale.float() * self.factor)
        return y if self.bias is None else y + self.bias


def tune(
    model: PreTrainedModel, blocks: nn.ModuleList, rows: list[Row], layers: dict[str, Quantized],
    epochs: int,
) -> dict[str, Quantized]:  # fmt: skip
    """Tune the scales of all layers together; the model's weights become those of the result.

    Args:
        model: With the quantized values in place.
        blocks: Its blocks.
        rows: Calibration rows; ``embedded`` and ``whole`` are read.
        layers: Quantized weights by the name of the layer.
        epochs: Passes over the rows.

    Returns:
        The layers with their new scales.
    """
    half = torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32)
    with _tuned(model, layers) as tuned, in_float32(model), torch.enable_grad(), half:
        factors = [layer.factor for layer in tuned.values()]
        optimizer = torch.optim.Adam(factors, lr=RATE, betas=(0.9, 0.95))
        batches = [batch for epoch in range(epochs) for batch in _batches(rows, epoch)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
        bar = tqdm(batches, desc="tuning scales", unit=" steps", disable=None)
        for batch in bar:
            count = sum(row.whole.shape[1] for row in batch)
            loss = sum(_learn(model, blocks, row, count) for row in batch)
            bar.set_postfix(kl=f"{loss:.4f}")
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            for layer in tuned.values():
                layer.settle()
    return {name: layer.result.to("cpu") for name, layer in tuned.items()}


def _batches(rows: list[Row], epoch: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in random.Random(SEED + epoch).sample(rows, len(rows)):
        batch.append(row)
        if sum(row.whole.shape[1] for row in batch) >= TOKENS:
            yield batch
            batch = []
    if batch:
        yield batch


def _learn(model: PreTrainedModel, blocks: nn.ModuleList, row: Row, count: int) -> float:
    """Add a row's share of the gradient and return its share of the loss; ``count``: the tokens of the whole batch."""
    hidden = row.embedded
    for number, block in enumerate(blocks):
        hidden = checkpoint(forward, block, hidden, row.calls[number], use_reentrant=False)
    states = hidden.detach().requires_grad_()
    total = 0.0
    for part, whole in zip(states.split(CHUNK, 1), row.whole.split(CHUNK, 1), strict=True):
        with torch.no_grad():
            wanted = _log_probs(model, blocks, whole.to(hidden.device), row.in_tuple)
        found = _log_probs(model, blocks, part, row.in_tuple)
        loss = F.kl_div(found, wanted, reduction="sum", log_target=True) / count
        loss.backward()
        total += float(loss.detach())
    assert states.grad is not None
    hidden.backward(states.grad)
    return total


def _log_probs(model: PreTrainedModel, blocks: nn.ModuleList, hidden: Tensor, in_tuple: bool) -> Tensor:
    """What the model makes of the last block's states, whatever comes after it: norms, head, caps."""
    ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=model.device)
    with replaced(blocks, lambda states, *args, **kwargs: (hidden,) if in_tuple else hidden):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return F.log_softmax(logits.float(), -1).flatten(0, -2)


@contextmanager
def _tuned(model: PreTrainedModel, layers: dict[str, Quantized]) -> Iterator[dict[str, TunedLinear]]:
    """Inside, the layers are replaced by tuned ones and nothing else learns."""
    learning = {name: weight.requires_grad for name, weight in model.named_parameters()}
    model.requires_grad_(requires_grad=False)
    tuned: dict[str, TunedLinear] = {}
    for name, quantized in layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        device = layer.weight.device
        tuned[name] = TunedLinear(quantized.to(device), layer)
        model.set_submodule(name, tuned[name])
    try:
        yield tuned
    finally:
        for name, module in tuned.items():
            model.set_submodule(name, module.layer[0])
        for name, weight in model.named_parameters():
            weight.requires_grad_(learning[name])
