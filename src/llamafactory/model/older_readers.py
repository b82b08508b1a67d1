# SPDX-License-Identifier: Apache-2.0
"""A saved folder in the words of transformers 4 as well, for engines and converters that know no others.

transformers 5 moved the rotary embedding into ``rope_parameters`` and renamed other keys. Who knows only the older
names reads base 10000 and no scaling, without a word. It reads the older names itself, so both can stand side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..extras.files import read_json, write_json

# What the older classes call the base and the rotated share, where it is not rope_theta and partial_rotary_factor.
_THETA = {
    "gpt_neox": "rotary_emb_base",
    "gpt_neox_japanese": "rotary_emb_base",
}
_SHARE = {"gpt_neox": "rotary_pct", "gpt_neox_japanese": "rotary_pct"}
# Two rotary embeddings, one a kind of layer: names of the base of full and of sliding attention.
_TWO_THETAS = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "t5gemma2_text": ("rope_theta", "rope_local_base_freq"),
    "olmo3": ("rope_theta", "rope_theta"),
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
# Classes that refuse any key of rope_scaling but these.
_ONLY = {
    "olmo": ("type", "factor"),
    "olmo2": ("type", "factor"),
    "open-llama": ("type", "factor"),
    "phi3": ("type", "short_factor", "long_factor"),
    "phi4_multimodal": ("type", "short_factor", "long_factor"),
}
_UNSCALED = ("default", "axial")
_LAYER_TYPES = {"granitemoehybrid": {"full_attention": "attention", "linear_attention": "mamba"}}
_NOT_SCALING = ("rope_theta", "partial_rotary_factor")


def add_older_names(folder: Path) -> None:
    """Let the model and tokenizer saved in ``folder`` be read right by transformers 4 and what is built on it.

    Args:
        folder: Holds ``config.json``, ``tokenizer_config.json`` or both.
    """
    for name, change in (("config.json", _add_to_config), ("tokenizer_config.json", _change_tokenizer)):
        path = folder / name
        if path.is_file():
            content = read_json(path)
            change(content)
            write_json(path, content)


def _add_to_config(config: dict[str, Any]) -> None:
    """Add older names to one configuration and to those nested in it, in place."""
    for value in list(config.values()):
        if isinstance(value, dict) and "model_type" in value:
            _add_to_config(value)
    if config.get("dtype") is not None:
        config["torch_dtype"] = config["dtype"]
    if older := _LAYER_TYPES.get(str(config.get("model_type"))):
        config["layer_types"] = [older.get(kind, kind) for kind in config.get("layer_types") or []]
    if "num_local_experts" in config:  # Qwen's and OLMo's classes take 128 or 64 for what they do not find
        config.setdefault("num_experts", config["num_local_experts"])
    parameters = config.get("rope_parameters")
    if isinstance(parameters, dict):
        config.update(_older_rope(str(config.get("model_type")), parameters))


def _older_rope(model_type: str, parameters: dict[str, Any]) -> dict[str, Any]:
    if "rope_theta" in parameters:
        found = {_THETA.get(model_type, "rope_theta"): parameters["rope_theta"]}
        if "partial_rotary_factor" in parameters:
            found[_SHARE.get(model_type, "partial_rotary_factor")] = parameters["partial_rotary_factor"]
        return found | {"rope_scaling": _older_scaling(model_type, parameters)}
    if model_type not in _TWO_THETAS or "full_attention" not in parameters:  # as young as the newer names
        return {}
    full, sliding = parameters["full_attention"], parameters["sliding_attention"]
    names = _TWO_THETAS[model_type]
    return {
        names[1]: sliding["rope_theta"],
        names[0]: full["rope_theta"],
        "rope_scaling": _older_scaling(model_type, full),
    }


def _older_scaling(model_type: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    if parameters.get("rope_type", "default") in _UNSCALED and "mrope_section" not in parameters:
        return None
    scaling = {name: value for name, value in parameters.items() if name not in _NOT_SCALING}
    scaling["type"] = scaling.get("rope_type", "default")
    return {name: scaling[name] for name in _ONLY.get(model_type, scaling) if name in scaling}


def _change_tokenizer(config: dict[str, Any]) -> None:
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):  # transformers 4 expects a mapping under this name, and stops at a list
        del config["extra_special_tokens"]
        config["additional_special_tokens"] = extra
