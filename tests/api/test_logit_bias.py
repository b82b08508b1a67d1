# SPDX-License-Identifier: Apache-2.0
"""``logit_bias`` of a request, in OpenAI's form: token id (text) to a number from -100 to 100."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import openai
import pytest

from .conftest import MODEL, Running

QUESTION: Any = [{"role": "user", "content": "Who are you?"}]
BODIES = {
    "/v1/chat/completions": {"model": MODEL, "messages": QUESTION, "max_tokens": 5},
    "/v1/completions": {"model": MODEL, "prompt": "Once", "max_tokens": 5},
}


def post(served: Running, route: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{served.url}{route}", json={**BODIES[route], **fields}, timeout=60)


def test_a_token_can_be_forced_and_forbidden(client: openai.OpenAI, served: Running) -> None:
    tokenizer = served.server.engine.template.tokenizer
    (token,) = tokenizer("a", add_special_tokens=False)["input_ids"]
    keys: Any = {"model": MODEL, "max_tokens": 5, "logit_bias": {str(token): 100}}
    chat = client.chat.completions.create(messages=QUESTION, **keys)
    text = client.completions.create(prompt="Once", **keys)
    assert chat.choices[0].message.content == text.choices[0].text == tokenizer.decode([token] * 5)
    drawn = client.chat.completions.create(messages=QUESTION, temperature=1.0, seed=1, **keys)
    assert drawn.choices[0].message.content == "aaaaa"

    plain = client.completions.create(prompt="Once", model=MODEL, max_tokens=1, logprobs=2).choices[0].logprobs
    assert plain is not None and plain.tokens is not None and plain.top_logprobs is not None
    best, second = plain.top_logprobs[0]
    first = next(token for token in range(len(tokenizer)) if tokenizer.decode([token]) == best)
    banned = client.completions.create(prompt="Once", model=MODEL, max_tokens=1, logit_bias={str(first): -100})
    assert plain.tokens[0] == best and banned.choices[0].text == second


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("token", "value", "message"),
    [
        ("x", 1, "'x' is not the id of one of this model's"),
        ("-1", 1, "'-1' is not the id of one of this model's"),
        ("999999", 1, "'999999' is not the id of one of this model's"),
        ("5", 101, "5: 101.0 is out of range; expected -100 to 100"),
        ("5", -100.5, "5: -100.5 is out of range; expected -100 to 100"),
    ],
)
def test_a_wrong_bias_is_400_and_names_the_field(
    served: Running, route: str, stream: bool, token: str, value: float, message: str
) -> None:
    answer = post(served, route, logit_bias={token: value}, stream=stream)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "logit_bias"
    assert error["message"].startswith(f"logit_bias: {message}")


@pytest.mark.parametrize("route", BODIES)
def test_a_bias_of_another_type_is_400(served: Running, route: str) -> None:
    for bias in ({"5": "much"}, [5], 5):
        answer = post(served, route, logit_bias=bias)
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("logit_bias")


@pytest.mark.parametrize("route", BODIES)
def test_null_and_nothing_are_no_bias(served: Running, route: str) -> None:
    plain = post(served, route).json()["choices"]
    assert plain == post(served, route, logit_bias=None).json()["choices"]
    assert plain == post(served, route, logit_bias={}).json()["choices"]
