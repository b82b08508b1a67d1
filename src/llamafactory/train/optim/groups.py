# SPDX-License-Identifier: Apache-2.0
"""Which trained weights decay, and which linear layers a list of names means."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer

from ...extras.errors import ConfigError


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def decaying(model: nn.Module) -> set[str]:
    """Return the names of the weights that decay: not norms, not biases; as transformers decides."""
    return set(Trainer.get_decay_parameter_names(None, model))


def by_decay(model: nn.Module, weights: dict[str, nn.Parameter], decay: float, **settings: Any) -> list[dict[str, Any]]:
    """Return the weights as groups for an optimizer: those that decay and those that do not, empty ones left out."""
    names = decaying(model)
    groups = [
        {"params": [weight for name, weight in weights.items() if (name in names) is decays], "weight_decay": rate}
        for decays, rate in ((True, decay), (False, 0.0))
    ]
    return [{**group, **settings} for group in groups if group["params"]]


def set_rates(optimizer: Any, rates: Mapping[float, Collection[nn.Parameter]], base: float) -> None:
    """Give weights learning rates of their own: groups are split, and what a group's rate is to the base's stays.

    Args:
        optimizer: Before its first step.
        rates: The rate of some weights, in place of ``base``.
        base: ``learning_rate``.
    """
    rate_of = {weight: rate for rate, weights in rates.items() for weight in weights}
    groups = []
    for group in optimizer.param_groups:
        apart: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for weight in group["params"]:
            # Fused kernels take no weights of which some are parts and some are whole.
            apart.setdefault((rate_of.get(weight, base), isinstance(weight, DTensor)), []).append(weight)
        groups += [
            {**group, "params": weights, "lr": group["lr"] * rate / base} for (rate, _), weights in apart.items()
        ]
    optimizer.param_groups[:] = groups


def linear_weights(model: Any, key: str, names: list[str]) -> dict[str, nn.Parameter]:
    """Return the trained matrices of the linear layers that ``names`` mean: parts of their paths, or patterns of them.

    Raises:
        ConfigError: A name means none; the line lists what there is.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module.weight.requires_grad
    }
    whole = names in (["all"], ["all-linear"], ["all_linear"])
    meant = {name: [path for path in linear if whole or _means(name, path)] for name in names}
    if missing := [name for name, paths in meant.items() if not paths]:
        leaves = sorted({path.rpartition(".")[2] for path in linear})
        raise ConfigError(
            f"{key}: no trained linear layer is called {', '.join(missing)}; there are {', '.join(leaves) or 'none'}"
        )
    chosen = {path for paths in meant.values() for path in paths}
    return {f"{path}.weight": weight for path, weight in linear.items() if path in chosen}


def _means(name: str, path: str) -> bool:
    try:
        return name in path or re.fullmatch(name, path) is not None
    except re.error:
        return False
