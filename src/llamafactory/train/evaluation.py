# SPDX-License-Identifier: Apache-2.0
"""Exact evaluation: the mean over all trained tokens of a set, every row once over all ranks, in flat memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from .token_scores import trained_positions

if TYPE_CHECKING:
    from .trainer import Trainer


def evaluate(trainer: Trainer, sets: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return ``<prefix>_<name>_loss`` (and ``_accuracy``) of each set, and of all together when there are several.

    The loss is the sum of weighted token losses over the number of trained tokens: what training minimises, not a mean
    of batch means.

    Args:
        trainer: Gives the model, the batches and the device.
        sets: Features by name; ``""`` is the one unnamed set.
        prefix: ``eval``.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    accuracy = trainer.run_args.finetuning.compute_accuracy
    metrics: dict[str, float] = {}
    whole = torch.zeros(4, dtype=torch.float64)
    for name, rows in sets.items():
        sums = _sums(trainer, model, rows, accuracy)
        whole += sums
        if name:
            metrics |= _means(sums, f"{prefix}_{name}", accuracy)
    if len(sets) > 1 or "" in sets:
        metrics |= _means(whole, prefix, accuracy)
    if was_training:
        model.train()
    seconds = time.perf_counter() - start
    metrics[f"{prefix}_runtime"] = round(seconds, 4)
    metrics[f"{prefix}_samples_per_second"] = round(float(whole[3]) / max(seconds, 1e-9), 3)
    return metrics


@torch.no_grad()
def _sums(trainer: Trainer, model: Any, rows: Any, accuracy: bool) -> torch.Tensor:
    """Return fp64 [sum of w * nll, trained tokens, right tokens, rows] of one set over all ranks."""
    batches = trainer.get_eval_dataloader(rows)
    trainer.callback_handler.eval_dataloader = batches
    sums = torch.zeros(4, dtype=torch.float64, device=trainer.args.device)
    for batch in batches:
        sums[3] += len(batch.pop("rows"))
        batch["positions"] = trained_positions(batch["labels"])
        tokens = trainer.count_items(batch)
        with trainer.accelerator.autocast():
            scores = model(**trainer._prepare_inputs(batch), score=True, accuracy=accuracy)
        sums[0] -= (scores.log_probs * scores.weights).sum(dtype=torch.float64)
        sums[1] += tokens
        if scores.correct is not None:
            sums[2] += (scores.correct & (scores.weights != 0)).sum()
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    if trainer.args.world_size > 1:
        dist.all_reduce(sums)
    return sums.cpu()


def _means(sums: torch.Tensor, prefix: str, accuracy: bool) -> dict[str, float]:
    loss, tokens, right, _ = sums.tolist()
    metrics = {f"{prefix}_loss": loss / max(tokens, 1)}
    if accuracy:
        metrics[f"{prefix}_accuracy"] = right / max(tokens, 1)
    return metrics
