# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp calls the parts of each model family, and how it keeps their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError

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
    """

    name: str
    interleaved_rope: bool = False
    norm_offset: float = 0.0
    windowed: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", interleaved_rope=True),
    "mistral": Architecture("llama", interleaved_rope=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", norm_offset=1.0, windowed=True),
    "gemma3_text": Architecture("gemma3", norm_offset=1.0, windowed=True),
    "phi3": Architecture("phi3", windowed=True),
}


def architecture(config: PretrainedConfig) -> Architecture:
    """Return the family of a model.

    Raises:
        ConfigError: It cannot be written as GGUF yet.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ConfigError(
            f"export_gguf: model type {config.model_type!r} cannot be written; known: {', '.join(ARCHITECTURES)}. "
            "llama.cpp's convert_hf_to_gguf.py reads the exported folder"
        )
    return found


def metadata(config: PretrainedConfig, family: Architecture) -> dict[str, Any]:
    """Return the keys llama.cpp reads, without the family's name in front.

    Raises:
        ConfigError: The positions are scaled in a way that is not known here.
    """
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rotary = getattr(config, "partial_rotary_factor", None) or _rope(config).get("partial_rotary_factor") or 1.0
    values: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": int(head_dim * rotary),
        "rope.freq_base": float(_rope(config)["rope_theta"]),
        "vocab_size": config.vocab_size,
        **_rope_scaling(config),
    }
    if family.windowed and getattr(config, "sliding_window", None):
        values["attention.sliding_window"] = config.sliding_window
    if getattr(config, "attn_logit_softcapping", None):
        values["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        values["final_logit_softcapping"] = float(config.final_logit_softcapping)
    return values


def rope_factors(config: PretrainedConfig) -> Tensor | None:
    """Return what each frequency is divided by ``[head_dim / 2]``; ``None`` when nothing is, or by one number."""
    if _rope(config).get("rope_type") != "llama3":
        return None
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    dims = scaled.numel() * 2
    plain = 1.0 / _rope(config)["rope_theta"] ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    return plain / scaled


def to_gguf(name: str, tensor: Tensor, config: PretrainedConfig, family: Architecture) -> Tensor:
    """Return a weight as llama.cpp keeps it."""
    if family.norm_offset and name.endswith("norm.weight"):
        return tensor.float() + family.norm_offset
    if family.interleaved_rope and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads
        if name.rpartition(".")[0].endswith("k_proj"):
            heads = config.num_key_value_heads
        # Rows of a head are [first half, second half] of the rotated pairs; GGUF wants each pair side by side.
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    """Return the position parameters; those of full attention where layers differ."""
    parameters = config.rope_parameters
    return parameters.get("full_attention", parameters)


def _rope_scaling(config: PretrainedConfig) -> dict[str, Any]:
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    raise ConfigError(f"export_gguf: rope type {kind!r} cannot be written; known: default, linear, llama3, yarn")
