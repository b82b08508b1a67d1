# SPDX-License-Identifier: Apache-2.0
"""Alpaca rows: instruction, input, output; history, system, tools; pairs of completions; KTO labels; plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...extras.errors import ConfigError, short
from ..messages import Message, Sample
from ..sources.dataset_info import Columns, DatasetAttr
from .fields import (
    documents_fields,
    label_field,
    list_field,
    margin_field,
    require_columns,
    target_field,
    text_field,
    tools_field,
)
from .media import attach_media, has_media_columns


def convert(row: Mapping[str, Any], attr: DatasetAttr) -> Sample:
    """Turn one row into a sample.

    The question is ``prompt + "\\n" + query`` (an empty one of the two is left out). A row without a response becomes
    a sample without a response: text for pre-training, a prompt for generation.

    Raises:
        ConfigError: A column is missing or holds the wrong type.
    """
    columns = attr.columns
    require_columns(row, columns.prompt)
    system = text_field(row, columns.system)
    messages = [Message.of("system", system)] if system else []
    for question, response in _history(row, columns.history):
        messages += [Message.of("user", question), Message.of("assistant", response)]
    question = "\n".join(text for text in (text_field(row, columns.prompt), text_field(row, columns.query)) if text)
    messages.append(Message.of("user", question))
    chosen = rejected = None
    if attr.ranking:
        better, worse = _pair(row, columns)
        chosen, rejected = (Message.of("assistant", better),), (Message.of("assistant", worse),)
    elif response := text_field(row, columns.response):
        messages.append(Message.of("assistant", response, reasoning=text_field(row, columns.reasoning) or None))
    margin, label = margin_field(row, columns.margin), label_field(row, columns.kto_tag)
    documents, grades = documents_fields(row, columns.positive, columns.negative, columns.score)
    sample = Sample(
        *(tuple(messages), tools_field(row, columns.tools), chosen, rejected, margin, label),
        target=target_field(row, columns.label), documents=documents, grades=grades,
    )  # fmt: skip
    return attach_media(sample, row, attr) if has_media_columns(attr) else sample


def _pair(row: Mapping[str, Any], columns: Columns) -> tuple[str, str]:
    """The better and the worse answer: in columns of their own, or as a list of two in the column of the answer."""
    both = row.get(columns.response) if columns.response else None
    if isinstance(both, list) and not (columns.chosen in row and columns.rejected in row):
        if len(both) != 2 or not all(isinstance(text, str) for text in both):
            raise ConfigError(f"field {columns.response!r} is {short(both)}, expected [better, worse] (ranking: true)")
        return both[0], both[1]
    require_columns(row, *([columns.chosen, columns.rejected] if columns.chosen else [columns.response]))
    return _completion(row, columns.chosen), _completion(row, columns.rejected)


def _completion(row: Mapping[str, Any], column: str | None) -> str:
    value = row.get(column) if column else None
    if not isinstance(value, str):
        raise ConfigError(f"field {column!r} is {short(value)}, expected the text of an answer (ranking: true)")
    return value


def _history(row: Mapping[str, Any], column: str | None) -> list[tuple[str, str]]:
    pairs = []
    for number, pair in enumerate(list_field(row, column), start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ConfigError(f"field {column!r}, turn {number}: {short(pair)} is not a pair [question, answer]")
        pairs.append((pair[0], pair[1]))
    return pairs
