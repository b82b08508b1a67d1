# SPDX-License-Identifier: Apache-2.0
"""Figures over the rows of a data set as a run would train them: lengths, trained tokens, perplexity."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ...data.loader import get_dataset
from ...data.template.thinking import resolve_thinking
from ...extras.errors import ConfigError
from ..commands.preprocess import stage_processor, tokenizer_and_template

if TYPE_CHECKING:
    from ...hparams import TrainArgs


def encoded_rows(args: TrainArgs) -> Any:
    """Return the training rows one by one, not packed: ``input_ids`` and, where the stage has them, ``labels``.

    Raises:
        ConfigError: The data is broken, or there is none.
    """
    return _encoded(args, *tokenizer_and_template(args))


def _encoded(args: TrainArgs, tokenizer: Any, template: Any) -> Any:
    apart = replace(resolve_thinking(args.data), packing=False, neat_packing=False, streaming=False)
    found = get_dataset(stage_processor(args.finetuning.stage), template, tokenizer, replace(args, data=apart)).train
    if found is None:
        raise ConfigError("dataset: names no set")
    return found


def length_histogram(args: TrainArgs, interval: int) -> list[tuple[int, int, float]]:
    """Count rows by length.

    Args:
        args: Of a run.
        interval: Tokens of a class.

    Returns:
        For each class with rows: its upper border (lengths are below it), rows up to it, their share of all.

    Raises:
        ConfigError: The data is broken, or the interval is not positive.
    """
    if interval < 1:
        raise ConfigError(f"interval: expected 1 or more, got {interval}")
    rows = encoded_rows(args)
    counts = Counter(len(ids) // interval for ids in rows["input_ids"])
    found, total = [], 0
    for number in sorted(counts):
        total += counts[number]
        found.append(((number + 1) * interval, total, total / len(rows)))
    return found


def trained_tokens(args: TrainArgs) -> tuple[int, int, int]:
    """Return rows, tokens and trained tokens of the training set."""
    rows = encoded_rows(args)
    tokens = sum(len(ids) for ids in rows["input_ids"])
    if "labels" not in rows.column_names:  # running text is trained as it stands
        return len(rows), tokens, tokens
    return len(rows), tokens, sum(label != -100 for labels in rows["labels"] for label in labels)


def perplexities(args: TrainArgs) -> list[float]:
    """Return each row's perplexity: e to the mean negative log-likelihood of its trained tokens.

    Raises:
        ConfigError: The model or the data cannot be used; the stage has no tokens that are trained.
    """
    from ...model.loader import load_model

    if args.finetuning.stage not in ("pt", "sft"):
        raise ConfigError(f"stage: perplexity is of stages pt and sft, got {args.finetuning.stage}")
    tokenizer, template = tokenizer_and_template(args)
    rows = _encoded(args, tokenizer, template)
    model = load_model(tokenizer, args, trainable=False).eval()
    device, size = next(model.parameters()).device, args.training.per_device_train_batch_size
    found: list[float] = []
    for start in tqdm(range(0, len(rows), size), desc="perplexity", disable=args.training.disable_tqdm):
        batch = rows[start : start + size]
        ids = [torch.tensor(row) for row in batch["input_ids"]]
        labels = [torch.tensor(row) for row in batch.get("labels", batch["input_ids"])]
        padded, mask, wanted = (
            torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value).to(device)
            for parts, value in ((ids, 0), ([torch.ones_like(row) for row in ids], 0), (labels, -100))
        )
        with torch.inference_mode():
            logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), wanted[:, 1:], ignore_index=-100, reduction="none")
        counts = (wanted[:, 1:] != -100).sum(1)
        found += [
            math.exp(total / count) if count else math.nan
            for total, count in zip(losses.sum(1).tolist(), counts.tolist(), strict=True)
        ]
    return found
