# SPDX-License-Identifier: Apache-2.0
"""From a request to a call of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..chat.response_parser import (
    AnyCallParser,
    ChatParser,
    NamedCallParser,
    PlainParser,
    ResponseParser,
    thinking_begun,
)
from ..data.messages import Message
from .errors import ApiError
from .protocol import NOT_OFFERED, ChatRequest, ChoicesRequest, CompletionRequest, NamedTool, Tool

if TYPE_CHECKING:
    from ..chat.base_engine import Engine
    from .media import MediaLoader


@dataclass(frozen=True)
class Call:
    """One call of the engine.

    Attributes:
        prompt: Messages, a text or token ids.
        tools: OpenAI tool objects the template shall show.
        overrides: What the request asks for; see :class:`Engine`.
        parser: Makes the parser of one response.
        several_calls: Whether a response may hold several tool calls; else only the first is sent.
    """

    prompt: Sequence[Message] | str | list[int]
    tools: tuple[dict[str, Any], ...]
    overrides: dict[str, Any]
    parser: Callable[[], ResponseParser] = PlainParser
    several_calls: bool = True


async def chat_call(request: ChatRequest, engine: Engine, media: MediaLoader) -> Call:
    """What ``/v1/chat/completions`` asks.

    Raises:
        ApiError: The request asks for something that does not exist or does not go together.
        ConfigError: A message cannot be read.
    """
    messages = [Message.from_openai(message.model_dump(exclude_none=True)) for message in request.messages]
    messages = await media.load(messages, engine.media)
    overrides = _sampling(request)
    overrides["log_probs"] = _log_probs(request)
    overrides["enable_thinking"] = _thinking(request)
    shown = [] if request.tool_choice == "none" else [tool for tool in request.tools or ()]
    described = tuple(tool.model_dump(exclude_none=True) for tool in shown)
    engine.refuse_long(messages, described)
    schema, parser = _constraint(request, shown)
    if parser is not None:
        # The response is JSON from its first token: there is no room for a thought before it.
        overrides |= {"json_schema": schema, "enable_thinking": False}
        return Call(messages, described, overrides, parser)
    template = engine.template
    if template.thought is None and not described:
        return Call(messages, (), overrides)
    thinking = thinking_begun(template, messages, described, overrides["enable_thinking"])
    overrides["skip_special_tokens"] = False  # marks of thoughts and calls may be special tokens
    return Call(
        messages,
        described,
        overrides,
        lambda: ChatParser(template, described, thinking),
        several_calls=request.parallel_tool_calls,
    )


def completion_calls(request: CompletionRequest, engine: Engine) -> list[Call]:
    """What ``/v1/completions`` asks: one call for each prompt.

    Raises:
        ApiError: The request asks for something that is not offered.
        ConfigError: A prompt is certain to be too long.
    """
    if request.suffix:
        raise ApiError(400, "suffix: filling in before a text is not offered", "suffix")
    if request.best_of not in (None, request.n):
        raise ApiError(400, "best_of: only the value of n is accepted", "best_of")
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "echo: log-probabilities of a prompt are not offered; leave out echo or logprobs", "echo")
    overrides = {**_sampling(request), "log_probs": request.logprobs}
    prompt: Any = request.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts = prompt if several else [prompt]
    for one in prompts:
        engine.refuse_long(one)
    return [Call(one, (), overrides) for one in prompts]


def _sampling(request: ChoicesRequest) -> dict[str, Any]:
    """The overrides that chat and completion have in common; ``None`` = not given."""
    refuse_not_offered(request.model_extra or {}, NOT_OFFERED)
    if request.frequency_penalty:
        raise ApiError(400, "frequency_penalty: not offered; repetition_penalty is", "frequency_penalty")
    penalty = request.repetition_penalty
    if request.presence_penalty:
        if request.presence_penalty < 1 or penalty is not None:
            message = "presence_penalty: taken as repetition_penalty: 1 or more, 0 = not used, and not both"
            raise ApiError(400, message, "presence_penalty")
        penalty = request.presence_penalty
    drawn = request.do_sample
    if drawn is None and request.temperature:
        drawn = True  # a client that gives a temperature wants it, whatever the configuration says
    return {
        "do_sample": drawn,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "repetition_penalty": penalty,
        "max_new_tokens": request.max_completion_tokens or request.max_tokens,
        "num_return_sequences": request.n,
        "seed": request.seed,
        "stop": request.stop or None,
        "logit_bias": request.logit_bias,
    }


def refuse_not_offered(extra: dict[str, Any], not_offered: Mapping[str, str]) -> None:
    """Refuse further fields that would change an answer, unless their value is the one that changes nothing."""
    for name, value in extra.items():
        if name in not_offered and value and value != ["text"]:
            raise ApiError(400, f"{name}: not offered; {not_offered[name]}", name)


def _log_probs(request: ChatRequest) -> int | None:
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true", "top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _thinking(request: ChatRequest) -> bool | None:
    given = (request.chat_template_kwargs or {}).get("enable_thinking")
    given = request.enable_thinking if given is None else given
    if given is not None and not isinstance(given, bool):
        raise ApiError(400, "chat_template_kwargs: enable_thinking must be true or false", "chat_template_kwargs")
    return given


def _constraint(request: ChatRequest, tools: list[Tool]) -> tuple[dict[str, Any], Callable[[], ResponseParser] | None]:
    """The JSON schema that the response must obey and how it is parsed; no parser = a free response."""
    wanted = request.response_format.type if request.response_format else "text"
    choice = request.tool_choice
    if isinstance(choice, NamedTool) or choice == "required":
        if wanted != "text":
            raise ApiError(400, "response_format: an answer that must be a tool call has no format", "response_format")
        return _forced_call(choice, tools)
    if wanted == "text":
        return {}, None
    if tools:
        raise ApiError(400, "response_format: with tools it needs tool_choice: none", "response_format")
    if wanted == "json_object":
        return {}, PlainParser
    if request.response_format is None or request.response_format.json_schema is None:
        raise ApiError(400, "response_format: json_schema is missing", "response_format.json_schema")
    return request.response_format.json_schema.schema_, PlainParser


def _forced_call(choice: Any, tools: list[Tool]) -> tuple[dict[str, Any], Callable[[], ResponseParser]]:
    """A call of one known function is made of its arguments alone, which can be streamed as they come."""
    if not tools:
        raise ApiError(400, "tool_choice: there are no tools to choose from", "tool_choice")
    if isinstance(choice, NamedTool):
        name = choice.function.name
        tools = [tool for tool in tools if tool.function.name == name]
        if not tools:
            raise ApiError(400, f"tool_choice: no tool is called {name!r}", "tool_choice")
    if len(tools) == 1:
        function = tools[0].function
        return _parameters(tools[0]), lambda: NamedCallParser(function.name)
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.function.name}, "arguments": _parameters(tool)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return {"anyOf": calls}, AnyCallParser


def _parameters(tool: Tool) -> dict[str, Any]:
    return {"type": "object", **(tool.function.parameters or {})}
