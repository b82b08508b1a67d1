# SPDX-License-Identifier: Apache-2.0
"""Calibration rows: what the model will be asked, as token ids, some of them held back for the proof."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from ...data.sources.dataset_info import find_datasets
from ...data.sources.reading import open_set, to_samples
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams import InferArgs, split_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...data.messages import Sample
    from ...data.template.base import Template

logger = get_logger(__name__)

SEED = 42
TOGETHER = 16  # rows that the model writes at once
SHORTEST = 16  # tokens of a row of the model's own
CHOICE = 16  # this many times the rows asked for are read at most, and the rows are chosen among them


@dataclass(frozen=True)
class Calibration:
    """Token ids ``[row][token]``; no row is in both lists."""

    rows: list[list[int]]
    held_back: list[list[int]]


def read_calibration(args: InferArgs, tokenizer: PreTrainedTokenizerBase, template: Template) -> Calibration:
    """Read ``export_quantization_dataset``: conversations through the template, plain text as it is.

    Raises:
        ConfigError: A set or row cannot be read, or fewer than two different rows are found.
    """
    asked = args.export.export_quantization_nsamples
    wanted = max(1, asked - round(asked * args.export.export_quantization_own_text))
    held = max(1, wanted // 8)
    names = split_list(args.export.export_quantization_dataset)
    samples: list[Sample] = []
    for attr in find_datasets(names, args.data.dataset_dir, args.data.columns):
        resolved, numbered = open_set(attr, args.data.max_samples, SEED)
        samples += islice(to_samples(numbered, resolved), CHOICE * (wanted + held))
    random.Random(SEED).shuffle(samples)
    unique: dict[tuple[int, ...], None] = {}
    for ids in _encode(samples, tokenizer, template):
        if len(ids) > 1:
            unique[tuple(ids[: args.export.export_quantization_maxlen])] = None
        if len(unique) == wanted + held:
            break
    rows = [list(ids) for ids in unique]
    if len(rows) < 2:
        raise ConfigError(
            f"export_quantization_dataset: {args.export.export_quantization_dataset} holds {len(rows)} different rows "
            "with text, at least 2 are needed"
        )
    if len(rows) < wanted + held:
        held = max(1, len(rows) // 9)
        logger.warning(
            "export_quantization_nsamples: %d asked for, %d found; %d of them are held back to judge the result",
            wanted,
            len(rows),
            held,
        )
    return Calibration(rows[held:], rows[:held])


def write_own_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, calibration: Calibration, share: float
) -> Calibration:
    """Let the model write rows: text of all kinds it knows, in its languages, where the rows given are of one kind.

    Each row goes on from another token of the vocabulary, drawn by lot, and is sampled from the model's distribution as
    it is (Liu et al. 2023, arXiv:2305.17888, section 3.1). Rows are as long as those given are on average.

    Args:
        model: In its stored type.
        tokenizer: Its tokenizer.
        calibration: The rows given.
        share: Of all rows that come from here, below 1.

    Returns:
        ``share / (1 - share)`` times as many rows as were given, and an eighth as many more to judge by; none for 0.
    """
    count = round(len(calibration.rows) * share / (1 - share))
    if not count:
        return Calibration([], [])
    held = max(1, count // 8)
    length = max(SHORTEST, sum(map(len, calibration.rows)) // len(calibration.rows))
    rows: list[list[int]] = []
    chooser = random.Random(SEED)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    opening = tokenizer("").input_ids
    ends = {*_end_ids(model), tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(SEED)
        while len(rows) < count + held:
            some = min(TOGETHER, count + held - len(rows))
            starts = torch.tensor([[*opening, chooser.choice(ordinary)] for _ in range(some)], device=model.device)
            written = model.generate(
                input_ids=starts, attention_mask=torch.ones_like(starts), do_sample=True, temperature=1.0, top_k=0,
                top_p=1.0, max_new_tokens=length - 1, pad_token_id=tokenizer.eos_token_id or 0,
            )  # fmt: skip
            rows += [_until(row, ends, starts.shape[1]) for row in written.tolist()]
    return Calibration(rows[held:], rows[:held])


def _end_ids(model: PreTrainedModel) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _until(row: list[int], ends: set[int], start: int) -> list[int]:
    """The row up to the first end after ``start``, with it."""
    stop = next((at for at, token in enumerate(row) if at >= start and token in ends), len(row))
    return row[: stop + 1]


def _encode(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, template: Template) -> Iterator[list[int]]:
    for sample in samples:
        if any(message.role == "assistant" for message in sample.messages):
            (segments,) = template.encode_batch([sample])
            yield [token for segment in segments for token in segment.ids]
        else:
            yield tokenizer("\n".join(message.text for message in sample.messages), verbose=False)["input_ids"]
