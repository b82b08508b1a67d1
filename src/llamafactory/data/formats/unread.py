# SPDX-License-Identifier: Apache-2.0
"""What rows hold and nothing reads: it is named once a set, for else it would be lost without a word."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ..sources.dataset_info import Columns, DatasetAttr
from .turns import READ_KEYS

_SHARED = ("system", "tools", "images", "videos", "audios", "margin", "kto_tag")


class Unread:
    """Columns that hold something and are not read, and keys of turns, written ``column[].key``.

    Args:
        unused: Parts of a row and of turns that the stage does not look at; None = it takes every column.
    """

    def __init__(self, unused: Collection[str] | None = ()) -> None:
        self.names: set[str] = set()
        self._unused = unused
        self._read: dict[str, tuple[frozenset[str], list[str], frozenset[str]]] = {}

    def look(self, row: Mapping[str, Any], attr: DatasetAttr) -> None:
        """Note what a row of the layout ``attr`` holds in vain."""
        if attr.location not in self._read:
            self._read[attr.location] = self._readable(attr)
        columns, chats, keys = self._read[attr.location]
        if self._unused is not None:
            both = attr.columns.response if attr.ranking and attr.formatting == "alpaca" else None
            for name in row.keys() - columns - self.names:
                if not _is_empty(row[name]) and not (name == both and isinstance(row[name], list)):
                    self.names.add(name)
        for column in chats:
            for turn in _turns(row.get(column)):
                for key in turn.keys() - keys:
                    if not _is_empty(turn[key]):
                        self.names.add(f"{column}[].{key}")

    def _readable(self, attr: DatasetAttr) -> tuple[frozenset[str], list[str], frozenset[str]]:
        """The columns that are read, those of them that may hold turns, and the keys of turns that are read."""
        columns, parts = attr.columns, set(parts_read(attr)) - set(self._unused or ())
        chats = ("messages", "prompt", "response", "chosen", "rejected") if attr.formatting != "alpaca" else ()
        names = {part: column for part, column in vars(columns).items() if part in parts and column is not None}
        read = {key for part, keys in READ_KEYS.items() if part not in (self._unused or ()) for key in keys}
        keys = frozenset({attr.tags.role_tag, attr.tags.content_tag, *read})
        return frozenset(names.values()), [names[part] for part in chats if part in names], keys


def parts_read(attr: DatasetAttr) -> tuple[str, ...]:
    """The parts of a row that its layout reads, of those that ``attr`` names a column for."""
    columns: Columns = attr.columns
    if attr.formatting == "alpaca":
        answer = ("chosen", "rejected") if columns.chosen else ("response",)
        return ("prompt", "query", "history", *(answer if attr.ranking else ("response", "reasoning")), *_SHARED)
    question = "messages" if columns.messages is not None else "prompt"
    return (question, *(("chosen", "rejected") if attr.ranking else ("response", "reasoning")), *_SHARED)


def _turns(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{")):  # as csv files hold them
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return []
    turns = value if isinstance(value, list) else [value]
    return [turn for turn in turns if isinstance(turn, Mapping)]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
