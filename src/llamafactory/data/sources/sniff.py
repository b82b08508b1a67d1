# SPDX-License-Identifier: Apache-2.0
"""The layout of a file that no ``dataset_info.json`` describes, read off its first rows."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from ...extras.errors import ConfigError, first_names
from .dataset_info import NO_COLUMNS, OPENAI_TAGS, Columns, DatasetAttr, Tags
from .tables import separator_name

Rows = Sequence[Mapping[str, Any]]
_SPELLINGS = Path(__file__).with_name("spellings.yaml")
_LAYOUTS = (
    "messages or conversations (a list of turns); instruction + input + output; prompt + response, "
    "question + answer, user + assistant and the like; prompt + chosen + rejected; text (+ label)"
)
_OF_HEADS = ("label", "positive", "negative", "score")  # what rows without an answer may hold beside their text
_DIALOGUE = re.compile(r"\s*(Human|Assistant): ?")


@cache
def spellings() -> dict[str, list[str]]:
    """Names of columns by the part of a row that they hold."""
    import yaml

    found: dict[str, list[str]] = yaml.safe_load(_SPELLINGS.read_text(encoding="utf-8"))
    return found


def sniff(attr: DatasetAttr, rows: Rows) -> DatasetAttr:
    """Choose format, columns and tags by what the first rows hold.

    Args:
        attr: The set, with ``formatting="auto"``; ``asked`` columns are taken as they are, and no others.
        rows: Its first rows; at least one.

    Returns:
        ``attr`` with the layout filled in.

    Raises:
        ConfigError: No known layout fits; the columns found are named, and what they may be.
    """
    present = list(dict.fromkeys(key for row in rows for key, value in row.items() if value is not None))
    parts = _asked(attr, present) if attr.asked else _spelled(present, rows)
    text = parts.pop("text", None)
    if not attr.asked and parts.keys() & {"response", "chosen", "rejected"}:
        parts = {part: column for part, column in parts.items() if part not in _OF_HEADS}
    ranking = "rejected" in parts and ("chosen" in parts or "messages" in parts)
    if "messages" in parts and not attr.asked:
        parts = {part: column for part, column in parts.items() if part not in _repeated(rows, parts["messages"])}
    if _turns(rows, parts.get("prompt")) and "messages" not in parts:
        parts["messages"] = parts.pop("prompt")
    if _is_whole(rows, parts.get("chosen")):  # both answers hold the question too
        parts.pop("messages", None)
        parts.pop("prompt", None)
        return _chat(attr, rows, parts, "chosen", ranking)
    for part in ("messages", "chosen", "response"):
        if (part == "messages" and part in parts) or _turns(rows, parts.get(part)):
            return _chat(attr, rows, parts, part, ranking)
    if parts.keys() & {"prompt", "query"} and (
        "response" in parts or ranking or attr.asked or parts.keys() & {"label", "positive"}
    ):
        parts.pop("chosen" if not ranking else "response", None)
        return replace(attr, formatting="alpaca", ranking=ranking, columns=replace(NO_COLUMNS, **parts))
    if text is not None:
        heads = {part: column for part, column in parts.items() if part in _OF_HEADS}
        return replace(attr, formatting="alpaca", columns=replace(NO_COLUMNS, prompt=text, **heads))
    found = first_names(present)
    raise ConfigError(
        f"dataset {attr.name!r}: the columns of {attr.location} fit no known layout: {found}; "
        f"known layouts: {_LAYOUTS}; {_proposal(present, rows)}"
    )


def describe(attr: DatasetAttr) -> str:
    """Say in one line what a set was taken for."""
    columns = ", ".join(f"{column}→{part}" for part, column in vars(attr.columns).items() if column is not None)
    is_text = attr.formatting == "alpaca" and attr.columns.response is None
    plain = "texts with labels" if attr.columns.label else "queries and documents" if attr.columns.positive else "text"
    kinds = {
        "alpaca": plain if is_text else "questions and answers",
        "sharegpt": "conversations",
        "openai": "messages",
    }
    kind = "pairs" if attr.ranking else kinds[attr.formatting]
    table = attr.place == "file" and re.search(r"\.[ct]sv(\.gz|\.zst)?$", attr.location, re.IGNORECASE)
    separated = f"{separator_name(attr.location)}, " if table and separator_name(attr.location) else ""
    name = os.path.basename(attr.location.rstrip("/")) or attr.name
    return f"{name}: {separated}{kind}, columns {columns}"


def _asked(attr: DatasetAttr, present: Iterable[str]) -> dict[str, str]:
    """The columns that the user names; their case need not be right where it is clear which is meant."""
    alike: dict[str, list[str]] = {}
    for column in present:
        alike.setdefault(plain_name(column), []).append(column)
    parts = {}
    for part, column in attr.asked:
        found = [column] if column in present else alike.get(plain_name(column), [])
        if len(found) != 1:
            raise ConfigError(f"columns: {attr.location} has no column {column!r}; it has {first_names(list(present))}")
        parts[part] = found[0]
    return parts


def _spelled(present: Iterable[str], rows: Rows) -> dict[str, str]:
    """The part of a row that each column holds, by its name."""
    columns: dict[str, str] = {}
    for column in present:
        columns.setdefault(plain_name(column), column)
    parts: dict[str, str] = {}
    for part, names in spellings().items():
        if part == "kto_tag":
            names = [name for name in names if name in columns and _are_labels(rows, columns[name])]
        names = [plain_name(name) for name in names]
        name = next((name for name in names if columns.get(name) not in (None, *parts.values())), None)
        if name is not None:
            parts[part] = columns[name]
    if "rejected" not in parts or not parts.keys() & {"chosen", "messages"}:
        for part in ("chosen", "rejected", "margin"):
            parts.pop(part, None)
    return parts


def plain_name(name: str) -> str:
    """The name of a column however it is spelled."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _are_labels(rows: Rows, column: str) -> bool:
    return all(
        isinstance(value, bool) or str(value).lower() in ("true", "false")
        for row in rows
        for value in [row.get(column)]
    )


def _chat(attr: DatasetAttr, rows: Rows, parts: dict[str, str], part: str, ranking: bool) -> DatasetAttr:
    formatting, tags = _turn_layout(parts[part], rows, attr)
    return replace(attr, formatting=formatting, ranking=ranking, columns=replace(NO_COLUMNS, **parts), tags=tags)


def _turn_layout(column: str, rows: Rows, attr: DatasetAttr) -> tuple[str, Tags]:
    turn = _turns(rows, column)
    if turn is None:
        if any(isinstance(row.get(column), str) and _DIALOGUE.match(row[column]) for row in rows):
            return "openai", OPENAI_TAGS
        raise ConfigError(f"dataset {attr.name!r}: column {column!r} of {attr.location} holds no list of turns")
    role = next((key for key in ("role", "from") if key in turn), None)
    content = next((key for key in ("content", "value", "text") if key in turn), None)
    if role is None:
        raise ConfigError(
            f"dataset {attr.name!r}: turns in {column!r} have the keys {', '.join(map(repr, turn))}; "
            "expected role and content, or from and value"
        )
    formatting, tags = ("openai", OPENAI_TAGS) if role == "role" else ("sharegpt", Tags())
    return formatting, replace(tags, content_tag=content or tags.content_tag)


def _turns(rows: Rows, column: str | None) -> Mapping[str, Any] | None:
    """The first turn in a column of conversations; None if it holds none."""
    for row in rows:
        turns = row.get(column) if column else None
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            try:
                turns = json.loads(turns)
            except (json.JSONDecodeError, RecursionError):
                continue
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            return turns[0]
    return None


def _repeated(rows: Rows, column: str) -> set[str]:
    """Parts that a conversation holds itself: a column beside it, such as ``prompt``, says it again."""
    last = [turns[-1] for row in rows if isinstance(turns := row.get(column), list) and turns]
    answered = any(isinstance(turn, Mapping) and _is_answer(turn) for turn in last)
    return {"prompt", "query", "history"} | ({"response"} if answered else set())


def _is_answer(turn: Mapping[str, Any]) -> bool:
    return _speaker(turn) in ("assistant", "gpt", "chatgpt", "model")


def _speaker(turn: Mapping[str, Any]) -> str:
    return str(turn.get("role", turn.get("from"))).lower()


def _is_whole(rows: Rows, column: str | None) -> bool:
    """Whether answers that are compared hold the whole conversation: they do not begin with the assistant."""
    turn = _turns(rows, column)
    if turn is not None:
        return _speaker(turn) in ("user", "human", "system")
    values = [row.get(column) for row in rows] if column else []
    return bool(values) and all(isinstance(value, str) and _DIALOGUE.match(value) for value in values)


def likely_columns(present: list[str], rows: Rows) -> dict[str, str]:
    """What may be meant by columns that fit no layout: part of a row -> column; nothing where no column holds text."""
    parts: dict[str, str] = {}
    for part in ("prompt", "response"):
        names = [plain_name(name) for name in spellings()[part]]
        free = [column for column in present if column not in parts.values()]
        alike = [column for column in free if any(len(name) > 3 and name in plain_name(column) for name in names)]
        alike += [column for column in free if difflib.get_close_matches(plain_name(column), names, n=1, cutoff=0.75)]
        if alike:
            parts[part] = alike[0]
    if len(parts) < 2:  # the two longest texts, in their order
        size = {column: sum(len(row[column]) for row in rows if isinstance(row.get(column), str)) for column in present}
        longest = sorted((column for column in present if size[column]), key=lambda column: -size[column])[:2]
        parts = dict(zip(("prompt", "response"), sorted(longest, key=present.index), strict=False))
    return parts


def _proposal(present: list[str], rows: Rows) -> str:
    """The nearest mapping, as the key that says it."""
    parts = likely_columns(present, rows)
    if not parts:
        return f"say what they hold with columns (parts: {', '.join(item.name for item in fields(Columns))})"
    return f'say what they hold, perhaps: columns="{",".join(f"{part}={column}" for part, column in parts.items())}"'
