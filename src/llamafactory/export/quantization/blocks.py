# SPDX-License-Identifier: Apache-2.0
"""A model taken as a chain of blocks: calibration rows go through one block at a time, held in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...extras.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Row:
    """A calibration row on its way through the model.

    Attributes:
        hidden: What the next block gets, float32 ``[1, T, d]``.
        calls: For each block, what else it is called with (positions, masks).
        embedded: What the first block gets.
        whole: What the next block gets in the model that is not quantized.
        in_tuple: Blocks return their states in a tuple.
    """

    hidden: Tensor
    calls: list[Call]
    embedded: Tensor = field(default_factory=lambda: torch.empty(0))
    whole: Tensor = field(default_factory=lambda: torch.empty(0))
    in_tuple: bool = False


@dataclass
class SharedInput:
    """What the layers ``names`` get as input: all of them the same.

    Attributes:
        moments: Mean over tokens of ``x x^T``, each token's ``x`` scaled to a mean square of 1, float32 ``[in, in]``.
            Tokens count alike: the first one's inputs can be a thousand times as large as all others ("massive
            activations", arXiv:2402.17762), and a method that minds squares would mind nothing but that token.
        magnitude: Mean of ``|x|``, float32 ``[in]``.
    """

    names: list[str]
    moments: Tensor
    magnitude: Tensor

    def energy(self, weight: Tensor) -> float:
        """Mean over tokens of ``||W x||^2`` for a weight ``[out, in]`` and inputs of mean square 1."""
        return float(((weight @ self.moments) * weight).sum())


@dataclass
class Block:
    """One block with its linear layers and their inputs on the calibration rows.

    Attributes:
        rows: Calibration rows, before they went through the block; the shortest first.
    """

    module: nn.Module
    layers: dict[str, nn.Linear]
    inputs: list[SharedInput]
    number: int
    rows: list[Row]

    def outputs(self, tokens: int) -> list[Tensor]:
        """Outputs ``[1, T, d]`` for the shortest rows: at least one, and as many as hold about ``tokens`` tokens."""
        found: list[Tensor] = []
        for row in self.rows:
            if not found or sum(output.shape[1] for output in found) + row.hidden.shape[1] <= tokens:
                found.append(run(self.module, row, self.number))
        return found

    def loss(self, expected: list[Tensor], tokens: int) -> float:
        """How far the outputs are from ``expected``: mean over tokens of the squared error relative to what is added.

        Relative, because the first token's states can be a thousand times as large as all others.
        """
        losses = []
        for row, output, wanted in zip(self.rows, self.outputs(tokens), expected, strict=False):
            added = (wanted - row.hidden.to(wanted.device)).square().sum(-1)
            losses.append((output - wanted).square().sum(-1) / added.clamp(min=1e-12))
        return float(torch.cat(losses, 1).mean())


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return name and list of the model's blocks.

    Raises:
        ConfigError: The model has no such list, or keeps experts in one tensor.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            if any(weight.dim() > 2 for weight in module.parameters()):
                raise ConfigError(
                    f"export_quantization_bit: {model.config.model_type} keeps its experts in one tensor, which "
                    "cannot be quantized yet"
                )
            return name, module
    raise ConfigError(f"export_quantization_bit: no list of {count} blocks in {model.config.model_type}")


@torch.no_grad()
def start(model: PreTrainedModel, blocks: nn.ModuleList, rows: Sequence[Sequence[int]]) -> list[Row]:
    """Embed the rows, and note what each block is called with.

    Raises:
        ConfigError: The model does more between its blocks than hand the hidden states on.
    """
    expected, in_tuple = _plain_run(model, blocks, min(rows, key=len))
    started = []
    for ids in rows:
        row = Row(torch.empty(0), [], in_tuple=in_tuple)
        with replaced(blocks, _recorder(row)):
            model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        started.append(row)
    shortest = min(started, key=lambda row: row.hidden.shape[1])
    hidden = shortest.hidden
    for number, block in enumerate(blocks):
        hidden = run(block, Row(hidden, shortest.calls), number)
    if not (hidden - expected).abs().max() <= 1e-3 * expected.abs().max():
        raise ConfigError(
            f"export_quantization_bit: {model.config.model_type} does not compute as a chain of blocks, so it "
            "cannot be calibrated block by block"
        )
    for row in started:
        row.hidden = row.embedded = row.whole = row.hidden.float()
    return started


def _plain_run(model: PreTrainedModel, blocks: nn.ModuleList, ids: Sequence[int]) -> tuple[Tensor, bool]:
    """Return the last block's output of an ordinary forward, and whether blocks return it in a tuple."""
    outputs: list[Any] = []
    handle = blocks[-1].register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        model.base_model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    finally:
        handle.remove()
    return _hidden(outputs[0]), isinstance(outputs[0], tuple)


def _recorder(row: Row) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not row.calls:
            row.hidden = hidden_states
        row.calls.append((args, kwargs))
        return (hidden_states,) if row.in_tuple else hidden_states

    return forward


@contextmanager
def replaced(blocks: nn.ModuleList, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calls of the blocks go to ``forward``."""
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = forward
        yield
    finally:
        for block, old in zip(blocks, before, strict=True):
            if old is None:
                del block.forward
            else:
                block.forward = old


@torch.no_grad()
def run(block: nn.Module, row: Row, number: int) -> Tensor:
    """Return the block's output for a row, computed in the type of ``row.hidden``."""
    return forward(block, row.hidden, row.calls[number])


def forward(block: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    """Return the block's output for hidden states ``[1, T, d]``, computed in their type."""
    args, kwargs = call
    device, dtype = next(block.parameters()).device, hidden.dtype
    return _hidden(block(hidden.to(device), *_cast(args, device, dtype), **_cast(kwargs, device, dtype)))


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, device, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _cast(item, device, dtype) for key, item in value.items()}
    return value


@contextmanager
def in_float32(block: nn.Module) -> Iterator[None]:
    """Inside, the block's weights are float32; afterwards each has its type again."""
    types = {name: tensor.dtype for name, tensor in _tensors(block)}
    block.float()
    try:
        yield
    finally:
        for name, tensor in _tensors(block):
            tensor.data = tensor.data.to(types[name])


def _tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from block.named_parameters()
    yield from block.named_buffers()


@torch.no_grad()
def observe(block: nn.Module, rows: Sequence[Row], number: int) -> Block:
    """Send the rows through a block and measure what its linear layers get; layers that are not called are left out."""
    shortest = min(rows, key=lambda row: row.hidden.shape[1])
    layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    groups = _sharing(block, shortest, number, layers)
    inputs = []
    for names in groups:
        weight = layers[names[0]].weight
        zeros = torch.zeros(weight.shape[1], dtype=torch.float32, device=weight.device)
        inputs.append(SharedInput(names, torch.zeros(len(zeros), len(zeros), device=weight.device), zeros))
    handles = [layers[shared.names[0]].register_forward_pre_hook(_adder(shared)) for shared in inputs]
    try:
        for row in rows:
            run(block, row, number)
    finally:
        for handle in handles:
            handle.remove()
    tokens = sum(row.hidden.shape[1] for row in rows)
    for shared in inputs:
        shared.moments /= tokens
        shared.magnitude /= tokens
    called = {name: layers[name] for names in groups for name in names}
    return Block(block, called, inputs, number, sorted(rows, key=lambda row: row.hidden.shape[1]))


def _adder(shared: SharedInput) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].flatten(0, -2)
        shared.magnitude += x.abs().sum(0)
        even = x * x.square().mean(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny).rsqrt()
        shared.moments.addmm_(even.T, even)

    return add


def _sharing(block: nn.Module, row: Row, number: int, layers: dict[str, nn.Linear]) -> list[list[str]]:
    """Group the layers that are called with one and the same tensor."""
    seen: list[tuple[Tensor, list[str]]] = []  # holds on to the tensors, so that no two can have one identity

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            for tensor, names in seen:
                if tensor is args[0]:
                    names.append(name)
                    return
            seen.append((args[0], [name]))

        return hook

    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        run(block, row, number)
    finally:
        for handle in handles:
            handle.remove()
    return [names for _, names in seen]
