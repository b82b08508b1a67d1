# SPDX-License-Identifier: Apache-2.0
"""The shapes of a conversation, from a row of a data set to the tokens of a trained sequence.

The OpenAI message schema is the native form: parallel tool calls, text beside calls, images in tool results and any
order of roles fit into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

from ..extras.errors import ConfigError, short
from ..extras.surrogates import refuse_lone

Role = Literal["system", "user", "assistant", "tool"]
PartType = Literal["text", "image", "video", "audio"]
Weight = float | None

# What the arguments of a call are called: by OpenAI, Llama, LangChain, Anthropic.
CALL_ARGUMENTS = ("arguments", "parameters", "args", "input")
# Where a content part holds what it is, if not under the name of its type.
PART_VALUES = ("value", "url", "path")
_ROLES = {
    **{role: role for role in get_args(Role)},
    "developer": "system",
    "function": "tool",
    "tool_results": "tool",
    "ipython": "tool",
}


class Medium(NamedTuple):
    """An image, a video or a sound of a row, as its tokens remember it.

    Attributes:
        number: Which of the conversation it is, from 0.
        type: ``"image"``, ``"video"`` or ``"audio"``.
        source: Where it is read from when a batch is made: a path, or JSON of a list of frames' paths.
        place: File and row that name it, for errors.
    """

    number: int
    type: PartType
    source: str
    place: str


class Segment(NamedTuple):
    """Neighbouring tokens that are trained alike.

    Attributes:
        ids: Token ids.
        weight: Factor of these tokens' loss; 0 is context.
        message: Index into ``sample.messages``; -1 is glue that belongs to no message (BOS, tool list).
        medium: The image, video or sound whose tokens these are, all of them; ``None`` = text.
    """

    ids: list[int]
    weight: float
    message: int
    medium: Medium | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message: text, or a medium given by path, URL, bytes or object."""

    type: PartType
    value: Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        name: Function name.
        arguments: The keyword arguments, or their JSON text, which is then written as it stands.
        id: What the tool's result refers to, if the data has it.
    """

    name: str
    arguments: dict[str, Any] | str
    id: str | None = None

    @classmethod
    def from_openai(cls, value: Mapping[str, Any]) -> ToolCall:
        """Read ``{"id", "type", "function": {"name", "arguments"}}`` or the bare function object."""
        function = value.get("function", value) if isinstance(value, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConfigError(f"tool_calls: expected an object with a function name, got {short(value)}")
        arguments = next((function[key] for key in CALL_ARGUMENTS if function.get(key) is not None), None)
        other = next((key for key, entry in function.items() if isinstance(entry, Mapping) and entry), None)
        if arguments is None and other is not None:
            raise ConfigError(
                f"tool_calls: the call of {function['name']!r} has {other!r}, its arguments are read from "
                + ", ".join(CALL_ARGUMENTS)
            )
        if arguments is not None and not isinstance(arguments, Mapping | str):
            raise ConfigError(f"tool_calls: arguments of {function['name']!r} must be an object or its JSON text")
        if isinstance(arguments, str):
            _refuse_lone_in_arguments(function["name"], arguments)
        return cls(
            name=function["name"],
            arguments=arguments if isinstance(arguments, str) else dict(arguments or {}),
            id=value.get("id"),
        )

    def to_openai(self) -> dict[str, Any]:
        """The call as an OpenAI message holds it (arguments keep their form)."""
        call = {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return call if self.id is None else {"id": self.id, **call}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: Who speaks.
        parts: What is said, in order.
        tool_calls: Calls of an assistant turn, after its text.
        reasoning: The thought before the text; ``None`` when the data keeps none apart (it may stand in the text).
        weight: Factor of this turn's loss; ``None`` is the role's default (assistant 1, others 0).
        call_weight: The same of its calls and its end, where the data gave them a turn of their own.
        name: Speaker or tool name.
        tool_call_id: The call that a tool turn answers.
    """

    role: Role
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    weight: Weight = None
    call_weight: Weight | Literal["as the text"] = "as the text"
    name: str | None = None
    tool_call_id: str | None = None

    @classmethod
    def of(cls, role: Role, text: str, **fields: Any) -> Message:
        """A message of plain text."""
        return cls(role, (Part("text", text),), **fields)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        parts = self.parts
        if len(parts) == 1 and parts[0].type == "text":
            return cast(str, parts[0].value)
        return "".join(part.value for part in parts if part.type == "text")

    @classmethod
    def from_openai(cls, value: Mapping[str, Any]) -> Message:
        """Read one OpenAI chat message.

        Args:
            value: ``role``, ``content`` (text, a list of parts, or null), and optionally ``tool_calls`` (or one
                ``function_call``), ``reasoning_content`` (or ``reasoning``), ``weight``, ``name``, ``tool_call_id``.
                Parts of the types ``reasoning`` and ``tool_call`` (JSON text) are read as those fields.

        Raises:
            ConfigError: The role is unknown, or a field has the wrong type.
        """
        value = _unpack_parts(value)
        role = value.get("role")
        if role not in _ROLES:
            raise ConfigError(f"messages: role {role!r} is not one of {', '.join(_ROLES)}")
        reasoning = value.get("reasoning_content", value.get("reasoning"))
        if reasoning is not None and not isinstance(reasoning, str):
            raise ConfigError(f"messages: reasoning_content must be text, got {short(reasoning)}")
        one = value.get("function_call")  # the schema of 2023
        calls = value.get("tool_calls") or ([one] if one else ())
        weight = value.get("weight")
        if weight is not None and (isinstance(weight, str) or weight < 0):
            raise ConfigError(f"messages: weight must be a number >= 0, got {weight!r}")
        return cls(
            role=cast(Role, _ROLES[role]),
            parts=_read_parts(value.get("content")),
            tool_calls=tuple(ToolCall.from_openai(call) for call in calls),
            reasoning=reasoning,
            weight=None if weight is None else float(weight),
            name=value.get("name"),
            tool_call_id=value.get("tool_call_id"),
        )

    def to_openai(self) -> dict[str, Any]:
        """The message as ``tokenizer.apply_chat_template`` takes it; empty fields are left out."""
        plain = all(part.type == "text" for part in self.parts)
        content: Any = self.text if plain else [{"type": p.type, p.type: p.value} for p in self.parts]
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        for key, field in (("reasoning_content", self.reasoning), ("name", self.name), ("weight", self.weight)):
            if field is not None:
                message[key] = field
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


def has_media(messages: Sequence[Message]) -> bool:
    """Whether a conversation holds an image, a video or a sound."""
    return any(part.type != "text" for message in messages for part in message.parts)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample came from, so that errors and reports can name it.

    Attributes:
        source: Name of the data set.
        file: File it was read from; ``None`` for a hub set.
        row: The number of its line or row, from 1.
        unit: What is counted.
    """

    source: str
    file: str | None
    row: int
    unit: str = "row"

    def __str__(self) -> str:
        return f"{self.file or self.source}, {self.unit} {self.row}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One example of any stage.

    Attributes:
        messages: The conversation; for preference data the shared context.
        tools: OpenAI tool objects that the assistant may call.
        chosen: Preferred continuation of ``messages``.
        rejected: The other continuation.
        margin: By how much ``chosen`` is the better one, for reward models; ``None`` = not said.
        label: True or False for feedback (KTO) data.
        origin: Where it came from.
        row: The row as it was read; rewards may look at any of its columns.
        prompt: How many messages stand before a completion that has a column of its own, which alone is trained;
            0 = there is no such column.
        target: What a classifier says of the conversation, as the row holds it: a class, several, or numbers.
        documents: Texts to which ``messages`` is the query.
        grades: How relevant (or alike) each document is: 1 and 0 where the row names positives and negatives.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    margin: float | None = None
    label: bool | None = None
    origin: Origin | None = None
    row: Mapping[str, Any] | None = None
    prompt: int = 0
    target: Any = None
    documents: tuple[str, ...] = ()
    grades: tuple[float, ...] = ()


def _unpack_parts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Move parts that hold a thought or a call, ``{"type": ..., "value": ...}``, to the fields of the message."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    kinds = ["reasoning" if kind == "thinking" else kind for kind in kinds]
    if not {"reasoning", "tool_call"} & set(kinds):
        return message
    found = {
        kind: [_value(part) for one, part in zip(kinds, content, strict=True) if one == kind]
        for kind in ("reasoning", "tool_call")
    }
    rest = [part for one, part in zip(kinds, content, strict=True) if one not in found]
    return {
        **message,
        "content": rest,
        "reasoning_content": "\n".join(map(str, found["reasoning"])) or message.get("reasoning_content"),
        "tool_calls": [*(message.get("tool_calls") or ()), *map(_read_call, found["tool_call"])],
    }


def _value(part: Mapping[str, Any]) -> Any:
    return part.get(part["type"], part.get("value"))


def _read_call(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        call = json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        raise ConfigError(f"messages: the tool_call part is not JSON: {short(value)}") from None
    refuse_lone(value, call, "messages: the tool_call part")
    return call


def _refuse_lone_in_arguments(name: str, arguments: str) -> None:
    """Arguments stay the text that they are, but some dialects write their values one by one."""
    with suppress(json.JSONDecodeError, RecursionError):
        refuse_lone(arguments, json.loads(arguments), f"tool_calls: arguments of {name!r}")


def _read_parts(content: Any) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Part("text", content),)
    if not isinstance(content, Sequence):
        raise ConfigError(f"messages: content must be text or a list of parts, got {short(content)}")
    return tuple(_read_part(part) for part in content)


def _read_part(part: Any) -> Part:
    if isinstance(part, str):
        return Part("text", part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise ConfigError(f"messages: a content part needs a type, got {short(part)}")
    value = next((part[key] for key in (kind, *PART_VALUES) if key in part), None)
    if isinstance(value, Mapping) and "url" in value:  # {"type": "image_url", "image_url": {"url": ...}}
        value = value["url"]
    if isinstance(value, Mapping) and isinstance(value.get("data"), str):  # {"type": "input_audio", "input_audio": ...}
        value = f"data:audio/{value.get('format')};base64,{value['data']}"
    kind = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}.get(kind, kind)
    if kind not in get_args(PartType) or value is None:
        raise ConfigError(f"messages: content part {short(part)} is not one of {', '.join(get_args(PartType))}")
    return Part(cast(PartType, kind), value)
