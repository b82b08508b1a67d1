# SPDX-License-Identifier: Apache-2.0
"""Whether a text can fit into a context, found out at a cost that does not grow with the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data.messages import Message

_PIECE = 16384  # characters
_CUT = 2  # tokens that a cut in the middle of a word may add


def characters(prompt: Sequence[Message] | str, tools: Sequence[dict[str, Any]] = ()) -> int:
    """Characters that a prompt is made of, thoughts left out: templates drop those of earlier turns."""
    if isinstance(prompt, str):
        return len(prompt)
    calls = (call.arguments for message in prompt for call in message.tool_calls)
    return (
        sum(len(message.text) for message in prompt)
        + sum(len(one if isinstance(one, str) else json.dumps(one)) for one in calls)
        + (len(json.dumps(tools)) if tools else 0)
    )


def is_ids(prompt: Sequence[Any]) -> bool:
    """Whether a prompt is given as tokens."""
    return bool(prompt) and isinstance(prompt[0], int)


def is_short(prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict[str, Any]]) -> bool:
    """Whether a prompt is tokenized so fast that nobody need look before."""
    if isinstance(prompt, str) or is_ids(prompt):
        return is_ids(prompt) or len(prompt) <= _PIECE
    turns = cast("Sequence[Message]", prompt)
    return characters(turns, tools) + sum(len(turn.reasoning or "") for turn in turns) <= _PIECE


def beginning(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """The text, or a beginning of it that has more than ``tokens`` tokens for certain."""
    count = 0
    for end in range(_PIECE, len(text), _PIECE):
        count += len(tokenizer(text[end - _PIECE : end], add_special_tokens=False)["input_ids"]) - _CUT
        if count > tokens:
            return text[:end]
    return text
