# SPDX-License-Identifier: Apache-2.0
"""Putting an adapter into the weights: computed in float32, rounded once."""

from __future__ import annotations

import copy
import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn

from ..extras.errors import ConfigError
from .quantizers.layers import Quantized

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
        _keep_rows_apart(model)
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
    cast_weights(model, dtype)
    return model


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the weights of a plain model one type, but those that its architecture keeps in float32; none is trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point() and not _stays_float32(model, name, dtype):
            parameter.data = parameter.data.to(dtype)


def adapted_weight(layer: BaseTunerLayer) -> str:
    """Which parameter of its base a layer of an adapter changes: fused experts have several, and none named weight."""
    return getattr(layer, "parameter_name", "weight")


def _merge_layer(name: str, layer: BaseTunerLayer, dtype: torch.dtype) -> None:
    base = layer.get_base_layer()
    if isinstance(base, Quantized) or not all(weight.is_floating_point() for weight in base.parameters()):
        raise ConfigError(f"quantization: {name} is quantized; export merges into the model in full precision")
    base.float()
    _give_bias(layer, base)
    layer.merge()
    base.to(dtype)


def _give_bias(layer: BaseTunerLayer, base: nn.Module) -> None:
    """An adapter may have a bias (``lora_bias``) where its base has none."""
    has_bias = getattr(layer, "lora_bias", {})
    if any(has_bias.get(adapter) for adapter in layer.active_adapters) and base.bias is None:
        base.bias = nn.Parameter(base.weight.new_zeros(base.out_features), requires_grad=False)
        base.bias_is_new = True


def hold_biases(model: PreTrainedModel) -> None:
    """Say in the config which layers got a bias, so that a reload has a place for it.

    A switch of the config gives a bias to a group of layers; those that the adapter left alone get zeros.

    Raises:
        ConfigError: Models of this architecture cannot have a bias there.
    """
    needed = {name for name, module in model.named_modules() if getattr(module, "bias_is_new", False)}
    config = model.config.get_text_config()
    for switch in [key for key, value in config.to_dict().items() if value is False and key.endswith("bias")]:
        if not needed:
            return
        given = _biased_by(model, config, switch)
        if needed & given:
            needed -= given
            setattr(config, switch, True)
            for name in given:
                layer = model.get_submodule(name)
                if layer.bias is None:
                    layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
    if needed:
        raise ConfigError(
            f"adapter_name_or_path: lora_bias gives {min(needed)} a bias, which models of type "
            f"{model.config.model_type} cannot hold; use it through adapter_name_or_path, without export"
        )


def _biased_by(model: PreTrainedModel, config: Any, switch: str) -> set[str]:
    """Layers that have a bias only because ``switch`` of the config is on."""
    setattr(config, switch, True)
    try:
        with torch.device("meta"):
            twin = type(model)(copy.deepcopy(model.config))
    finally:
        setattr(config, switch, False)
    mine = dict(model.named_modules())
    linear = {
        name for name, module in twin.named_modules() if isinstance(module, nn.Linear) and module.bias is not None
    }
    return {name for name in linear if mine[name].bias is None or getattr(mine[name], "bias_is_new", False)}


def _keep_rows_apart(model: nn.Module) -> None:
    """Give a head that LoRA adapts the new tokens' rows as weights of its own.

    PEFT ties these rows of a tied head to the embedding's, below the LoRA layer, where its merge overlooks them.
    """
    for layer in model.modules():
        rows = getattr(layer, "base_layer", None)
        if isinstance(layer, BaseTunerLayer) and isinstance(rows, TrainableTokensWrapper):
            plain = rows.token_adapter.get_base_layer()
            plain.weight = nn.Parameter(with_rows(rows.token_adapter), requires_grad=False)
            layer.base_layer = plain


def with_rows(layer: TrainableTokensLayer) -> Tensor:
    """The weight of an embedding (or a head tied to it) with its trained rows in it, float32."""
    weight = layer.get_base_layer().weight.detach().float().clone()
    for adapter in layer.active_adapters:
        weight[layer.token_indices[adapter]] = layer.trainable_tokens_delta[adapter].detach().float()
    return weight


def _untie(model: nn.Module) -> None:
    """Give an adapted layer its own weight when it shares one: the delta belongs to this layer alone."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer) or isinstance(layer, TrainableTokensLayer):
            continue
        base, key = layer.get_base_layer(), adapted_weight(layer)
        weight = getattr(base, key, None)
        if weight is not None and owners[id(weight)] > 1:
            owners[id(weight)] -= 1
            setattr(base, key, nn.Parameter(weight.detach().clone(), requires_grad=False))


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
