# SPDX-License-Identifier: Apache-2.0
"""What evaluations left on disk: their figures beside each other, and predictions a few rows at a time."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...eval.evaluator import RESULTS, tables
from ...extras.errors import ConfigError, in_one_line
from ...extras.files import read_json
from ..fields.choices import changed_at
from ..texts.texts import text
from ..workspace import SAVES, inside, is_text, relative, workspace
from .reports import table
from .reports import text as html

ROWS = 5  # predictions on one page
_MOST_RESULTS = 30
_MOST_FIGURES = 16  # columns of the table
_MOST_FOLDERS = 20_000
_DEEP = 5  # folders below `saves`
_MOST_TEXT = 8_000  # characters of one cell
_MOST_LINE = 4 * 2**20  # bytes of one row
_LARGEST = 8 * 2**20  # bytes of a file of figures
_SPARSE = 64  # lines between two places that are remembered
_FILES = {"predict_results.json": "predict_", "eval_results.json": "eval_", RESULTS: ""}
_NOT_SCORES = ("runtime", "per_second", "model_preparation_time", "epoch", "samples")


@dataclass(frozen=True)
class Result:
    """What one evaluation came to.

    Attributes:
        folder: Where it lies, relative to the workspace.
        kind: ``predict``, ``eval`` or ``benchmark``.
        figures: By their names.
        when: Seconds since 1970.
    """

    folder: str
    kind: str
    figures: dict[str, float]
    when: float


def list_results(most: int = _MOST_RESULTS) -> list[Result]:
    """The results of the workspace, the newest first; a file that cannot be read has none."""
    found = sorted(_files(_FILES), key=lambda entry: -changed_at(entry))[:most]
    results = []
    for entry in found:
        path = Path(entry.path)
        try:
            figures = _figures(path)
        except ConfigError:
            continue
        kind = _FILES[path.name].rstrip("_") or "benchmark"
        results.append(Result(relative(path.parent), kind, figures, changed_at(entry)))
    return results


def list_predictions() -> list[str]:
    """The files of predictions in the workspace, the newest first."""
    found = [
        entry for entry in _files(()) if entry.name.startswith("generated_predictions") and entry.name.endswith("l")
    ]
    found.sort(key=lambda entry: -changed_at(entry))
    return [relative(entry.path) for entry in found[:_MOST_RESULTS]]


def results_table(results: Sequence[Result], language: str) -> str:
    """The figures of evaluations as a table: a line for each, a column for each figure that one of them has."""
    if not results:
        return f"<p>{html(text(language, 'eval.no_results'))}</p>"
    names = list(dict.fromkeys(name for result in results for name in result.figures))
    names = names[:_MOST_FIGURES]
    head = [text(language, "eval.run"), text(language, "eval.kind_of"), *names]
    lines = [
        [result.folder.removeprefix(f"{SAVES}/"), text(language, f"eval.kind_{result.kind}"),
         *(_shown(result.figures.get(name)) for name in names)]
        for result in results
    ]  # fmt: skip
    return table(head, lines, "results")


def read_predictions(path: str, first: int, count: int = ROWS) -> tuple[list[dict[str, Any]], int]:
    """Some rows of a file of predictions, and how many it has; only these rows are read.

    Args:
        path: Of the workspace.
        first: The first row, from 0; beyond the end, the last ones are given.
        count: How many.

    Raises:
        ConfigError: There is no such file, or it is none of predictions.
    """
    place = inside(path, "predictions")
    if not place.name.startswith("generated_predictions") or place.suffix != ".jsonl":
        raise ConfigError(f"predictions: {path} is no file of predictions")
    try:
        state = place.stat()
        places, total = _index(str(place), state.st_ino, state.st_size, state.st_mtime_ns)
        first = max(0, min(first, total - 1))
        with place.open("rb") as file:
            file.seek(places[first // _SPARSE] if places else 0)
            for _ in range(first % _SPARSE):
                file.readline()
            lines = [file.readline(_MOST_LINE) for _ in range(min(count, total - first))]
    except OSError as error:
        raise ConfigError(f"predictions: {path} cannot be read: {error.strerror}") from None
    return [_row(line, number) for number, line in enumerate(lines, first + 1)], total


def predictions_shown(rows: Sequence[dict[str, Any]], first: int, total: int, language: str) -> str:
    """Rows with prompt, label and answer beside each other."""
    blocks = []
    for number, row in enumerate(rows, first + 1):
        cells = "".join(
            f"<div><small>{html(text(language, f'eval.column_{key}') or key)}</small>"
            f'<div class="row">{html(str(value)[:_MOST_TEXT])}</div></div>'
            for key, value in row.items()
        )
        blocks.append(f'<section><h5>{number} / {total}</h5><div class="cells">{cells}</div></section>')
    return f'<div class="predictions">{"".join(blocks)}</div>' if blocks else ""


def _row(line: bytes, number: int) -> dict[str, Any]:
    with in_one_line(f"predictions: row {number}"):
        row = json.loads(line)
    if not isinstance(row, dict):
        raise ConfigError(f"predictions: row {number} is no object")
    first = {key: row[key] for key in ("prompt", "label", "predict") if key in row}
    return {**first, **row}


@lru_cache(maxsize=16)
def _index(path: str, inode: int, size: int, changed: int) -> tuple[Sequence[int], int]:
    """Where every so many lines begin, and how many there are; the arguments tell one state of a file from another."""
    places, count, offset = array("q"), 0, 0
    with open(path, "rb") as file:
        for line in file:
            if count % _SPARSE == 0:
                places.append(offset)
            offset += len(line)
            count += 1
    return places, count


def _figures(path: Path) -> dict[str, float]:
    if path.stat().st_size > _LARGEST:
        raise ConfigError(f"{path}: no file of figures")
    found = read_json(path)
    if path.name == RESULTS:
        with in_one_line(str(path)):
            return {f"{task} {label}": value for task, rows in tables(found).items() for label, value in rows}
    start = _FILES[path.name]
    return {
        name.removeprefix(start): value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith(_NOT_SCORES)
    }


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def _files(names: Any) -> Iterator[os.DirEntry[str]]:
    """The files of the workspace's runs with one of some names (any, if none is given); checkpoints are left out."""
    left, folders = _MOST_FOLDERS, [(str(workspace() / SAVES), 0)]
    while folders and left:
        place, deep = folders.pop()
        left -= 1
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            if not is_text(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                if deep < _DEEP and not entry.name.startswith((".", "checkpoint-")):
                    folders.append((entry.path, deep + 1))
            elif entry.is_file(follow_symlinks=False) and (not names or entry.name in names):
                yield entry
