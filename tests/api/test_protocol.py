# SPDX-License-Identifier: Apache-2.0
"""Every field of a request is obeyed, refused, or listed as one that cannot change an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import httpx2 as httpx
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponseParams
from scripted_engine import ScriptedEngine

from llamafactory.api import protocol, response_protocol

from .conftest import MODEL, Running, running

CHAT, TEXT, ITEMS, RANK = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/rerank"
JSON = {"Content-Type": "application/json"}
QUESTION: Any = [{"role": "user", "content": "Who are you?"}]
FUNCTION: Any = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
CALLS: Any = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
# Handed on whole: test_messages_and_tools_reach_the_engine_whole holds each of their fields.
WHOLE = {"ChatMessage", "ToolCall", "FunctionCall", "Tool", "Function", "FunctionTool"}
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    (CHAT, {"tools": TOOLS, "logprobs": True, "stream": True, "stream_options": {"include_usage": True}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}),
    (CHAT, {"presence_penalty": 1.2}),
    (TEXT, {"prompt": "Once", "echo": True, "stream": True}),
    ("/v1/embeddings", {"input": "text"}),
    (ITEMS, {"tools": [{"type": "function", **FUNCTION}], "tool_choice": {"type": "function", "name": "f"}}),
    (ITEMS, {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}}),
    (
        ITEMS,
        {
            "tools": [{"type": "function", **FUNCTION}],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            "input": [
                {"role": "user", "content": "q"},
                {"type": "reasoning", "content": [{"text": "hm"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
            ],
        },
    ),
]
SENT: dict[str, dict[str, Any]] = {CHAT: {"messages": QUESTION}, ITEMS: {"input": "q"}}
SENT[RANK] = {"query": "q", "documents": ["a", {"text": "b"}]}


@pytest.fixture
def engine(make_template: Callable[[str], Any]) -> ScriptedEngine:
    return ScriptedEngine(make_template("qwen3"))


def post(server: Running, route: str, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, **SENT.get(route, {}), **fields}
    return httpx.post(server.url + route, json=body, timeout=30)


def models(root: type = protocol._Model) -> set[Any]:
    return {found for child in root.__subclasses__() for found in {child, *models(child)}}


def fields_read(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ask every route; return what was read of the bodies, as ``Class.field``."""
    read: set[str] = set()

    def getattribute(self: Any, name: str) -> Any:
        if name in type(self).model_fields:
            read.add(f"{type(self).__name__}.{name}")
        return object.__getattribute__(self, name)

    monkeypatch.setattr(protocol._Model, "__getattribute__", getattribute)
    with running(engine) as server:
        for route, fields in BODIES:
            assert post(server, route, **fields).status_code == 200
    with running(engine, scores=True) as server:
        assert post(server, "/v1/score/evaluation", messages=["text"]).status_code == 200
        assert post(server, RANK).status_code == 200
    return read


def test_every_field_is_read_or_cannot_change_an_answer(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = fields_read(engine, monkeypatch)
    unread = {
        f"{model.__name__}.{name}"
        for model in models() - {protocol.SamplingRequest, protocol.ChoicesRequest}
        if model.__name__ not in WHOLE
        for name, field in model.model_fields.items()
        if not (get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1)
    } - read
    assert unread == {name for name in protocol.WITHOUT_EFFECT if "." in name}


def test_messages_and_tools_reach_the_engine_whole(engine: ScriptedEngine) -> None:
    turns = [
        {"role": "user", "content": "a", "name": "ann"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm", "tool_calls": CALLS},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
    ]
    with running(engine) as server:
        assert post(server, CHAT, messages=turns, tools=TOOLS).status_code == 200
    ((prompt, tools, _),) = engine.asked
    assert [message.to_openai() for message in prompt] == turns
    assert list(tools) == TOOLS


def test_calls_and_results_of_the_schema_of_2023(engine: ScriptedEngine) -> None:
    call = {"name": "f", "arguments": '{"x": 1}'}
    turns = [*QUESTION, {"role": "assistant", "content": None, "function_call": call},
             {"role": "function", "name": "f", "content": "3"}]  # fmt: skip
    new = [*QUESTION, {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
           {"role": "tool", "name": "f", "content": "3"}]  # fmt: skip
    with running(engine) as server:
        for messages in (turns, new):
            assert post(server, CHAT, messages=messages).status_code == 200
    (old, _, _), (newer, _, _) = engine.asked
    assert old == newer and old[1].tool_calls[0].arguments == '{"x": 1}'


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("keys", [None, {}, {"enable_thinking": None}])
def test_a_null_does_not_hide_what_is_given(engine: ScriptedEngine, given: bool, keys: Any) -> None:
    with running(engine) as server:
        fields = {"enable_thinking": given, "chat_template_kwargs": keys}
        assert post(server, CHAT, **fields).status_code == 200
        assert post(server, CHAT, **{**fields, "chat_template_kwargs": {"enable_thinking": not given}}).is_success
    assert [asked[2]["enable_thinking"] for asked in engine.asked] == [given, not given]


def test_half_a_character_inside_the_text_of_arguments(engine: ScriptedEngine) -> None:
    arguments = r'{"x": "\ud800"}'
    call = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    items = [{"role": "user", "content": "q"}, {"type": "function_call", "call_id": "c", "name": "f",
                                                "arguments": arguments}]  # fmt: skip
    with running(engine) as server:
        for answer in (post(server, CHAT, messages=[*QUESTION, {"role": "assistant", "tool_calls": call}]),
                       post(server, ITEMS, input=items)):  # fmt: skip
            assert answer.status_code == 400 and "half a character" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("parameters", "model"),
    [
        (ChatParams, protocol.ChatRequest),
        (TextParams, protocol.CompletionRequest),
        (EmbeddingCreateParams, protocol.EmbeddingRequest),
        (ResponseParams, response_protocol.ResponsesRequest),
    ],
)
def test_every_parameter_of_the_openai_package_is_accounted_for(parameters: Any, model: Any) -> None:
    others = {*protocol.WITHOUT_EFFECT, *protocol.NOT_OFFERED}
    if model is response_protocol.ResponsesRequest:
        others |= {*response_protocol.RESPONSES_NOT_OFFERED, *response_protocol.RESPONSES_WITHOUT_EFFECT}
    assert set(parameters.__annotations__) - {*model.model_fields, *others} == set()
    assert not others & set(model.model_fields)


@pytest.mark.parametrize(("route", "name"), [(CHAT, "messages"), (ITEMS, "input")])
def test_the_number_of_messages_is_bounded(engine: ScriptedEngine, route: str, name: str) -> None:
    with running(engine) as server:
        turns = [{"role": "user", "content": "x"}] * (protocol.MOST_MESSAGES + 1)
        body = {"model": MODEL, name: turns}
        answer = httpx.post(server.url + route, json=body, timeout=30)
        assert answer.status_code == 400 and "4096" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", protocol.NOT_OFFERED)
def test_what_is_not_offered_is_refused_in_one_line(engine: ScriptedEngine, name: str) -> None:
    with running(engine) as server:
        for route, fields in ((CHAT, {}), (TEXT, {"prompt": "Once"})):
            answer = post(server, route, **fields, **{name: [1]})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, name)
            assert error["message"].startswith(f"{name}: not offered; ") and "\n" not in error["message"]
            assert post(server, route, **fields, **{name: None}).status_code == 200
        assert post(server, CHAT, modalities=["text"]).status_code == 200


def test_what_cannot_change_an_answer_is_accepted(engine: ScriptedEngine) -> None:
    fields = {name: "x" for name in protocol.WITHOUT_EFFECT if "." not in name}
    with running(engine) as server:
        plain, noted = (post(server, CHAT, **given).json()["choices"] for given in ({}, fields))
        assert plain == noted
    assert engine.asked[0] == engine.asked[1]


@pytest.mark.parametrize("stream", [False, True])
def test_without_parallel_calls_only_the_first_is_sent(make_template: Callable[[str], Any], stream: bool) -> None:
    calls = "".join(f'<tool_call>\n{{"name": "f", "arguments": {{"i": {i}}}}}\n</tool_call>\n' for i in (1, 2))
    engine = ScriptedEngine(make_template("qwen3"), pieces=re.findall(r"(?s).{1,7}", calls.rstrip()))
    with running(engine) as server:
        create: Any = server.client().chat.completions.create
        for parallel, expected in ((True, ['{"i": 1}', '{"i": 2}']), (False, ['{"i": 1}'])):
            keys = {"messages": QUESTION, "tools": TOOLS, "parallel_tool_calls": parallel, "stream": stream}
            answer = create(model=MODEL, **keys)
            choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
            pieces = [choice.delta if stream else choice.message for choice in choices]
            found = [call.function.arguments for piece in pieces for call in piece.tool_calls or ()]
            assert (found, choices[-1].finish_reason) == (expected, "tool_calls")


@pytest.mark.parametrize(
    ("route", "name"),
    [
        (route, name)
        for route, model in (
            (CHAT, protocol.ChatRequest),
            (TEXT, protocol.CompletionRequest),
            (ITEMS, response_protocol.ResponsesRequest),
            (RANK, protocol.RerankRequest),
        )
        for name, field in model.model_fields.items()
        if not field.is_required()
    ]
    + [(CHAT, name) for name in (*protocol.NOT_OFFERED, *protocol.WITHOUT_EFFECT) if "." not in name],
)
def test_null_is_as_good_as_left_out(engine: ScriptedEngine, route: str, name: str) -> None:
    needed = {"prompt": "Once"} if route == TEXT else {}
    with running(engine, scores=route == RANK) as server:
        assert post(server, route, **needed, **{name: None}).status_code == 200


NUMBERS = [
    (route, name)
    for route, model in ((CHAT, protocol.ChatRequest), (ITEMS, response_protocol.ResponsesRequest))
    for name, field in model.model_fields.items()
    if {int, float} & set(get_args(field.annotation) or [field.annotation])
]


def test_what_is_no_number_is_called_so(engine: ScriptedEngine) -> None:
    """Not too large: NaN is neither."""
    assert len(NUMBERS) > 15
    with running(engine) as server:
        for route, name in NUMBERS:
            for written, shown in (("NaN", "nan"), ("-1e999", "-inf")):
                body = json.dumps({"model": MODEL, **SENT[route], name: None}).replace(
                    f'"{name}": null', f'"{name}": {written}'
                )
                answer = httpx.post(server.url + route, content=body, headers=JSON, timeout=30)
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, name)
                assert error["message"] == f"{name}: Input should be a finite number, got {shown}"


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (CHAT, '{"model": "%s", "messages": [{"role": "user", "content": "cut \\ud83d"}]}'),
        (CHAT, '{"model": "%s", "messages": [{"role": "user", "content": "x", "name": "\\uDC00"}]}'),
        (TEXT, '{"model": "%s", "prompt": "cut \\ud83d"}'),
        ("/v1/embeddings", '{"model": "%s", "input": "cut \\ud83d"}'),
        (ITEMS, '{"model": "%s", "input": "cut \\ud83d"}'),
    ],
)  # fmt: skip
def test_half_characters_are_refused(engine: ScriptedEngine, route: str, body: str) -> None:
    with running(engine) as server:
        answer = httpx.post(server.url + route, content=body % MODEL, headers=JSON, timeout=30)
        assert answer.status_code == 400 and "half a character" in answer.json()["error"]["message"]
        whole = body.replace("\\ud83d", "\\ud83d\\ude00").replace("\\uDC00", "\\ud800\\uDC00")
        answer = httpx.post(server.url + route, content=whole % MODEL, headers=JSON, timeout=30)
        assert answer.status_code == 200
