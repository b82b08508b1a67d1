# SPDX-License-Identifier: Apache-2.0
"""GaLore and APOLLO: an optimizer that sees the gradients of matrices in a space of low rank.

For a matrix W [m, n] with gradient G and a projection P of rank r (right: R = G P^T [m, r], left: R = P^T G [r, n]), an
ordinary optimizer turns R into a direction N of the same shape. Then

- GaLore (Zhao et al. 2024, arXiv:2403.03507):  W -= lr * scale * back(N), back(N) = N P or P N
- APOLLO (Zhu et al. 2024, arXiv:2412.05270):  W -= lr * sqrt(scale) * G * |N| / |R|, by channel or by tensor

with decoupled weight decay after it. The projection is made anew every ``gap`` steps: of the gradient's leading
singular vectors, or at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .restorable import Restorable

Groups = list[dict[str, Any]]
_INNER = "inner."


class LowRank(Restorable):
    """Drives an ordinary optimizer over small stand-ins of the matrices; other weights are given to it as they are.

    Args:
        groups: Groups of weights with ``lr`` and ``weight_decay``. Those with ``rank`` hold matrices, and have ``gap``,
            ``scale``, ``side`` (std, reverse_std, left, right, full) and ``projection`` (svd, random).
        inner: Makes the ordinary optimizer of such groups.
        seed: Of random projections.
    """

    def __init__(self, groups: Groups, inner: Callable[[Groups], torch.optim.Optimizer], seed: int = 0) -> None:
        super().__init__(groups, {})
        self.seed, self.halted, self.in_backward = seed, False, False
        self.standins: dict[Tensor, nn.Parameter] = {}
        self.place = {weight: number for number, weight in enumerate(self.weights())}
        inner_groups = []
        for group in self.param_groups:
            settings: dict[str, Any] = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
            if "rank" in group:
                settings = {"lr": 1.0, "weight_decay": 0.0}  # what it adds to a stand-in of 0 is the direction
                self.standins |= {weight: _standin(weight, group) for weight in group["params"]}
            inner_groups.append(
                {**settings, "params": [self.standins.get(weight, weight) for weight in group["params"]]}
            )
        self.inner = inner(inner_groups)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every weight that has a gradient."""
        for mine, its in zip(self.param_groups, self.inner.param_groups, strict=True):
            if "rank" not in mine:
                its.update(lr=mine["lr"], weight_decay=mine["weight_decay"])
        moved = [
            (weight, group)
            for group in self.param_groups
            if "rank" in group
            for weight in group["params"]
            if weight.grad is not None
        ]
        for weight, group in moved:
            self.standins[weight].grad = self._project(weight, group)
        self.inner.step()
        for weight, group in moved:
            standin = self.standins[weight]
            assert standin.grad is not None
            self._apply(weight, group, standin.neg(), standin.grad)
            weight.add_(weight, alpha=-group["lr"] * group["weight_decay"])
            standin.zero_()
            standin.grad = None
        self.halted = False

    def step_in_backward(self) -> None:
        """Update each weight as soon as its gradient is there, and let that go: no two gradients are held at once.

        From one on that is not finite they are left, for whoever looks at gradients before a step.
        """

        def hook(weight: Tensor) -> None:
            self.halted = self.halted or not weight.grad.isfinite().all()
            if not self.halted:
                self.step()
                weight.grad = None

        self.in_backward = True
        for weight in self.weights():
            weight.register_post_accumulate_grad_hook(hook)

    def _project(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        assert weight.grad is not None
        state, gradient = self.state[weight], weight.grad.float()
        state.setdefault("steps", 0)
        if state["steps"] % group["gap"] == 0:
            number = self.seed + 1_000_003 * self.place[weight] + state["steps"]
            state.update(_projection(gradient, group, number))
        state["steps"] += 1
        low = state["left"].T @ gradient if "left" in state else gradient
        return low @ state["right"].T if "right" in state else low

    def _apply(self, weight: Tensor, group: dict[str, Any], direction: Tensor, low: Tensor) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """As of torch, with the state of the ordinary optimizer beside the projections."""
        found: dict[str, Any] = super().state_dict()
        for weight, number in self.place.items():
            its = self.inner.state.get(self.standins.get(weight, weight), {})
            mine = found["state"].get(number, {})
            found["state"][number] = {**mine, **{_INNER + key: value for key, value in its.items()}}
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        for weight in self.place:
            both = self.state[weight]
            its = {key.removeprefix(_INNER): both.pop(key) for key in list(both) if key.startswith(_INNER)}
            if its:
                self.inner.state[self.standins.get(weight, weight)] = its


class GaLore(LowRank):
    """The direction of the space of low rank, projected back."""

    def _apply(self, weight: Tensor, group: dict[str, Any], direction: Tensor, low: Tensor) -> None:
        state = self.state[weight]
        whole = state["left"] @ direction if "left" in state else direction
        whole = whole @ state["right"] if "right" in state else whole
        weight.add_(whole, alpha=-group["lr"] * group["scale"])


class Apollo(LowRank):
    """The gradient itself, scaled by how much the optimizer scaled its projection.

    The groups also have ``scale_type`` (channel, tensor), ``scale_front`` (scale before the limit on growth) and
    ``betas``, those of the ordinary optimizer, whose bias correction counts for the step and not for the limit.
    """

    def _apply(self, weight: Tensor, group: dict[str, Any], direction: Tensor, low: Tensor) -> None:
        assert weight.grad is not None
        state, scale = self.state[weight], math.sqrt(group["scale"])
        beta1, beta2 = group["betas"]
        correction = math.sqrt(1 - beta2 ** state["steps"]) / (1 - beta1 ** state["steps"])
        ratio = _norm(direction / correction, state, group) / (_norm(low, state, group) + 1e-8)
        scaled = weight.grad.float() * ratio * (scale if group["scale_front"] else 1.0)
        norm = scaled.norm()
        if "norm" in state:  # Fira's limit: from step to step it grows by 1% at most
            limit = (norm / (state["norm"] + 1e-8)).clamp(min=1.01) / 1.01
            scaled, norm = scaled / limit, norm / limit
        state["norm"] = norm
        weight.add_(scaled, alpha=-group["lr"] * correction * (1.0 if group["scale_front"] else scale))


def _norm(matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return the norm of each channel, across the space of low rank, or of the whole matrix."""
    if group["scale_type"] == "tensor":
        return matrix.norm()
    return matrix.norm(dim=1 if "right" in state else 0, keepdim=True)


def _sides(shape: torch.Size, side: str) -> tuple[str, ...]:
    """Return which sides of a matrix are projected."""
    tall = shape[0] >= shape[1]
    return {
        "std": ("right" if tall else "left",),
        "reverse_std": ("left" if tall else "right",),
        "full": ("left", "right"),
    }.get(side, (side,))


def _standin(weight: Tensor, group: dict[str, Any]) -> nn.Parameter:
    rank, sides = min(group["rank"], *weight.shape), _sides(weight.shape, group["side"])
    rows, columns = (
        rank if side in sides else size for side, size in zip(("left", "right"), weight.shape, strict=True)
    )
    return nn.Parameter(torch.zeros(rows, columns, device=weight.device))


def _projection(gradient: Tensor, group: dict[str, Any], number: int) -> dict[str, Tensor]:
    """Return the new matrices: left [m, r], right [r, n] or both."""
    rank, sides = min(group["rank"], *gradient.shape), _sides(gradient.shape, group["side"])
    if group["projection"] == "random":
        draw = torch.Generator().manual_seed(number)
        shapes = {"left": (gradient.shape[0], rank), "right": (rank, gradient.shape[1])}
        # Drawn on the CPU: the same on every device.
        return {
            side: (torch.randn(shapes[side], generator=draw) / math.sqrt(rank)).to(gradient.device) for side in sides
        }
    # A run that goes on after NaN does so here too; torch has no singular vectors of it.
    left, _, right = torch.linalg.svd(gradient.nan_to_num(), full_matrices=False)
    found = {"left": left[:, :rank], "right": right[:rank]}
    return {side: found[side].contiguous() for side in sides}
