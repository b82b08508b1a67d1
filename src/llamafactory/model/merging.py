# SPDX-License-Identifier: Apache-2.0
"""Putting an adapter into the weights: computed in float32, rounded once."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING, cast

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..extras.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """Merge the active adapter, in place, and give the plain model in ``dtype``.

    One layer at a time is held in float32, so that ``W + scale * B @ A`` is rounded once; the peak is one model and one
    layer.

    Args:
        model: With an adapter, or without one: then it is only cast.
        dtype: Type of the weights; those that the architecture keeps in float32 stay so.

    Raises:
        ConfigError: The base is quantized.
    """
    if isinstance(model, PeftModel):
        _untie(model)
        for name, layer in model.named_modules():
            if isinstance(layer, TrainableTokensLayer):
                layer.get_base_layer().to(dtype)  # merge_and_unload then puts the rows of new tokens in
            elif isinstance(layer, BaseTunerLayer):
                _merge_layer(name, layer, dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*([Aa]lready (been )?merged|no longer tied).*")
            model = cast("PreTrainedModel", model.merge_and_unload())
    _note_untied(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point() and not _stays_float32(model, name, dtype):
            parameter.data = parameter.data.to(dtype)
    return model


def _merge_layer(name: str, layer: BaseTunerLayer, dtype: torch.dtype) -> None:
    base = layer.get_base_layer()
    if not all(parameter.is_floating_point() for parameter in base.parameters()):
        raise ConfigError(f"quantization: {name} is quantized; export merges into the model in full precision")
    base.float()
    layer.merge()
    base.to(dtype)


def _untie(model: nn.Module) -> None:
    """Give an adapted layer its own weight when it shares one: the delta belongs to this layer alone."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer) or isinstance(layer, TrainableTokensLayer):
            continue
        base = layer.get_base_layer()
        if owners[id(base.weight)] > 1:
            owners[id(base.weight)] -= 1
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)


def _note_untied(model: PreTrainedModel) -> None:
    """Say in the config when input and output embeddings are no longer one tensor, so that a reload keeps both."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embeddings is None or head.weight is embeddings.weight:
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _stays_float32(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Apply the rule by which ``from_pretrained`` keeps sensitive modules in float32."""
    kept = set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    return any(re.search(rf"(^|\.){module}($|\.)", name) for module in kept)
