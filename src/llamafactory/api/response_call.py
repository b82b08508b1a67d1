# SPDX-License-Identifier: Apache-2.0
"""What ``/v1/responses`` asks, in the terms of ``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .calls import Call, chat_call, refuse_not_offered
from .errors import ApiError
from .protocol import ChatRequest, SamplingRequest
from .response_protocol import (
    RESPONSES_NOT_OFFERED,
    AllowedTools,
    InputCall,
    InputCallOutput,
    InputMessage,
    InputThought,
    ResponsesRequest,
    SchemaFormat,
    ToolName,
)

if TYPE_CHECKING:
    from ..chat.base_engine import Engine
    from .media import MediaLoader

LOG_PROBS = "message.output_text.logprobs"
# Part of an item -> part of a chat message.
_PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "text": lambda part: {"type": "text", "text": part.get("text")},
    "refusal": lambda part: {"type": "text", "text": part.get("refusal")},
    "input_image": lambda part: {"type": "image_url", "image_url": {"url": part.get("image_url")}},
    "input_audio": lambda part: part,
}
_PARTS |= dict.fromkeys(("input_text", "output_text"), _PARTS["text"])


async def response_call(request: ResponsesRequest, engine: Engine, media: MediaLoader) -> Call:
    """The call of the engine.

    Raises:
        ApiError: The request asks for something that does not exist or does not go together.
        ConfigError: An item cannot be read.
    """
    _refuse(request)
    try:
        return await chat_call(as_chat(request), engine, media)
    except ApiError as error:
        if error.param != "response_format":
            raise
        message = error.message.replace("response_format", "text.format")
        raise ApiError(error.status, message, "text.format", error.code) from None


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The request as one of ``/v1/chat/completions``."""
    tools, choice = _tools(request)
    given = {
        **{name: getattr(request, name) for name in SamplingRequest.model_fields},
        "messages": _messages(request),
        "tools": tools,
        "tool_choice": choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "max_tokens": request.max_output_tokens,
        "logprobs": request.top_logprobs is not None or LOG_PROBS in request.include,
        "top_logprobs": request.top_logprobs,
        "response_format": _format(request),
        "enable_thinking": False if request.reasoning.effort == "none" else request.enable_thinking,
        "chat_template_kwargs": request.chat_template_kwargs,
    }
    return ChatRequest.model_validate(given)


def _refuse(request: ResponsesRequest) -> None:
    refuse_not_offered(request.model_extra or {}, RESPONSES_NOT_OFFERED)
    rules = (
        ("truncation", request.truncation == "disabled", "leave out earlier items yourself"),
        ("reasoning.effort", request.reasoning.effort in (None, "none"), "enable_thinking is"),
        ("reasoning.summary", request.reasoning.summary is None, "thoughts come whole"),
        ("text.verbosity", request.text.verbosity is None, "ask for it in a message"),
        ("include", set(request.include) <= {LOG_PROBS}, f"only {LOG_PROBS} is"),
    )
    for name, holds, instead in rules:
        if not holds:
            raise ApiError(400, f"{name}: not offered; {instead}", name)


def _tools(request: ResponsesRequest) -> tuple[list[dict[str, Any]], Any]:
    """The tools that are shown, and which must be called."""
    choice: Any = request.tool_choice
    tools = request.tools or []
    if isinstance(choice, AllowedTools):
        allowed = {tool.name for tool in choice.tools}
        unknown = sorted(allowed - {tool.name for tool in tools})
        if unknown:
            raise ApiError(400, f"tool_choice: no tool is called {unknown[0]!r}", "tool_choice")
        tools, choice = [tool for tool in tools if tool.name in allowed], choice.mode
    if isinstance(choice, ToolName):
        choice = {"type": "function", "function": {"name": choice.name}}
    return [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in tools], choice


def _format(request: ResponsesRequest) -> dict[str, Any]:
    wanted = request.text.format
    if isinstance(wanted, SchemaFormat):
        return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema_}}
    return {"type": wanted.type}


def _messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    if request.instructions:
        said.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        return [*said, {"role": "user", "content": request.input}]
    return [*said, *_turns(request.input)]


def _turns(items: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """One message for each turn: a thought, a text and the calls after it are one turn of the assistant."""
    turn: dict[str, Any] = {}
    for place, item in enumerate(items):
        new = _message(item, f"input.{place}")
        if turn and not _goes_on(turn, new):
            yield turn
            turn = {}
        if new["role"] != "assistant":
            yield new
            continue
        calls = [*turn.get("tool_calls", ()), *new.get("tool_calls", ())]
        turn = {**turn, **new, **({"tool_calls": calls} if calls else {})}
    if turn:
        yield turn


def _goes_on(turn: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether an item belongs to the turn of the assistant that has begun."""
    if new["role"] != "assistant" or "reasoning_content" in new:
        return False
    return "tool_calls" in new or not {"content", "tool_calls"} & set(turn)


def _message(item: Any, place: str) -> dict[str, Any]:
    match item:
        case InputMessage():
            return {"role": item.role, "content": _content(item.content, f"{place}.content")}
        case InputCall():
            function = {"name": item.name, "arguments": item.arguments}
            return {"role": "assistant", "tool_calls": [{"id": item.call_id, "function": function}]}
        case InputCallOutput():
            content = _content(item.output, f"{place}.output")
            return {"role": "tool", "tool_call_id": item.call_id, "content": content}
    assert isinstance(item, InputThought)
    return {"role": "assistant", "reasoning_content": "".join(part.text for part in item.content or ())}


def _content(content: str | list[dict[str, Any]], place: str) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(part, place) for part in content]


def _part(part: dict[str, Any], place: str) -> dict[str, Any]:
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise ApiError(400, f"{place}: parts are {', '.join(_PARTS)}, and not {str(kind)[:40]!r}", place)
    return _PARTS[kind](part)
