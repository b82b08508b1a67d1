# SPDX-License-Identifier: Apache-2.0
"""Data sets as the page handles them: a file looked at, its mapping, its entry in ``dataset_info.json``."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...data.sources.dataset_info import (
    CONFIG_NAME,
    OPENAI_TAGS,
    Columns,
    DatasetAttr,
    Tags,
    parse_entry,
)
from ...data.sources.files import READERS, first_rows, list_files
from ...data.sources.reading import SNIFFED_ROWS, open_set
from ...data.sources.sniff import describe, likely_columns
from ...extras.errors import ConfigError, short, writing
from ...extras.files import parse_json, read_text, whole_file, write_atomic
from ...extras.locks import locked
from ..workspace import check_name, inside, relative

UPLOADS = Path("data") / "uploads"
PARTS = tuple(item.name for item in fields(Columns))
TAGS = tuple(item.name for item in fields(Tags))
_PACKED = (".gz", ".zst")
_ROWS_SHOWN, _MOST_TEXT = 3, 2000
_ODD = re.compile(r"[^\w. +-]")  # quotes, brackets, …: the copy is called without them
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Found:
    """What a file looks like.

    Attributes:
        path: Relative to the workspace.
        formatting: ``alpaca``, ``sharegpt`` or ``openai``.
        ranking: It compares answers.
        columns: Part of a row -> column; a guess where no layout was recognized.
        tags: Keys inside one message, where they are not the usual ones.
        present: All columns there are.
        rows: The first rows, shortened.
        said: What it was taken for, in a line.
        problem: Why no layout was recognized.
    """

    path: str
    formatting: str = "alpaca"
    ranking: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    said: str = ""
    problem: str = ""


def endings() -> list[str]:
    """Endings of the files that hold rows."""
    return [f".{kind}{packed}" for kind in READERS for packed in ("", *_PACKED)]


def take_upload(uploaded: str) -> str:
    """Copy an uploaded file to the workspace, under a name that no other file has there.

    Args:
        uploaded: Where the server keeps it.

    Returns:
        Its path, relative to the workspace.

    Raises:
        ConfigError: Its name is none that a file of rows may have.
    """
    name = check_name(_ODD.sub("_", os.path.basename(uploaded)).lstrip(".-"), "upload")
    stem, ending = _split(name)
    if not ending:
        raise ConfigError(f"upload: {short(name)} is no file of rows; expected {', '.join(READERS)}, packed or not")
    folder = inside(UPLOADS, "upload")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"upload: {folder}", wait=True):
            target = folder / f"{stem}{ending}"
            number = 1
            while target.exists():
                number += 1
                target = folder / f"{stem}_{number}{ending}"
            with open(uploaded, "rb") as source, whole_file(target) as file:
                shutil.copyfileobj(source, file)
    return relative(target)


def look_at(path: str) -> Found:
    """Read the first rows of a file or folder of the workspace, and tell its layout.

    Raises:
        ConfigError: It lies elsewhere, is no file of rows, or its rows cannot be read.
    """
    place = relative(inside(path, "path"))
    attr = DatasetAttr(place, "file", place, formatting="auto", sniffed=True)
    if not Path(place).exists():
        raise ConfigError(f"path: {place} does not exist in the workspace")
    if os.path.isfile(place) and not _split(place)[1]:
        raise ConfigError(f"path: {place} is no file of rows; expected {', '.join(READERS)}, packed or not")
    rows = [row for file in list_files(attr)[:1] for row in first_rows(file, SNIFFED_ROWS)]
    present = tuple(dict.fromkeys(str(column) for row in rows for column in row))
    found = Found(place, present=present, rows=tuple(map(_shortened, rows[:_ROWS_SHOWN])))
    if not rows:
        return replace(found, problem=f"path: {place} holds no row that can be read")
    try:
        attr, _ = open_set(attr, SNIFFED_ROWS, 0)
    except ConfigError as error:
        return replace(found, problem=str(error), columns=likely_columns(list(present), rows))
    columns = {part: column for part, column in vars(attr.columns).items() if column is not None and column in present}
    usual = OPENAI_TAGS if attr.formatting == "openai" else Tags()
    tags = {name: value for name, value in vars(attr.tags).items() if value != getattr(usual, name)}
    return replace(
        found, formatting=attr.formatting, ranking=attr.ranking, columns=columns, tags=tags, said=describe(attr)
    )


def make_entry(
    path: str,
    formatting: str,
    ranking: bool,
    columns: Mapping[str, str | None],
    tags: Mapping[str, str | None] | None = None,
    folder: str | Path = ".",
) -> dict[str, Any]:
    """The entry of a file in the ``dataset_info.json`` of a folder, as short as it can be.

    Raises:
        ConfigError: It is none that can be read: a layout or a column is missing.
    """
    where = inside(folder, "dataset_dir")
    entry: dict[str, Any] = {"file_name": os.path.relpath(inside(path, "path"), where)}
    entry |= {"formatting": formatting} if formatting != "alpaca" else {}
    entry |= {"ranking": True} if ranking else {}
    named = {part: column for part, column in columns.items() if column and part in PARTS}
    entry |= {"columns": named} if named else {}
    kept = {name: value for name, value in (tags or {}).items() if value and name in TAGS}
    entry |= {"tags": kept} if kept and formatting != "alpaca" else {}
    parse_entry("this set", entry, "data", str(where))
    return entry


def register(name: str, entry: Mapping[str, Any], folder: str = "data", anew: bool = False) -> Path:
    """Put an entry into the ``dataset_info.json`` of a folder; all else in the file stays as it is, byte for byte.

    Args:
        name: Of the set.
        entry: As :func:`make_entry` gives it for the folder.
        folder: Of the workspace.
        anew: Replace the entry that has the name.

    Raises:
        ConfigError: The name is none or is taken, or the file is damaged.
    """
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise ConfigError(f"name: {short(name)} is no name of a set; use letters, digits and - _ .")
    place = inside(folder, "dataset_dir")
    path = inside(place / CONFIG_NAME, "dataset_dir")
    with writing(path):
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / f".{CONFIG_NAME}.lock", f"dataset_dir: {path}", wait=True):
            raw = path.read_bytes() if path.exists() else b"{}\n"
            text = read_text(path, "dataset_dir") if path.exists() else "{}\n"
            mark = b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b""
            write_atomic(path, mark + _with_entry(text, name, dict(entry), anew, str(path)).encode())
    return path


def entry_of(name: str, folder: str = "data") -> dict[str, Any]:
    """The entry of a registered set.

    Raises:
        ConfigError: There is none.
    """
    path = inside(Path(folder) / CONFIG_NAME, "dataset_dir")
    found = parse_json(read_text(path, "dataset_dir"), str(path))
    entry = found.get(name) if isinstance(found, dict) else None
    if not isinstance(entry, dict):
        raise ConfigError(f"name: {short(name)} is not in {path.name} of {folder}")
    return entry


def mapping_of(entry: Mapping[str, Any], folder: str = "data") -> Found:
    """An entry as the fields of the page show it, with what its file looks like."""
    where = inside(folder, "dataset_dir")
    attr = parse_entry("this set", entry, "data", str(where))
    if attr.place != "file":
        raise ConfigError("name: the set lies on a hub or in a store; the page edits sets that are files")
    seen = look_at(str(inside(attr.location, "path")))
    columns = {part: column for part, column in vars(attr.columns).items() if column and column in seen.present}
    tags = {key: str(value) for key, value in (entry.get("tags") or {}).items() if key in TAGS}
    return replace(seen, formatting=attr.formatting, ranking=attr.ranking, columns=columns, tags=tags, problem="")


def _with_entry(text: str, name: str, entry: dict[str, Any], anew: bool, where: str) -> str:
    """The text of a listing with one more entry, or another one in the place of the one that has its name."""
    old = parse_json(text, where)
    if not isinstance(old, dict):
        raise ConfigError(f"{where}: the top level is no object")
    spans = _spans(text)
    taken = [span for key, *span in spans if key == name]
    if taken and not anew:
        raise ConfigError(f"name: {name} is registered already; choose another name, or replace it")
    newline = "\r\n" if "\r\n" in text else "\n"
    written = json.dumps(entry, ensure_ascii=False, indent=2).replace("\n", f"{newline}  ")
    if taken:
        start, end = taken[-1]
        changed = text[:start] + written + text[end:]
    else:
        piece = f"{newline}  {json.dumps(name, ensure_ascii=False)}: {written}"
        end = spans[-1][2] if spans else text.index("{") + 1
        rest = text[end:] if spans else newline + text[end:].lstrip(" \t\r\n")
        changed = text[:end] + ("," if spans else "") + piece + rest
    assert json.loads(changed) == {**old, name: entry}
    return changed


def _spans(text: str) -> list[tuple[str, int, int]]:
    """Key, and begin and end of its value, of each entry of an object that is known to be JSON."""
    decoder, place = json.JSONDecoder(), text.index("{") + 1
    found: list[tuple[str, int, int]] = []
    while True:
        place = re.compile(r"[\s,]*").match(text, place).end()  # type: ignore[union-attr]
        if text[place] == "}":
            return found
        key, place = decoder.raw_decode(text, place)
        place = re.compile(r"\s*:\s*").match(text, place).end()  # type: ignore[union-attr]
        _, end = decoder.raw_decode(text, place)
        found.append((key, place, end))
        place = end


def _split(path: str) -> tuple[str, str]:
    """Stem and ending of a file of rows (``.json.gz`` is one ending); no ending for any other file."""
    name = path.lower()
    ending = max((one for one in endings() if name.endswith(one)), key=len, default="")
    return path[: len(path) - len(ending)], ending


def _shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key): value if len(text := str(value)) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"
        for key, value in row.items()
    }
