# SPDX-License-Identifier: Apache-2.0
"""What became of every row: the table that each preparation of data prints, and its counts for the run's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..processor import Tally

if TYPE_CHECKING:
    from rich.table import Table

_STEPS = 7  # and one more for what is longer than cutoff_len


def length_steps(longest: int, cutoff: int) -> list[int]:
    """Where the steps of a histogram of lengths end: round numbers that fit the data, none beyond ``cutoff``."""
    top = max(1, min(longest, cutoff))
    size = 10 ** len(str(top))
    step = next(
        step for step in (size * part // 100 for part in (1, 2, 5, 10, 20, 50)) if step and step * _STEPS >= top
    )
    ends = list(range(step, top + step, step))
    return [*ends[:-1], min(ends[-1], cutoff)]


@dataclass
class SourceReport:
    """Counts of one set; the fields are those of :class:`~llamafactory.data.processor.Tally`.

    Attributes:
        longest: Tokens of the longest sample, before cutting.
        histogram: Samples by length before cutting, in the steps that end at ``steps``, then those beyond cutoff_len.
        steps: Where each step ends, in tokens.
        used: Rows of this set in the training data (after mixing; repeats count).
        duplicates: Rows that ``deduplicate`` left out.
        rewritten: Answers that the whole text shows otherwise than when they were asked for.
    """

    name: str
    part: str
    rows: int
    kept: int
    cut: int
    split: int
    too_long: int
    untrained: int
    unanswered: int
    rows_out: int
    tokens_out: int
    trained: int
    lost: int
    longest: int
    histogram: list[int]
    steps: list[int]
    used: int = 0
    duplicates: int = 0
    rewritten: int = 0

    @classmethod
    def of(cls, name: str, part: str, tally: Tally, cutoff: int) -> SourceReport:
        """Sum up a set's count."""
        counts = tally.to_dict()
        lengths = np.asarray(counts.pop("lengths"), dtype=np.int64)
        counts.pop("weighted")
        longest = int(lengths.max(initial=0))
        steps = length_steps(longest, cutoff)
        # The ends belong to their step: a sample of exactly cutoff_len tokens fits.
        places = np.searchsorted(steps, lengths, side="left")
        histogram = np.bincount(places, minlength=len(steps) + 1).tolist()
        return cls(name, part, **counts, longest=longest, histogram=histogram, steps=steps)

    @property
    def dropped(self) -> int:
        """Samples that are in no row."""
        return self.too_long + self.untrained + self.unanswered


@dataclass
class DatasetReport:
    """The whole preparation.

    Attributes:
        sources: One entry a set.
        cutoff_len: Most tokens of a row.
        overlong: The rule for longer samples.
        fingerprint: Hash of the files and of every setting that shapes the features.
        train_rows: Rows of the training data (packs, when packing).
        train_tokens: Tokens in them.
        fill: Share of the packed rows that is filled; None without packing.
        thoughts: What was done with answers that stand otherwise than when they are asked for.
    """

    sources: list[SourceReport] = field(default_factory=list)
    cutoff_len: int = 0
    overlong: str = ""
    fingerprint: str = ""
    train_rows: int = 0
    train_tokens: int = 0
    fill: float | None = None
    thoughts: str = "mask"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DatasetReport:
        """From what :meth:`to_dict` returned."""
        return cls(**{**values, "sources": [SourceReport(**source) for source in values["sources"]]})

    def table(self) -> Table:
        """The table for a terminal: rows = kept + cut + split + dropped."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        title = f"Rows (cutoff_len {self.cutoff_len}, overlong: {self.overlong})"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("data set", overflow="fold")
        mixed = sum(source.used for source in self.sources)
        mixes = len([source for source in self.sources if source.used]) > 1
        names = ["rows", "kept", "cut", "split", "dropped", "tokens", "trained", "lost"]
        for name in [*names, "mix"] if mixes else names:
            table.add_column(name, justify="right", no_wrap=True)
        for source in self.sources:
            name = source.name if source.part == "train" else f"{source.name} ({source.part})"
            numbers = (source.rows, source.kept, source.cut, source.split, source.dropped)
            row = [f"{number:,}" for number in (*numbers, source.tokens_out, source.trained, source.lost)]
            if mixes:
                row.append(f"{source.used / mixed:.1%}" if source.used else "")
            table.add_row(name, *row)
        return table

    def notes(self) -> list[str]:
        """Lines below the table: why rows were dropped, and how full the packs are."""
        lines = [f"dropped from {source.name}: {_reasons(source)}" for source in self.sources if source.dropped]
        lines += [self._rewritten(source) for source in self.sources if source.rewritten]
        lines += [
            f"left out of {source.name}: {source.duplicates:,} duplicates"
            for source in self.sources
            if source.duplicates
        ]
        if self.fill is not None:
            lines.append(f"packed into {self.train_rows:,} rows, {self.fill:.1%} filled")
        return lines

    def _rewritten(self, source: SourceReport) -> str:
        what = f"{source.rewritten:,} earlier answers stand in the whole text otherwise than when they are asked for"
        if self.thoughts == "split":
            return f"rows of {source.name}: {what} (thoughts dropped), so each is trained in a row of its own"
        return (
            f"not trained in {source.name}: {what} (thoughts dropped); thoughts: split trains each in a row of its "
            "own, preserve_thinking: true keeps written thoughts in the text"
        )

    def show(self) -> None:
        """Print the table and its notes to stderr."""
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            console.width = 120  # a log file has no width of its own
        console.print(self.table())
        for note in self.notes():
            console.print(note, soft_wrap=True, highlight=False)


def _reasons(source: SourceReport) -> str:
    reasons = {"no answer": source.unanswered, "no trained token": source.untrained, "too long": source.too_long}
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
