# SPDX-License-Identifier: Apache-2.0
"""Multiple-choice benchmarks in local folders, in the layout of MMLU, C-Eval and CMMLU.

``<task_dir>/<task>/mapping.json`` lists the subjects: ``{"id": {"name": "...", "category": "..."}}``. Their questions
are CSV (with or without a header), JSON lines, JSON or Parquet files called ``<id>_<split>`` or ``<id>`` in a folder
named after the split, or all of that in one zip file.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..extras.errors import ConfigError, in_one_line
from ..extras.field_types import check_fields
from ..extras.files import name_of, read_json

CHOICES = ("A", "B", "C", "D")
_COLUMNS = ("question", *CHOICES, "answer")
# As users name a split -> as archives do.
_SPLITS = {"validation": ("validation", "val"), "val": ("val", "validation"), "train": ("train", "dev")}
_KINDS = (".csv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Question:
    """One question with four answers."""

    question: str
    choices: tuple[str, ...]
    answer: str  # one of CHOICES


@dataclass(frozen=True)
class Subject:
    """One part of a benchmark."""

    id: str
    name: str
    category: str


class Benchmark:
    """A folder of questions.

    Args:
        folder: Holds ``mapping.json``.

    Raises:
        ConfigError: ``mapping.json`` is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mapping = folder / "mapping.json"
        entries = read_json(mapping, dict, "task")
        self.subjects = []
        for key, entry in entries.items():
            if not isinstance(entry, dict) or not {"name", "category"} <= entry.keys():
                raise ConfigError(f'task: {mapping}: {key}: expected {{"name": ..., "category": ...}}')
            check_fields(entry, {"name": str, "category": str}, f"task: {mapping}: {key}")
            self.subjects.append(Subject(key, entry["name"], entry["category"]))
        self._files = _files(folder)

    def check(self, split: str, n_shot: int) -> None:
        """Read everything that will be asked, which costs less than the model that is loaded for it.

        Raises:
            ConfigError: A file is missing, or a row is broken.
        """
        for subject in self.subjects:
            for one in (split, *["train"] * bool(n_shot)):
                self.questions(subject, one)

    def questions(self, subject: Subject, split: str) -> list[Question]:
        """Read the questions of one subject.

        Raises:
            ConfigError: There is no such file, or a row is broken.
        """
        names = _SPLITS.get(split, (split,))
        for name in names:
            for kind in _KINDS:
                for file in (f"{subject.id}_{name}{kind}", f"{subject.id}{kind}"):
                    found = self._files.get((name, file))
                    if found is not None:
                        return _read(found, kind)
        raise ConfigError(
            f"task: {self.folder} has no questions of {subject.id!r} for the split {split!r}; looked for "
            f"{names[0]}/{subject.id}_{names[0]}.csv and its like"
        )


@dataclass(frozen=True)
class _File:
    """A file on disk, or in a zip archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        if self.member is None:
            return self.path.read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.member)


def _files(folder: Path) -> dict[tuple[str, str], _File]:
    """Return what lies in the folder and its archives, by (folder it is in, name)."""
    found = {(path.parent.name, path.name): _File(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    for path in sorted(folder.glob("*.zip")):
        with in_one_line(f"task: {path}"), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                place = PurePosixPath(member)
                found.setdefault((place.parent.name, place.name), _File(path, member))
    return found


def _read(file: _File, kind: str) -> list[Question]:
    with in_one_line(f"task: {file}"):
        rows = _rows(file.read(), kind)
    if not rows:
        raise ConfigError(f"task: {file} holds no questions")
    return [_question(row, f"task: {file}, row {number}") for number, row in enumerate(rows, start=1)]


def _rows(data: bytes, kind: str) -> list[Any]:
    if kind == ".parquet":
        import pyarrow.parquet

        found: list[Any] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        return found
    text = data.decode("utf-8-sig")
    if kind == ".csv":
        return _csv_rows(text)
    return json.loads(text) if kind == ".json" else [json.loads(line) for line in text.splitlines() if line]


def _csv_rows(text: str) -> list[dict[str, str]]:
    lines = list(csv.reader(io.StringIO(text)))
    if not lines:
        return []
    header = [cell.strip() for cell in lines[0]]
    if "question" in (cell.lower() for cell in header):
        return [dict(zip(header, line, strict=False)) for line in lines[1:]]
    return [dict(zip(_COLUMNS, line, strict=False)) for line in lines]


def _question(row: Any, place: str) -> Question:
    if not isinstance(row, dict):
        raise ConfigError(f"{place}: is {name_of(row)}, expected an object with named fields")
    cells = {key if key in CHOICES else str(key).lower(): value for key, value in row.items()}
    missing = next((name for name in _COLUMNS if cells.get(name) is None), None)
    if missing is not None:
        raise ConfigError(f"{place}: no {missing}; a row has {', '.join(_COLUMNS)}")
    answer = str(cells["answer"]).strip()
    if answer not in CHOICES:
        raise ConfigError(f"{place}: answer {answer!r} is none of {', '.join(CHOICES)}")
    return Question(str(cells["question"]).strip(), tuple(str(cells[name]).strip() for name in CHOICES), answer)
