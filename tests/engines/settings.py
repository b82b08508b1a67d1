# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of different families and settings, to be read by other programs.

Their weights are large, so that attention is far from even, windows and original lengths shorter than the 60 tokens
that are read, heads 32 wide because vLLM's CPU build knows no narrower ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

LENGTH = 60
SHORT = 24  # below the original length: some readers take other positions for it
ORIGINAL = 32
WINDOW = 16
_THETA = {"rope_theta": 777.0}
_STRETCHED = {**_THETA, "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
YARN = {"rope_type": "yarn", **_STRETCHED}
LINEAR = {"rope_type": "linear", **_THETA, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", **_STRETCHED}
LLAMA3 = {"rope_type": "llama3", **_STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", **_STRETCHED, "short_factor": [1.0] * 16, "long_factor": [3.0] * 16}
SLIDE, FULL = "sliding_attention", "full_attention"
SHAPE: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.08, "head_dim": 32,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_PLAIN = {"rope_parameters": {"rope_type": "default", **_THETA}}
_WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW}
# Half as wide as its heads together; the root of 64, by which Gemma's embeddings are multiplied, is exact however it is
# rounded (mlx-lm: bfloat16, onnxruntime-genai: two decimals).
_WIDE_HEADS = {"hidden_size": 64}
_MISTRAL = {**_PLAIN, **_WIDE_HEADS, "sliding_window": None}
_QWEN3 = {**_PLAIN, **_WIDE_HEADS}
_GEMMA2 = {**_PLAIN, **_WIDE_HEADS, "sliding_window": WINDOW, "query_pre_attn_scalar": 32}
# Five layers slide, one does not.
_GEMMA3 = {**_WIDE_HEADS, "sliding_window": WINDOW, "query_pre_attn_scalar": 32, "num_hidden_layers": 6}
_LOCAL = {"rope_type": "default", "rope_theta": 500.0}
_PHI3 = {**_PLAIN, "sliding_window": None, "original_max_position_embeddings": 128}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
_MULTIPLIERS = {
    "attention_multiplier": 0.2, "residual_multiplier": 0.7, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
}  # fmt: skip

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _PLAIN),
    "llama tied": ("llama", {**_PLAIN, "tie_word_embeddings": True}),
    "llama biases": ("llama", {**_PLAIN, "attention_bias": True, "mlp_bias": True}),
    "llama head_dim": ("llama", {**_PLAIN, **_WIDE_HEADS}),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama linear": ("llama", {"rope_parameters": LINEAR}),
    "llama dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": ORIGINAL}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama yarn attention_factor": ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
    "mistral": ("mistral", _MISTRAL),
    "mistral tied": ("mistral", {**_MISTRAL, "tie_word_embeddings": True}),
    "mistral window": ("mistral", {**_MISTRAL, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", _PLAIN),
    "qwen2 tied": ("qwen2", {**_PLAIN, "tie_word_embeddings": True}),
    "qwen2 linear": ("qwen2", {"rope_parameters": LINEAR}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2 window": ("qwen2", {**_PLAIN, **_WINDOWS, "max_window_layers": 0}),
    "qwen2 window in some layers": ("qwen2", {**_PLAIN, **_WINDOWS, "max_window_layers": 1}),
    "qwen3": ("qwen3", _QWEN3),
    "qwen3 tied": ("qwen3", {**_QWEN3, "tie_word_embeddings": True}),
    "qwen3 linear": ("qwen3", {**_WIDE_HEADS, "rope_parameters": LINEAR}),
    "qwen3 yarn": ("qwen3", {**_WIDE_HEADS, "rope_parameters": YARN}),
    "qwen3 window": ("qwen3", {**_QWEN3, **_WINDOWS, "max_window_layers": 0}),
    "qwen3 window in some layers": ("qwen3", {**_QWEN3, **_WINDOWS, "max_window_layers": 1}),
    "qwen3 attention_bias": ("qwen3", {**_QWEN3, "attention_bias": True}),
    "qwen3_moe": ("qwen3_moe", {**_QWEN3, **_MOE, "norm_topk_prob": True}),
    "qwen3_moe norm_topk_prob": ("qwen3_moe", {**_QWEN3, **_MOE, "norm_topk_prob": False}),
    "gemma2": ("gemma2", _GEMMA2),
    "gemma2 scalar": ("gemma2", {**_GEMMA2, "query_pre_attn_scalar": 100}),
    "gemma2 untied": ("gemma2", {**_GEMMA2, "tie_word_embeddings": False}),
    "gemma3": ("gemma3_text", _GEMMA3),
    "gemma3 scalar": ("gemma3_text", {**_GEMMA3, "query_pre_attn_scalar": 100}),
    "gemma3 thetas": (
        "gemma3_text",
        {**_GEMMA3, "rope_parameters": {SLIDE: _LOCAL, FULL: {**_LOCAL, "rope_theta": 777.0}}},
    ),
    "gemma3 linear": ("gemma3_text", {**_GEMMA3, "rope_parameters": {SLIDE: _LOCAL, FULL: LINEAR}}),
    "phi3": ("phi3", _PHI3),
    "phi3 window": ("phi3", {**_PHI3, "sliding_window": WINDOW}),
    "phi3 partial": ("phi3", {**_PHI3, "rope_parameters": {**_PLAIN["rope_parameters"], "partial_rotary_factor": 0.5}}),
    "phi3 longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "sliding_window": None, "original_max_position_embeddings": ORIGINAL},
    ),
    "smollm3": ("smollm3", {**_PLAIN, "num_hidden_layers": 4}),
    "olmo2": ("olmo2", _PLAIN),
    "granite": ("granite", {**_PLAIN, **_MULTIPLIERS}),
    "granite tied": ("granite", {**_PLAIN, **_MULTIPLIERS, "tie_word_embeddings": True}),
}  # fmt: skip


def make(name: str, words: Path, folder: Path) -> Path:
    """Save the model with the tokenizer of another folder."""
    family, changes = SETTINGS[name]
    tokenizer = AutoTokenizer.from_pretrained(words)
    # CTranslate2's converter takes no tokenizer without these.
    tokenizer.bos_token = tokenizer.unk_token = tokenizer.eos_token
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **changes, "vocab_size": len(tokenizer)})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases begin as ones and zeros: one that is forgotten must show
                parameter += 0.3 * torch.rand_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
