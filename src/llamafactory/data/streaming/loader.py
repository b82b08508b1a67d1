# SPDX-License-Identifier: Apache-2.0
"""What a streaming run does before its first step: index rows, choose those to train on, encode the held-out ones."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras.errors import ConfigError
from ...extras.files import write_json
from ...extras.logging import get_logger
from ..prepare.arrow_file import ArrowFile
from ..prepare.assembly import hold_out, write_rows
from ..prepare.fingerprint import fingerprint
from ..prepare.prepared import MANIFEST, load, save
from ..prepare.shards import Encoder
from ..processor import Tally
from ..sources.cloud import cloud_version
from ..sources.dataset_info import DatasetAttr
from ..sources.files import list_files
from ..sources.reading import SNIFFED_ROWS, resolve_layout, to_samples
from ..sources.row_index import RowIndex, write_index
from .rows import StreamRows, StreamSet

if TYPE_CHECKING:
    from datasets import Dataset

logger = get_logger(__name__)

# Has a folder made by one process, the others wait for it: folder, what fills it.
Prepare = Callable[[Path, Callable[[Path], None]], None]


def index_set(attr: DatasetAttr, root: Path, prepare: Prepare) -> RowIndex:
    """Index a set, or find the index that an earlier run made of the same files."""
    key = place_key(attr)
    folder = root / f"rows-{fingerprint({'rows': key})}"

    def build(staging: Path) -> None:
        write_index(attr, staging)
        write_json(staging / MANIFEST, key)

    prepare(folder, build)
    return RowIndex(folder)


def place_key(attr: DatasetAttr) -> list[Any]:
    """What tells whether the rows of a set are still the same, without reading them: sizes and times of its files."""
    if attr.place == "cloud":
        return [[address, cloud_version(address)] for address in list_files(attr)]
    if attr.place != "file":
        return [attr.place, attr.location, attr.subset, attr.split, attr.folder]
    found = [(os.path.abspath(path), os.stat(path)) for path in list_files(attr)]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in found]


def open_sets(attrs: list[DatasetAttr], root: Path, prepare: Prepare, encoder: Encoder, seed: int) -> list[StreamSet]:
    """Open sets with the rows that ``num_samples`` and ``max_samples`` choose, the same as without streaming."""
    sets = []
    for attr in attrs:
        rows = index_set(attr, root, prepare)
        chosen = np.arange(len(rows))
        if attr.num_samples is not None:
            times, rest = divmod(attr.num_samples, len(rows))
            drawn = random.Random(seed).sample(range(len(rows)), rest)
            chosen = np.concatenate([np.tile(chosen, times), np.asarray(drawn, dtype=np.int64)])
        chosen = chosen[: encoder.args.max_samples]
        first = list(rows.read(chosen[:SNIFFED_ROWS].tolist()))
        attr = resolve_layout(attr, first)
        encoder.check_layout(attr)
        sets.append(StreamSet(attr, rows, chosen))
        logger.info_rank0("streaming %s: %s rows", attr.name, f"{len(chosen):,}")
    return sets


def split_sets(sets: list[StreamSet], size: float, seed: int) -> tuple[list[StreamSet], list[StreamSet]]:
    """Return the sets with the rows to train on, and with those held out: the same as without streaming."""
    counts = [len(one.chosen) for one in sets]
    sides = hold_out([np.arange(count) for count in counts], counts, size, seed)
    train = [replace(one, chosen=one.chosen[kept]) for one, (kept, _) in zip(sets, sides, strict=True)]
    held = [replace(one, chosen=one.chosen[out]) for one, (_, out) in zip(sets, sides, strict=True)]
    return train, held


def encode_held(
    held: list[StreamSet], encoder: Encoder, identity: dict[str, Any], root: Path, prepare: Prepare
) -> dict[str, Dataset]:
    """Encode the held-out rows once, as the one unnamed evaluation set."""
    folder = root / fingerprint(identity)

    def build(staging: Path) -> None:
        from datasets import Dataset

        path, tally = str(staging / "held.arrow"), Tally()
        with ArrowFile(path) as file:
            for one in held:
                samples = to_samples(one.rows.read(one.chosen.tolist()), one.attr)
                while batch := list(islice(samples, encoder.args.preprocessing_batch_size)):
                    encoded = encoder(batch)
                    encoded.columns["source"] = [one.attr.name] * len(encoded.columns["sample"])
                    file.write(encoded.columns)
                    tally.add(encoded.tally)
        if not tally.rows_out:
            raise ConfigError("val_size: no held-out row is left to evaluate on")
        rows = Dataset.from_file(path)
        final, order = str(staging / "final.arrow"), np.arange(len(rows))
        rows = write_rows([rows], order, final, None, tally.weighted > 0, media=tally.media > 0)
        save(staging, None, {"": rows}, {"identity": identity})
        os.unlink(path)
        os.unlink(staging / "final.arrow")

    prepare(folder, build)
    return load(folder)[1]


def stream_identity(identity: dict[str, Any], attrs: list[DatasetAttr]) -> dict[str, Any]:
    """Return the identity of a streaming run: files count by size and time, for they are not read beforehand."""
    files = {attr.name: [place_key(attr), {**asdict(attr), "listed": sorted(attr.listed)}] for attr in attrs}
    return {**identity, "files": files, "streaming": True}


def make_stream(sets: list[StreamSet], encoder: Encoder, shares: list[float] | None) -> StreamRows:
    """Put opened sets together."""
    names = list(dict.fromkeys(one.attr.name for one in sets))
    channels = names if len(names) > 1 else []
    return StreamRows(sets, encoder, encoder.args.mix_strategy, shares, encoder.args.buffer_size, channels)
