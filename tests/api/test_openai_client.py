# SPDX-License-Identifier: Apache-2.0
"""The official ``openai`` client against the server on a random model."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from .conftest import MODEL, Running

QUESTION: Any = [{"role": "user", "content": "Who are you?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "boolean"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}


def local(served: Running, messages: Any = QUESTION, **overrides: Any) -> Any:
    """What the engine itself answers, without a server."""
    from llamafactory.chat.chat_model import to_messages

    (response,) = asyncio.run(served.server.engine.chat(to_messages(messages), (), **overrides))
    return response


def test_the_curl_of_the_readme(served: Running) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (command,) = re.findall(r"```bash\n(curl .*?)```", page, re.DOTALL)
    _, address, _, header, _, body = shlex.split(command.replace("\\\n", " "))
    path = address.removeprefix("http://127.0.0.1:8000")
    answer = httpx.post(served.url + path, content=body, headers=dict([header.split(": ")]), timeout=60)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == local(served).text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def test_chat(client: openai.OpenAI, served: Running) -> None:
    expected = local(served)
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.object == "chat.completion" and answer.model == MODEL
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.finish_reason == expected.finish_reason == "length"
    assert answer.usage is not None
    used = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
    assert used == (expected.prompt_length, 24, expected.prompt_length + 24)


def test_stream_is_the_same_answer(client: openai.OpenAI, served: Running) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, stream_options=options)
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == local(served).text
    assert chunks[0].choices[0].delta.role == "assistant" and len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "length"]
    assert all(chunk.usage is None for chunk in chunks) and len({chunk.id for chunk in [*chunks, last]}) == 1
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 24


def test_a_stream_without_options_tells_no_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, max_tokens=3)
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


def test_max_tokens_and_stop(client: openai.OpenAI, served: Running) -> None:
    text = local(served).text
    short = client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=3)
    assert short.usage is not None and short.usage.completion_tokens == 3
    word = text[6:9]
    stopped = client.chat.completions.create(model=MODEL, messages=QUESTION, stop=[word])
    assert stopped.choices[0].message.content == text[: text.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


def test_n_and_seed(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        keys: Any = {"n": 3, "temperature": 1.5, "seed": seed, "max_tokens": 12}
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, **keys)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask(1)
    assert len(set(first)) == 3
    assert ask(1) == first != ask(2)


def test_n_streamed(client: openai.OpenAI) -> None:
    keys: Any = {"n": 2, "temperature": 1.0, "seed": 5, "max_tokens": 8}
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, **keys)
    texts = ["", ""]
    for chunk in client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **keys):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_a_temperature_draws_although_the_configuration_does_not(client: openai.OpenAI) -> None:
    answers = {
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=2.0, seed=seed, top_p=1
        ).choices[0].message.content
        for seed in range(3)
    }  # fmt: skip
    assert len(answers) == 3


def test_log_probs(client: openai.OpenAI) -> None:
    keys: Any = {"logprobs": True, "top_logprobs": 3, "max_tokens": 5}
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, **keys).choices[0]
    assert whole.logprobs is not None and whole.logprobs.content is not None
    assert len(whole.logprobs.content) == 5
    for token in whole.logprobs.content:
        best = token.top_logprobs
        assert len(best) == 3 and best[0].logprob == token.logprob  # greedy: the chosen one is the likeliest
        assert best[0].logprob >= best[1].logprob >= best[2].logprob
        assert sum(math.exp(one.logprob) for one in best) <= 1
        assert bytes(token.bytes or []) == token.token.encode()
    streamed = [
        token
        for chunk in client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **keys)
        for token in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])
    ]
    assert [token.logprob for token in streamed] == [token.logprob for token in whole.logprobs.content]


def test_json_schema(client: openai.OpenAI) -> None:
    schema = WEATHER["function"]["parameters"]
    form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}
    for seed in range(3):
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, response_format=form, temperature=1.5, seed=seed, max_tokens=200
        )
        value = json.loads(answer.choices[0].message.content or "")
        assert set(value) == {"city", "days"} and value["city"] in ("Paris", "Rome") and value["days"] in (True, False)
        assert answer.choices[0].finish_reason == "stop"


def test_tools_round_trip(client: openai.OpenAI) -> None:
    """Forced call, its result, an answer: with the real engine, whose words are random but whose form is not."""
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=[WEATHER, CLOCK],
        tool_choice="required",
        max_tokens=200,
        temperature=1.5,
        seed=1,
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls" and message.content is None
    (call,) = message.tool_calls or []
    assert call.type == "function" and call.id.startswith("call_")
    assert (call.function.name, set(json.loads(call.function.arguments))) in (
        ("get_weather", {"city", "days"}),
        ("get_time", set()),
    )
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history: Any = [*QUESTION, message.model_dump(exclude_none=True), result]
    final = client.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER, CLOCK], max_tokens=8)
    assert final.choices[0].finish_reason in ("length", "stop")
    assert final.usage is not None and answer.usage is not None
    assert final.usage.prompt_tokens > answer.usage.prompt_tokens + 10  # call and result are in the prompt


def test_a_named_call_is_streamed(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=[WEATHER, CLOCK],
        max_tokens=200,
        tool_choice=named,
        stream=True,
        temperature=1.5,
        seed=1,
    )
    calls = [call for chunk in stream for call in (chunk.choices[0].delta.tool_calls or [])]
    assert calls[0].function is not None and calls[0].function.name == "get_weather" and calls[0].id
    assert all(call.id is None and call.index == 0 for call in calls[1:]) and len(calls) > 3
    arguments = json.loads("".join(call.function.arguments or "" for call in calls if call.function))
    assert arguments["city"] in ("Paris", "Rome")


def test_completion(client: openai.OpenAI, served: Running) -> None:
    one = client.completions.create(model=MODEL, prompt="Who are", max_tokens=6)
    two = client.completions.create(model=MODEL, prompt=["Who are", "The quick"], max_tokens=6, echo=True)
    assert two.choices[0].text == "Who are" + one.choices[0].text
    assert two.choices[1].text.startswith("The quick") and [choice.index for choice in two.choices] == [0, 1]
    ids = served.server.engine.template.tokenizer("Who are")["input_ids"]
    assert client.completions.create(model=MODEL, prompt=ids, max_tokens=6).choices[0].text == one.choices[0].text
    assert one.usage is not None and one.usage.prompt_tokens == len(ids)
    assert two.usage is not None and two.usage.completion_tokens == 12


def test_completion_streamed_with_log_probs(client: openai.OpenAI) -> None:
    keys: Any = {"prompt": ["Who are", "The quick"], "max_tokens": 5, "logprobs": 2}
    whole = client.completions.create(model=MODEL, **keys)
    texts, log_probs = ["", ""], [[], []]  # type: ignore[var-annotated]
    for chunk in client.completions.create(model=MODEL, stream=True, **keys):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        log_probs[choice.index] += choice.logprobs.token_logprobs or [] if choice.logprobs else []
    for choice in whole.choices:
        told = choice.logprobs
        assert told is not None and told.token_logprobs is not None and told.top_logprobs is not None
        assert texts[choice.index] == choice.text
        assert log_probs[choice.index] == pytest.approx(told.token_logprobs, abs=1e-4)
        assert len(told.token_logprobs) == 5 and all(len(top) == 2 for top in told.top_logprobs)


def test_embeddings(client: openai.OpenAI) -> None:
    numbers = client.embeddings.create(model=MODEL, input=["rain", "stars"], encoding_format="float")
    base64 = client.embeddings.create(model=MODEL, input=["rain", "stars"])  # the client's own default
    for a, b in zip(numbers.data, base64.data, strict=True):
        assert math.isclose(sum(x * x for x in a.embedding), 1.0, rel_tol=1e-4)
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6)
    assert numbers.usage.prompt_tokens > 0


ERRORS: list[tuple[dict[str, Any], type[openai.APIStatusError], str]] = [
    ({"temperature": -1}, openai.BadRequestError, "temperature: Input should be greater than or equal to 0"),
    ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs: needs logprobs: true"),
    ({"frequency_penalty": 0.5}, openai.BadRequestError, "frequency_penalty: not offered"),
    ({"presence_penalty": 0.5}, openai.BadRequestError, "presence_penalty: taken as repetition_penalty"),
    ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice: there are no tools"),
    (
        {"stop": [str(number) for number in range(100)]},
        openai.BadRequestError,
        "stop: List should have at most 16 items",
    ),
    ({"messages": []}, openai.BadRequestError, "messages: List should have at least 1 item"),
    ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, "messages.0.role: Input should be"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, openai.BadRequestError, "the model takes fewer than"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
        openai.BadRequestError,
        "messages: this model does not take image parts",
    ),
]


@pytest.mark.parametrize(("change", "kind", "text"), ERRORS, ids=[next(iter(change)) for change, _, _ in ERRORS])
@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: openai.OpenAI, change: Any, kind: Any, text: str, stream: bool) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "stream": stream, **change})
    body = caught.value.body
    assert isinstance(body, dict) and set(body) == {"message", "type", "param", "code"}
    assert body["message"].startswith(text) or text in body["message"]


def test_a_server_of_one_model_answers_to_every_name(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="test", messages=QUESTION, max_tokens=2)
    assert answer.model == MODEL
    stream = client.completions.create(model="test", prompt="Once", max_tokens=2, stream=True)
    assert {chunk.model for chunk in stream} == {MODEL}
    assert client.embeddings.create(model="test", input="text").model == MODEL
    with pytest.raises(openai.NotFoundError, match="model: 'test' does not exist; there is "):
        client.models.retrieve("test")


def test_several_choices_without_drawing_are_the_same(client: openai.OpenAI, served: Running) -> None:
    keys: Any = {"model": MODEL, "n": 3, "temperature": 0}
    expected = local(served)
    answer = client.chat.completions.create(messages=QUESTION, **keys)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == [expected.text] * 3
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (expected.prompt_length, 72)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(messages=QUESTION, stream=True, **keys):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [expected.text] * 3
    plain = client.completions.create(prompt=["Once", "Two"], max_tokens=5, **keys).choices
    assert len(plain) == 6 and len({choice.text for choice in plain[:3]}) == len({one.text for one in plain[3:]}) == 1
    keys["extra_body"] = {"max_completion_tokens": 3}
    short = client.completions.create(prompt="Once", max_tokens=5, **keys)
    assert short.usage is not None and short.usage.completion_tokens == 9


def test_every_order_of_roles(client: openai.OpenAI) -> None:
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in (1, 2)]
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": "so", "reasoning_content": "hm"},
        {"role": "assistant", "content": "and so"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=4)
    assert answer.usage is not None and answer.usage.completion_tokens == 4


def test_the_async_client_gets_its_own_answer(served: Running) -> None:
    """Requests that share forward passes do not mix."""

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def ask(word: str) -> str | None:
                messages: Any = [{"role": "user", "content": word}]
                answer = await client.chat.completions.create(model=MODEL, messages=messages)
                return answer.choices[0].message.content

            return list(await asyncio.gather(*map(ask, words)))

    words = ["rain", "stars", "a story about rivers", "0 1 2 3", "thanks", "why?"]
    alone = [local(served, [{"role": "user", "content": word}]).text for word in words]
    assert asyncio.run(ask_all()) == alone
