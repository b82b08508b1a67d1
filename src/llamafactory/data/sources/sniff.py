# SPDX-License-Identifier: Apache-2.0
"""The layout of a file that no ``dataset_info.json`` describes, read off its first rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...extras.errors import ConfigError
from .dataset_info import OPENAI_TAGS, Columns, DatasetAttr, Tags

_CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat")
_QUESTIONS = ("instruction", "prompt", "question", "query", "input")
_ANSWERS = ("output", "response", "completion", "answer", "target")
_TEXTS = ("text", "content")
_MEDIA = ("images", "videos", "audios")
_LABELS = ("kto_tag", "label")


def sniff(attr: DatasetAttr, rows: list[Mapping[str, Any]]) -> DatasetAttr:
    """Choose format, columns and tags by what the first rows hold.

    Args:
        attr: The set, with ``formatting="auto"``.
        rows: Its first rows; at least one.

    Returns:
        ``attr`` with the layout filled in.

    Raises:
        ConfigError: No known layout fits; the columns found are named.
    """
    present = {key for row in rows for key, value in row.items() if value is not None}
    chat = next((name for name in _CHATS if name in present), None)
    extra: dict[str, str] = {name: name for name in ("system", "tools", "history", *_MEDIA) if name in present}
    labels = [name for name in _LABELS if name in present and all(isinstance(row.get(name), bool) for row in rows)]
    if labels:
        extra["kto_tag"] = labels[0]
    ranking = {"chosen", "rejected"} <= present
    if ranking:
        extra.update(chosen="chosen", rejected="rejected")
        if "margin" in present:
            extra["margin"] = "margin"
    if chat is not None:
        formatting, tags = _chat_layout(chat, rows, attr)
        return replace(
            attr, formatting=formatting, ranking=ranking, columns=replace(Columns(), messages=chat, **extra), tags=tags
        )
    question = next((name for name in _QUESTIONS if name in present), None)
    answer = next((name for name in _ANSWERS if name in present), None)
    text = next((name for name in _TEXTS if name in present), None)
    if question is not None and (answer is not None or ranking):
        query = "input" if question == "instruction" and "input" in present else None
        columns = replace(Columns(), prompt=question, query=query, response=None if ranking else answer, **extra)
        return replace(attr, formatting="alpaca", ranking=ranking, columns=columns)
    if text is not None:
        return replace(attr, formatting="alpaca", columns=replace(Columns(), prompt=text, query=None, response=None))
    found = ", ".join(sorted(present)) or "none"
    raise ConfigError(
        f"dataset {attr.name!r}: the columns of {attr.location} fit no known layout: {found}; expected messages, "
        "conversations, instruction + output, prompt + response or text; else describe it in dataset_info.json"
    )


def describe(attr: DatasetAttr) -> str:
    """Say in one line what a set was taken for."""
    used = {name: value for name, value in vars(attr.columns).items() if value is not None}
    for name in ("prompt", "query", "response") if attr.formatting != "alpaca" else ("messages",):
        used.pop(name, None)
    columns = ", ".join(f"{name}={value}" for name, value in used.items())
    return f"dataset {attr.name}: taken for {attr.formatting}{' pairs' if attr.ranking else ''} ({columns})"


def _chat_layout(column: str, rows: list[Mapping[str, Any]], attr: DatasetAttr) -> tuple[str, Tags]:
    for row in rows:
        turns = row.get(column)
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            try:
                turns = json.loads(turns)
            except (json.JSONDecodeError, RecursionError):
                continue
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            if "role" in turns[0]:
                return "openai", OPENAI_TAGS
            if "from" in turns[0]:
                return "sharegpt", _sharegpt_tags(turns)
            keys = ", ".join(map(repr, turns[0]))
            raise ConfigError(
                f"dataset {attr.name!r}: turns in {column!r} have the keys {keys}; "
                "expected role and content, or from and value"
            )
    raise ConfigError(f"dataset {attr.name!r}: column {column!r} of {attr.location} holds no list of turns")


def _sharegpt_tags(turns: list[Any]) -> Tags:
    """Some sets of this layout call the speakers user and assistant."""
    roles = {turn.get("from") for turn in turns if isinstance(turn, Mapping)}
    return Tags(
        user_tag="user" if "user" in roles else "human",
        assistant_tag="assistant" if "assistant" in roles else "gpt",
        observation_tag="tool" if "tool" in roles else "observation",
    )
