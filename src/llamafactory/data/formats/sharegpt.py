# SPDX-License-Identifier: Apache-2.0
"""ShareGPT rows: a list of turns with role and text, in any order a chat can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...extras.errors import ConfigError, short
from ..messages import Message, Sample
from ..sources.dataset_info import DatasetAttr
from .fields import label_field, list_field, margin_field, require_columns, target_field, text_field, tools_field
from .media import attach_media, has_media_columns
from .turns import read_dialogue, read_turns


def convert(row: Mapping[str, Any], attr: DatasetAttr) -> Sample:
    """Turn one row into a sample.

    The system text stands in its own column or as the first turn. Function-call turns hold ``{name, arguments}`` as
    JSON, or a list of them for parallel calls. Pairs hold one turn, or a list of turns, in chosen and rejected.

    Raises:
        ConfigError: A column is missing, a turn has an unknown role, no text, or calls that are not JSON.
    """
    columns = attr.columns
    messages = _context(row, attr)
    if system := text_field(row, columns.system):
        messages = (Message.of("system", system), *messages)
    chosen = rejected = None
    prompt = 0
    if attr.ranking:
        messages, chosen, rejected = _pair(row, attr, messages)
    elif completion := _completion(row, attr, messages):
        messages, prompt = (*messages, *completion), len(messages)
    if not attr.ranking and (thought := text_field(row, columns.reasoning)):
        messages = _with_thought(messages, thought)
    margin, label = margin_field(row, columns.margin), label_field(row, columns.kto_tag)
    sample = Sample(messages, tools_field(row, columns.tools), chosen, rejected, margin, label, prompt=prompt)
    sample = replace(sample, target=target_field(row, columns.label)) if columns.label else sample
    return attach_media(sample, row, attr) if has_media_columns(attr) else sample


def _context(row: Mapping[str, Any], attr: DatasetAttr) -> tuple[Message, ...]:
    """The conversation in its column, or a question that is text; pairs may hold it in both answers instead."""
    columns = attr.columns
    if columns.messages is None and columns.prompt is not None:
        return (Message.of("user", text_field(row, columns.prompt)),)
    if columns.messages is None or (attr.ranking and columns.messages not in row):
        return ()
    require_columns(row, columns.messages)
    turns = list_field(row, columns.messages)
    if not turns:
        raise ConfigError(f"field {columns.messages!r} holds no turn")
    return read_turns(turns, attr, columns.messages)


def _with_thought(messages: tuple[Message, ...], thought: str) -> tuple[Message, ...]:
    """A thought in a column of its own is that of the last answer, unless that answer has one."""
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or last.reasoning:
        return messages
    return (*messages[:-1], replace(last, reasoning=thought))


def _pair(row: Mapping[str, Any], attr: DatasetAttr, context: tuple[Message, ...]) -> tuple[tuple[Message, ...], ...]:
    """Context, better and worse answer; what both answers begin with is context too."""
    columns = attr.columns
    require_columns(row, columns.chosen, columns.rejected)
    rejected = _turns_of(row, attr, columns.rejected)
    if columns.chosen is not None:
        chosen = _turns_of(row, attr, columns.chosen)
    elif rejected and rejected[0].role != "assistant":  # two conversations, one of them perhaps without the system text
        if context and context[0].role == "system" and rejected[0].role != "system":
            rejected = (context[0], *rejected)
        context, chosen = (), context
    else:  # the conversation ends with the better answer
        last = max((place for place, message in enumerate(context) if message.role != "assistant"), default=-1) + 1
        context, chosen = context[:last], context[last:]
    if chosen and chosen[0].role != "assistant":
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
        context, chosen, rejected = (*context, *chosen[:same]), chosen[same:], rejected[same:]
    for column, answer in ((columns.chosen or columns.messages, chosen), (columns.rejected, rejected)):
        _check_answer(row, attr, column, answer)
    return context, chosen, rejected


def _completion(row: Mapping[str, Any], attr: DatasetAttr, context: tuple[Message, ...]) -> tuple[Message, ...]:
    """The answer in a column of its own, also to a prompt that ends with a turn of the assistant.

    Empty if there is no such column, or if the conversation ends with an answer and nothing else is there.
    """
    column = attr.columns.response
    if column is None:
        return ()
    if context and context[-1].role == "assistant":
        if row.get(column) in (None, "", []):
            return ()
    else:
        require_columns(row, column)
    completion = _turns_of(row, attr, column)
    _check_answer(row, attr, column, completion)
    said = [[(one.role, one.text, one.tool_calls) for one in turns] for turns in (context, completion)]
    return () if said[0][-len(completion) :] == said[1] else completion


def _turns_of(row: Mapping[str, Any], attr: DatasetAttr, column: str | None) -> tuple[Message, ...]:
    value = row.get(column) if column else None
    if isinstance(value, str) and not value.lstrip().startswith("[{"):
        return read_dialogue(value)
    turns = list_field(row, column) if isinstance(value, str) else value
    return read_turns(turns if isinstance(turns, list) else [turns], attr, str(column))


def _check_answer(row: Mapping[str, Any], attr: DatasetAttr, column: str | None, answer: tuple[Message, ...]) -> None:
    if not answer or answer[0].role != "assistant":
        value = row.get(column) if column else None
        wanted = f"a turn of {attr.tags.assistant_tag!r}" + (" (ranking: true)" if attr.ranking else "")
        raise ConfigError(f"field {column!r} is {short(value)}, expected {wanted}")
