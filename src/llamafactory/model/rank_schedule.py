# SPDX-License-Identifier: Apache-2.0
"""AdaLoRA's ranks in the course of a run: PEFT decides which go, the trainer says when and how long the run is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from ..extras.errors import ConfigError, in_one_line
from ..extras.logging import get_logger, is_rank0

logger = get_logger(__name__)

_FILE = "rank_schedule.safetensors"


class RankSchedule(TrainerCallback):
    """Drives ``update_and_allocate`` after each optimizer step, and keeps what it remembers in checkpoints.

    PEFT writes the ranks of the moment into the adapter's configuration, by which every save cuts the tensors, and a
    resumed run no longer fits its optimizer. So they are kept here until the run has ended.
    """

    def __init__(self, model: Any) -> None:
        self._tuner = model.base_model
        self._config = model.peft_config["default"]
        self._kept: dict[str, list[bool]] | None = None  # ranks of each layer that are left

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell PEFT how many steps there are.

        Raises:
            ConfigError: They leave no time to give ranks away.
        """
        config = self._config
        if state.max_steps - config.tfinal <= config.tinit + 1:
            raise ConfigError(
                f"peft_config: tinit: {config.tinit} and tfinal: {config.tfinal} leave no step of the "
                f"{state.max_steps} of this run to give ranks away"
            )
        config.total_step = state.max_steps

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Weigh the ranks by the gradients of this step; the first step is 1, so that the last ends the schedule."""
        if any(weight.grad is None for weight in self._tuner.parameters() if weight.requires_grad):
            return  # a step that was left out (on_nonfinite: skip)
        self._config.rank_pattern = self._kept
        self._tuner.update_and_allocate(state.global_step + 1)
        self._kept, self._config.rank_pattern = self._config.rank_pattern, None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the finished adapter have its ranks, if the weights in hand are those that they were given to."""
        if self._kept and all(self._is_zero_beyond(name, kept) for name, kept in self._kept.items()):
            self._config.rank_pattern = self._kept
        else:
            logger.warning_rank0(
                "AdaLoRA: the adapter keeps all its ranks: the run ended before they were given away, or an earlier "
                "checkpoint was the best"
            )

    def _is_zero_beyond(self, name: str, kept: Sequence[bool]) -> bool:
        values = self._tuner.model.get_parameter(name).detach().flatten()
        return not values[~torch.tensor(kept, device=values.device)].any()

    def save_progress(self, folder: Path) -> None:
        """Write what the importance of each weight was, and the ranks that are left."""
        allocator = self._tuner.rankallocator
        tensors = {f"ipt.{name}": value for name, value in allocator.exp_avg_ipt.items()}
        tensors |= {f"unc.{name}": value for name, value in allocator.exp_avg_unc.items()}
        tensors |= {f"kept.{name}": torch.tensor(kept) for name, kept in (self._kept or {}).items()}
        if is_rank0():
            save_file(tensors, folder / _FILE)

    def load_progress(self, folder: Path) -> None:
        """Go on with what a checkpoint remembers."""
        with in_one_line(f"resume_from_checkpoint: {folder / _FILE} cannot be read"):
            tensors = load_file(folder / _FILE)
        allocator = self._tuner.rankallocator
        device = next(self._tuner.parameters()).device
        for part, memory in (("ipt.", allocator.exp_avg_ipt), ("unc.", allocator.exp_avg_unc)):
            memory.update({name: value.to(device) for name, value in _part(tensors, part).items()})
        allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}
        self._kept = {name: kept.tolist() for name, kept in _part(tensors, "kept.").items()} or None


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}


def add_penalty(model: Any) -> None:
    """Add ``orth_reg_weight * mean ||P Pᵀ - I||`` over all factors to the loss; PEFT adds it to the model's own."""
    weight = model.peft_config["default"].orth_reg_weight
    named = [(name, factor) for name, factor in model.named_parameters() if factor.requires_grad]
    rows = [factor for name, factor in named if ".lora_A." in name]
    columns = [factor for name, factor in named if ".lora_B." in name]
    if weight:
        model.get_base_model().penalty = partial(_orthogonality, weight, rows, columns)


def _orthogonality(weight: float, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    products = [factor @ factor.T for factor in rows] + [factor.T @ factor for factor in columns]
    norms = [(product - torch.eye(len(product), out=torch.empty_like(product))).norm() for product in products]
    return weight * torch.stack(norms).mean()
