# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of every family that GGUF files are written for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from llamafactory.export.gguf.writer import write_gguf

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "dtype": torch.float32,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE),
    "mistral": MistralConfig(**SHAPE, head_dim=32, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=128),  # the only size transformers expects in a GGUF file
    "gemma2": Gemma2Config(**SHAPE, head_dim=16, sliding_window=32, query_pre_attn_scalar=16),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=32, query_pre_attn_scalar=16),
    "phi3": Phi3Config(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2),
}


def tiny(config: Any, tokenizer: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    config.vocab_size = len(tokenizer)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # so that a forgotten offset shows
                weight += 0.3 * torch.rand_like(weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_gguf(family: str, changes: dict[str, Any], words: Path, folder: Path, kind: str) -> tuple[Path, int]:
    """Write a random model with some settings and its GGUF file; return the file and the context that it names.

    Its weights are large, so that attention is far from even; windows are 16 tokens wide where nothing else is said.
    """
    window = {"head_dim": 16, "sliding_window": 16} if family.startswith("gemma") else {}
    shape = {**SHAPE, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **{**shape, **window, **changes})
    tiny(config, AutoTokenizer.from_pretrained(words), folder)
    GenerationConfig(eos_token_id=2).save_pretrained(folder)
    file = folder / f"model-{kind}.gguf"
    write_gguf(folder, file, kind)
    fields = GGUFReader(file).fields
    architecture = fields["general.architecture"].contents()
    return file, fields[f"{architecture}.context_length"].contents()
