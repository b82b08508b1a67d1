# SPDX-License-Identifier: Apache-2.0
"""Calibration rows: what the model will be asked, as token ids, some of them held back for the proof."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ...data.sources.dataset_info import find_datasets
from ...data.sources.reading import open_set, to_samples
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams import InferArgs, split_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...data.messages import Sample
    from ...data.template.base import Template

logger = get_logger(__name__)

SEED = 42
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
    wanted = args.export.export_quantization_nsamples
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


def _encode(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, template: Template) -> Iterator[list[int]]:
    for sample in samples:
        if any(message.role == "assistant" for message in sample.messages):
            (segments,) = template.encode_batch([sample])
            yield [token for segment in segments for token in segment.ids]
        else:
            yield tokenizer("\n".join(message.text for message in sample.messages), verbose=False)["input_ids"]
