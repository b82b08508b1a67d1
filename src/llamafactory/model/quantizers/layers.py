# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights are held in few bits: one forward for all methods, and the dense weight on demand.

``y = x W^T`` with ``W`` dequantized in the type of ``x``, in training and in evaluation alike. The forwards of the
libraries are left aside, for some do otherwise: in the first evaluation on a CPU bitsandbytes repacks 4-bit weights in
place, and outside of training it rounds the inputs of 8-bit layers, so that whatever is merged, saved or compared
afterwards is another model than the one that was trained.

To PEFT such a layer is a plain linear one: what reads its ``weight`` (DoRA, BOFT, HRA …) gets the dense one. The ways
that PEFT has around the layers of bitsandbytes, torchao, HQQ and quanto, some of them wrong, are never taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..towers import outside_language
from ..wrapping import beneath_adapters

Dense = Callable[[Any, torch.dtype], Tensor]  # (layer, type) -> its weight [out, in]


class Quantized(nn.Linear):
    """A linear layer whose weight is stored in few bits; :func:`settle_layers` makes it of a library's.

    Attributes:
        dense: Makes its weight dense, as the library does.
        weight_type: Of the weight that whoever asks for ``weight`` sees; the type of what the model keeps whole.
    """

    dense: Dense
    weight_type: torch.dtype

    @property
    def stored(self) -> Any:
        """What the library calls the layer's weight: packed."""
        return self._parameters["weight"]

    @property
    def weight(self) -> Tensor:
        """The weight ``[out, in]``, made dense for this call; what is written into it is lost."""
        return self.dense_weight(self.weight_type)

    def dense_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]`` that the layer multiplies with."""
        with torch.no_grad():
            return type(self).dense(self, dtype)

    def dequantize(self) -> Tensor:
        """The same, by the name that PEFT calls on layers of HQQ."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., in]`` → ``[..., out]``, in the type of ``x``."""
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """``x W^T``; the backward dequantizes once more instead of keeping the dense weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantized) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dense_weight(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy @ ctx.layer.dense_weight(dy.dtype), None


@functools.cache
def _quantized_kind(kind: str, dense: Any) -> type[Quantized]:
    return type(f"Quantized{kind}", (Quantized,), {"__module__": __name__, "dense": staticmethod(dense)})


def settle_layers(model: Any, kind: type, dense: Dense, only: Callable[[Any], bool] | None = None) -> None:
    """Put a :class:`Quantized` one, with the weight that ``dense`` gives, in the place of every layer of ``kind``."""
    for name, module in list(model.named_modules()):
        if type(module) is kind and (only is None or only(module)):
            wanted = _quantized_kind(kind.__name__, dense)
            settled = wanted.__new__(wanted)
            settled.__dict__ = module.__dict__  # the layer as it is, under another class
            settled.weight_type = model.dtype
            model.set_submodule(name, settled)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, Quantized]]:
    """Names and layers that hold their weights in few bits."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantized))


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of the model are held in few bits, in layers of ours or of a library's."""
    core = beneath_adapters(model)
    return bool(getattr(core, "is_quantized", False)) or any(True for _ in quantized_layers(core))


def whole_modules(model: Any) -> list[str]:
    """Patterns of what stays whole: the head, what is tied to another weight, what is beside the language model."""
    from transformers.quantizers.base import get_keys_to_not_convert  # imports every package of quantization there is

    outside = outside_language(model)
    return [*get_keys_to_not_convert(model), *([] if outside is None else [outside])]


def linear_to_quantize(model: Any) -> list[tuple[str, nn.Linear]]:
    """The linear layers but those of :func:`whole_modules`."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    whole = whole_modules(model)
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, whole)
    ]


def leave_file(model: nn.Module) -> None:
    """Copy what stayed whole: as long as one weight lies in the mapped file, all pages of the file count as ours."""
    for parameter in model.parameters():
        is_held = parameter.is_contiguous()  # what a library quantizes, or a file holds, is no plain tensor
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu" and is_held:
            parameter.data = parameter.data.clone()


def keep_from_broadcast(model: nn.Module) -> None:
    """Let DistributedDataParallel leave the quantized weights alone, which each rank has read for itself.

    It sends all weights at the start, and the tensors of some libraries cannot be sent.
    """
    names = [f"{name}.{key}" for name, layer in quantized_layers(model) for key, _ in layer.named_parameters()]
    if names:
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


@torch.no_grad()
def dequantize(model: Any, dtype: torch.dtype) -> None:
    """Put plain linear layers in the place of quantized ones: same function, weights in ``dtype``."""
    for name, layer in list(quantized_layers(model)):
        weight = layer.dense_weight(dtype)
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
        plain.training = model.training
        model.set_submodule(name, plain)
    forget_quantization(model)


def forget_quantization(model: Any) -> None:
    """Take away what transformers notes on a model whose weights were quantized; they are plain now."""
    for holder, name in (
        (model, "hf_quantizer"),
        (model.config, "quantization_config"),
        (model, "quantization_method"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
