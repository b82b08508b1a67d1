# SPDX-License-Identifier: Apache-2.0
"""What became of every row: the table that each preparation of data prints, and its counts for the run's manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras.logging import get_logger
from ..processor import Tally
from ..sources.dataset_info import DatasetAttr

if TYPE_CHECKING:
    from rich.table import Table

logger = get_logger(__name__)
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
        bad: Rows that could not be read; only ``check-data`` goes on then. They are not in ``rows``.
        unread: Columns that hold something and are not read, and keys of turns (``column[].key``).
        spelled_out: The user named the columns, so others were left out on purpose.
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
    bad: int = 0
    unread: list[str] = field(default_factory=list)
    spelled_out: bool = False
    rewritten: int = 0

    @classmethod
    def of(cls, attr: DatasetAttr, part: str, tally: Tally, cutoff: int) -> SourceReport:
        """Sum up a set's count."""
        counts = tally.to_dict()
        lengths = np.asarray(counts.pop("lengths"), dtype=np.int64)
        for name in ("weighted", "media"):
            counts.pop(name)
        unread = counts.pop("unread").get(attr.name, [])
        longest = int(lengths.max(initial=0))
        steps = length_steps(longest, cutoff)
        # The ends belong to their step: a sample of exactly cutoff_len tokens fits.
        places = np.searchsorted(steps, lengths, side="left")
        histogram = np.bincount(places, minlength=len(steps) + 1).tolist()
        found = {"longest": longest, "histogram": histogram, "steps": steps, "unread": unread}
        return cls(attr.name, part, **counts, **found, spelled_out=attr.is_spelled_out)

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
        """The table for a terminal: rows = kept + cut + split + dropped (+ broken)."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        title = f"Rows (cutoff_len {self.cutoff_len}, overlong: {self.overlong})"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        broken = any(source.bad for source in self.sources)
        table.add_column("data set", overflow="fold")
        mixed = sum(source.used for source in self.sources)
        mixes = len([source for source in self.sources if source.used]) > 1
        names = ["rows", "kept", "cut", "split", "dropped", *["broken"] * broken, "tokens", "trained", "lost"]
        for name in [*names, "mix"] if mixes else names:
            table.add_column(name, justify="right", no_wrap=True)
        for source in self.sources:
            name = source.name if source.part == "train" else f"{source.name} ({source.part})"
            fates = (source.kept, source.cut, source.split, source.dropped, *[source.bad] * broken)
            counts = (source.rows + source.bad, *fates, source.tokens_out, source.trained, source.lost)
            row = [f"{number:,}" for number in counts]
            if mixes:
                row.append(f"{source.used / mixed:.1%}" if source.used else "")
            table.add_row(name, *row)
        return table

    def notes(self) -> list[str]:
        """Lines below the table: why rows were dropped, and how full the packs are."""
        lines = [f"dropped from {source.name}: {reasons(source)}" for source in self.sources if source.dropped]
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
        for source in self.sources:
            say_unread(source.name, source.unread, source.spelled_out)


def say_unread(name: str, unread: Sequence[str], spelled_out: bool) -> None:
    """Name what the rows of a set hold and nothing reads: a warning, unless the user chose the columns."""
    if not unread:
        return
    is_chosen = spelled_out and not any("[]." in one for one in unread)
    (logger.info_once if is_chosen else logger.warning_once)(unread_line(name, unread))


def unread_line(name: str, unread: Sequence[str]) -> str:
    """One line that names columns and keys of turns that are not read."""
    keys = "; [] = a key of its turns" if any("[]." in one for one in unread) else ""
    return f"{name}: its rows hold what is not read: {', '.join(unread)} (docs/data.md, columns{keys})"


def reasons(counts: SourceReport | Tally) -> str:
    """Why rows were dropped, and how many; of one row the reason alone."""
    why = {"no answer": counts.unanswered, "no trained token": counts.untrained, "too long": counts.too_long}
    numbered = counts.rows > 1
    return ", ".join(f"{count:,} {reason}" if numbered else reason for reason, count in why.items() if count)
