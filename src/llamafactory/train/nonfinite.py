# SPDX-License-Identifier: Apache-2.0
"""The guard against NaN and infinity: a run does not go on for hours on weights that are already lost.

A non-finite loss is turned into NaN gradients, which the all-reduce of the gradients carries to every rank; so one look
at the gradient norm, once an optimizer step, tells all ranks the same thing without another collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..extras.errors import ConfigError

if TYPE_CHECKING:
    from transformers import TrainingArguments


class NonFiniteError(ConfigError):
    """A loss or gradient was NaN or infinite; the message says where."""


class _Watched(NamedTuple):
    """A micro-batch of the step that is not judged yet."""

    loss: Tensor
    inputs: dict[str, Any]
    rows: list[int]


LossOf = Callable[[dict[str, Any]], Tensor]


class NonFiniteGuard:
    """Watches the micro-batches of each step.

    Args:
        policy: ``stop`` raises, ``skip`` leaves the step out, ``continue`` looks away.
        args: Process, processes, device, how many processes share a row.
    """

    def __init__(self, policy: Literal["stop", "skip", "continue"], args: TrainingArguments) -> None:
        self.policy, self.args = policy, args
        self.skipped = 0
        self._watched: list[_Watched] = []

    def mark(self, loss: Tensor) -> Tensor:
        """Return ``loss``; a non-finite one gets NaN gradients everywhere."""
        if self.policy == "continue":
            return loss
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def watch(self, loss: Tensor, inputs: dict[str, Any], rows: list[int]) -> Tensor:
        """Remember a micro-batch until its step is judged; return the loss to be logged."""
        if self.policy == "continue":
            return loss
        self._watched.append(_Watched(loss, inputs, rows))
        return torch.where(loss.isfinite(), loss, 0.0) if self.policy == "skip" else loss

    def check(self, grad_norm: Any, model: nn.Module, step: int, loss_of: LossOf, by_loss: bool) -> None:
        """Judge one optimizer step before the weights are changed; all ranks call this together.

        Args:
            grad_norm: Of all ranks' gradients.
            model: Without wrappers of distributed training.
            step: From 1.
            loss_of: Computes the loss of a micro-batch again, with that model.
            by_loss: Judge the losses alone: scaled gradients (fp16) may be infinite, others may be used up already.

        Raises:
            NonFiniteError: The step is not finite and the policy is ``stop``.
        """
        if self.policy == "continue":
            return
        watched, self._watched = self._watched, []
        if self._losses_finite(watched) if by_loss else bool(torch.as_tensor(grad_norm).isfinite()):
            return
        if self.policy == "skip":
            self.skipped += 1
            for weight in model.parameters():
                weight.grad = None  # an optimizer leaves weights without gradient as they are
            return
        raise NonFiniteError(f"step {step}: {self._describe(watched, grad_norm, model, loss_of)}")

    def _losses_finite(self, watched: list[_Watched]) -> bool:
        flag = torch.stack([one.loss for one in watched]).isfinite().all().float()
        if self.args.world_size > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag)

    def _describe(self, watched: list[_Watched], grad_norm: Any, model: nn.Module, loss_of: LossOf) -> str:
        """Return one line: rank, what, rows and the first bad module. All ranks call this together."""
        rank = self.args.process_index
        bad = [one for one in watched if not one.loss.isfinite()]
        ranks = self._bad_ranks(bool(bad))
        if rank not in ranks:
            return f"stopped with rank {ranks[0]}, whose loss is not finite"
        suspects = bad or watched
        rows = sorted({row for one in suspects for row in one.rows})
        where = (
            "the module cannot be told of a model or rows in parts"  # which all ranks would have to compute
            if self.args.shards or self.args.sharers > 1
            else _bad_module(model, [one.inputs for one in suspects], loss_of)
        )
        what = f"loss is {float(bad[0].loss)}" if bad else f"gradient norm is {float(grad_norm)}"
        return (
            f"{what} on rank {rank}; training rows {_short(rows)}; {where}; "
            "on_nonfinite: stop (choices: stop, skip, continue)"
        )

    def _bad_ranks(self, bad: bool) -> list[int]:
        """Return the ranks whose loss is not finite; all of them where only the gradients are not."""
        if self.args.world_size == 1:
            return [0]
        flags = torch.zeros(self.args.world_size, device=self.args.device)
        flags[self.args.process_index] = float(bad)
        dist.all_reduce(flags)
        return flags.nonzero().flatten().tolist() or list(range(self.args.world_size))


def _short(rows: list[int], most: int = 16) -> str:
    return ", ".join(map(str, rows[:most])) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _bad_module(model: nn.Module, batches: list[dict[str, Any]], loss_of: LossOf) -> str:
    """Run the suspects again without DDP and name the first module, or weight's gradient, that is not finite."""
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
            loss = loss_of(inputs)
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
