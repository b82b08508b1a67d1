# SPDX-License-Identifier: Apache-2.0
"""ShareGPT rows: a list of turns with role and text, in any order a chat can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...extras.errors import ConfigError
from ..messages import Message, Sample
from ..sources.dataset_info import DatasetAttr
from .fields import label_field, list_field, margin_field, require_columns, short, text_field, tools_field
from .media import attach_media, has_media_columns
from .turns import read_turns


def convert(row: Mapping[str, Any], attr: DatasetAttr) -> Sample:
    """Turn one row into a sample.

    The system text stands in its own column or as the first turn. Function-call turns hold ``{name, arguments}`` as
    JSON, or a list of them for parallel calls. Pairs hold one turn, or a list of turns, in chosen and rejected.

    Raises:
        ConfigError: A column is missing, a turn has an unknown role, no text, or calls that are not JSON.
    """
    columns = attr.columns
    require_columns(row, columns.messages)
    turns = list_field(row, columns.messages)
    if not turns:
        raise ConfigError(f"field {columns.messages!r} holds no turn")
    messages = read_turns(turns, attr, str(columns.messages))
    system = text_field(row, columns.system)
    if system:
        messages = (Message.of("system", system), *messages)
    chosen = rejected = None
    if attr.ranking:
        require_columns(row, columns.chosen, columns.rejected)
        chosen, rejected = _completion(row, attr, columns.chosen), _completion(row, attr, columns.rejected)
    margin, label = margin_field(row, columns.margin), label_field(row, columns.kto_tag)
    sample = Sample(messages, tools_field(row, columns.tools), chosen, rejected, margin, label)
    return attach_media(sample, row, attr) if has_media_columns(attr) else sample


def _completion(row: Mapping[str, Any], attr: DatasetAttr, column: str | None) -> tuple[Message, ...]:
    value = row.get(column) if column else None
    turns = value if isinstance(value, list) else [value]
    completion = read_turns(turns, attr, str(column))
    if not completion or completion[0].role != "assistant":
        raise ConfigError(
            f"field {column!r} is {short(value)}, expected a turn of {attr.tags.assistant_tag!r} (ranking: true)"
        )
    return completion
