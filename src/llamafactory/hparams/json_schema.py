# SPDX-License-Identifier: Apache-2.0
"""``schema``: every key as JSON schema, so that editors complete and check a configuration as one types."""

from __future__ import annotations

import json
import types
from typing import Any, Literal, Union, get_args, get_origin

from ..extras.printing import print_text
from .aliases import DROPPED, RENAMED, SWITCHED
from .ranges import Range
from .schema import Key, declared_keys

DIALECT = "http://json-schema.org/draft-07/schema#"  # what the YAML extensions of editors know
_NAMES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    type(None): "null",
}


def print_schema() -> None:
    """Print the schema of a configuration."""
    print_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")


def json_schema() -> dict[str, Any]:
    """Return the schema of a configuration: our keys, and older names as deprecated ones."""
    properties = {name: _property(key) for name, key in declared_keys().items()}
    for old, new in RENAMED.items():
        properties[old] = {"deprecated": True, "description": f"Now called {new}."}
    for old, meaning in SWITCHED.items():
        properties[old] = {"deprecated": True, "description": f"Now written as {', '.join(meaning)}."}
    for old, why in DROPPED.items():
        properties[old] = {"deprecated": True, "description": f"Has no effect any more: {why}."}
    return {
        "$schema": DIALECT,
        "title": "Configuration of llamafactory-cli",
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }


def _property(key: Key) -> dict[str, Any]:
    kind = _kind(key.hint)
    if key.comma:  # a comma text may be written as a list
        kind = {"anyOf": [kind, {"type": "array", "items": {"type": "string"}}]}
    found: dict[str, Any] = {"description": key.help, **kind, **_numbers(key.within)}
    if key.default is not None:
        found["default"] = key.default
    return found


def _numbers(within: Range) -> dict[str, Any]:
    """Which numbers a key takes; other types are none of its business."""
    if within.only:
        return {"if": {"type": "number"}, "then": {"enum": list(within.only)}}
    found = {"minimum": within.least, "maximum": within.most, "exclusiveMinimum": within.above,
             "exclusiveMaximum": within.below}  # fmt: skip
    bounds = {name: value for name, value in found.items() if value is not None}
    if within.also and bounds:
        return {"if": {"type": "number", "not": {"enum": list(within.also)}}, "then": bounds}
    return bounds


def _kind(hint: Any) -> dict[str, Any]:
    """The JSON types of one hint. Mappings and lists may be given as text too, as words of a command line are."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_kind(part) for part in get_args(hint)]
        simple = [kind["type"] for kind in kinds if set(kind) == {"type"}]
        rest = [kind for kind in kinds if set(kind) != {"type"}]
        if not rest:
            return {"type": simple if len(simple) > 1 else simple[0]}
        return {"anyOf": [*({"type": name} for name in simple), *rest]}
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is list:
        return {"type": "array", "items": _kind(get_args(hint)[0])}
    if get_origin(hint) is dict:
        return {"type": "object"}
    return {"type": _NAMES[hint]}
