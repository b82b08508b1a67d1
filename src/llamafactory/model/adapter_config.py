# SPDX-License-Identifier: Apache-2.0
"""What an adapter says of itself: which kinds can be used, and a configuration whose patterns are resolved."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ..extras.errors import ConfigError, first_line
from ..extras.field_types import check_fields
from ..extras.files import read_json
from .patterns import resolve_patterns

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

# Types whose merged weights compute what their adapter computes beside the base; tests/model/test_adapter_types.py
# compares each with the live PEFT model.
MERGED = frozenset({
    "ADALORA", "ADAMSS", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3",
    "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA",
    "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})  # fmt: skip

# Types that work beside the base alone -> why no weight can hold them.
_ADDS_TOKENS = "it puts tokens of its own before the prompt, which no weight can hold"
LIVE = {
    "PROMPT_TUNING": _ADDS_TOKENS,
    "P_TUNING": _ADDS_TOKENS,
    "PREFIX_TUNING": "it puts keys and values of its own before the prompt, which no weight can hold",
    "BEFT": "PEFT merges it only into layers that have a bias",
    "OSF": "what PEFT merges of it is not what it computes",
}
# Types that nothing here can use -> why.
REFUSED = {
    "ADAPTION_PROMPT": "it replaces the attention by one that knows neither packing nor other number formats",
    "CARTRIDGE": "its keys and values are distilled from one document, which is another kind of training",
    "CPT": "it needs marks of its own at each token of each row",
    "LILY": "its router takes the mean over all tokens of a batch, so that a token depends on those behind it",
    "MULTITASK_PROMPT_TUNING": "it needs to be told the task of each row",
    "POLY": "it needs to be told the task of each row",
    "SHADOW": "it trains a second, smaller model with a loss of its own",
    "XLORA": "it chooses among adapters at each token",
}
# Types whose fresh adapter leaves every number of the base as it is, in 16 bits too, and can be switched off again.
STARTS_AS_BASE = frozenset({
    "ADALORA", "ADAMSS", "BEFT", "BOFT", "DELORA", "GLORA", "GRALORA", "HIRA", "IA3", "LN_TUNING", "LOHA",
    "LOKR", "LORA", "MISS", "OFT", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA",
    "TRAINABLE_TOKENS", "VERA", "WAVEFT",
})  # fmt: skip
# Keys of LoRA configurations that make the layer compute what no weight does.
_VARIANTS = {
    "alora_invocation_tokens": "it acts only after its invocation tokens",
    "arrow_config": "it chooses among adapters at each token",
    "layer_replication": "it repeats layers of the base",
    "megatron_config": "it needs the layers of Megatron",
}


_CHANGED_BASE = ("corda", "lora_ga")  # starts of LoRA that no file repeats
LOFTQ = "loftq"
_INIT = re.compile(r"init_(\w+_)?weights")


def read_adapter_values(folder: str | Path, key: str = "adapter_name_or_path") -> dict[str, Any]:
    """Read ``adapter_config.json`` and see that the adapter is one that can be used.

    Raises:
        ConfigError: The file cannot be read, is of a type that PEFT does not know, or of one that cannot be used; a
            field has a value of another kind than PEFT takes.
    """
    file = Path(folder) / "adapter_config.json"
    values: dict[str, Any] = read_json(file, dict, key)
    kind = str(values.get("peft_type"))
    _check_fields(values, kind, f"{key}: {file}")
    if values.get("init_lora_weights") in _CHANGED_BASE:
        raise ConfigError(
            f"{key}: '{folder}' is an adapter of a base that {values['init_lora_weights']} changed, which nobody has: "
            "go on with its run, whose last save is a plain LoRA; or let PEFT save it with "
            "path_initial_model_for_weight_conversion"
        )
    variants = [name for name in _VARIANTS if values.get(name)]
    why = _VARIANTS[variants[0]] if variants else REFUSED.get(kind)
    if why is None and (kind in MERGED or kind in LIVE):
        return values
    if why is None:
        raise ConfigError(f"{key}: {file}: peft_type: {kind!r} is not a type that PEFT knows")
    name = f"{kind} with {variants[0]}" if variants else kind
    raise ConfigError(
        f"{key}: '{folder}' is an adapter of type {name}, which cannot be used: {why}; "
        f"types that can be: {', '.join(sorted([*MERGED, *LIVE]))}"
    )


def is_live(folder: str | Path, key: str = "adapter_name_or_path") -> bool:
    """Whether an adapter can only be used beside its base, as it was trained."""
    return read_adapter_values(folder, key).get("peft_type") in LIVE


def require_merging(folder: str | Path, key: str = "adapter_name_or_path") -> None:
    """Refuse an adapter that no weight can hold, where it would have to be in the weights.

    Raises:
        ConfigError: It is of such a type.
    """
    kind = str(read_adapter_values(folder, key).get("peft_type"))
    if kind in LIVE:
        raise ConfigError(
            f"{key}: '{folder}' is an adapter of type {kind}, which cannot be merged into the weights: {LIVE[kind]}; "
            "chat, api, infer and eval use it as it is, as the only or last of adapter_name_or_path"
        )


def starts_as_base(config: PeftConfig) -> bool:
    """Whether a model with a fresh adapter of this configuration computes what its base does, bit for bit.

    Where it does not, what preference training compares with is a copy of the adapter as it began.
    """
    if config.peft_type not in STARTS_AS_BASE or getattr(config, "use_dora", False):
        return False
    if getattr(config, "init_lora_weights", None) in ("gaussian", "eva"):
        return True
    fields = config.__dataclass_fields__
    return all(getattr(config, name) == fields[name].default for name in fields if _INIT.fullmatch(name))


def changes_base(config: PeftConfig) -> bool:
    """Whether PEFT takes a part out of the weights of the base, of their values, wherever it loads such an adapter."""
    return str(getattr(config, "init_lora_weights", "")).startswith(("pissa", "olora"))


def _check_fields(values: dict[str, Any], kind: str, where: str) -> None:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

    config_class = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind, PeftConfig)
    check_fields(values, get_type_hints(config_class), where)


def read_adapter_config(
    folder: str, model: nn.Module, key: str = "adapter_name_or_path", former: Mapping[str, str] | None = None
) -> PeftConfig:
    """Read an adapter's configuration for this model; PEFT finds no pattern in it that is still to be matched.

    Args:
        folder: Of the adapter.
        model: The plain base model, or one with other adapters on it.
        key: The key that named the folder.
        former: From :func:`find_former_names`; the configuration speaks of those names.

    Raises:
        ConfigError: It cannot be used, or a pattern in it cannot be matched.
    """
    from peft import PeftConfig

    values = read_adapter_values(folder, key)
    try:
        if values.get("init_lora_weights") == LOFTQ:  # the file's weights are wanted, not LoftQ's beginning
            config = PeftConfig.from_peft_type(**values | {"init_lora_weights": True})
        else:
            config = PeftConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        file = Path(folder) / "adapter_config.json"
        raise ConfigError(f"{key}: {file} cannot be used: {first_line(error)}") from None
    for table in ("rank_pattern", "alpha_pattern"):
        if getattr(config, table, {}) is None:  # its annotation takes null, its code does not
            setattr(config, table, {})
    resolve_patterns(config, model, f"{key}: '{folder}'", former or {})
    _keep_scale_of_experts(config, model, f"{key}: '{folder}'")
    return config


def _keep_scale_of_experts(config: Any, model: nn.Module, place: str) -> None:
    """Move an adapter of single experts onto fused ones, at its own scale.

    PEFT does the moving and doubles rank and alpha of gate_up_proj, which holds two adapters side by side. That keeps
    ``alpha / r``, but not the ``alpha / sqrt(r)`` of rsLoRA, and it takes no notice of patterns for single experts.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    if config.peft_type != "LORA":
        return
    before = dict(config.alpha_pattern or {}), dict(config.rank_pattern or {})
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError as error:
        raise ConfigError(f"{place} does not fit this model: {first_line(error)}") from None
    fused = [name for name in config.alpha_pattern or {} if name not in before[0]]
    single = [name for pattern in before for name in pattern if _names_an_expert(name)]
    if fused and single:
        raise ConfigError(
            f"{place} has ranks or alphas of its own for {single[0]}, which this version of transformers keeps fused "
            "with others; merge it with the version it was trained with"
        )
    if config.use_rslora:
        for name in fused:
            config.alpha_pattern[name] = config.lora_alpha * math.sqrt(config.rank_pattern[name] / config.r)


def _names_an_expert(pattern: str) -> bool:
    return any(word in pattern for word in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"))
