# SPDX-License-Identifier: Apache-2.0
"""Adapters made when the model's parts had other names: transformers has moved and nested the parts of its models.

transformers knows how to read checkpoints of those days. Its renamings, turned round one after the other, give the
names that today's modules had before each of the moves; the adapter's tensors tell which of them it was made with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from .wrapping import beneath_adapters

if TYPE_CHECKING:
    from torch import nn

PREFIX = "base_model.model."


def find_former_names(model: nn.Module, tensors: Collection[str]) -> dict[str, str]:
    """Find the names that an adapter calls the model's modules and parameters by.

    Args:
        model: The plain base model, or one with adapters on it.
        tensors: Names of the adapter's tensors.

    Returns:
        Former name → today's, of every module and parameter; empty if the adapter has today's names.
    """
    core = beneath_adapters(model)
    today = [name for name, _ in core.named_modules() if name] + [name for name, _ in core.named_parameters()]
    forms = [{name: name for name in today}, *_former(core, today)]
    unknown = [sum(_unknown(name.removeprefix(PREFIX), form) for name in tensors) for form in forms]
    best = unknown.index(min(unknown))
    return forms[best] if best else {}


def name_of_today(tensor: str, former: dict[str, str]) -> str:
    """Today's name of an adapter's tensor."""
    name = tensor.removeprefix(PREFIX)
    count = _known(name, former)
    if not count:
        return tensor
    parts = name.split(".")
    return PREFIX + ".".join([former[".".join(parts[:count])], *parts[count:]])


def _former(model: Any, today: Sequence[str]) -> list[dict[str, str]]:
    """The names before the last move, before the last two, and so on."""
    if not hasattr(model, "base_model_prefix"):  # no model of transformers
        return []
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    moves = [move for move in get_model_conversion_mapping(model, add_legacy=False) if isinstance(move, WeightRenaming)]
    names, forms = list(today), []
    for back in (move.reverse_transform() for move in reversed(moves)):
        names = [back.rename_source_key(name)[0] for name in names]
        forms.append(dict(zip(reversed(names), reversed(today), strict=True)))  # of two of one name the outer counts
    return forms


def _known(name: str, form: Collection[str]) -> int:
    """How many leading parts of a tensor's name are the name of something in the model."""
    parts = name.split(".")
    return next((count for count in range(len(parts), 0, -1) if ".".join(parts[:count]) in form), 0)


def _unknown(name: str, form: Collection[str]) -> int:
    return name.count(".") + 1 - _known(name, form)
