# SPDX-License-Identifier: Apache-2.0
"""Where a PEFT method acts: linear layers, and for some methods norms, keys and values, or rows of the embedding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..hparams.field import split_list
from .lora_targets import excluded, find_targets, require_known
from .patterns import resolve_patterns
from .peft_fields import config_class

logger = get_logger(__name__)

# IA3 scales keys, values and what the second layer of the MLP reads; the names that families give them.
_KEYS_AND_VALUES = (
    "k_proj",
    "v_proj",
    "key",
    "value",
    "query_key_value",
    "qkv_proj",
    "c_attn",
    "Wqkv",
    "k_lin",
    "v_lin",
)
_SECOND_OF_MLP = ("down_proj", "fc2", "dense_4h_to_h", "c_proj", "w2")


def find_places(model: Any, kind: str, tuner: Any, new_rows: Sequence[int]) -> dict[str, Any]:
    """Return PEFT's fields of where a method acts; what ``peft_config`` says of them comes before.

    Args:
        model: The base.
        kind: ``finetuning_type``.
        tuner: Its ``Arguments``.
        new_rows: Token ids that were added.

    Raises:
        ConfigError: ``lora_target`` or ``additional_target`` names what the model does not have.
    """
    given = tuner.peft_config or {}
    additional = split_list(tuner.additional_target)
    modules = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
    require_known("additional_target", additional, modules)
    targets = given.get("target_modules")
    require_targets(model, targets)
    places: dict[str, Any] = {}
    if targets is None:
        places = _OWN.get(kind, _linear)(model, split_list(tuner.lora_target))
        places |= _without_frozen(model, kind, split_list(tuner.lora_target), places["target_modules"])
    if additional:
        if not _has_field(kind, "modules_to_save"):
            raise ConfigError(f"additional_target: {kind} trains no whole modules")
        places["modules_to_save"] = additional
    return places | _rows(model, kind, given, new_rows, additional)


def require_targets(model: Any, targets: str | list[str] | None) -> None:
    """Refuse names in ``target_modules`` that the model does not have; expressions are matched later."""
    if isinstance(targets, list):
        leaves = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
        known = {end for name, _ in model.named_modules() for end in _ends(name)}
        require_known("peft_config: target_modules", targets, leaves, known)


def _has_field(kind: str, field: str) -> bool:
    return field in config_class(kind).__dataclass_fields__


def _without_frozen(model: Any, kind: str, asked: list[str], targets: list[str]) -> dict[str, Any]:
    """Leave out parts that stay as they are; a method without ``exclude_modules`` gets whole names."""
    outside = excluded(model, asked)
    if outside is None:
        return {}
    if _has_field(kind, "exclude_modules"):
        return {"exclude_modules": outside}
    inside = [name for name, _ in model.named_modules() if not re.fullmatch(outside, name)]
    return {"target_modules": [name for name in inside if set(_ends(name)) & set(targets)]}


def task_type(model: Any) -> str:
    """PEFT's word for what the model is: one with a score trains and saves it too."""
    return "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"


def matching(model: Any, config: Any) -> dict[str, Any]:
    """Modules that a configuration names; an expression is matched under a time limit."""
    resolve_patterns(config, model, "peft_config", {})
    targets = set(config.target_modules)
    return {name: module for name, module in model.named_modules() if set(_ends(name)) & targets}


def _ends(name: str) -> list[str]:
    """``a.b.c`` → ``c``, ``b.c``, ``a.b.c``: what PEFT matches a plain name with."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _linear(model: Any, names: list[str]) -> dict[str, Any]:
    return {"target_modules": find_targets(model, names, with_experts=False).modules}


def _leaves(model: Any, kind: type | tuple[type, ...] | None, ending: str = "") -> list[str]:
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if (kind is None or isinstance(module, kind)) and type(module).__name__.endswith(ending) and name
    }
    return sorted(found)


def _norms(model: Any, names: list[str]) -> dict[str, Any]:
    norms = _leaves(model, None, "Norm")
    if names == ["all"]:
        return {"target_modules": norms}
    require_known("lora_target", names, set(norms))
    return {"target_modules": names}


def _keys_values(model: Any, names: list[str]) -> dict[str, Any]:
    linear = set(find_targets(model, ["all"], with_experts=False).modules)
    second = [name for name in _SECOND_OF_MLP if name in linear]
    if names == ["all"]:
        names = [name for name in _KEYS_AND_VALUES if name in linear] + second
        if len(names) == len(second) or not second:
            raise ConfigError(
                "lora_target: which layers are keys, values and the second of the MLP is not known of this model; name "
                "them in lora_target, and the last in peft_config: {feedforward_modules: [...]}"
            )
    require_known("lora_target", names, linear)
    return {"target_modules": names, "feedforward_modules": [name for name in names if name in second]}


def _embedding(model: Any, names: list[str]) -> dict[str, Any]:
    embeddings = _leaves(model, nn.Embedding)
    if names == ["all"]:
        inputs = model.get_input_embeddings()
        names = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is inputs]
    require_known("lora_target", names, set(embeddings))
    return {"target_modules": names}


_OWN = {"ln_tuning": _norms, "ia3": _keys_values, "trainable_tokens": _embedding}


def _rows(
    model: Any, kind: str, given: dict[str, Any], new_rows: Sequence[int], additional: list[str]
) -> dict[str, Any]:
    """Rows of tokens that are trained: those the user names, else those that were added."""
    if kind == "trainable_tokens":
        rows = given.get("token_indices") or list(new_rows)
        size = model.get_input_embeddings().num_embeddings
        if not rows:
            raise ConfigError("peft_config: token_indices: missing; name the tokens to train, or add some (add_tokens)")
        beyond = [row for row in rows if not 0 <= row < size]
        if beyond:
            raise ConfigError(f"peft_config: token_indices: {beyond[0]} is no token; the model has {size}")
        return {"token_indices": rows}
    inputs = model.get_input_embeddings()
    whole = [
        name for name, module in model.named_modules() if module is inputs and name.rsplit(".", 1)[-1] in additional
    ]
    if new_rows and not whole:
        logger.warning_rank0(
            "New tokens keep their first embedding: %s trains no rows of it; additional_target can name it", kind
        )
    return {}
