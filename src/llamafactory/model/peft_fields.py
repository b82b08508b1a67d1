# SPDX-License-Identifier: Apache-2.0
"""``peft_config: {...}``: the fields of a PEFT method, as the installed PEFT declares them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from ..extras.errors import ConfigError, first_line
from ..extras.field_types import check_fields

if TYPE_CHECKING:
    from peft import PeftConfig

KEY = "peft_config"

# Fields that are not the user's -> who fills them.
_FILLED = {
    "peft_type": "finetuning_type says it",
    "task_type": "stage says it",
    "auto_mapping": "the model says it",
    "base_model_name_or_path": "model_name_or_path says it",
    "revision": "model_revision says it",
    "peft_version": "the installed PEFT says it",
    "inference_mode": "the command says it",
    "modules_to_save": "additional_target says it",
    "tokenizer_name_or_path": "model_name_or_path says it",
    "tokenizer_kwargs": "the model's own keys say it",
    "token_dim": "the model says it",
    "num_layers": "the model says it",
    "num_attention_heads": "the model says it",
    "num_transformer_submodules": "the model says it",
    "total_step": "the run counts its own steps",
}
# Fields whose method needs more of the training loop than there is, by the value that asks for it.
_UNDRIVEN = {
    "bias": ("none", "biases are not trained with an adapter"),
    "use_asa": (False, "its subspaces would have to be chosen anew during the run"),
}


def config_class(kind: str) -> type[PeftConfig]:
    """Return PEFT's class of configurations of a method, by its name in small letters."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind.upper())]


def check_given(kind: str, given: Mapping[str, Any], own: Mapping[str, str] | None = None) -> None:
    """Compare what stands in ``peft_config`` with the fields of its method.

    Args:
        kind: ``finetuning_type``.
        given: ``peft_config``.
        own: Fields that have a key of their own here -> this key.

    Raises:
        ConfigError: A field is unknown, not the user's, or of another type.
    """
    wanted = config_class(kind)
    names = {field.name for field in dataclasses.fields(wanted)}
    elsewhere = _FILLED | {field: f"the key {key} says it" for field, key in (own or {}).items()}
    for field, value in given.items():
        if field not in names:
            raise ConfigError(f"{KEY}: {kind} has no field {field}; {_nearest(field, names - set(elsewhere))}")
        if field in elsewhere:
            raise ConfigError(f"{KEY}: {field}: leave it out, {elsewhere[field]}")
        usual, why = _UNDRIVEN.get(field, (value, ""))
        if value != usual:
            raise ConfigError(f"{KEY}: {field}: {value} cannot be used, {why}; leave it out")
    check_fields(given, get_type_hints(wanted), KEY)


def make_config(kind: str, values: Mapping[str, Any]) -> PeftConfig:
    """Return the configuration that PEFT makes of these fields.

    Raises:
        ConfigError: PEFT refuses them; its own words.
    """
    try:
        return config_class(kind)(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"{KEY}: {kind}: {first_line(error)}") from None


def _nearest(field: str, names: set[str]) -> str:
    near = difflib.get_close_matches(field, sorted(names), n=1, cutoff=0.5)
    near = ["r"] if field == "rank" and "r" in names else near
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(names))}"
