# SPDX-License-Identifier: Apache-2.0
"""Single wrong fields of a JSON file: the table is read off the files that are there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Place = tuple[str | int, ...]
VALUES: dict[str, Any] = {"null": None, "text": "many", "negative": -1, "list": ["a"]}


def places(value: Any, deep: int = 3) -> Iterator[Place]:
    """Where a value stands in a JSON document: every key of every object, and the first entry of every list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, entry in inner:
        yield (key,)
        if deep > 1:
            yield from ((key, *rest) for rest in places(entry, deep - 1))


def with_field(document: Any, place: Place, value: Any) -> Any:
    """A copy of a document with another value at one place."""
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def wrong_fields(path: Path) -> list[tuple[Place, str]]:
    """Every place of a file, with the name of each value that is of another kind than the one there."""
    document = json.loads(path.read_bytes())
    return [
        (place, name) for place in places(document) for name, value in VALUES.items() if at(document, place) != value
    ]


def at(document: Any, place: Place) -> Any:
    """The value at a place."""
    for key in place:
        document = document[key]
    return document
