# SPDX-License-Identifier: Apache-2.0
"""Single fields of the JSON files in a model's folder that transformers takes as they are and stumbles over later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..extras.errors import ConfigError, in_one_line
from ..extras.field_types import check_fields

_IDS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), int | list[int] | None)
_TOKENS = dict.fromkeys(
    ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"), str | dict | None
)
_TOKEN_LISTS = dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), list | dict | None)
_NUMBERS = dict.fromkeys(
    ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "length_penalty", "max_length",
     "max_new_tokens", "min_length", "num_beams", "no_repeat_ngram_size"),
    float | None,
)  # fmt: skip
_HINTS: dict[str, dict[str, Any]] = {
    "config.json": {
        "architectures": list[str] | None, "auto_map": dict, "dtype": str | dict | None, "model_type": str,
        "quantization_config": dict, "torch_dtype": str | dict | None,
    },
    "generation_config.json": {**_IDS, **_NUMBERS, "do_sample": bool, "use_cache": bool},
    "special_tokens_map.json": {**_TOKENS, **_TOKEN_LISTS},
    "tokenizer_config.json": {
        **_TOKENS, **_TOKEN_LISTS, "added_tokens_decoder": dict, "auto_map": dict, "model_max_length": float | None,
        "padding_side": str | None, "tokenizer_class": str | None, "chat_template": str | list | dict | None,
    },
}  # fmt: skip
_NUMBERED = ("vocab.json", "added_tokens.json")  # token -> its number
_ROPE = ("rope_parameters", "rope_scaling")
# Left out on purpose: what a model type may give a meaning of its own below one.
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip


def check_known_fields(path: Path, values: Mapping[str, Any], key: str) -> None:
    """Refuse a file of a model's folder one of whose fields cannot be what it is.

    Args:
        path: The file; others than the known ones are not looked at.
        values: What stands in it.
        key: The configuration key that named the folder.

    Raises:
        ConfigError: Names the field.
    """
    check_fields(values, _HINTS.get(path.name, {}), f"{key}: {path}")
    if path.name in _NUMBERED:
        check_fields(values, dict.fromkeys(values, int), f"{key}: {path}")
    if path.name == "config.json":
        _check_amounts(values, f"{key}: {path}")
        if isinstance(values.get("text_config"), dict):
            _check_amounts(values["text_config"], f"{key}: {path}: text_config")
        _check_dtype(values, f"{key}: {path}")
        _check_class(path, values, key)


def _check_amounts(values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        if name in _ROPE and isinstance(value, dict):  # of all layers, or by kind of layer
            for part in (value, *value.values()):
                _check_amounts(part if isinstance(part, dict) else {}, f"{where}: {name}")
        if not isinstance(value, int | float):
            continue
        if name in ("rope_theta", "factor") and value <= 0:
            raise ConfigError(f"{where}: {name}: {value}, expected a number above 0")
        if name in _SIZES and value < 1:
            raise ConfigError(f"{where}: {name}: {value}, expected a positive number")
        if name.endswith(("_dropout", "_pdrop")) and not 0 <= value <= 1:
            raise ConfigError(f"{where}: {name}: {value}, expected a number from 0 to 1")


def _check_dtype(values: Mapping[str, Any], where: str) -> None:
    import torch

    for name in ("dtype", "torch_dtype"):
        value = values.get(name, "auto")
        known = value == "auto" or not isinstance(value, str)
        if not known and not isinstance(getattr(torch, value.removeprefix("torch."), None), torch.dtype):
            raise ConfigError(f"{where}: {name}: {value!r}, expected a number format such as bfloat16")


def _check_class(path: Path, values: Mapping[str, Any], key: str) -> None:
    """Let the configuration class of transformers look at its own fields, before a tokenizer's reader does."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if values.get("model_type") in CONFIG_MAPPING and "auto_map" not in values:
        with in_one_line(f"{key}: '{path.parent}': its config.json cannot be used"):
            AutoConfig.from_pretrained(path.parent)
