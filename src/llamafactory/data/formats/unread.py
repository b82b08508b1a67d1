# SPDX-License-Identifier: Apache-2.0
"""What rows hold and nothing reads: it is named once a set, for else it would be lost without a word."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..messages import CALL_ARGUMENTS, PART_VALUES
from ..sources.dataset_info import Columns, DatasetAttr
from .turns import READ_KEYS

_SHARED = ("system", "tools", "images", "videos", "audios", "margin", "kto_tag", "label")
_OF_DOCUMENTS = ("positive", "negative", "score")
_CALL = ("id", "type", "index", "function", "name", *CALL_ARGUMENTS)


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
                content = attr.tags.content_tag
                self.names.update(f"{column}[].{content}[].{key}" for key in _unread_of_parts(turn.get(content)))
                self.names.update(f"{column}[].tool_calls[].{key}" for key in _unread_of_calls(turn.get("tool_calls")))

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
        asked = ("prompt", "query", "history", *_OF_DOCUMENTS)
        return (*asked, *(answer if attr.ranking else ("response", "reasoning")), *_SHARED)
    question = "messages" if columns.messages is not None else "prompt"
    return (question, *(("chosen", "rejected") if attr.ranking else ("response", "reasoning")), *_SHARED)


def _unread_of_parts(content: Any) -> Iterator[str]:
    """Keys of content parts: of each its type is read, and what it holds under one of several names."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping):
            held = next((key for key in (part.get("type"), *PART_VALUES) if key in part), None)
            yield from (key for key in part if key not in ("type", held) and not _is_empty(part[key]))


def _unread_of_calls(calls: Any) -> Iterator[str]:
    """Keys of calls, within ``function`` or beside it; what tells calls of a stream apart is of no use."""
    for call in calls if isinstance(calls, list) else ():
        for level in (call, call.get("function")) if isinstance(call, Mapping) else ():
            if isinstance(level, Mapping):
                yield from (key for key in level if key not in _CALL and not _is_empty(level[key]))


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
