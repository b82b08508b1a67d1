# SPDX-License-Identifier: Apache-2.0
"""Reasoning in the data: which samples have some, and what ``enable_thinking: auto`` makes of it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams import split_list
from ..messages import Sample
from ..sources.dataset_info import find_media_datasets
from ..sources.reading import open_set, to_samples

if TYPE_CHECKING:
    from ...hparams.data_args import DataArguments

logger = get_logger(__name__)

# A thought that stands in the text; an empty one is none.
_THOUGHT = re.compile(r"(?s)(?:<think>|\[THINK\]|<seed:think>)\s*(?!</|\[/)\S.*?(?:</think>|\[/THINK\]|</seed:think>)")
_LOOKED_AT = 1000


def has_reasoning(sample: Sample) -> bool:
    """Whether some assistant turn has a thought: in its own field, or between thinking words in the text."""
    return any(
        message.role == "assistant" and (message.reasoning or _THOUGHT.search(message.text))
        for message in (*sample.messages, *(sample.chosen or ()))
    )


def resolve_thinking(data: DataArguments) -> DataArguments:
    """Replace ``enable_thinking: auto`` by what the data calls for, and say so.

    With reasoning in some row it becomes ``true``: rows without get an empty thought, so the model learns when to
    think. With none it becomes ``false``, so the model is neither trained nor asked to think. The first 1,000 rows of
    every set are looked at; where they cannot be read (a model served elsewhere), it is ``true``.
    """
    if data.enable_thinking != "auto":
        return data
    try:
        samples = _first_samples(data)
    except ConfigError as error:
        logger.warning_rank0("enable_thinking: auto: the data cannot be read, so it is true (%s)", error)
        return replace(data, enable_thinking=True)
    found = sum(map(has_reasoning, samples))
    share = found / len(samples)
    logger.info_rank0(
        "enable_thinking: auto: %d of the %d rows looked at have reasoning (%.1f %%), so it is %s%s",
        found,
        len(samples),
        100 * share,
        "true" if found else "false",
        "; the others get an empty thought" if 0 < share < 1 else "",
    )
    return replace(data, enable_thinking=found > 0)


def _first_samples(data: DataArguments) -> list[Sample]:
    samples: list[Sample] = []
    names = split_list(data.dataset) or split_list(data.eval_dataset)
    sets = find_media_datasets(names, data.dataset_dir, data.media_dir, data.columns)
    if not sets:
        raise ConfigError("dataset is not given")
    for attr in sets:
        attr, rows = open_set(replace(attr, num_samples=None), data.max_samples, seed=0)
        samples += to_samples(islice(rows, _LOOKED_AT), attr)
    return samples
