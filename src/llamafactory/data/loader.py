# SPDX-License-Identifier: Apache-2.0
"""The one door from data set names to features: ``get_dataset``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras.errors import ConfigError, in_one_line
from ..extras.logging import is_rank0
from ..hparams import split_list
from .prepare.assembly import hold_out, mixed_order, row_lengths, write_rows
from .prepare.duplicates import drop_marked, find_duplicates
from .prepare.encoding import EncodedSet, encode_set
from .prepare.fingerprint import check_identity, fingerprint, identify, shard_key, train_fingerprint
from .prepare.prepared import CURE, MANIFEST, find_fault, is_prepared, load, prepare_once, read_manifest, save
from .prepare.report import DatasetReport, SourceReport
from .prepare.shards import Encoder
from .processor import Processor
from .sources.dataset_info import DatasetAttr, check_columns, find_datasets, find_media_datasets
from .streaming.loader import encode_held, make_stream, open_sets, split_sets, stream_identity
from .streaming.rows import StreamRows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ..hparams import TrainArgs
    from ..hparams.data_args import DataArguments
    from .template.base import Template


@dataclass(frozen=True)
class DatasetModule:
    """Features of a run.

    Attributes:
        train: Training rows, encoded or (``streaming``) yet to be; None when the run has no training set.
        eval: Evaluation sets by name; the name "" means the one unnamed set.
        report: What became of every row.
        folder: Where the features lie.
        channels: Names of the training sets if there are several; the column ``channels`` numbers them.
        fingerprint: Hash of what the training rows depend on; "" = unknown.
    """

    train: Dataset | StreamRows | None
    eval: dict[str, Dataset] = field(default_factory=dict)
    report: DatasetReport = field(default_factory=DatasetReport)
    folder: Path | None = None
    channels: list[str] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def has_media(self) -> bool:
        """Whether rows have images, videos or sound; of rows yet to be encoded: whether they may."""
        if isinstance(self.train, StreamRows):
            return self.train.encoder.template.media is not None
        sets = self.eval.values() if self.train is None else [self.train, *self.eval.values()]
        return any("media" in rows.column_names for rows in sets)


def get_dataset(
    processor: Processor, template: Template, tokenizer: PreTrainedTokenizerBase, args: TrainArgs
) -> DatasetModule:
    """Prepare the data of a run, or take it from the cache.

    The first process of each machine (of all machines with ``data_shared_file_system``) reads, encodes, mixes and packs
    into a folder that is named by everything the features depend on; the others wait for that folder, and all read it
    memory-mapped. ``tokenized_path`` names the folder instead. A prompt processor makes evaluation sets only.
    With ``streaming`` the training rows are only found, not encoded; evaluation sets are as always.

    Args:
        processor: Of the stage.
        template: Bound to the tokenizer.
        tokenizer: The model's.
        args: ``data`` and ``training`` (seed, output folder) are read.

    Raises:
        ConfigError: A set, file or row is broken, or ``tokenized_path`` was made with other settings.
    """
    data = resolve_stage(processor, args)
    job = _Job(processor, template, tokenizer, data, args)
    if data.streaming and data.dataset:
        return _stream(job)
    folder = tokenized_folder(data) if processor.name != "prompt" else None
    if folder is not None and is_prepared(folder):
        return _reuse(folder, job)
    job.find()
    identity = job.identity()
    final = folder or _cache_root(args) / fingerprint(identity)
    prepare_once(
        final,
        lambda staging: job.build(staging, identity),
        _is_builder(data),
        rebuild=data.overwrite_cache and not folder,
        wait=not folder,
    )
    if folder is not None:  # another run may have been faster
        check_identity(str(folder), (read_manifest(folder) or {})["identity"], identity)
    job.clear_shards()
    return _open(final)


def sets_for(template: Template, names: list[str], data: DataArguments) -> list[DatasetAttr]:
    """Look up data sets; rows with media are refused where the template does not take any."""
    if template.media is None:
        return find_datasets(names, data.dataset_dir, data.columns)
    return find_media_datasets(names, data.dataset_dir, data.media_dir, data.columns)


def tokenized_folder(data: DataArguments) -> Path | None:
    """The folder that ``tokenized_path`` names: of a link what it points at, which can be renamed to."""
    if not data.tokenized_path:
        return None
    folder = Path(data.tokenized_path).expanduser()
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def _stream(job: _Job) -> DatasetModule:
    """Find the training rows without encoding them; encode evaluation rows."""
    args, data, evals = job.args, job.data, DatasetModule(None)
    job.find()
    if data.eval_dataset:
        only_evals = replace(args.data, dataset=None, interleave_probs=None, streaming=False)
        processor, template, tokenizer = job.encoder.processor, job.encoder.template, job.encoder.tokenizer
        evals = get_dataset(processor, template, tokenizer, replace(args, data=only_evals))
    if not job.train_sets:  # prompts of evaluation sets
        return evals
    root, builder = _cache_root(args), _is_builder(data)
    identity = stream_identity(job.identity(with_files=False), job.train_sets)

    def prepare(folder: Path, build: Callable[[Path], None]) -> None:
        prepare_once(folder, build, builder, data.overwrite_cache)

    sets, held = open_sets(job.train_sets, root, prepare, job.encoder, job.seed), evals.eval
    if data.val_size:
        sets, out = split_sets(sets, data.val_size, job.seed)
        held = encode_held(out, job.encoder, identity, root, prepare)
    if job.prompts:
        return DatasetModule(None, held)
    rows = make_stream(sets, job.encoder, job.shares)
    report = replace(
        evals.report, cutoff_len=data.cutoff_len, overlong=data.overlong, fingerprint=fingerprint(identity)
    )
    report.train_rows = len(rows)
    return DatasetModule(rows, held, report, channels=rows.channels, fingerprint=train_fingerprint(identity))


def resolve_stage(processor: Processor, args: TrainArgs) -> DataArguments:
    """Settle what depends on the stage: the rule for long samples, and packing."""
    data = args.data
    packing = data.neat_packing or (processor.packs if data.packing is None else data.packing)
    overlong = data.overlong if "overlong" in args.keys else processor.default_overlong
    return replace(data, overlong=overlong, packing=packing)


def _reuse(folder: Path, job: _Job) -> DatasetModule:
    """Open the user's folder of tokenized data after comparing what it was made with."""
    fault = find_fault(folder)
    if fault:
        raise ConfigError(f"tokenized_path: {folder} is damaged ({fault}); {CURE}")
    manifest = read_manifest(folder)
    if manifest is not None:
        try:
            job.find()
            wanted = job.identity()
        except ConfigError:
            # The raw files need not be on this machine; then only the settings are compared.
            job.data = replace(job.data, dataset=None, eval_dataset=None)
            job.sets = []
            wanted = job.identity()
        with in_one_line(f"tokenized_path: {folder / MANIFEST} is damaged", CURE):
            check_identity(str(folder), manifest["identity"], wanted)
    elif needed := set(job.encoder.processor.columns) - set(Processor.columns):
        raise ConfigError(
            f"tokenized_path: {folder} was made by another program, which is read for stages sft and pt; this stage "
            f"needs rows with {', '.join(sorted(needed))}: give dataset"
        )
    return _open(folder, len(job.encoder.tokenizer))


def _open(folder: Path, vocabulary: int | None = None) -> DatasetModule:
    train, evals = load(folder, vocabulary)
    manifest = read_manifest(folder)
    if manifest is None:
        return DatasetModule(train, evals, folder=folder)
    with in_one_line(f"tokenized_path: {folder / MANIFEST} is damaged", CURE):
        report = DatasetReport.from_dict(manifest["report"])
        if is_rank0():
            report.show()
        channels, identity = manifest["channels"], manifest["identity"]
        return DatasetModule(train, evals, report, folder, channels, train_fingerprint(identity))


def _is_builder(data: DataArguments) -> bool:
    return os.environ.get("RANK" if data.data_shared_file_system else "LOCAL_RANK", "0") == "0"


def _cache_root(args: TrainArgs) -> Path:
    """The output folder when machines share a disk, for it is the one that they are sure to share."""
    if args.data.data_shared_file_system:
        return Path(str(args.training.output_dir), ".data")
    import datasets.config

    return Path(datasets.config.HF_DATASETS_CACHE, "llamafactory")


class _Job:
    """One preparation: which sets, with what, into which folder."""

    def __init__(
        self,
        processor: Processor,
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        data: DataArguments,
        args: TrainArgs,
    ) -> None:
        self.encoder = Encoder(processor, template, tokenizer, data)
        self.processor, self.data, self.args = processor, data, args
        self.seed: int = args.training.seed
        self.prompts = processor.name == "prompt"
        self.sets: list[DatasetAttr] = []
        self.train_sets: list[DatasetAttr] = []
        self.eval_sets: list[DatasetAttr] = []
        self.shares: list[float] | None = None
        self.sources: list[SourceReport] = []
        self.shards: list[str] = []
        self.weighted = self.media = 0

    def find(self) -> None:
        """Look up the sets by name."""
        # Prompts of held-out rows come out of the training sets; else prompts need the evaluation sets alone.
        train_names = [] if self.prompts and not self.data.val_size else split_list(self.data.dataset)
        self.train_sets = sets_for(self.encoder.template, train_names, self.data)
        self.eval_sets = sets_for(self.encoder.template, split_list(self.data.eval_dataset), self.data)
        self.sets = [*self.train_sets, *self.eval_sets]
        check_columns(self.data.columns, self.sets)
        if not self.sets:
            raise ConfigError("dataset: missing; give dataset or eval_dataset")
        self.shares = self._shares()

    def identity(self, with_files: bool = True) -> dict[str, Any]:
        """Everything that the features depend on."""
        encoder, sets = self.encoder, self.sets if with_files else []
        return identify(self.processor, encoder.template, encoder.tokenizer, self.data, self.args, sets)

    def build(self, staging: Path, identity: dict[str, Any]) -> None:
        """Prepare everything into a folder."""
        raw = staging / "raw"
        raw.mkdir()
        train, evals = None, {}
        if self.train_sets:
            train, held = self._train(raw, identity)
            if held is not None:
                evals[""] = held
        if self.eval_sets:
            evals.update(self._evals(raw, identity))
        data = self.data
        report = DatasetReport(
            self.sources, data.cutoff_len, data.overlong, fingerprint(identity), thoughts=data.thoughts
        )
        if train is not None:
            report.train_rows = len(train)
            report.train_tokens = int(row_lengths(train).sum())
            if self.data.packing:
                report.fill = report.train_tokens / (len(train) * self.data.cutoff_len)
        manifest = {"identity": identity, "report": report.to_dict(), "channels": self.channels}
        save(staging, train, evals, manifest)
        shutil.rmtree(raw)

    def clear_shards(self) -> None:
        """Remove the shards once the folder made of them stands."""
        for folder in self.shards:
            shutil.rmtree(folder, ignore_errors=True)

    def _train(self, raw: Path, identity: dict[str, Any]) -> tuple[Dataset | None, Dataset | None]:
        encoded = self._encode(self.train_sets, "train", identity)
        sets = [done.rows for done in encoded]
        sizes = [len(rows) for rows in sets]
        chosen, held = [np.arange(size) for size in sizes], None
        out: list[np.ndarray] = []
        if self.data.val_size:
            counts = [done.tally.rows for done in encoded]
            sides = hold_out([done.samples for done in encoded], counts, self.data.val_size, self.seed)
            chosen, out = [kept for kept, _ in sides], [rows for _, rows in sides]
        if self.data.deduplicate:
            marks = find_duplicates(sets)
            chosen, out = (drop_marked(some, marks) if some else some for some in (chosen, out))
            for source, repeated in zip(self.sources, marks, strict=True):
                source.duplicates = int(repeated.sum())
        if out:
            order = mixed_order(out, sizes, "concat", None, self.seed)
            held = self._write(sets, order, raw / "held.arrow", None)
        if self.prompts:
            return None, held
        chosen = [np.tile(rows, attr.repeat) for rows, attr in zip(chosen, self.train_sets, strict=True)]
        order = mixed_order(chosen, sizes, self.data.mix_strategy, self.shares, self.seed)
        used = np.histogram(order, np.concatenate([[0], np.cumsum(sizes)]))[0]
        for source, number in zip(self.sources, used.tolist(), strict=True):
            source.used = number
        capacity = self.data.cutoff_len if self.data.packing else None
        return self._write(sets, order, raw / "train.arrow", capacity, self.channels), held

    def _shares(self) -> list[float] | None:
        """How often each set is drawn; None = in turn."""
        given = [float(share) for share in split_list(self.data.interleave_probs)]
        weighing = [attr for attr in self.train_sets if attr.weight is not None]
        if not weighing:
            return given or None
        name = f"weight (of dataset {weighing[0].name!r})"
        if given:
            raise ConfigError(f"{name}: cannot be combined with interleave_probs")
        if self.data.mix_strategy == "concat" and len(self.train_sets) > 1:
            raise ConfigError(f"{name}: needs a mix_strategy that interleaves, not concat")
        return [1.0 if attr.weight is None else attr.weight for attr in self.train_sets]

    def _evals(self, raw: Path, identity: dict[str, Any]) -> dict[str, Dataset]:
        """Evaluation rows are never packed, so that each answers for itself."""
        sets = [done.rows for done in self._encode(self.eval_sets, "eval", identity)]
        if self.data.eval_on_each_dataset:
            groups = {attr.name: [rows] for attr, rows in zip(self.eval_sets, sets, strict=True)}
        else:
            groups = {"": sets}
        return {
            name: self._write(rows, np.arange(sum(map(len, rows))), raw / f"eval-{number}.final.arrow", None)
            for number, (name, rows) in enumerate(groups.items())
        }

    def _encode(self, sets: list[DatasetAttr], part: str, identity: dict[str, Any]) -> list[EncodedSet]:
        encoded = []
        for attr in sets:
            done = encode_set(
                attr, self.encoder, self.seed, _cache_root(self.args) / "shards", shard_key(identity, attr)
            )
            self.sources.append(SourceReport.of(attr, part, done.tally, self.data.cutoff_len))
            self.weighted += done.tally.weighted
            self.media += done.tally.media
            self.shards += done.shards
            encoded.append(done)
        return encoded

    @property
    def channels(self) -> list[str]:
        """Names of the training sets if there are several."""
        names = list(dict.fromkeys(attr.name for attr in self.train_sets))
        return names if len(names) > 1 else []

    def _write(
        self, sets: list[Dataset], order: np.ndarray, path: Path, capacity: int | None, channels: Sequence[str] = ()
    ) -> Dataset:
        if not len(order):
            raise ConfigError("val_size: no row is left on one of the two sides")
        return write_rows(sets, order, str(path), capacity, self.weighted > 0, channels, self.media > 0)
