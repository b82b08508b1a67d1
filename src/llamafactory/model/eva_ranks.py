# SPDX-License-Identifier: Apache-2.0
"""EVA with ``rho`` above 1 (Paischer et al. 2024, arXiv:2410.07170): ranks go to the layers whose inputs vary most.

PEFT makes new factors for the layers whose rank changes, and takes the adapter off those that are left with none. That
is after the optimizer was made, which is given the new ones; a resumed run finds the ranks in its checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.eva import initialize_lora_eva_weights
from safetensors import safe_open
from torch import Tensor, nn

from ..extras.errors import in_one_line
from ..extras.logging import get_logger

logger = get_logger(__name__)


def moves_ranks(model: Any) -> bool:
    """Whether an adapter's ranks are not all what ``lora_rank`` says."""
    config = model.peft_config["default"]
    return config.init_lora_weights == "eva" and config.eva_config.rho != 1


def trained_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def give_to_optimizer(optimizer: Any, before: dict[str, nn.Parameter], model: nn.Module) -> None:
    """Put new factors, in float32, in the place of those that an optimizer without a state was made for.

    Args:
        optimizer: Its groups are changed in place.
        before: :func:`trained_by_name` when it was made.
        model: As it is now.
    """
    widen(model)
    names = {id(weight): name for name, weight in before.items()}
    now = trained_by_name(model)
    for group in optimizer.param_groups:
        group["params"] = [now[names[id(weight)]] for weight in group["params"] if names[id(weight)] in now]


def widen(model: nn.Module) -> None:
    """Factors are float32; PEFT makes new ones in the type of the base."""
    layers = _layers(model).values()
    for layer in layers:
        for factor in (layer.lora_A["default"], layer.lora_B["default"]):
            factor.weight.data = factor.weight.data.float()
    ranks = [layer.r["default"] for layer in layers]
    logger.info_rank0("EVA: %d layers have an adapter, of ranks %d to %d", len(ranks), min(ranks), max(ranks))


def take_ranks(model: Any, folder: Path) -> None:
    """Give the layers the ranks that they have in a checkpoint, before its weights are loaded and an optimizer is made.

    Raises:
        ConfigError: It cannot be read.
    """
    file = folder / "adapter_model.safetensors"
    with in_one_line(f"resume_from_checkpoint: {file} cannot be read"), safe_open(file, "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (no dict)
    state: dict[str, Tensor] = {}
    for name, layer in _layers(model).items():
        rank, _ = shapes.get(f"{name}.lora_A.weight", (0, 0))
        state[name] = torch.zeros(rank, layer.in_features, device=layer.get_base_layer().weight.device)
    initialize_lora_eva_weights(model, eva_state_dict=state)
    widen(model)


def _layers(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
