# SPDX-License-Identifier: Apache-2.0
"""Turns of a conversation, as the layouts that hold lists of them share them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...extras.errors import ConfigError, short
from ..messages import Message, Part, ToolCall
from ..sources.dataset_info import DatasetAttr
from .fields import parse_json
from .media import read_media_parts

_END_OF_THOUGHT = "</think>"
_WEIGHTS = ("train", "weight", "loss_weight", "loss", "training", "trainable")
_MASKS = ("masked",)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# Besides those that the tags of a set name: by what they hold, for not every stage looks at all of it.
READ_KEYS = {
    "weights": (*_WEIGHTS, *_MASKS),
    "reasoning": _THOUGHTS,
    "calls": ("tool_calls", "function_call"),
    "names": ("name", "tool_call_id"),
}
# What other tools call the roles, where the tags of the set do not say otherwise.
_FUNCTION = "function_call"
_ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "model": "assistant",
    "system": "system", "tool": "tool", "observation": "tool", "tool_response": "tool",
    "function": "tool",  # OpenAI's schema of 2023, as function_call
    _FUNCTION: _FUNCTION, "tool_call": _FUNCTION,
}  # fmt: skip
_SPEAKER = re.compile(r"(?:^|\n\n)\s*(Human|Assistant): ?")


def read_turns(turns: list[Any], attr: DatasetAttr, column: str) -> tuple[Message, ...]:
    """Read the messages of a conversation in any order of roles.

    A function-call turn right after an assistant turn belongs to it: text and calls of one response.
    """
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        try:
            message = _read_turn(turn, attr)
        except ConfigError as error:
            raise ConfigError(f"field {column!r}, turn {number}: {error}") from None
        last = messages[-1] if messages else None
        is_call = isinstance(turn, Mapping) and _role(turn, attr) == _FUNCTION
        if is_call and last is not None and last.tool_calls and turn[attr.tags.role_tag].lower() == "tool_call":
            if message.weight != (last.weight if last.call_weight == "as the text" else last.call_weight):
                raise ConfigError(f"field {column!r}, turn {number}: calls made together are trained alike")
            messages[-1] = replace(_joined(last, message), tool_calls=last.tool_calls + message.tool_calls)
        elif is_call and last is not None and last.role == "assistant" and not last.tool_calls:
            messages[-1] = _joined(last, message)
        else:
            messages.append(message)
    return tuple(messages)


def _joined(text: Message, calls: Message) -> Message:
    """Text and calls of one response; what is trained of each never changes what is written."""
    thought = "\n".join(part for part in (text.reasoning, calls.reasoning) if part) or text.reasoning
    joined = replace(text, parts=text.parts + calls.parts, tool_calls=calls.tool_calls, reasoning=thought)
    return joined if text.weight == calls.weight else replace(joined, call_weight=calls.weight)


def _read_turn(turn: Any, attr: DatasetAttr) -> Message:
    tags = attr.tags
    if not isinstance(turn, Mapping):
        raise ConfigError(f"{short(turn)} is not an object with {tags.role_tag!r} and {tags.content_tag!r}")
    role = _role(turn, attr)
    weight = _weight(turn)
    if role == _FUNCTION:
        return replace(_function_turn(turn.get(tags.content_tag), weight), reasoning=_thought(turn))
    content = turn.get(tags.content_tag)
    if role == "tool" and not isinstance(content, str) and attr.formatting != "openai":
        content = json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        content = read_media_parts(content, attr)
    plain = {key: value for key, value in turn.items() if key not in (tags.role_tag, tags.content_tag, *_WEIGHTS)}
    plain["reasoning_content"] = _thought(turn)
    if content is None and not (plain.get("tool_calls") or plain.get("function_call")):
        raise ConfigError(f"key {tags.content_tag!r} is missing or null")
    return Message.from_openai({**plain, "role": role, "content": content, "weight": weight})


def _role(turn: Mapping[str, Any], attr: DatasetAttr) -> str:
    """Who speaks: as the tags say, else as other tools spell it."""
    tags, role = attr.tags, turn.get(attr.tags.role_tag)
    roles = {
        tags.user_tag: "user",
        tags.assistant_tag: "assistant",
        tags.observation_tag: "tool",
        tags.system_tag: "system",
        tags.function_tag: _FUNCTION,
    }
    if attr.formatting == "openai":
        roles["developer"] = "system"
    known = {**_ROLES, **roles}
    if isinstance(role, str) and role not in known:
        role = role.lower()
    if not isinstance(role, str) or role not in known:
        given = turn.get(tags.role_tag)
        raise ConfigError(f"role {given!r} (key {tags.role_tag!r}) is not one of {', '.join(roles)}")
    return known[role]


def read_dialogue(text: str) -> tuple[Message, ...]:
    """Read an answer that is text; one with ``Human:`` and ``Assistant:`` in it is a whole conversation."""
    if not (first := _SPEAKER.match(text)) or first.group(1) != "Human":
        return (Message.of("assistant", text),)
    _, *pieces = _SPEAKER.split(text)
    said = zip(pieces[::2], pieces[1::2], strict=True)
    return tuple(Message.of("user" if name == "Human" else "assistant", text.strip()) for name, text in said)


def _function_turn(content: Any, weight: float | None) -> Message:
    """Read a turn whose text is one call or a list of calls as JSON, perhaps after a thought."""
    parts: tuple[Part, ...] = ()
    if isinstance(content, str):
        thought, mark, rest = content.rpartition(_END_OF_THOUGHT)
        if mark:
            blank = len(rest) - len(rest.lstrip())
            parts = (Part("text", thought + mark + rest[:blank]),)
        content = parse_json(rest, "the function call")
    calls = content if isinstance(content, list) else [content]
    if not calls or not all(isinstance(call, Mapping) for call in calls):
        raise ConfigError(f"the function call is {short(content)}, expected {{name, arguments}} or a list of them")
    return Message("assistant", parts, tuple(ToolCall.from_openai(call) for call in calls), weight=weight)


def _thought(turn: Mapping[str, Any]) -> str | None:
    """The thought before a turn's text, under whichever name it has."""
    found = {key: turn[key] for key in _THOUGHTS if not isinstance(turn.get(key), bool | None)}
    for key, thought in found.items():
        if not isinstance(thought, str):
            raise ConfigError(f"key {key!r} is {short(thought)}, expected text")
    # Servers fill one of them and leave the other empty.
    return next(filter(None, found.values()), "" if found else None)


def _weight(turn: Mapping[str, Any]) -> float | None:
    """Return the loss weight that a turn asks for: no key of several that say it is passed over."""
    given = {key: turn[key] for key in _WEIGHTS if turn.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"key {key!r} is {short(value)}, expected true, false or a number of 0 or more")
    for key in _MASKS:
        if turn.get(key) not in (None, True, False):
            raise ConfigError(f"key {key!r} is {short(turn[key])}, expected true or false")
    if any(turn.get(key) for key in _MASKS) or 0 in given.values():
        return 0.0
    # true says that it is trained, a number beside it how much.
    numbers = {float(value) for value in given.values() if value is not True}
    if len(numbers) > 1:
        raise ConfigError(f"keys {', '.join(map(repr, given))} say different weights: {short(list(given.values()))}")
    return numbers.pop() if numbers else (1.0 if given else None)
