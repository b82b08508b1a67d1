# SPDX-License-Identifier: Apache-2.0
"""The loop that all processors share, and the count it keeps of what became of each sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import iadd
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ..prepare.overlong import Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..sources.dataset_info import DatasetAttr
    from ..template.base import Template

IGNORED = -100
OF_HEADS = ("label", "positive", "negative", "score")  # parts of rows for stages without a language-model head
Tokens = TypeVar("Tokens")


class Row(NamedTuple):
    """One row: its columns but for ``sample``, and how many of its tokens are trained."""

    features: dict[str, Any]
    trained: int


class Outcome(NamedTuple):
    """What became of one sample.

    Attributes:
        rows: Its rows; none if it is left out.
        length: Its tokens before anything was cut.
        lost: Its tokens that are in no row.
        too_long: That there is no row is the doing of ``overlong: drop``.
        rewritten: Its answers that the whole text shows otherwise than when they were asked for (``thoughts``).
    """

    rows: list[Row]
    length: int
    lost: int
    too_long: bool
    rewritten: int = 0


@dataclass
class Tally:
    """What became of the samples of one set: ``rows = kept + cut + split + too_long + untrained + unanswered``.

    Attributes:
        rows: Samples read.
        kept: Whole in the result.
        cut: In the result with tokens missing.
        split: Became several rows.
        too_long: Left out by ``overlong: drop``.
        untrained: Left out because no token would be trained.
        unanswered: Left out because they hold no answer.
        rows_out: Rows made.
        tokens_out: Tokens in them.
        trained: Trained tokens in them.
        lost: Tokens that are in no row.
        weighted: Rows whose trained tokens do not all have weight 1.
        media: Rows with images, videos or sound.
        rewritten: Answers that the whole text shows otherwise than when they were asked for (``thoughts``).
        lengths: Tokens of each sample before anything was cut.
        unread: For each set, columns and keys of turns that hold something and are not read.
    """

    rows: int = 0
    kept: int = 0
    cut: int = 0
    split: int = 0
    too_long: int = 0
    untrained: int = 0
    unanswered: int = 0
    rows_out: int = 0
    tokens_out: int = 0
    trained: int = 0
    lost: int = 0
    weighted: int = 0
    media: int = 0
    rewritten: int = 0
    lengths: array[int] = field(default_factory=lambda: array("i"))
    unread: dict[str, set[str]] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Samples that are not in the result."""
        return self.too_long + self.untrained + self.unanswered

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Tally:
        """From what was kept as JSON; the lengths are a list there."""
        unread = {source: set(names) for source, names in counts["unread"].items()}
        return cls(**{**counts, "lengths": array("i", counts["lengths"]), "unread": unread})

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        unread = {source: sorted(names) for source, names in self.unread.items()}
        return {**vars(self), "lengths": self.lengths.tolist(), "unread": unread}

    def add(self, other: Tally) -> None:
        """Add another count to this one."""
        for source, names in other.unread.items():
            self.unread.setdefault(source, set()).update(names)
        for item in fields(self):
            # In place, so that the list of lengths is not copied for every batch.
            if item.name != "unread":
                setattr(self, item.name, iadd(getattr(self, item.name), getattr(other, item.name)))

    def skip(self) -> None:
        """Count one sample that holds no completion."""
        self.rows += 1
        self.unanswered += 1

    def record(self, outcome: Outcome) -> None:
        """Count one sample and its rows."""
        rows = len(outcome.rows)
        self.rows += 1
        self.rows_out += rows
        self.lost += outcome.lost
        self.rewritten += outcome.rewritten
        self.lengths.append(outcome.length)
        if rows > 1:
            self.split += 1
        elif rows == 1:
            self.cut += outcome.lost > 0
            self.kept += outcome.lost == 0
        elif outcome.too_long:
            self.too_long += 1
        else:
            self.untrained += 1
        for row in outcome.rows:
            self.tokens_out += len(row.features["input_ids"])
            self.trained += row.trained
            self.weighted += row.features.get("weights") is not None
            self.media += any(row.features.get("media", ()))


@dataclass
class Encoded:
    """Rows of features as columns (``sample``: which sample of the batch a row comes from), and the count."""

    columns: dict[str, list[Any]]
    tally: Tally


class Processor(ABC, Generic[Tokens]):
    """Samples to features: one loop for all; each processor says how it tokenizes and what a row holds.

    Attributes:
        name: Name of the processor, part of the cache's key.
        columns: Columns of the features, in order.
        default_overlong: Rule when the user gives none.
        packs: Whether packing is on when the user does not say.
        unused: Parts of a row that the stage does not look at; None = all of a row's columns are handed on.
    """

    name: str
    columns: tuple[str, ...] = ("input_ids", "labels", "seq_lens", "weights", "sample")
    default_overlong: Rule = "truncate"
    packs: bool = False
    unused: tuple[str, ...] | None = ("margin", "kto_tag", *OF_HEADS)

    def check_layout(self, attr: DatasetAttr) -> None:
        """Refuse a set whose rows cannot hold what this stage trains."""

    @abstractmethod
    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> Iterable[Tokens | None]:
        """Tokenize a batch, with one call of the tokenizer where that is possible.

        Returns:
            The tokens of each sample; ``None`` for one that holds no completion.

        Raises:
            ConfigError: A row lacks what this processor needs; names the file and the row.
        """

    @abstractmethod
    def fit(self, sample: Sample, tokens: Tokens, args: DataArguments) -> Outcome:
        """Make the rows of one sample, none longer than ``cutoff_len``; ``overlong`` decides how."""

    def encode(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> Encoded:
        """Encode a batch of samples."""
        names = self.columns if getattr(template, "media", None) is None else (*self.columns, "media")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        tally = Tally()
        tokenized = self.tokenize(samples, template, tokenizer, args)
        for number, (sample, tokens) in enumerate(zip(samples, tokenized, strict=True)):
            if tokens is None:
                tally.skip()
                continue
            outcome = self.fit(sample, tokens, args)
            tally.record(outcome)
            for row in outcome.rows:
                row.features["sample"] = number
                for name, column in columns.items():
                    column.append(row.features[name])
        return Encoded(columns, tally)
