# SPDX-License-Identifier: Apache-2.0
"""The page of the real engine, asked by gradio's own client."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import until

gradio_client = pytest.importorskip("gradio_client")

# role, system, tools, max_new_tokens, top_p, temperature, skip_special_tokens, enable_thinking
PLAIN = ("user", "", "", 24, 0.7, 0, True, True)
LONG = ("user", "", "", 8000, 0.7, 0, True, True)


def connect(url: str, **options: Any) -> Any:
    return gradio_client.Client(url, verbose=False, **options)


def bubbles(chat: list[dict]) -> list[tuple[str, str]]:
    return [(one["role"], "".join(part["text"] for part in one["content"])) for one in chat]


def test_the_page_answers_as_the_engine_does(page, engine):
    client = connect(page)
    chat, left, error = client.predict("Who are you?", *PLAIN, api_name="/chat")
    print(chat)
    assert (left, error) == ("", "")
    assert [role for role, _ in bubbles(chat)] == ["user", "assistant"]
