# SPDX-License-Identifier: Apache-2.0
"""Prepared data on disk: a folder that is whole or absent, made once, read by every process."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras.errors import ConfigError, in_one_line
from ...extras.file_list import find_damage, write_file_list
from ...extras.files import publish_folder, read_json, write_json
from ...extras.locks import staging_folder
from ...extras.logging import get_logger

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = get_logger(__name__)

MANIFEST = "llamafactory_data.json"
_LIST = "llamafactory_files.json"
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 600.0
_POLL_SECONDS = 0.2
CURE = "remove the folder, and it is made again"


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds prepared data; it appears by a rename, so it is never half written."""
    return any((folder / name).is_file() for name in (MANIFEST, _LIST, "dataset_dict.json", "state.json"))


def find_fault(folder: Path) -> str | None:
    """Return what is wrong with prepared data, None if it is whole."""
    return find_damage(folder, _LIST)


def prepare_once(folder: Path, build: Callable[[Path], None], builder: bool, rebuild: bool, wait: bool = True) -> None:
    """Have a folder of prepared data made by one process while the others wait for the file to appear.

    Nobody waits inside a collective operation, so no communication timeout can end a long preparation. The builder
    touches a file while it lives; waiting ends with an error when that stops.

    Args:
        folder: Final name.
        build: Fills the folder it is given.
        builder: Whether this process is the one that builds.
        rebuild: Build even when the folder exists.
        wait: Wait for another run that builds the same folder; else it is an error.

    Raises:
        ConfigError: The folder cannot be written, holds what we did not make, or is being built by another run.
        RuntimeError: The building process went silent.
    """
    _require_ours(folder)
    if builder:
        if rebuild or not _is_whole(folder):
            _build(folder, build, rebuild, wait)
    else:
        _wait(folder)


def _is_whole(folder: Path) -> bool:
    if not is_prepared(folder):
        return False
    fault = find_fault(folder)
    if fault:
        logger.warning_once(f"the prepared data in {folder} is damaged ({fault}); it is made again")
    return fault is None


def _require_ours(folder: Path) -> None:
    """Refuse a place that holds anything but prepared data: whatever lies there would be lost."""
    if not folder.exists() or is_prepared(folder):
        return
    if not folder.is_dir():
        raise ConfigError(f"tokenized_path: {folder} is a file, not a folder")
    found = min((path.name for path in folder.iterdir()), default=None)
    if found is not None:
        raise ConfigError(
            f"tokenized_path: {folder} holds {found!r} and is no prepared data; name a new folder, or an empty one"
        )


def _build(folder: Path, build: Callable[[Path], None], rebuild: bool, wait: bool) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"prepared data cannot be written to {folder}: {error.strerror}") from None
    with _beating(folder), staging_folder(folder, "tokenized_path", wait) as staging:
        if not rebuild and _is_whole(folder):
            return  # the run that was waited for has made it
        build(staging)
        write_file_list(staging, _LIST)
        if is_prepared(folder):
            # Readers of the old folder keep their memory-mapped files; its content is the same by its key.
            os.replace(folder, staging.with_name(staging.name + "-old"))
            shutil.rmtree(staging.with_name(staging.name + "-old"))
        publish_folder(staging, folder)


@contextmanager
def _beating(folder: Path) -> Iterator[None]:
    """Touch the file by which other processes see that this one lives."""
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(_pulse(folder), ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        _pulse(folder).unlink(missing_ok=True)


def _pulse(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.building")


def _beat(pulse: Path, ended: threading.Event) -> None:
    while True:
        with suppress(OSError):  # a full disk, a read-only one: whoever writes the data says so
            pulse.touch()
        if ended.wait(HEARTBEAT_SECONDS):
            return


def _wait(folder: Path) -> None:
    """Wait for the folder. Only changes of the pulse count, not its time of day: clocks of machines differ."""
    last, since = None, time.monotonic()
    while not _is_whole(folder):
        try:
            pulse = _pulse(folder).stat().st_mtime_ns
        except FileNotFoundError:
            pulse = None
        if pulse != last:
            last, since = pulse, time.monotonic()
        if time.monotonic() - since > SILENCE_SECONDS:
            raise RuntimeError(
                f"the process that prepares the data in {folder} has been silent for {SILENCE_SECONDS:.0f} s"
            )
        time.sleep(_POLL_SECONDS)


def save(folder: Path, train: Dataset | None, evals: dict[str, Dataset], manifest: dict[str, Any]) -> None:
    """Write prepared data as a ``datasets`` folder that ``load_from_disk`` can read, with a manifest beside it.

    Splits are named ``train``, ``validation``, ``validation_1`` …; the manifest says which set each of them is.
    """
    from datasets import DatasetDict

    splits = {} if train is None else {"train": train}
    names = {f"validation_{number}" if name else "validation": name for number, name in enumerate(evals, start=1)}
    splits.update({split: evals[name] for split, name in names.items()})
    with _quiet():
        DatasetDict(splits).save_to_disk(folder)
    write_json(folder / MANIFEST, {**manifest, "eval": names})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars: the bar of the tokenizing is the one to watch."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest; None for a folder that another program wrote."""
    path = folder / MANIFEST
    found: dict[str, Any] | None = read_json(path, dict, "tokenized_path", CURE) if path.is_file() else None
    return found


def load(folder: Path, vocabulary: int | None = None) -> tuple[Dataset | None, dict[str, Dataset]]:
    """Open prepared data, memory-mapped: the training rows and the evaluation sets by name.

    Args:
        folder: Where it lies.
        vocabulary: Size of the tokenizer, which tokens in a folder of another program must fit.
    """
    from datasets import DatasetDict, load_from_disk

    with in_one_line(f"tokenized_path: {folder} holds no readable tokenized data", CURE):
        found = load_from_disk(str(folder))
    splits = found if isinstance(found, DatasetDict) else {"train": found}
    manifest = read_manifest(folder)
    if manifest is None:
        return _adopt(folder, splits, vocabulary)
    with in_one_line(f"tokenized_path: {folder / MANIFEST} is damaged", CURE):
        return splits.get("train"), {name: splits[split] for split, name in manifest["eval"].items()}


def _adopt(
    folder: Path, splits: DatasetDict | dict[str, Dataset], vocabulary: int | None
) -> tuple[Dataset | None, dict[str, Dataset]]:
    """Take over a folder that another program wrote: it has no manifest, and the borders of packs hide in columns."""
    unread: set[str] = set()
    for split, rows in splits.items():
        missing = set(_FEATURES) - set(rows.column_names)
        if missing:
            raise ConfigError(f"tokenized_path: {folder}, split {split} has no column {min(missing)!r}")
        unread.update(set(rows.column_names) - {*_FEATURES, *_BORDERS, *_MASKS})
    logger.warning_rank0(
        "tokenized_path: %s has no manifest; template, tokenizer and lengths cannot be checked%s",
        folder,
        f"; not read: {', '.join(sorted(unread))}" if unread else "",
    )
    adopted = {}
    for split, rows in splits.items():
        read = _Adopt(f"tokenized_path: {folder}, split {split}", vocabulary)
        with _quiet():
            adopted[split] = rows.map(read, with_indices=True, remove_columns=_others(rows))
    train = adopted.pop("train", None)
    return train, {split.removeprefix("validation").removeprefix("_"): rows for split, rows in adopted.items()}


def _others(rows: Dataset) -> list[str]:
    return [name for name in rows.column_names if name not in _FEATURES]


# By all but the first two programs say where the sequences of a pack end: ours, TRL's, numbers in the mask, positions.
_FEATURES = ("input_ids", "labels")
_LENGTHS = ("seq_lens", "seq_lengths")
_BORDERS = (*_LENGTHS, "attention_mask", "position_ids")
# TRL's: 0 = not trained, whatever the labels say.
_MASKS = ("completion_mask", "assistant_masks")
# What would change the training and is not read -> why.
_REFUSED = {
    **dict.fromkeys(
        ("images", "videos", "audios", "pixel_values"),
        "media are read from files in training; give the raw rows with dataset",
    ),
    **dict.fromkeys(
        ("cu_seqlens", "cu_seq_lens", "cu_seq_lens_q", "sequence_lengths", "seqlens"),
        f"borders of packs are read from {', '.join(_BORDERS)}",
    ),
}


class _Adopt:
    """A row of another program as one of ours; its padding goes.

    Args:
        where: The folder and its split, for errors.
        vocabulary: Size of the tokenizer; ``None`` = not known.
    """

    def __init__(self, where: str, vocabulary: int | None) -> None:
        self.where, self.vocabulary = where, vocabulary

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        where, size = f"{self.where}, row {number + 1}", len(row["input_ids"])
        for name, why in _REFUSED.items():
            if row.get(name):
                raise ConfigError(f"{where}: column {name!r} is not read: {why}")
        read = (*_FEATURES, *_BORDERS, *_MASKS)
        given = {name: np.asarray(row[name]) for name in read if row.get(name) is not None}
        for name in given.keys() - set(_LENGTHS):
            if given[name].shape != (size,):
                raise ConfigError(f"{where}: {name} is no list of {size} numbers, as many as there are input_ids")
        largest = given["input_ids"].max(initial=0)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise ConfigError(
                f"{where}: token {largest} is none of the tokenizer's {self.vocabulary}; was it another one?"
            )
        starts = _starts(given, size, where)
        owner = np.cumsum(starts) - 1
        lengths = np.bincount(owner)
        # A sequence of one token trains nothing; some programs fill rows up with them.
        kept = given.get("attention_mask", np.ones(size)) != 0
        kept &= (lengths > 1)[owner] if (lengths[owner[kept]] > 1).any() else True
        lengths = np.bincount(owner[kept])
        masked = starts | np.any([given[name] == 0 for name in _MASKS if name in given], axis=0)
        labels = np.where(masked, -100, given["labels"])
        features = {"input_ids": given["input_ids"][kept].tolist(), "labels": labels[kept].tolist()}
        return {**features, "seq_lens": lengths[lengths > 0].tolist(), "source": "tokenized"}


def _starts(given: dict[str, np.ndarray], size: int, where: str) -> np.ndarray:
    """Where sequences begin, bool [size]: lengths say so, another number in the mask, or a position that is 0 again."""
    starts = np.zeros(size, bool)
    starts[:1] = True
    for name in _LENGTHS:
        if name in given:
            if given[name].sum() != size:
                raise ConfigError(f"{where}: {name} add up to {given[name].sum()}, input_ids has {size}")
            starts[np.cumsum(given[name])[:-1]] = True
    if (mask := given.get("attention_mask")) is not None:
        starts[1:] |= mask[1:] != mask[:-1]
    if (positions := given.get("position_ids")) is not None:
        again = positions[1:] != positions[:-1] + 1
        real = mask[1:] != 0 if mask is not None else np.ones(size - 1, bool)
        if (odd := np.flatnonzero(again & real & (positions[1:] > 1))).size:
            at = odd[0] + 1
            raise ConfigError(
                f"{where}: position_ids go from {positions[at - 1]} to {positions[at]}, which is no border of a pack"
            )
        starts[1:] |= again
    return starts
