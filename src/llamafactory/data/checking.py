# SPDX-License-Identifier: Apache-2.0
"""Every row of the data looked at: what is broken, repeated, long, thinking, calling tools, trained."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from .formats.unread import Unread
from .prepare.duplicates import is_new
from .prepare.report import DatasetReport, SourceReport, reasons
from .prepare.shards import Encoder
from .processor import Tally
from .sources.dataset_info import DatasetAttr
from .sources.files import scan_rows
from .sources.opened import FoundRow, NumberedRow
from .sources.reading import resolve_layout, to_samples
from .template.thinking import has_reasoning

if TYPE_CHECKING:
    from rich.table import Table

    from .messages import Sample

SHOWN_PROBLEMS = 20
SHOWN_PLACES = 5
_FIRST_ROWS = 20


@dataclass
class SetCheck:
    """What was found in one set.

    Attributes:
        name: Of the set.
        part: ``train`` or ``eval``.
        rows: Rows looked at, the broken ones too.
        bad: Rows (or whole files) that training would stop at.
        problems: The first of them, each naming file and line.
        reasoning: Rows with a thought in some assistant turn.
        tools: Rows with tools or tool calls.
        duplicates: Rows whose tokens and labels equal those of an earlier row, of this set or one before it.
        repeated: The places of the first of them.
        dropped: The first rows that training leaves out, with the reason.
        counts: Lengths and what became of the good rows, as in the table of every run.
    """

    name: str
    part: str
    rows: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)
    reasoning: int = 0
    tools: int = 0
    duplicates: int = 0
    repeated: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    counts: SourceReport | None = None

    @property
    def trained_share(self) -> float:
        """Share of the tokens that is trained."""
        return self.counts.trained / self.counts.tokens_out if self.counts and self.counts.tokens_out else 0.0

    def blame(self, problem: ConfigError) -> None:
        """Book a row that cannot be used."""
        self.bad += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(str(problem))

    def places(self) -> Iterator[str]:
        """Lines that name where the rows stand that are repeated or left out."""
        dropped = self.counts.dropped if self.counts else 0
        for what, places, count in (("repeated", self.repeated, self.duplicates), ("left out", self.dropped, dropped)):
            if places:
                shown = places[:SHOWN_PLACES]
                more = f" … and {count - len(shown):,} more" if count > len(shown) else ""
                yield f"{what}: {'; '.join(shown)}{more}"


@dataclass
class DataCheck:
    """The whole check.

    Attributes:
        sets: One entry a set.
        report: What became of the good rows, as each run prints it.
    """

    sets: list[SetCheck]
    report: DatasetReport

    @property
    def bad(self) -> int:
        """Broken rows of all sets."""
        return sum(found.bad for found in self.sets)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        sets = [{**asdict(found), "trained_share": found.trained_share} for found in self.sets]
        report = self.report
        return {"bad": self.bad, "cutoff_len": report.cutoff_len, "overlong": report.overlong, "sets": sets}

    def table(self) -> Table:
        """What stands beside the table of counts."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(title="Found", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("data set", overflow="fold")
        for name in ("duplicates", "reasoning", "tools", "trained"):
            table.add_column(name, justify="right", no_wrap=True)
        for found in self.sets:
            name = found.name if found.part == "train" else f"{found.name} ({found.part})"
            of = max(found.rows, 1)
            shares = (found.reasoning / of, found.tools / of, found.trained_share)
            table.add_row(
                name, f"{found.duplicates:,}", *(f"{share:.1%}" for share in shares), style="red" if found.bad else ""
            )
        return table


def check_data(sets: Sequence[tuple[str, DatasetAttr]], encoder: Encoder) -> DataCheck:
    """Look at every row of every set, with the code that training uses.

    Args:
        sets: Part (``train`` or ``eval``) and set.
        encoder: Samples to features; its ``max_samples`` is heeded.
    """
    seen: set[bytes] = set()
    checks = [_check_set(part, attr, encoder, seen) for part, attr in sets]
    data = encoder.args
    counts = [found.counts for found in checks if found.counts is not None]
    return DataCheck(checks, DatasetReport(counts, data.cutoff_len, data.overlong, thoughts=data.thoughts))


def _check_set(part: str, attr: DatasetAttr, encoder: Encoder, seen: set[bytes]) -> SetCheck:
    check, tally, unread = SetCheck(attr.name, part), Tally(), Unread(encoder.processor.unused)
    try:
        attr, rows = _open(attr, encoder.args.max_samples)
        encoder.check_layout(attr)
        samples = _samples(rows, attr, check, unread)
        while batch := list(islice(samples, encoder.args.preprocessing_batch_size)):
            _check_batch(batch, encoder, check, tally, seen)
    except ConfigError as error:  # of the set as a whole: no file, no known layout
        check.blame(error)
    tally.unread = {attr.name: unread.names}
    check.counts = SourceReport.of(attr, part, tally, encoder.args.cutoff_len)
    check.counts.bad = check.bad
    return check


def _open(attr: DatasetAttr, max_samples: int | None) -> tuple[DatasetAttr, Iterator[FoundRow]]:
    rows = islice(scan_rows(attr), max_samples)
    first = list(islice(rows, _FIRST_ROWS))
    good: list[NumberedRow] = [(place, row) for place, row in first if not isinstance(row, ConfigError)]
    if good:
        attr = resolve_layout(attr, good)
    return attr, chain(first, rows)


def _samples(rows: Iterator[FoundRow], attr: DatasetAttr, check: SetCheck, unread: Unread) -> Iterator[Sample]:
    for place, row in rows:
        check.rows += 1
        try:
            if isinstance(row, ConfigError):
                raise row
            (sample,) = to_samples([(place, row)], attr, unread.look)
        except ConfigError as error:
            check.blame(error)
            continue
        check.reasoning += has_reasoning(sample)
        check.tools += bool(sample.tools) or any(message.tool_calls for message in sample.messages)
        yield sample


def _check_batch(samples: list[Sample], encoder: Encoder, check: SetCheck, tally: Tally, seen: set[bytes]) -> None:
    try:
        encoded = encoder(samples)
    except ConfigError as error:
        if len(samples) == 1:
            check.blame(error)
            return
        # Halves of halves find the broken ones among many good ones in few calls.
        middle = len(samples) // 2
        _check_batch(samples[:middle], encoder, check, tally, seen)
        _check_batch(samples[middle:], encoder, check, tally, seen)
        return
    tally.add(encoded.tally)
    columns = [encoded.columns[name] for name in ("input_ids", "labels")]
    for owner, *cells in zip(encoded.columns["sample"], *columns, strict=True):
        if not is_new([array("i", cell).tobytes() for cell in cells], seen):
            check.duplicates += 1
            if len(check.repeated) < SHOWN_PROBLEMS:
                check.repeated.append(str(samples[owner].origin))
    if encoded.tally.dropped and len(check.dropped) < SHOWN_PROBLEMS:
        kept = set(encoded.columns["sample"])
        dropped = (sample for number, sample in enumerate(samples) if number not in kept)
        check.dropped += [
            f"{sample.origin} ({reasons(encoder([sample]).tally)})"
            for sample in islice(dropped, SHOWN_PROBLEMS - len(check.dropped))
        ]
