# SPDX-License-Identifier: Apache-2.0
"""Every row of the data looked at: what is broken, repeated, long, thinking, calling tools, trained."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from .prepare.duplicates import is_new
from .prepare.report import DatasetReport, SourceReport
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
        for name in ("rows", "bad", "duplicates", "reasoning", "tools", "trained"):
            table.add_column(name, justify="right", no_wrap=True)
        for found in self.sets:
            name = found.name if found.part == "train" else f"{found.name} ({found.part})"
            of = max(found.rows, 1)
            shares = (found.reasoning / of, found.tools / of, found.trained_share)
            numbers = (f"{number:,}" for number in (found.rows, found.bad, found.duplicates))
            table.add_row(name, *numbers, *(f"{share:.1%}" for share in shares), style="red" if found.bad else "")
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
    check, tally = SetCheck(attr.name, part), Tally()
    try:
        attr, rows = _open(attr, encoder.args.max_samples)
        encoder.check_layout(attr)
        samples = _samples(rows, attr, check)
        while batch := list(islice(samples, encoder.args.preprocessing_batch_size)):
            _check_batch(batch, encoder, check, tally, seen)
    except ConfigError as error:  # of the set as a whole: no file, no known layout
        check.blame(error)
    check.counts = SourceReport.of(attr.name, part, tally, encoder.args.cutoff_len)
    return check


def _open(attr: DatasetAttr, max_samples: int | None) -> tuple[DatasetAttr, Iterator[FoundRow]]:
    rows = islice(scan_rows(attr), max_samples)
    first = list(islice(rows, _FIRST_ROWS))
    good: list[NumberedRow] = [(place, row) for place, row in first if not isinstance(row, ConfigError)]
    if good:
        attr = resolve_layout(attr, good)
    return attr, chain(first, rows)


def _samples(rows: Iterator[FoundRow], attr: DatasetAttr, check: SetCheck) -> Iterator[Sample]:
    for place, row in rows:
        check.rows += 1
        try:
            if isinstance(row, ConfigError):
                raise row
            (sample,) = to_samples([(place, row)], attr)
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
    ids, labels = encoded.columns["input_ids"], encoded.columns["labels"]
    for cells in zip(ids, labels, strict=True):
        check.duplicates += not is_new([array("i", cell).tobytes() for cell in cells], seen)
