# SPDX-License-Identifier: Apache-2.0
"""One data set, from rows to features on disk: cut into shards, the missing ones encoded in threads or processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ...extras.errors import ConfigError
from ..processor import Tally
from ..sources.dataset_info import DatasetAttr
from ..sources.reading import open_set
from .shards import Encoder, ShardJob, ShardWriter, clear_old, cut, is_shard, open_shard
from .workers import map_in_processes, map_in_threads

if TYPE_CHECKING:
    from datasets import Dataset

# One thread is in the tokenizer, which lets Python go on, while the other prepares or writes.
_THREADS = 2


@dataclass(frozen=True)
class EncodedSet:
    """Features of one set.

    Attributes:
        rows: Memory-mapped.
        samples: For each row the number of its sample, from 0. int64 [rows].
        tally: What became of the samples.
        shards: Folders that hold the rows; they may go once the rows were written elsewhere.
    """

    rows: Dataset
    samples: np.ndarray
    tally: Tally
    shards: list[str]


def encode_set(attr: DatasetAttr, encoder: Encoder, seed: int, store: Path, key: str) -> EncodedSet:
    """Encode a data set; shards that an earlier, interrupted job left are taken over.

    Args:
        attr: The set.
        encoder: Samples to features.
        seed: Of the choice that ``num_samples`` makes.
        store: Folder of the shards.
        key: Stands for everything but the rows that the features depend on.

    Raises:
        ConfigError: A row is broken (named by file and line), none is left, or a process died.
    """
    from datasets import concatenate_datasets

    store.mkdir(parents=True, exist_ok=True)
    clear_old(store)
    attr, rows = open_set(attr, encoder.args.max_samples, seed)
    encoder.check_layout(attr)
    folders: list[str] = []
    opened: dict[int, tuple[Dataset, Tally]] = {}
    with tqdm(desc=f"tokenizing {attr.name}", unit=" rows", disable=None) as bar:

        def take(number: int) -> None:
            # At once: another job with the same rows may end before this one, and remove its shards.
            opened[number] = open_shard(folders[number])
            bar.update(opened[number][1].rows)

        def missing() -> Iterator[ShardJob]:
            for job in cut(rows, store, key, encoder.shard_rows):
                folders.append(job.folder)
                if is_shard(job.folder):
                    os.utime(job.folder)
                    take(job.number)
                else:
                    yield job

        writer, workers = ShardWriter(attr, encoder), encoder.args.preprocessing_num_workers or 1
        jobs = missing()
        for number in (
            map_in_threads(writer, jobs, _THREADS) if workers == 1 else map_in_processes(writer, jobs, workers)
        ):
            take(number)
    tally, samples = Tally(), []
    for _, (shard, counts) in sorted(opened.items()):
        samples.append(np.asarray(shard.with_format("arrow")["sample"]) + tally.rows)
        tally.add(counts)
    if not tally.rows_out:
        why = f"{tally.unanswered} no answer, {tally.untrained} no trained token, {tally.too_long} too long"
        raise ConfigError(f"dataset {attr.name!r}: none of its {tally.rows} rows is left ({why})")
    shards = [opened[number][0] for number in sorted(opened) if len(opened[number][0])]
    return EncodedSet(concatenate_datasets(shards), np.concatenate(samples), tally, folders)
