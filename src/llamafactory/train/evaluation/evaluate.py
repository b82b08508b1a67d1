# SPDX-License-Identifier: Apache-2.0
"""Exact evaluation: the mean over all items of a set, every row once over all ranks, in flat memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ..metrics.means import means
from ..token_scores import trained_positions

if TYPE_CHECKING:
    from ..trainer import Trainer

_ITEMS, _ROWS = "items", "rows"


def evaluate(trainer: Trainer, sets: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return ``<prefix>_<name>_loss``, and the stage's other means, of each set, and of all together if several.

    The loss is the sum over all items (trained tokens, pairs, …) divided by their number: what training minimises, not
    a mean of batch means.

    Args:
        trainer: Gives the model, the batches, the device, and the sums of a batch.
        sets: Features by name; ``""`` is the one unnamed set.
        prefix: ``eval``.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    metrics: dict[str, float] = {}
    whole: dict[str, float] = {}
    for name, rows in sets.items():
        sums = _sums(trainer, model, rows)
        whole = {key: whole.get(key, 0.0) + value for key, value in sums.items()}
        if name:
            metrics |= _means(trainer, sums, f"{prefix}_{name}")
    if len(sets) > 1 or "" in sets:
        metrics |= _means(trainer, whole, prefix)
    if was_training:
        model.train()
    seconds = time.perf_counter() - start
    metrics[f"{prefix}_runtime"] = round(seconds, 4)
    metrics[f"{prefix}_samples_per_second"] = round(whole[_ROWS] / max(seconds, 1e-9), 3)
    return metrics


@torch.no_grad()
def _sums(trainer: Trainer, model: Any, rows: Any) -> dict[str, float]:
    """Return the sums of one set over all ranks, with the number of items and of rows."""
    batches = trainer.get_eval_dataloader(rows)
    trainer.callback_handler.eval_dataloader = batches
    totals: dict[str, torch.Tensor] = {}
    for batch in batches:
        counts = {_ROWS: len(batch.pop("rows"))}
        batch["positions"] = trained_positions(batch["labels"])
        counts[_ITEMS] = trainer.count_items(batch)
        inputs = trainer._prepare_inputs(batch)
        with trainer.accelerator.autocast():
            sums = trainer.item_sums(trainer.scores(model, inputs, evaluating=True), inputs)
        for key, value in {**sums, **counts}.items():
            value = torch.as_tensor(value, dtype=torch.float64, device=trainer.args.device)
            totals[key] = totals[key] + value if key in totals else value
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    names = sorted(totals)
    values = torch.stack([totals[name] for name in names])
    if trainer.args.world_size > 1:
        dist.all_reduce(values)
    return dict(zip(names, values.tolist(), strict=True))


def _means(trainer: Trainer, sums: dict[str, float], prefix: str) -> dict[str, float]:
    found = means({name: value for name, value in sums.items() if name not in (_ITEMS, _ROWS)}, sums[_ITEMS])
    return {f"{prefix}_{name}": value for name, value in trainer.derived(found).items()}
