# SPDX-License-Identifier: Apache-2.0
"""``create_web_demo``: the page as ``gradio.Blocks``, launched by gradio itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import InferArgs
from llamafactory.webui import interface

gradio = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")


def test_it_is_the_page_of_the_model(
    engine: HuggingfaceEngine, page_args: InferArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(interface, "load_engine", lambda args: loaded.append(args) or engine)
    page = interface.create_web_demo(page_args)
    assert isinstance(page, gradio.Blocks) and loaded == [page_args]
    (chatbot,) = (block for block in page.blocks.values() if isinstance(block, gradio.Chatbot))
    assert "copy" in (chatbot.buttons or [])
    _, url, _ = page.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
    try:
        client = gradio_client.Client(url, verbose=False)
        chat, box, error = client.predict("Who?", "user", "", "", 8, 0.7, 0, True, True, api_name="/chat")
    finally:
        page.close()
    assert [one["role"] for one in chat][:2] == ["user", "assistant"] and (box, error) == ("", "")


def test_a_reward_model_has_no_page(page_args: InferArgs) -> None:
    args = replace(page_args, finetuning=replace(page_args.finetuning, stage="rm"))
    with pytest.raises(ConfigError, match="stage: rm"):
        interface.create_web_demo(args)
