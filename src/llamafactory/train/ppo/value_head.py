# SPDX-License-Identifier: Apache-2.0
"""The critic: a linear head on the policy's last hidden states, in a file of its own beside the model.

The file and its names are those LLaMA-Factory's users have, so either program reads what the other wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...extras.errors import ConfigError
from ...model.value_head import FILE, read_value_head
from ...model.wrapping import beneath_adapters
from ..distributed.whole import copy_part

if TYPE_CHECKING:
    from ...hparams.model_args import ModelArguments

_NAMES = {"weight": "v_head.summary.weight", "bias": "v_head.summary.bias"}


def add_value_head(model: nn.Module) -> nn.Module:
    """Give the language model inside ``model`` a ``value_head`` that is 0 everywhere until it has learnt."""
    causal_lm = beneath_adapters(model)
    hidden = causal_lm.get_output_embeddings().weight
    head = nn.Linear(hidden.shape[1], 1, device=hidden.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    causal_lm.value_head = head
    return model


def weights_without_head(model: nn.Module, state_dict: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the weights that make up the plain model."""
    weights = model.state_dict() if state_dict is None else state_dict
    return {name: tensor for name, tensor in weights.items() if "value_head." not in name}


def save_value_head(model: nn.Module, folder: Path, state_dict: dict[str, Tensor] | None) -> None:
    """Write the head as safetensors; ``state_dict`` are the whole weights of a model that is sharded."""
    from safetensors.torch import save_file

    if state_dict is None:
        head = beneath_adapters(model).value_head
        tensors = {name: getattr(head, part).detach().cpu() for part, name in _NAMES.items()}
    else:
        found = {name.rpartition(".")[2]: value for name, value in state_dict.items() if "value_head." in name}
        tensors = {name: found[part] for part, name in _NAMES.items()}
    save_file(tensors, str(folder / FILE), metadata={"format": "pt"})


def load_value_head(model: nn.Module, folder: Path, args: ModelArguments) -> None:
    """Read the head that :func:`save_value_head` wrote.

    Raises:
        ConfigError: The checkpoint has none, so it is not one of stage ppo.
    """
    head = read_value_head(str(folder), args)
    if head is None:
        raise ConfigError(f"resume_from_checkpoint: {folder} has no {FILE}; it is not a checkpoint of stage ppo")
    ours = beneath_adapters(model).value_head
    for part, value in head._asdict().items():
        copy_part(getattr(ours, part), value)
