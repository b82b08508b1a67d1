# SPDX-License-Identifier: Apache-2.0
"""LangChain's own OpenAI classes against the server."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import MODEL, Running


def test_langchain(served: Running) -> None:
    langchain = pytest.importorskip("langchain_openai")
    options: dict[str, Any] = {"model": MODEL, "base_url": f"{served.url}/v1", "api_key": "none"}
    chat = langchain.ChatOpenAI(**options, temperature=0, max_tokens=8)
    answer = chat.invoke("Who are you?")
    pieces = list(chat.stream("Who are you?"))
    assert answer.content and "".join(piece.content for piece in pieces) == answer.content
    assert answer.usage_metadata["output_tokens"] == 8

    def get_time(city: str) -> str:
        """The time in a city."""
        return city

    forced = langchain.ChatOpenAI(**options, temperature=1.5, seed=1, max_tokens=200)
    calls = forced.bind_tools([get_time], tool_choice="required").invoke("What time is it?").tool_calls
    assert [call["name"] for call in calls] == ["get_time"] and set(calls[0]["args"]) == {"city"}
