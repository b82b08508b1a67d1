# SPDX-License-Identifier: Apache-2.0
"""The batches of a run, made of its rows, its collator and what transformers knows of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ...data.streaming.rows import StreamRows
from ..token_scores import trained_positions
from .batches import Batches, MicroBatches
from .stream_batches import StreamBatches

if TYPE_CHECKING:
    from ...hparams import TrainArgs
    from ..training_arguments import TrainingArguments


def order_seed(args: TrainingArguments, run_args: TrainArgs) -> int | None:
    """Return the seed of the order of rows; None keeps the stored order."""
    if run_args.finetuning.disable_shuffling or args.train_sampling_strategy == "sequential":
        return None
    return args.seed if args.data_seed is None else args.data_seed


def batches_of(rows: Any, sampler: MicroBatches, collator: Any, args: TrainingArguments) -> Batches:
    """Return the batches that ``sampler`` cuts rows into."""
    workers = args.dataloader_num_workers
    return Batches(
        rows,
        sampler,
        collator,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        multiprocessing_context=args.dataloader_multiprocessing_context if workers > 0 else None,
    )


def train_batches(
    rows: Any, collator: Any, args: TrainingArguments, batch_size: int, seed: int | None, drop_last: bool
) -> Batches | StreamBatches:
    """Return this rank's batches of the training data, in the order of the first epoch.

    Args:
        rows: Features, or ``StreamRows``.
        collator: Rows -> batch.
        args: Which part of the rows, of how many, epochs, workers.
        batch_size: Rows of a micro-batch.
        seed: From :func:`order_seed`.
        drop_last: Leave out a last micro-step that is not full; a stream has none.
    """
    if isinstance(rows, StreamRows):
        return StreamBatches(
            rows,
            collator,
            batch_size,
            args.data_rank,
            args.data_size,
            seed=seed,
            epochs=args.num_train_epochs if args.max_steps <= 0 else None,
            workers=args.dataloader_num_workers,
            ahead=args.dataloader_prefetch_factor,
            context=args.dataloader_multiprocessing_context,
        )
    by_length = args.train_sampling_strategy == "group_by_length"
    sampler = MicroBatches(
        len(rows),
        batch_size,
        args.data_rank,
        args.data_size,
        seed=seed,
        lengths=[sum(lengths) for lengths in rows["seq_lens"]] if by_length else None,
        drop_last=drop_last,
    )
    return batches_of(rows, sampler, collator, args)


def eval_batches(rows: Any, collator: Any, args: TrainingArguments) -> Batches:
    """Return this rank's batches of one evaluation set: every row exactly once over all ranks."""
    sampler = MicroBatches(len(rows), args.eval_batch_size, args.data_rank, args.data_size)
    return batches_of(rows, sampler, collator, args)


class StepCounts(NamedTuple):
    """Of the micro-batches of one optimizer step on one rank: items of the loss, trained tokens, tokens but padding."""

    items: int
    trained: int
    real: int


def count_step(batches: list[dict[str, Any]], num_items: Callable[[dict[str, Any]], int]) -> StepCounts:
    """Count a step, and put ``positions`` of trained tokens and the number of ``items`` into each of its batches."""
    for batch in batches:
        batch["positions"] = trained_positions(batch["labels"])
        batch["items"] = num_items(batch)
    return StepCounts(
        sum(batch["items"] for batch in batches),
        sum(int(batch["positions"].numel()) for batch in batches),
        sum(map(real_tokens, batches)),
    )


def real_tokens(batch: dict[str, Any]) -> int:
    """Return how many tokens of a batch are no padding."""
    mask = batch.get("attention_mask")
    return int(batch["input_ids"].numel() if mask is None else mask.sum())
