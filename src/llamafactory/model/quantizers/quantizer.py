# SPDX-License-Identifier: Apache-2.0
"""What a file of this folder says of its method: a value, not code, wherever a value will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.packages import require_installed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ...extras.device import Device
    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments


def _no_options(settings: QuantizationArguments, dtypes: Dtypes, whole: list[str] | None) -> dict[str, Any]:
    return {}


def _bits_alone(settings: QuantizationArguments) -> float:
    assert settings.quantization_bit is not None
    return settings.quantization_bit


def _nothing(model: PreTrainedModel, settings: QuantizationArguments, dtypes: Dtypes) -> None:
    pass


@dataclass(frozen=True)
class Packing:
    """A quantized weight as plain tensors, for a base that stays in a file.

    Attributes:
        pack: ``(weight [out, in], settings)`` → its parts by name.
        unpack: ``(parts, type)`` → the weight that the method's own layers multiply with.
    """

    pack: Callable[[Tensor, QuantizationArguments], dict[str, Tensor]]
    unpack: Callable[[dict[str, Tensor], torch.dtype], Tensor]


@dataclass(frozen=True)
class Quantizer:
    """A way to hold the weights of linear layers in few bits.

    Attributes:
        name: As ``quantization_method`` knows it.
        bits: What ``quantization_bit`` may be, and which values of ``quantization_type`` each takes; none: it is a
            format of checkpoints, and quantizes nothing while loading.
        packages: Modules it needs, and how pip calls them.
        devices: Types of devices that can compute with it; none: all.
        check_device: Says what of the settings a device cannot do, else ``None``.
        adapters: Values of ``finetuning_type`` that its layers take; ``None``: whatever linear layers take.
        no_adapters: Why no adapter can act on its layers; "" = they can.
        dense: Weights of such a checkpoint become 16-bit ones while they load, wherever adapters are involved.
        stored_bits: Bits that a weight takes, its share of scales included.
        options: Further keywords of ``from_pretrained`` when a model is quantized while it loads; gets the patterns of
            modules that stay whole, ``None`` = those that transformers leaves out by itself.
        quantize: Makes a layer of the library's of a plain one, with a weight in the given type; ``None`` = cannot.
        settle: Makes the loaded layers ones that keep their weights whatever they compute (``layers.py``).
        packing: A weight as plain tensors; none: ``stream_layers`` cannot be had.
    """

    name: str
    bits: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    packages: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    check_device: Callable[[QuantizationArguments, Device], str | None] = lambda settings, device: None
    adapters: tuple[str, ...] | None = None
    no_adapters: str = ""
    dense: bool = False
    stored_bits: Callable[[QuantizationArguments], float] = _bits_alone
    options: Callable[[QuantizationArguments, Dtypes, list[str] | None], dict[str, Any]] = _no_options
    quantize: Callable[[nn.Linear, QuantizationArguments, torch.dtype], nn.Module] | None = None
    settle: Callable[[PreTrainedModel, QuantizationArguments, Dtypes], None] = _nothing
    packing: Packing | None = None

    def require(self, key: str, settings: QuantizationArguments, device: Device, adapts: bool) -> None:
        """Look for what the method needs, before any weight is read.

        Args:
            key: The key, and its value, that asks for the method.
            settings: What the user asks for.
            device: Where it shall compute.
            adapts: The model is trained or gets an adapter.

        Raises:
            ConfigError: A package is missing, the device is none of its own, or no adapter fits.
        """
        if adapts and self.no_adapters:
            raise ConfigError(f"{key}: {self.no_adapters}")
        if self.devices and device.type not in self.devices:
            raise ConfigError(
                f"{key}: {self.name} computes on {' or '.join(self.devices)} only, and this is {device.name} "
                f"({device.type})"
            )
        if refusal := self.check_device(settings, device):
            raise ConfigError(f"{key}: {refusal}")
        for package, pip in self.packages:
            require_installed(package, key, pip)
