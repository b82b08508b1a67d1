# SPDX-License-Identifier: Apache-2.0
"""Which method holds the weights of a model in few bits, and whether it can be had here; asked before they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams.rules.model import NOT_OVER_FEW_BITS
from ...plugins import QUANTIZERS, resolve
from ..config import takes_media
from .layers import leave_file, quantized_layers, whole_modules
from .quantizer import Quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...extras.device import Device
    from ...hparams import Dtypes, InferArgs, TrainArgs
    from ...hparams.model_args import QuantizationArguments

logger = get_logger(__name__)

# What config.json calls a method whose row has another name.
_NAMES = {"bitsandbytes": "bnb"}


@dataclass(frozen=True)
class Choice:
    """How a model is loaded.

    Attributes:
        quantizer: None = as it is.
        settings: What the user asks for.
        is_stored: The checkpoint holds weights that are quantized.
        is_dense: They become 16-bit ones while they load.
    """

    quantizer: Quantizer | None
    settings: QuantizationArguments
    is_stored: bool = False
    is_dense: bool = False

    @property
    def streams(self) -> bool:
        """Its weights stay in a file."""
        return self.quantizer is not None and not self.is_stored and self.settings.stream_layers

    def options(self, dtypes: Dtypes, auto: Any, config: Any) -> dict[str, Any]:
        """Further keywords of ``from_pretrained`` of the ``Auto...`` class that loads this configuration."""
        if self.quantizer is None or self.is_stored or self.streams:  # a checkpoint says itself how it is loaded
            return {}
        return self.quantizer.options(self.settings, dtypes, _stays_whole(auto, config))

    def settle(self, model: PreTrainedModel, dtypes: Dtypes) -> None:
        """Finish the loaded model, and say what it is now."""
        if self.quantizer is None:
            return
        self.quantizer.settle(model, self.settings, dtypes)
        if not self.is_stored:
            leave_file(model)
        quantized = [name for name, _ in quantized_layers(model)]
        if quantized:
            logger.info_rank0("%d linear layers hold their weights in few bits: %s", len(quantized), self)
        experts = sum(
            weight.numel() for weight in model.parameters() if weight.ndim == 3 and weight.is_floating_point()
        )
        if experts:
            logger.warning_rank0(
                "%s weights of fused experts stay whole: quantization puts linear layers into few bits, and no more",
                f"{experts:,}",
            )

    def __str__(self) -> str:
        """Method, bits, number format."""
        assert self.quantizer is not None
        if self.is_stored:
            return f"{self.quantizer.name}, as the checkpoint does"
        bits = self.settings.quantization_bit
        assert bits is not None
        kinds = self.quantizer.bits[bits]
        kind = self.settings.quantization_type if self.settings.quantization_type in kinds else "".join(kinds[:1])
        double = ", scales quantized too" if self.settings.double_quantization and "nf4" in kinds else ""
        return f"{self.quantizer.name}, {bits} bits{f', {kind}' if kind else ''}{double}"


def _stays_whole(auto: Any, config: Any) -> list[str] | None:
    """Patterns of what stays whole in a model that takes media: its head, and all that is beside its language model."""
    if not takes_media(config):
        return None
    with torch.device("meta"):
        return whole_modules(auto.from_config(config))


def stored_method(config: Any) -> str | None:
    """How ``config.json`` calls the method by which the weights were quantized; ``None``: they are not."""
    settings = _stored_settings(config)
    return str(settings.get("quant_method") or "a method that config.json does not name") if settings else None


def _stored_settings(config: Any) -> dict[str, Any] | None:
    parts = (config, config.get_text_config())
    given = [getattr(part, name, None) for part in parts for name in ("quantization_config", "compression_config")]
    return next(filter(None, given), None)


def choose_quantizer(args: TrainArgs | InferArgs, config: Any, path: str, device: Device, trains: bool) -> Choice:
    """Find what quantizes the model while it loads, or what its checkpoint is quantized by.

    Args:
        args: ``quantization`` and ``finetuning`` are read.
        config: Of the model; it learns that weights shall be dense.
        path: Of the model, for messages.
        device: Where it shall compute.
        trains: The model is trained, and not only used.

    Raises:
        ConfigError: A package is missing, the device is not one of the method's, or it quantizes what is quantized.
    """
    settings, stored = args.quantization, stored_method(config)
    if stored is not None:
        if settings.quantization_bit is not None:
            raise ConfigError(
                f"quantization_bit: '{path}' holds weights that are quantized by {stored} already; leave it out"
            )
        choice = _of_checkpoint(args, stored, f"model_name_or_path: '{path}'", device, trains)
        if choice.is_dense and (noted := _stored_settings(config)) is not None:
            noted["dequantize"] = True
        return choice
    if settings.quantization_bit is None:
        return Choice(None, settings)
    quantizer = resolve("quantizers", settings.quantization_method)
    key = f"quantization_bit: {settings.quantization_bit} with quantization_method {quantizer.name}"
    quantizer.require(key, settings, device, trains or bool(args.model.adapter_name_or_path))
    return Choice(quantizer, settings)


def _of_checkpoint(args: TrainArgs | InferArgs, method: str, place: str, device: Device, trains: bool) -> Choice:
    adapts = trains or bool(args.model.adapter_name_or_path)
    row = _NAMES.get(method, method)
    if row not in QUANTIZERS:
        if adapts:
            known = ", ".join(QUANTIZERS)
            raise ConfigError(f"{place} holds weights quantized by {method}, which take no adapter; known: {known}")
        return Choice(None, args.quantization, is_stored=True)
    quantizer = resolve("quantizers", row)
    kind = args.finetuning.finetuning_type
    known = quantizer.adapters
    if trains and not quantizer.dense and (kind in NOT_OVER_FEW_BITS or not (known is None or kind in known)):
        why = NOT_OVER_FEW_BITS.get(kind) or f"PEFT has {', '.join(known or ())} for its layers"
        raise ConfigError(
            f"finetuning_type: {kind}, but {place.partition(': ')[2]} holds weights quantized by {method}: {why}"
        )
    quantizer.require(f"{place} holds weights quantized by {method}", args.quantization, device, adapts)
    return Choice(quantizer, args.quantization, is_stored=True, is_dense=adapts and quantizer.dense)
