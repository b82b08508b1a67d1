# SPDX-License-Identifier: Apache-2.0
"""Rows of Arrow tables as they were before Arrow had them.

A struct column has the fields of all rows: where a row never had one, Arrow holds a null. Trained like that, a tool
call would learn arguments that nobody wrote; so a null inside a column is no field. JSON that is stored as text (the
extension type ``arrow.json``, which ``datasets`` writes for objects of unlike fields) is read, and its nulls stay. In a
map (which Spark writes) nulls stay too, for it has the keys of its own row; it becomes an object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ...extras.surrogates import refuse_lone

Read = Callable[[Any], Any]
_MEDIUM = {"bytes", "path"}  # an image, video or sound of `datasets`: it always has both


def rows_of(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``pyarrow`` table or record batch."""
    readers = {field.name: read for field in table.schema if (read := _reader(field.type)) is not None}
    for row in table.to_pylist(maps_as_pydicts="lossy"):  # of a key that comes twice the last, as in JSON
        for name, read in readers.items():
            row[name] = read(row[name])
        yield row


def _reader(kind: Any) -> Read | None:
    """Return what makes a value of an Arrow type that of the row; None where they are the same."""
    import pyarrow as pa

    if getattr(kind, "extension_name", None) == "arrow.json":
        return _read_json
    if pa.types.is_struct(kind) and {field.name for field in kind} != _MEDIUM:
        return _StructReader({field.name: _reader(field.type) for field in kind})
    if isinstance(kind, pa.BaseExtensionType):
        return _reader(kind.storage_type)
    if pa.types.is_map(kind):
        item = _reader(kind.item_type)
        return None if item is None else _MapReader(item)
    if any(is_one(kind) for is_one in _lists()):
        item = _reader(kind.value_type)
        return None if item is None else _ListReader(item)
    return None


def _lists() -> list[Callable[[Any], bool]]:
    """What asks pyarrow whether a type is a list of some kind."""
    from pyarrow import types

    return [types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view]


def _read_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = json.loads(value)
    refuse_lone(value, found, "a JSON value")
    return found


class _StructReader:
    def __init__(self, fields: dict[str, Read | None]) -> None:
        self.fields = fields

    def __call__(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        present = {name: item for name, item in value.items() if item is not None}
        return {name: item if (read := self.fields[name]) is None else read(item) for name, item in present.items()}


class _MapReader:
    def __init__(self, item: Read) -> None:
        self.item = item

    def __call__(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else {key: self.item(one) for key, one in value.items()}


class _ListReader:
    def __init__(self, item: Read) -> None:
        self.item = item

    def __call__(self, value: list[Any] | None) -> list[Any] | None:
        return None if value is None else [self.item(one) for one in value]
