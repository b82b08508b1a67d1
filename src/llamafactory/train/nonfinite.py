# SPDX-License-Identifier: Apache-2.0
"""The guard against NaN and infinity: a run does not go on for hours on weights that are already lost.

A non-finite loss is turned into NaN gradients, which the all-reduce of the gradients carries to every rank; so one look
at the gradient norm, once an optimizer step, tells all ranks the same thing without another collective.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..extras.errors import ConfigError

if TYPE_CHECKING:
    from .trainer import Trainer


class NonFiniteError(ConfigError):
    """A loss or gradient was NaN or infinite; the message says where."""


class NonFiniteGuard:
    """Watches the micro-batches of each step.

    Args:
        policy: ``stop`` raises, ``skip`` leaves the step out, ``continue`` looks away.
    """

    def __init__(self, policy: Literal["stop", "skip", "continue"]) -> None:
        self.policy = policy
        self.skipped = 0
        self._watched: list[tuple[Tensor, dict[str, Any], list[int]]] = []

    def mark(self, loss: Tensor) -> Tensor:
        """Return ``loss``; a non-finite one gets NaN gradients everywhere."""
        if self.policy == "continue":
            return loss
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def watch(self, loss: Tensor, inputs: dict[str, Any], rows: list[int]) -> Tensor:
        """Remember a micro-batch until its step is judged; return the loss to be logged."""
        if self.policy == "continue":
            return loss
        self._watched.append((loss, inputs, rows))
        return torch.where(loss.isfinite(), loss, 0.0) if self.policy == "skip" else loss

    def check(self, grad_norm: Any, trainer: Trainer) -> None:
        """Judge one optimizer step before the weights are changed.

        Raises:
            NonFiniteError: The step is not finite and the policy is ``stop``.
        """
        if self.policy == "continue":
            return
        watched, self._watched = self._watched, []
        if self._finite(grad_norm, watched, trainer):
            return
        if self.policy == "skip":
            self.skipped += 1
            for weight in trainer.model.parameters():
                weight.grad = None  # an optimizer leaves weights without gradient as they are
            return
        raise NonFiniteError(_describe(watched, grad_norm, trainer))

    def _finite(
        self, grad_norm: Any, watched: list[tuple[Tensor, dict[str, Any], list[int]]], trainer: Trainer
    ) -> bool:
        if trainer.accelerator.scaler is not None:  # fp16: infinite gradients are the scaler's daily bread
            flag = torch.stack([loss for loss, _, _ in watched]).isfinite().all().float()
            if trainer.args.world_size > 1:
                dist.all_reduce(flag, op=dist.ReduceOp.MIN)
            return bool(flag)
        return bool(torch.as_tensor(grad_norm).isfinite())


def _describe(watched: list[tuple[Tensor, dict[str, Any], list[int]]], grad_norm: Any, trainer: Trainer) -> str:
    """Return one line: step, rank, what, rows and the first bad module. All ranks call this together."""
    bad = [(loss, inputs, rows) for loss, inputs, rows in watched if not loss.isfinite()]
    step, ranks = trainer.state.global_step + 1, [0]
    if trainer.args.world_size > 1:
        flags = torch.zeros(trainer.args.world_size, device=trainer.args.device)
        flags[trainer.args.process_index] = float(bool(bad))
        dist.all_reduce(flags)
        ranks = flags.nonzero().flatten().tolist() or list(range(trainer.args.world_size))
        if trainer.args.process_index not in ranks:
            return f"step {step}: stopped with rank {ranks[0]}, whose loss is not finite"
    suspects = bad or watched
    rows = sorted({row for _, _, batch_rows in suspects for row in batch_rows})
    where = _bad_module(trainer, [inputs for _, inputs, _ in suspects])
    what = f"loss is {float(bad[0][0])}" if bad else f"gradient norm is {float(grad_norm)}"
    return (
        f"step {step}: {what} on rank {trainer.args.process_index}; training rows {_short(rows)}; {where}; "
        "on_nonfinite: stop (choices: stop, skip, continue)"
    )


def _short(rows: list[int], most: int = 16) -> str:
    return ", ".join(map(str, rows[:most])) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _bad_module(trainer: Trainer, batches: list[dict[str, Any]]) -> str:
    """Run the suspects again without DDP and name the first module, or weight's gradient, that is not finite."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
                found.append(name)

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        for inputs in batches:
            model.zero_grad()
            loss = trainer.compute_loss(model, trainer._prepare_inputs(inputs), num_items_in_batch=1)
            if found:
                return f"first bad module: {found[0]}"
            loss.backward()
            bad = [name for name, weight in model.named_parameters() if not _finite_gradient(weight)]
            if bad:
                return f"first bad gradient: {bad[-1]}"  # backward goes from the last weight to the first
    finally:
        for handle in handles:
            handle.remove()
    return "finite when computed again"


def _finite_gradient(weight: nn.Parameter) -> bool:
    return weight.grad is None or bool(weight.grad.isfinite().all())
