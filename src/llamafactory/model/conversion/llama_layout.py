# SPDX-License-Identifier: Apache-2.0
"""Qwen (the first) and Baichuan 2 as the LLaMA that they compute: transformers reads them without code from the hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...extras.errors import ConfigError
from ...extras.files import publish_folder, write_json
from ...extras.locks import staging_folder
from .weight_files import free_folder, read_settings, read_tensors, require_model, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    Pieces = Iterator[tuple[str, Tensor]]

_QWEN_BLOCK = re.compile(r"transformer\.h\.(\d+)\.(.+)")
_QWEN_NAMES = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",  # multiplied with silu(w2 x)
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
_QWEN_WHOLE = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_COPIED = ("*.tiktoken", "tokenizer*", "tokenization*.py", "qwen_generation_utils.py", "special_tokens_map.json",
           "generation_config.json")  # fmt: skip
_LIKE_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}


def llamafy_qwen(input_dir: str, output_dir: str, shard_size: str = "2GB") -> None:
    """Write a Qwen 1 checkpoint in LLaMA's layout; its tokenizer stays the one of its files.

    Raises:
        ConfigError: It is no such checkpoint, or the new folder is taken.
    """
    source = require_model(input_dir, "input_dir")
    _convert(source, output_dir, shard_size, _qwen_settings(read_settings(source, "input_dir")), _qwen_tensor)


def llamafy_baichuan2(input_dir: str, output_dir: str, shard_size: str = "2GB") -> None:
    """Write a Baichuan 2 7B checkpoint in LLaMA's layout.

    The head's rows are brought to length 1, as its code does at each step. The 13B models tell positions by a slope on
    attention scores (ALiBi), which LLaMA has not.

    Raises:
        ConfigError: It is no such checkpoint, or the new folder is taken.
    """
    source = require_model(input_dir, "input_dir")
    _convert(source, output_dir, shard_size, _baichuan_settings(read_settings(source, "input_dir")), _baichuan_tensor)


def _convert(
    source: Path,
    output_dir: str,
    shard_size: str,
    settings: dict[str, Any],
    translate: Callable[[str, Tensor], Pieces],
) -> None:
    final = free_folder(output_dir, "output_dir")

    def translated() -> Pieces:
        for name, value in read_tensors(source, "input_dir"):
            kinds.add(value.dtype)
            yield from translate(name, value)

    kinds: set[torch.dtype] = set()
    with staging_folder(final, "output_dir") as staging:
        write_tensors(translated(), staging, shard_size)
        [kind] = kinds or {torch.float32}
        write_json(staging / "config.json", settings | {"dtype": str(kind).removeprefix("torch.")})
        for pattern in _COPIED:
            for file in source.glob(pattern):
                shutil.copy(file, staging / file.name)
        publish_folder(staging, final)


def _qwen_settings(known: dict[str, Any]) -> dict[str, Any]:
    if known.get("model_type") != "qwen" or not known.get("no_bias", True):
        raise ConfigError(f"input_dir: expected a config.json of model_type qwen, got {known.get('model_type')}")
    heads, hidden = known["num_attention_heads"], known["hidden_size"]
    return _LIKE_LLAMA | {
        "hidden_size": hidden,
        "intermediate_size": known["intermediate_size"] // 2,  # Qwen counts both of its halves
        "num_hidden_layers": known["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": known.get("kv_channels", hidden // heads),
        "max_position_embeddings": known.get("seq_length") or known["max_position_embeddings"],
        "rms_norm_eps": known["layer_norm_epsilon"],
        "rope_theta": known.get("rotary_emb_base", 10000),
        "vocab_size": known["vocab_size"],
        "tie_word_embeddings": known.get("tie_word_embeddings", False),
        "attention_bias": True,
        "bos_token_id": known.get("bos_token_id"),
        "eos_token_id": known.get("eos_token_id"),
    }


def _qwen_tensor(name: str, value: Tensor) -> Pieces:
    block = _QWEN_BLOCK.fullmatch(name)
    if block is None:
        if name not in _QWEN_WHOLE:
            raise ConfigError(f"input_dir: {name} is no tensor of Qwen")
        yield _QWEN_WHOLE[name], value
        return
    place, inner = f"model.layers.{block[1]}", block[2]
    if inner in ("attn.c_attn.weight", "attn.c_attn.bias"):
        kind = inner.rsplit(".", 1)[1]
        for part, rows in zip("qkv", value.chunk(3), strict=True):
            yield f"{place}.self_attn.{part}_proj.{kind}", rows
    elif inner in _QWEN_NAMES:
        yield f"{place}.{_QWEN_NAMES[inner]}", value
        if inner == "attn.c_proj.weight":  # LLaMA has the biases of attention all or none
            yield f"{place}.self_attn.o_proj.bias", value.new_zeros(value.shape[0])
    elif inner != "attn.rotary_emb.inv_freq":
        raise ConfigError(f"input_dir: {name} is no tensor of Qwen")


def _baichuan_settings(known: dict[str, Any]) -> dict[str, Any]:
    if known.get("model_type") != "baichuan":
        raise ConfigError(f"input_dir: expected a config.json of model_type baichuan, got {known.get('model_type')}")
    if "max_position_embeddings" not in known:
        raise ConfigError("input_dir: Baichuan 2 13B has slopes for positions (ALiBi), which LLaMA has not")
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
            "rms_norm_eps", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
    settings = {name: known[name] for name in kept if name in known}
    return _LIKE_LLAMA | settings | {"num_key_value_heads": known["num_attention_heads"], "tie_word_embeddings": False}


def _baichuan_tensor(name: str, value: Tensor) -> Pieces:
    if name.endswith(".self_attn.W_pack.weight"):
        for part, rows in zip("qkv", value.chunk(3), strict=True):
            yield name.replace("W_pack", f"{part}_proj"), rows
    elif name == "lm_head.weight":
        yield name, torch.nn.functional.normalize(value.float()).to(value.dtype)
    elif not name.endswith("rotary_emb.inv_freq"):
        yield name, value
