# SPDX-License-Identifier: Apache-2.0
"""One data set, from rows to features on disk: read, convert, encode by batches, write Arrow as it goes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..plugins import resolve
from .dataset_info import DatasetAttr
from .messages import Origin, Sample
from .processor import Encoded, Processor, Tally
from .sniff import describe, sniff
from .sources import NumberedRow, read_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ..hparams.data_args import DataArguments
    from .template_encoding import Template

logger = get_logger(__name__)
_SNIFFED_ROWS = 20


@dataclass(frozen=True)
class Encoder:
    """What a batch of samples needs to become features."""

    processor: Processor
    template: Template
    tokenizer: PreTrainedTokenizerBase
    args: DataArguments

    def __call__(self, samples: Sequence[Sample]) -> Encoded:
        return self.processor.encode(samples, self.template, self.tokenizer, self.args)


def encode_set(attr: DatasetAttr, encoder: Encoder, seed: int, path: str) -> tuple[Dataset, Tally]:
    """Encode a whole data set into an Arrow file.

    Args:
        attr: The set.
        encoder: Samples to features.
        seed: Of the choice that ``num_samples`` makes.
        path: Arrow file to write.

    Returns:
        The features, memory-mapped, with the helper column ``sample`` (number of the row's sample); and the count.

    Raises:
        ConfigError: A row is broken (named by file and line), or none is left.
    """
    from datasets import Dataset

    tally = Tally()
    batches = _batches(_samples(attr, encoder.args.max_samples, seed), encoder.args.preprocessing_batch_size)
    with ArrowFile(path) as file, tqdm(desc=f"tokenizing {attr.name}", unit=" rows", disable=None) as bar:
        for encoded in _encode(batches, encoder):
            first = tally.rows
            encoded.columns["sample"] = [first + number for number in encoded.columns["sample"]]
            encoded.columns["source"] = [attr.name] * len(encoded.columns["sample"])
            file.write(encoded.columns)
            tally.add(encoded.tally)
            bar.update(encoded.tally.rows)
    if not tally.rows_out:
        why = f"{tally.unanswered} no answer, {tally.untrained} no trained token, {tally.too_long} too long"
        raise ConfigError(f"dataset {attr.name!r}: none of its {tally.rows} rows is left ({why})")
    return Dataset.from_file(path), tally


class ArrowFile:
    """An Arrow stream that grows by batches of columns."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> ArrowFile:
        import pyarrow as pa

        ids, text = pa.list_(pa.int32()), pa.string()
        self.types = {
            "input_ids": ids,
            "labels": ids,
            "seq_lens": ids,
            "desirable": ids,
            "weights": pa.list_(pa.float32()),
            "sample": pa.int64(),
            "source": text,
            "reference": text,
        }
        self.sink = pa.OSFile(self.path, "wb")
        self.stream: Any = None
        return self

    def write(self, columns: dict[str, Any]) -> None:
        """Append rows given as lists or Arrow arrays; every call gives the same columns."""
        import pyarrow as pa

        schema = pa.schema([(name, self.types[name]) for name in columns])
        if self.stream is None:
            self.stream = pa.ipc.new_stream(self.sink, schema)
        self.stream.write_table(pa.table(columns, schema=schema))

    def __exit__(self, *error: object) -> None:
        if self.stream is not None:
            self.stream.close()
        self.sink.close()


def _samples(attr: DatasetAttr, max_samples: int | None, seed: int) -> Iterator[Sample]:
    rows: Iterator[NumberedRow] = iter(read_rows(attr))
    if attr.num_samples is not None:
        rows = iter(_choose(list(rows), attr.num_samples, seed))
    rows = islice(rows, max_samples)
    first = list(islice(rows, _SNIFFED_ROWS))
    if attr.formatting == "auto":
        attr = sniff(attr, [row for _, row in first])
        logger.info(describe(attr))
    _check_columns(attr, first)
    convert = resolve("formats", attr.formatting)
    for place, row in chain(first, rows):
        try:
            sample = convert(row, attr)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        yield replace(sample, origin=Origin(attr.name, place.file, place.number))


def _choose(rows: list[NumberedRow], number: int, seed: int) -> list[NumberedRow]:
    """Take ``number`` rows at random: each at most once, or as evenly as possible when there are fewer rows."""
    rng = random.Random(seed)
    times, rest = divmod(number, len(rows))
    return rows * times + rng.sample(rows, rest)


def _check_columns(attr: DatasetAttr, first: list[NumberedRow]) -> None:
    """Columns that dataset_info.json names must occur in the first rows; the defaults need not."""
    present = {column for _, row in first for column in row}
    missing = sorted(attr.listed - present)
    if missing:
        found = ", ".join(map(repr, sorted(present)))
        raise ConfigError(f"{first[0][0]}: missing column {missing[0]!r} (named in dataset_info.json); found {found}")


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch


def _encode(batches: Iterator[list[Sample]], encoder: Encoder) -> Iterator[Encoded]:
    """Encode in this process (its tokenizer uses every core), or in as many processes as asked for; order is kept."""
    workers = encoder.args.preprocessing_num_workers or 1
    if workers == 1:
        yield from map(encoder, batches)
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(encoder,)) as pool:
        waiting = deque(pool.submit(_work, batch) for batch in islice(batches, 2 * workers))
        while waiting:
            try:
                encoded = waiting.popleft().result()
            except BrokenProcessPool:
                raise ConfigError(
                    f"preprocessing_num_workers: one of {workers} processes died, most likely out of memory; use fewer"
                ) from None
            waiting.extend(pool.submit(_work, batch) for batch in islice(batches, 1))
            yield encoded


_worker_encoder: Encoder | None = None


def _start_worker(encoder: Encoder) -> None:
    global _worker_encoder
    _worker_encoder = encoder


def _work(batch: list[Sample]) -> Encoded:
    assert _worker_encoder is not None
    return _worker_encoder(batch)
