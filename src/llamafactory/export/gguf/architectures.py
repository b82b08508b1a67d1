# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp calls the parts of each model family, and how it keeps their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Architecture:
    """One family.

    Attributes:
        name: In llama.cpp.
        interleaved_rope: Query and key rows are kept in pairs (2i, 2i + 1) instead of halves.
        norm_offset: What llama.cpp expects added to a norm's weight (Gemma computes with 1 + weight).
        windowed: The size of its sliding window is written.
        factors: llama.cpp reads a divisor for each frequency of the positions.
        scaled_query: The weight that takes the part of the attention's scale that llama.cpp does not know.
        layers_of_27b: Number of layers by which llama.cpp knows the model whose scale comes of the hidden size.
    """

    name: str
    interleaved_rope: bool = False
    norm_offset: float = 0.0
    windowed: bool = False
    factors: bool = False
    scaled_query: str | None = None
    layers_of_27b: int | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", interleaved_rope=True, factors=True),
    "mistral": Architecture("llama", interleaved_rope=True, factors=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", norm_offset=1.0, windowed=True, scaled_query="q_proj", layers_of_27b=46),
    "gemma3_text": Architecture("gemma3", norm_offset=1.0, windowed=True, scaled_query="q_norm", layers_of_27b=62),
    "phi3": Architecture("phi3", windowed=True),
}


def metadata(config: PretrainedConfig, family: Architecture, context: int) -> dict[str, Any]:
    """Return the keys llama.cpp reads, without the family's name in front.

    Args:
        config: One that ``llama_cpp_limits`` does not refuse.
        family: Its family.
        context: Longest context in tokens.
    """
    heads = config.num_attention_heads
    rope = rope_of(config)
    values: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "attention.key_length": _head_dim(config),
        "attention.value_length": _head_dim(config),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": int(_head_dim(config) * (rope.get("partial_rotary_factor") or 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
        **_rope_scaling(config, family),
    }
    if family.windowed and getattr(config, "sliding_window", None):
        values["attention.sliding_window"] = config.sliding_window
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name, None):
            values[name] = float(getattr(config, name))
    local = config.rope_parameters.get("sliding_attention")
    if local:
        values["rope.freq_base_swa"] = float(local["rope_theta"])
    return values


def rope_factors(config: PretrainedConfig, family: Architecture) -> Tensor | None:
    """Return what each frequency is divided by ``[head_dim / 2]``; ``None`` when keys of the file say all."""
    if not _has_factors(config, family):
        return None
    scaled, _ = _scaled(config)
    dims = scaled.numel() * 2
    import torch

    plain = 1.0 / rope_of(config)["rope_theta"] ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    return plain / scaled


def to_gguf(name: str, tensor: Tensor, config: PretrainedConfig, family: Architecture) -> Tensor:
    """Return a weight as llama.cpp keeps it."""
    scale = _query_scale(config, family) if _is_scaled_query(name, family) else 1.0
    if family.norm_offset and name.endswith("norm.weight"):
        return (tensor.float() + family.norm_offset) * scale
    if scale != 1.0:
        return tensor.float() * scale
    if family.interleaved_rope and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads
        if name.rpartition(".")[0].endswith("k_proj"):
            heads = config.num_key_value_heads
        # Rows of a head are [first half, second half] of the rotated pairs; GGUF wants each pair side by side.
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def rope_of(config: PretrainedConfig) -> dict[str, Any]:
    """Return the position parameters; those of full attention where layers differ."""
    parameters = config.rope_parameters
    return parameters.get("full_attention", parameters)


def is_plain_yarn(rope: dict[str, Any]) -> bool:
    """Whether the frequencies of yarn are those that llama.cpp computes; it reads none of these keys."""
    betas = (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1)
    return betas == (32, 1) and rope.get("truncate", True)


def _has_factors(config: PretrainedConfig, family: Architecture) -> bool:
    rope = rope_of(config)
    kind = rope.get("rope_type", "default")
    return family.factors and (kind == "llama3" or (kind == "yarn" and not is_plain_yarn(rope)))


def _scaled(config: PretrainedConfig) -> tuple[Tensor, float]:
    """Return the frequencies and the factor on sines and cosines, as transformers computes them."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return ROPE_INIT_FUNCTIONS[rope_of(config)["rope_type"]](config, torch.device("cpu"))


def _rope_scaling(config: PretrainedConfig, family: Architecture) -> dict[str, Any]:
    rope = rope_of(config)
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind != "yarn":
        return {}
    _, attention = _scaled(config)
    if _has_factors(config, family):
        return {"rope.scaling.attn_factor": float(attention)}
    factor = float(rope["factor"] or config.max_position_embeddings / rope["original_max_position_embeddings"])
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        # llama.cpp multiplies it onto its own.
        "rope.scaling.attn_factor": float(attention) / (1.0 + 0.1 * math.log(factor)),
    }


def _head_dim(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _is_scaled_query(name: str, family: Architecture) -> bool:
    return family.scaled_query is not None and name.endswith(f"{family.scaled_query}.weight")


def _query_scale(config: PretrainedConfig, family: Architecture) -> float:
    """Return what queries are multiplied by, so that llama.cpp's own scale makes ``query_pre_attn_scalar`` of them."""
    divisor = _head_dim(config)
    if config.num_hidden_layers == family.layers_of_27b:  # this is how llama.cpp knows the model that differs
        divisor = config.hidden_size // config.num_attention_heads
    return math.sqrt(divisor / config.query_pre_attn_scalar)
