# SPDX-License-Identifier: Apache-2.0
"""The plain model that a policy in training amounts to, for generating: adapters added in, nothing that training needs.

It is no second model: what no adapter changes and training does not cast is the very storage of the policy's weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ....model.attention import ordinary_implementation
from ....model.sharding.shard import is_sharded
from ....model.wrapping import beneath_adapters
from .vllm_rollout import policy_weights


class Twin:
    """A policy's plain model.

    Args:
        policy: A language model of transformers, or a PeftModel with LoRA around one; :func:`why_no_twin` is None.

    Attributes:
        model: Without weights until :meth:`refresh`.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        plain = beneath_adapters(policy)
        config = copy.deepcopy(plain.config)
        config._attn_implementation = ordinary_implementation(type(plain), config.get_text_config())
        with torch.device("meta"):
            self.model = type(plain)(config).eval().requires_grad_(False)
        buffers = dict(plain.named_buffers())
        for name, module in self.model.named_modules():
            for own in list(module._buffers):
                module._buffers[own] = buffers.get(f"{name}.{own}" if name else own)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the policy's present weights."""
        weights = dict(policy_weights(self._policy, tied=True))
        self.model.load_state_dict(weights, strict=False, assign=True)
        self._cast()

    def _cast(self) -> None:
        """Under autocast, cast the weights of linear layers once, and not for every token."""
        kind = self.model.device.type
        if not torch.is_autocast_enabled(kind):
            return
        dtype = torch.get_autocast_dtype(kind)
        for module in self.model.modules():
            if type(module) is nn.Linear and module.weight.dtype != dtype:
                module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)


def why_no_twin(policy: Any) -> str | None:
    """Return why a policy cannot be written down as a plain model; None = it can."""
    plain = beneath_adapters(policy)
    if is_sharded(policy):
        return "its weights are sharded"
    if getattr(plain, "hf_quantizer", None) is not None:
        return "its weights are quantized"
    if len({weight.device for weight in plain.parameters()}) != 1 or plain.device.type == "meta":
        return "its weights are on several devices"
    kinds = {str(getattr(kind, "peft_type", "LORA")).rpartition(".")[2] for kind in _adapters(policy)}
    if kinds - {"LORA"}:
        return f"its adapter ({', '.join(sorted(kinds))}) cannot be added to the weights"
    layers = [module for module in plain.modules() if hasattr(module, "get_delta_weight")]
    if any(getattr(layer, "lora_variant", None) for layer in layers):
        return "its kind of LoRA cannot be added to the weights"
    if any(any(getattr(layer, "lora_bias", {}).values()) for layer in layers):
        return "its adapter has biases of its own (lora_bias)"
    return _differs(plain)


def _adapters(policy: Any) -> list[Any]:
    return list(getattr(policy, "peft_config", {}).values())


def _differs(plain: Any) -> str | None:
    """Whether a layer computes something else than the same layer of a model that was just made."""
    with torch.device("meta"):
        fresh = type(plain)(copy.deepcopy(plain.config))
    ours = dict(plain.named_modules())
    for name, module in fresh.named_modules():
        own: Any = ours.get(name)
        while own is not None and hasattr(own, "base_layer"):
            own = own.base_layer
        if hasattr(own, "modules_to_save"):
            own = own.original_module
        if type(own) is not type(module):
            return f"its layer {name} is a {type(own).__name__}"
    return None
