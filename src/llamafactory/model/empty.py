# SPDX-License-Identifier: Apache-2.0
"""A model that has shapes, number formats and adapters but no weights: what a run's needs are planned with."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..extras.errors import ConfigError
from ..plugins import resolve
from .config import language_class
from .layer_sampling import LayerSampling
from .loader import base_config, by_part, choose_attention
from .quantizers.layers import linear_to_quantize, settle_layers
from .towers import freeze_parts, settle_parts

if TYPE_CHECKING:
    from ..hparams import Dtypes, TrainArgs
    from .heads import Head

# What looks at the values of weights when adapters are made; the adapters have the same shapes without.
_LOOKS_AT_WEIGHTS = {"pissa_init": False, "lora_init": "default"}


def planned_config(args: TrainArgs) -> Any:
    """Return the configuration of the model that a run trains.

    Raises:
        ConfigError: There is none that can be trained.
    """
    config = base_config(args, trainable=True)
    if type(config) not in language_class(config)._model_mapping:
        raise ConfigError(
            f"model_name_or_path: '{args.model.model_name_or_path}' is a {config.model_type} model; plan knows the "
            "language models of transformers"
        )
    return config


def weight_bytes(args: TrainArgs, dtype: torch.dtype, head: Head | None = None, fused: bool = False) -> int:
    """Return the bytes of a model's weights, without adapters.

    Args:
        args: What the model is loaded by.
        dtype: Of weights that are not quantized.
        head: None for a language model.
        fused: Only experts that share a tensor, each of which has tensors of its own in a file.
    """
    with torch.device("meta"):
        model = _base(args, planned_config(args), dtype, head)
    return sum(weight.nbytes for weight in model.parameters() if weight.dim() == 3 or not fused)


def empty_model(args: TrainArgs, config: Any, dtypes: Dtypes, head: Head | None = None) -> nn.Module:
    """Return the model of a run on the meta device, ready to train.

    Args:
        args: The whole resolved configuration. Adapters that it goes on with are taken to be as large as new ones.
        config: From :func:`planned_config`.
        dtypes: Number formats.
        head: None for a language model.
    """
    whole = args.finetuning.finetuning_type == "full"
    dtype = getattr(torch, dtypes.trainable if whole else dtypes.frozen)
    with torch.device("meta"):
        model = _base(args, config, dtype, head)
        settle_parts(model, args.finetuning)
        tuned: nn.Module = resolve("tuners", args.finetuning.finetuning_type).create(model, _fresh(args), dtypes)
    freeze_parts(tuned)
    if sampled := getattr(args.tuner, "lisa_activated_layers", None):
        LayerSampling(tuned, sampled, 1).activate([*range(sampled)])  # the first ones: all activations are kept
    return tuned.train()


def _base(args: TrainArgs, config: Any, dtype: torch.dtype, head: Head | None) -> Any:
    auto = language_class(config) if head is None else head.auto_class()
    if head is not None:
        head.configure(config)
    attention = choose_attention(
        language_class(config)._model_mapping[type(config)], config, args.model.flash_attn, trainable=True
    )
    model = auto.from_config(config, dtype=dtype, attn_implementation=by_part(attention, config))
    if args.quantization.quantization_bit is not None:
        stored = resolve("quantizers", args.quantization.quantization_method).stored_bits(args.quantization)
        _pack(model, 0 if args.quantization.stream_layers else stored)
    return model


def _pack(model: nn.Module, bits: float) -> None:
    """Put weights of so many bits each into the layers that a quantizer takes."""
    chosen = {layer for _, layer in linear_to_quantize(model)}
    for layer in chosen:
        packed = torch.empty(layer.out_features, math.ceil(layer.in_features * bits / 8), dtype=torch.uint8)
        layer.weight = nn.Parameter(packed, requires_grad=False)
    settle_layers(model, nn.Linear, _dense, chosen.__contains__)


def _dense(layer: Any, dtype: torch.dtype) -> Tensor:
    weight: Tensor = layer.stored.new_empty(layer.out_features, layer.in_features, dtype=dtype)
    return weight


def with_layers(config: Any, number: int) -> Any:
    """Return the configuration with its first ``number`` layers; lists with an entry a layer are cut too."""
    cut = copy.deepcopy(config)
    text = cut.get_text_config()
    layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:number])
    text.num_hidden_layers = number
    return cut


def _fresh(args: TrainArgs) -> TrainArgs:
    tuner = args.tuner
    if is_dataclass(tuner) and not isinstance(tuner, type):
        known = {item.name for item in fields(tuner)}
        tuner = replace(tuner, **{name: value for name, value in _LOOKS_AT_WEIGHTS.items() if name in known})
    return replace(args, tuner=tuner, model=replace(args.model, adapter_name_or_path=None))
