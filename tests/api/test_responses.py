# SPDX-License-Identifier: Apache-2.0
"""``/v1/responses`` as the official ``openai`` client calls it: on a random model, and on what the test wrote."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any, Literal

import httpx2 as httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from scripted_engine import ScriptedEngine, until

from llamafactory.data.messages import Message, Part, ToolCall

from .conftest import MODEL, Running, running
from .test_openai_client import QUESTION, local

ROUTE = "/v1/responses"
BODY: dict[str, Any] = {"model": MODEL, "input": "q"}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALLS = "".join(f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": {i}}}}}\n</tool_call>\n' for i in (1, 2))


class Choice(BaseModel):
    answer: Literal["yes", "no"]


def begin(kind: str) -> list[str]:
    return ["response.output_item.added", *(["response.content_part.added"] if kind else [])]


def end(kind: str) -> list[str]:
    return [f"response.{kind}.done", "response.content_part.done", "response.output_item.done"]


CALL_EVENTS = [
    *begin(""),
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


def unrepeated(kinds: list[str]) -> list[str]:
    """Several deltas in a row as one."""
    return [kind for place, kind in enumerate(kinds) if not place or kind != kinds[place - 1]]


def thinker(make_template: Callable[[str], Any], text: str, **keys: Any) -> ScriptedEngine:
    return ScriptedEngine(make_template("qwen3"), pieces=re.findall(r"(?s).{1,7}", text), **keys)


def test_the_answer_is_that_of_the_engine(client: openai.OpenAI, served: Running) -> None:
    expected = local(served)
    answer = client.responses.create(model="test", input="Who are you?", metadata={"a": "b"})
    assert (answer.object, answer.model, answer.output_text) == ("response", MODEL, expected.text)
    assert (answer.status, answer.metadata, answer.store) == ("incomplete", {"a": "b"}, False)
    assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    used = (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens)
    assert used == (expected.prompt_length, 24, expected.prompt_length + 24)
    for given in (QUESTION, [{"role": "user", "content": [{"type": "input_text", "text": "Who are you?"}]}]):
        assert client.responses.create(model=MODEL, input=given).output_text == expected.text
    short = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=3)
    assert short.usage is not None and short.usage.output_tokens == 3
    told = client.responses.create(model=MODEL, input=QUESTION, instructions="Be brief.")
    chat = client.chat.completions.create(model=MODEL, messages=[{"role": "system", "content": "Be brief."}, *QUESTION])
    assert told.output_text == chat.choices[0].message.content and told.instructions == "Be brief."


def test_a_stream_is_the_same_answer_in_the_order_of_openai(client: openai.OpenAI, served: Running) -> None:
    events = list(client.responses.create(model=MODEL, input="Who are you?", stream=True))
    assert unrepeated([event.type for event in events]) == [
        "response.created",
        "response.in_progress",
        *begin("message"),
        "response.output_text.delta",
        *end("output_text"),
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == local(served).text
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.output_text == local(served).text
    assert last.response.usage is not None and last.response.usage.output_tokens == 24


def test_json_by_a_schema(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input="Say.", text_format=Choice, max_output_tokens=40)
    assert isinstance(parsed.output_parsed, Choice) and parsed.status == "completed"
    with client.responses.stream(model=MODEL, input="Say.", text_format=Choice, max_output_tokens=40) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == parsed.output_parsed and final.usage == parsed.usage
    anything = client.responses.create(
        model=MODEL, input="Say.", text={"format": {"type": "json_object"}}, temperature=1.5, max_output_tokens=200
    )
    assert anything.output_text.startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_forced_call_and_its_answer(client: openai.OpenAI, choice: Any) -> None:
    tools = [WEATHER] if choice == "required" else [WEATHER, {**WEATHER, "name": "other"}]
    keys: Any = {"model": MODEL, "tools": tools, "max_output_tokens": 60}
    items: Any = [{"role": "user", "content": "Weather?"}]
    with client.responses.stream(input=items, tool_choice=choice, **keys) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_response()
    assert unrepeated(kinds)[2:-1] == CALL_EVENTS and kinds[-1] == "response.completed"
    (call,) = answer.output
    assert call.type == "function_call" and call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert client.responses.create(input=items, **keys).status in ("completed", "incomplete")


def test_a_thought_a_text_and_calls_are_items(make_template: Callable[[str], Any]) -> None:
    engine = thinker(make_template, f"<think>\nhm\n</think>\n\nLook: \n{CALLS.rstrip()}<|im_end|>")
    with running(engine) as server:
        client = server.client()
        whole = client.responses.create(**BODY, tools=[WEATHER])
        raw = list(client.responses.create(**BODY, tools=[WEATHER], stream=True))
        one = client.responses.create(**BODY, tools=[WEATHER], parallel_tool_calls=False)
        assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
        thought, message, *calls = whole.output
        assert thought.type == "reasoning" and thought.content and thought.content[0].text == "hm"
        assert message.type == "message" and whole.output_text == "Look: "
        assert [call.arguments for call in calls if call.type == "function_call"] == ['{"city": 1}', '{"city": 2}']
        assert [item.type for item in one.output] == ["reasoning", "message", "function_call"]
        assert whole.usage is not None
        assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
        assert unrepeated([event.type for event in raw]) == [
            "response.created",
            "response.in_progress",
            *begin("reasoning"),
            "response.reasoning_text.delta",
            *end("reasoning_text"),
            *begin("message"),
            "response.output_text.delta",
            *end("output_text"),
            *CALL_EVENTS,
            *CALL_EVENTS,
            "response.completed",
        ]
        final: Any = raw[-1]
        assert [
            item.to_dict(exclude_none=True, mode="json") | {"id": 0, "call_id": 0} for item in final.response.output
        ] == [item.to_dict(exclude_none=True, mode="json") | {"id": 0, "call_id": 0} for item in whole.output]
        # Given back, the items are the turn that they were made from.
        engine.asked.clear()
        results = [
            {"type": "function_call_output", "call_id": call.call_id, "output": [{"type": "input_text", "text": "18"}]}
            for call in calls
            if call.type == "function_call"
        ]
        client.responses.create(model=MODEL, input=[{"role": "user", "content": "q"}, *whole.output, *results])
    ((prompt, _, _),) = engine.asked
    ids = [call.call_id for call in calls if call.type == "function_call"]
    assert prompt == [
        Message.of("user", "q"),
        Message(
            "assistant",
            (Part("text", "Look: "),),
            tuple(ToolCall("get_weather", f'{{"city": {i}}}', name) for i, name in zip((1, 2), ids, strict=True)),
            "hm",
        ),
        *(Message.of("tool", "18", tool_call_id=name) for name in ids),
    ]


def test_what_is_sent_fits_the_client_s_own_description(make_template: Callable[[str], Any]) -> None:
    """The client itself checks nothing: here its types do."""
    engine = thinker(make_template, f"<think>\nhm\n</think>\n\nLook: \n{CALLS.rstrip()}<|im_end|>")
    event_of: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    with running(engine) as server:
        Response.model_validate(httpx.post(server.url + ROUTE, json={**BODY, "tools": [WEATHER]}).json(), strict=False)
        text = httpx.post(server.url + ROUTE, json={**BODY, "tools": [WEATHER], "stream": True}).text
        frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
        for name, data in frames:
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}" == f"event: {event_of.validate_python(event).type}"


def test_log_probs(client: openai.OpenAI) -> None:
    keys: Any = {"model": MODEL, "input": "Who are you?", "max_output_tokens": 4}
    answer = client.responses.create(include=["message.output_text.logprobs"], top_logprobs=2, **keys)
    chat = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4, logprobs=True, top_logprobs=2)
    item = answer.output[0]
    assert item.type == "message" and item.content[0].type == "output_text" and item.content[0].logprobs
    assert chat.choices[0].logprobs is not None and chat.choices[0].logprobs.content is not None
    assert [(one.token, one.logprob) for one in item.content[0].logprobs] == [
        (one.token, pytest.approx(one.logprob)) for one in chat.choices[0].logprobs.content
    ]


def test_some_tools_and_overrides_reach_the_engine(make_template: Callable[[str], Any]) -> None:
    engine = ScriptedEngine(make_template("qwen3"))
    other = {**WEATHER, "name": "other"}
    with running(engine) as server:
        allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
        keys: Any = {"temperature": 0.5, "top_p": 0.9, "reasoning": {"effort": "none"}, "extra_body": {"seed": 3}}
        server.client().responses.create(**BODY, tools=[WEATHER, other], tool_choice=allowed, **keys)
    ((prompt, tools, overrides),) = engine.asked
    assert prompt == [Message.of("user", "q")] and [tool["function"]["name"] for tool in tools] == ["other"]
    assert (overrides["temperature"], overrides["top_p"], overrides["do_sample"], overrides["seed"]) == (
        0.5,
        0.9,
        True,
        3,
    )
    assert overrides["enable_thinking"] is False


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored here"),
    ({"conversation": "conv_1"}, "conversation", "nothing is stored here"),
    ({"background": True}, "background", "not offered"),
    ({"n": 2}, "n", "one answer is given"),
    ({"truncation": "auto"}, "truncation", "not offered"),
    ({"include": ["reasoning.encrypted_content"]}, "include", "not offered"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort", "enable_thinking"),
    ({"text": {"format": {"type": "json_object"}}, "tools": [WEATHER]}, "text.format", "text.format: with tools"),
    ({"tool_choice": "required"}, "tool_choice", "no tools to choose from"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'function'"),
    ({"input": []}, "input", "at least 1 item"),
    ({"input": [{"type": "computer_call"}]}, "input.0", "function_call_output"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0", "function_call_output"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content", "input_text"),
    ({"input": "x" * 100_000}, "", "100000 characters, far more than the 2048 tokens"),
]


@pytest.mark.parametrize(("change", "param", "text"), REFUSED, ids=[next(iter(change)) for change, _, _ in REFUSED])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_offered_is_one_line(served: Running, change: Any, param: str, text: str, stream: bool) -> None:
    answer = httpx.post(served.url + ROUTE, json={**BODY, "stream": stream, **change}, timeout=30)
    error = answer.json()["error"]
    assert answer.status_code == 400 and (error["param"] or "") == param, error
    assert text in error["message"] and "\n" not in error["message"]


def test_an_error_in_a_stream_is_raised_by_the_client(make_template: Callable[[str], Any]) -> None:
    engine = ScriptedEngine(make_template("qwen3"), error=RuntimeError("secret of the inside"))
    with running(engine) as server:
        with pytest.raises(openai.APIError, match="could not answer"):
            list(server.client().responses.create(**BODY, stream=True))
        text = httpx.post(server.url + ROUTE, json={**BODY, "stream": True}).text
        assert "secret" not in text and "event: error\n" in text
        assert engine.open == 0 and server.server.admission.running == 0


@pytest.mark.parametrize("stream", [False, True])
def test_slots_keys_and_clients_that_leave(make_template: Callable[[str], Any], stream: bool) -> None:
    engine = ScriptedEngine(make_template("qwen3"), gate=threading.Semaphore(1))
    headers = {"Authorization": "Bearer k"}
    with running(engine, max_concurrent=1, max_queue=0, key="k") as server:
        assert httpx.post(server.url + ROUTE, json=BODY).status_code == 401
        with httpx.Client() as http, pytest.raises(httpx.ReadTimeout):
            http.post(server.url + ROUTE, json={**BODY, "stream": stream}, headers=headers, timeout=0.3)
        until(lambda: engine.open == 0 and server.server.admission.running == 0)
        waiting = threading.Thread(
            target=lambda: httpx.post(server.url + ROUTE, json={**BODY, "stream": stream}, headers=headers)
        )
        waiting.start()
        until(lambda: server.server.admission.running == 1)
        assert httpx.post(server.url + ROUTE, json=BODY, headers=headers).status_code == 429
        assert engine.gate is not None
        engine.gate.release(10)
        waiting.join()
