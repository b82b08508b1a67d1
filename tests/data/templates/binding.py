# SPDX-License-Identifier: Apache-2.0
"""Short ways to a bound template and to its ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafactory.data.messages import Message, Sample
from llamafactory.data.template.base import Template
from llamafactory.data.template.encoding import EncodingTemplate
from llamafactory.data.template.literal_template import LiteralTemplate
from llamafactory.plugins import resolve


def bind(tokenizer: Any, name: str, **flags: Any) -> LiteralTemplate:
    chat = resolve("templates", name)
    return LiteralTemplate(tokenizer, chat, resolve("tool_formats", chat.tool_format), **flags)


def sample(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> Sample:
    return Sample(tuple(Message.from_openai(message) for message in messages), tuple(tools))


def ids_and_weights(template: Template, one: Sample, **flags: Any) -> tuple[list[int], list[float]]:
    (segments,) = template.encode_batch([one], **flags)
    ids = [token for segment in segments for token in segment.ids]
    return ids, [segment.weight for segment in segments for _ in segment.ids]


def encode(
    template: EncodingTemplate, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], prompt: bool
) -> list[int]:
    """Ids of the text that is shown, as one text; training has the same text, unless official texts show an answer and
    its prompt differently (``test_asked.py``), with a border of tokens before each answer (``test_seams.py``)."""
    one = sample(messages, tools)
    if prompt:
        return template.encode_prompt(one.messages, one.tools)
    pieces = template.pieces(one.messages, one.tools, template.options)
    (segments,) = template._encode([[(piece, 0.0) for piece in pieces]])
    ids = [token for segment in segments for token in segment.ids]
    trained = template.pieces(one.messages, one.tools, template.options._replace(for_training=True))
    if "".join(piece.text for piece in pieces) == "".join(piece.text for piece in trained):
        read = template.tokenizer.decode
        assert read(ids_and_weights(template, one)[0]) == read(ids)
    return ids


def official_ids(tokenizer: Any, source: str, messages: Any, tools: Any, prompt: bool, **flags: Any) -> list[int]:
    return tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) or None,
        chat_template=source,
        add_generation_prompt=prompt,
        return_dict=True,
        **flags,
    )["input_ids"]
