# SPDX-License-Identifier: Apache-2.0
"""Settings of every family whose GGUF file is written: llama.cpp's logits are those of transformers.

Beyond the sliding window too, or up to the context that the file names. Weights are large, so that attention matters;
``tests/export/test_gguf_limits.py`` holds what is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export.families import tiny_gguf
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.llamacpp

LENGTH = 60
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
DEEP = {"intermediate_size": 32, "initializer_range": 0.1}  # rounding adds up over many layers
SLIDE, FULL = "sliding_attention", "full_attention"
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama head_dim": ("llama", {"head_dim": 32}),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama linear": ("llama", {"rope_parameters": LINEAR}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama yarn attention_factor": ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
    "llama yarn mscale": ("llama", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}),
    "llama yarn truncate": ("llama", {"rope_parameters": {**YARN, "truncate": False}}),
    "llama yarn betas": ("llama", {"rope_parameters": {**YARN, "beta_fast": 8.0, "beta_slow": 0.5}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral window": ("mistral", {"sliding_window": 16}),
    "mistral yarn truncate": ("mistral", {"sliding_window": None, "rope_parameters": {**YARN, "truncate": False}}),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen2 window of no layer": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 9}),
    "qwen2 yarn attention_factor": ("qwen2", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
    "qwen2 linear": ("qwen2", {"rope_parameters": LINEAR}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3 window": ("qwen3", {"use_sliding_window": True, "sliding_window": 16, "layer_types": [FULL, SLIDE]}),
    "qwen3 yarn mscale": ("qwen3", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}),
    "gemma2 scalar": ("gemma2", {"query_pre_attn_scalar": 64}),
    "gemma2 softcaps": ("gemma2", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}),
    "gemma2 layers": ("gemma2", {"layer_types": [FULL, SLIDE]}),
    "gemma2 full layers": ("gemma2", {"layer_types": [FULL, FULL]}),
    "gemma2 linear": ("gemma2", {"rope_parameters": LINEAR}),
    "gemma2 yarn": ("gemma2", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
    "gemma2 27b": (
        "gemma2",
        {"num_hidden_layers": 46, "hidden_size": 32, "query_pre_attn_scalar": 20, **DEEP},
    ),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 16}),
    "gemma3 scalar": ("gemma3_text", {"query_pre_attn_scalar": 64}),
    "gemma3 softcap": ("gemma3_text", {"final_logit_softcapping": 10.0}),
    "gemma3 untied": ("gemma3_text", {"tie_word_embeddings": False}),
    "gemma3 six layers": (
        "gemma3_text",
        {
            "num_hidden_layers": 7,
            "rope_parameters": {
                SLIDE: {"rope_type": "default", "rope_theta": 500.0},
                FULL: {**LINEAR, "rope_theta": 1000000.0},
            },
        },
    ),
    "gemma3 27b": (
        "gemma3_text",
        {
            "num_hidden_layers": 62,
            "hidden_size": 32,
            "intermediate_size": 32,
            "query_pre_attn_scalar": 20,
            "initializer_range": 0.1,
        },
    ),
    "phi3": ("phi3", {}),
    "phi3 window": ("phi3", {"sliding_window": 16}),
    "phi3 partial": ("phi3", {"partial_rotary_factor": 0.5}),
    "phi3 partial 12": ("phi3", {"partial_rotary_factor": 0.75}),
}


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("name", SETTINGS)
@torch.inference_mode()
def test_logits(name: str, kind: str, tiny_llama: Path, tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    family, changes = SETTINGS[name]
    file, context = tiny_gguf(family, changes, tiny_llama, tmp_path, kind)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(5, 200, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    ours = model(ids).logits[0]
    theirs = torch.tensor(ask(file=str(file), ids=ids[0].tolist())["logits"])
    wrong = (ours - theirs).abs().amax(-1) / ours.abs().max()
    print(name, kind, context, float(wrong[:context].max()), float(wrong.max()))
    assert float(wrong[:context].max()) < 2e-2
    if context < LENGTH:  # else the cap is not needed
        assert float(wrong[context:].max()) > 2e-2
