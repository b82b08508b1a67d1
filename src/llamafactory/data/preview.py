# SPDX-License-Identifier: Apache-2.0
"""Features made visible: tokens coloured by whether they are trained, lengths as bars, rows as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from .prepare.report import DatasetReport
from .processor import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINED = "bold green"
CONTEXT = "grey58"
BORDER = "bold magenta"
_BAR = 40


def row_as_json(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """One feature row as a line of JSON: its columns, ``text`` (special tokens included), and that text in stretches.

    ``stretches`` are lists of ``[text, trained]``, one for each sequence of the row.
    """
    return json.dumps(
        {
            **row,
            "text": tokenizer.decode(row["input_ids"]),
            "stretches": [
                [[tokenizer.decode(ids), trained] for ids, trained in sequence] for sequence in _sequences(row)
            ],
        },
        ensure_ascii=False,
    )


def row_as_text(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Text:
    """One feature row as coloured text; packed sequences are set apart by a rule."""
    text = Text()
    for number, sequence in enumerate(_sequences(row), start=1):
        if number > 1:
            text.append(f"\n―― sequence {number} ――\n", style=BORDER)
        for ids, trained in sequence:
            text.append(tokenizer.decode(ids), style=TRAINED if trained else CONTEXT)
    return text


def show_row(row: dict[str, Any], number: int, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print one row with its counts."""
    trained = sum(label != IGNORED for label in row["labels"])
    packed = f", {len(row['seq_lens'])} sequences" if len(row["seq_lens"]) > 1 else ""
    counts = f"{len(row['input_ids'])} tokens, {trained} trained{packed}"
    console.rule(f"row {number} · {row['source']} · {counts}", align="left", style="blue")
    console.print(row_as_text(row, tokenizer), soft_wrap=True)
    for medium in (one for some in row.get("media") or () for one in some):
        line = f"{medium['type']}, {medium['tokens']} tokens: {medium['source']}"
        console.print(line, style=BORDER, soft_wrap=True, highlight=False, markup=False)


def show_lengths(report: DatasetReport, console: Console) -> None:
    """Print for each set how long its samples are."""
    for source in report.sources:
        console.print(f"\n[bold]{source.name}[/bold] ({source.part}): tokens a sample, the longest {source.longest:,}")
        highest = max(*source.histogram, 1)
        *within, beyond = source.histogram
        bars = [
            (f"{low + 1:>7}-{high}", count, "")
            for low, high, count in zip([0, *source.steps], source.steps, within, strict=False)
        ]
        if beyond:
            bars.append((f"{'over':>7} {report.cutoff_len}", beyond, "red"))
        for name, count, style in bars:
            bar = "█" * -(-count * _BAR // highest)
            console.print(f"{name:<15} {bar:<{_BAR}} {count:,}", highlight=False, style=style)


def _sequences(row: dict[str, Any]) -> Iterator[list[tuple[list[int], bool]]]:
    """The sequences of a row, each in stretches."""
    start = 0
    for length in row["seq_lens"]:
        end = start + length
        yield list(_stretches(row["input_ids"][start:end], row["labels"][start:end]))
        start = end


def _stretches(ids: list[int], labels: list[int]) -> Iterator[tuple[list[int], bool]]:
    """Cut a sequence where training begins or ends."""
    start = 0
    for position in range(1, len(ids) + 1):
        if position == len(ids) or (labels[position] != IGNORED) != (labels[start] != IGNORED):
            yield ids[start:position], labels[start] != IGNORED
            start = position
