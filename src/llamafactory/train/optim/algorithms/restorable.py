# SPDX-License-Identifier: Apache-2.0
"""An optimizer whose state comes back from a checkpoint as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Restorable(torch.optim.Optimizer):
    """Torch casts a loaded state to the dtype of its weight; here float32 moments of bfloat16 weights stay float32."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over groups and state of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for weight, number in zip(self.weights(), numbers, strict=True):
            if number in state_dict["state"]:
                self.state[weight] = {key: _moved(value, weight) for key, value in state_dict["state"][number].items()}

    def weights(self) -> list[nn.Parameter]:
        """Return all weights, in the order of their groups."""
        return [weight for group in self.param_groups for weight in group["params"]]


class EachWeight(Restorable):
    """Updates one weight after the other, each by its own gradient and state.

    Args:
        groups: Groups of weights with what :meth:`update` needs.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, weight.grad, group)

    def update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move one weight."""
        raise NotImplementedError


def _moved(value: Any, weight: Tensor) -> Any:
    return value.to(weight.device, copy=True) if isinstance(value, Tensor) else value
