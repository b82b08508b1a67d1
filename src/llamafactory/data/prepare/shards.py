# SPDX-License-Identifier: Apache-2.0
"""Encoded rows in shards: each named by its content, there by a rename, kept until the whole preparation is done.

A job that was killed, or stopped at a broken row, goes on with the shards that exist; rows that were mended or added
since then are the only ones encoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ...extras.errors import writing
from ...extras.file_list import find_damage, write_file_list
from ...extras.files import publish_folder, read_json, write_json
from ..formats.unread import Unread
from ..processor import Encoded, Processor, Tally
from ..sources.dataset_info import DatasetAttr
from ..sources.opened import NumberedRow
from ..sources.reading import to_samples
from .arrow_file import ArrowFile

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template

SHARD_ROWS = 5000
# The same where rows may hold media, of which one may take thousands of tokens; and rows in one call of the tokenizer.
_MEDIA_SHARD_ROWS, _MEDIA_ROWS = 500, 50
_KEPT_SECONDS = 7 * 24 * 3600.0
_ROWS, _TALLY, _LIST = "rows.arrow", "tally.json", "files.json"


@dataclass(frozen=True)
class Encoder:
    """What a batch of samples needs to become features."""

    processor: Processor
    template: Template
    tokenizer: PreTrainedTokenizerBase
    args: DataArguments

    def __call__(self, samples: list[Sample]) -> Encoded:
        return self.processor.encode(samples, self.template, self.tokenizer, self.args)

    @property
    def takes_media(self) -> bool:
        """Whether rows may hold images, videos or sound."""
        return getattr(self.template, "media", None) is not None

    @property
    def shard_rows(self) -> int:
        """Rows of a shard."""
        return min(SHARD_ROWS, _MEDIA_SHARD_ROWS) if self.takes_media else SHARD_ROWS

    def check_layout(self, attr: DatasetAttr) -> None:
        """Refuse a set whose rows cannot hold what the stage trains."""
        for one in (*attr.by_file.values(), attr):
            self.processor.check_layout(one)


@dataclass(frozen=True)
class ShardJob:
    """Rows that become one shard.

    Attributes:
        number: Which shard of its set.
        rows: In order.
        folder: Where the shard appears.
    """

    number: int
    rows: list[NumberedRow]
    folder: str

    def __str__(self) -> str:
        first, last = self.rows[0][0], self.rows[-1][0]
        return f"{first} to {last if first.file != last.file else f'{last.unit} {last.number}'}"


@dataclass(frozen=True)
class ShardWriter:
    """Encodes the rows of one set, a shard at a time; goes to other processes."""

    attr: DatasetAttr
    encoder: Encoder

    def __call__(self, job: ShardJob) -> int:
        """Write a shard; returns its number."""
        with writing(job.folder):
            self._make(job)
        return job.number

    def _make(self, job: ShardJob) -> None:
        staging = tempfile.mkdtemp(prefix=_own_prefix(os.getpid()), dir=os.path.dirname(job.folder))
        try:
            self._write(job, staging)
            if os.path.isdir(job.folder) and not is_shard(job.folder):  # damaged
                shutil.rmtree(job.folder)
            publish_folder(staging, job.folder)
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            # Another job that prepares the same rows at the same time may have been faster.
            if not (isinstance(error, OSError) and is_shard(job.folder)):
                raise

    def _write(self, job: ShardJob, staging: str) -> None:
        tally, unread = Tally(), Unread(self.encoder.processor.unused)
        samples = to_samples(job.rows, self.attr, unread.look)
        size = self.encoder.args.preprocessing_batch_size
        size = min(size, _MEDIA_ROWS) if self.encoder.takes_media else size
        with ArrowFile(os.path.join(staging, _ROWS)) as file:
            while batch := list(islice(samples, size)):
                encoded = self.encoder(batch)
                columns = encoded.columns
                columns["sample"] = [tally.rows + number for number in columns["sample"]]
                columns["source"] = [self.attr.name] * len(columns["sample"])
                file.write(columns)
                tally.add(encoded.tally)
        tally.unread = {self.attr.name: unread.names}
        write_json(os.path.join(staging, _TALLY), tally.to_dict())
        write_file_list(Path(staging), _LIST)


def cut(rows: Iterator[NumberedRow], store: Path, key: str, size: int) -> Iterator[ShardJob]:
    """Cut a set into shards of ``size`` rows, named by these and by ``key``, which stands for all that shapes them."""
    number = 0
    while some := list(islice(rows, size)):
        content = json.dumps([row for _, row in some], default=repr)
        name = hashlib.blake2b(f"{key}\0{content}".encode(), digest_size=16).hexdigest()
        yield ShardJob(number, some, str(store / name))
        number += 1


def is_shard(folder: str) -> bool:
    """Whether a shard is there and still what was written."""
    return os.path.isdir(folder) and find_damage(Path(folder), _LIST, (_LIST, _ROWS, _TALLY)) is None


def open_shard(folder: str) -> tuple[Dataset, Tally]:
    """Open a shard, memory-mapped."""
    from datasets import Dataset

    counts: dict[str, Any] = read_json(os.path.join(folder, _TALLY))
    return Dataset.from_file(os.path.join(folder, _ROWS)), Tally.from_dict(counts)


def clear_old(store: Path) -> None:
    """Remove half shards of processes that were killed, and what nobody went on with for a week."""
    oldest = time.time() - _KEPT_SECONDS
    for path in store.iterdir():
        with suppress(FileNotFoundError):  # another job has just removed it
            if path.stat().st_mtime < oldest or _is_of_killed(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _own_prefix(process: int) -> str:
    """How half shards of a process of this machine begin: others may be at work in the same store."""
    return f".{socket.gethostname()}-{process}-"


def _is_of_killed(name: str) -> bool:
    number = name.removeprefix(_own_prefix(0).removesuffix("0-")).partition("-")[0]
    return name.startswith(".") and number.isdigit() and not psutil.pid_exists(int(number))
