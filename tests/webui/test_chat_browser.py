# SPDX-License-Identifier: Apache-2.0
"""The tab Chat in Chromium: load, talk, two columns, unload; a phone; another language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine, until

from llamafactory.webui import interface
from llamafactory.webui.chatting import chatter as room
from llamafactory.webui.chatting.chatter import Chatter
from llamafactory.webui.texts.texts import text

from .conftest import serve_page
from .test_browser import browser, pytestmark, wide
from .test_side_by_side import make_adapter

__all__ = ["browser", "pytestmark"]  # the fixture, and when it runs


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Chatter]]:
    """Address of a board in a workspace of its own, and what holds its model."""
    monkeypatch.chdir(tmp_path)
    page = interface.create_ui()
    with serve_page(page) as url:
        yield url, page.board.chatter
    page.board.close()


def open_chat(browser: Any, url: str, **size: int) -> tuple[Any, list[str]]:
    """A tab of the browser that shows the tab Chat, and what goes wrong there."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000} | size)
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    tab.on("response", lambda one: wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None)
    tab.goto(url)
    tab.get_by_role("tab").nth(2).click()
    tab.locator("#infer-load_btn").wait_for()
    return tab, wrong


def choose(tab: Any, folder: Path) -> None:
    """Name the model and its template in the bar above the tabs."""
    tab.locator("#top-model_path").locator("textarea, input").first.fill(str(folder))
    tab.get_by_role("button", name="Quantization").click()
    box = tab.locator("#top-template input").first
    box.fill("qwen")
    box.press("Enter")


def ask(tab: Any, text: str) -> None:
    tab.locator("#question textarea").fill(text)
    tab.locator("#send").click()


def test_load_talk_in_two_columns_unload(browser: Any, site: Any, make_tiny_model: Any, tmp_path: Path) -> None:
    url, chatter = site
    base = make_tiny_model(tie_word_embeddings=False)
    adapter = make_adapter(tmp_path / "saves" / "law", base, 0)
    tab, wrong = open_chat(browser, url)
    other, _ = open_chat(browser, url)
    assert not tab.locator("#chat").is_visible()
    choose(tab, base)
    tab.locator("#infer-extra_args textarea").fill(f'{{"adapter_name_or_path": "{adapter}", "max_new_tokens": 20}}')
    tab.get_by_label("Side by side").check()
    tab.locator("#infer-load_btn").click()
    for one in (tab, other):
        one.locator("#infer-info_box").get_by_text("is loaded").wait_for(timeout=60_000)
        one.locator("#chat").wait_for()
    assert tab.locator("#infer-load_btn").is_disabled() and not tab.locator("#beside").is_visible()
    tab.get_by_label("Another answers beside it").check()
    tab.locator("#beside").wait_for()
    ask(tab, "Tell me of rivers")
    until(lambda: chatter.loaded.engine.load == (0, 0) and not tab.wait_for_timeout(200))
    for column in ("#chat", "#beside"):
        tab.locator(column).get_by_text("Tell me of rivers").wait_for()
        tab.locator(column).locator(".bot").first.wait_for()
    left, right = (tab.locator(f"{column} .bot").first.inner_text() for column in ("#chat", "#beside"))
    assert left != right and tab.locator("#beside").get_by_text("law").first.is_visible()
    assert not other.locator("#chat").get_by_text("Tell me of rivers").is_visible(), "a page has its own conversation"
    other.locator("#infer-unload_btn").click()
    for one in (tab, other):
        one.locator("#infer-info_box").get_by_text("No model is loaded").wait_for(timeout=20_000)
        until(lambda one=one: not one.locator("#chat").is_visible())  # type: ignore[misc]
    assert chatter.loaded is None and wrong == []
    tab.close()
    other.close()


def test_a_phone_and_another_language(browser: Any, site: Any, make_template: Any, monkeypatch: Any) -> None:
    url, chatter = site
    engine = ScriptedEngine(make_template("qwen3"), ["<think>\nHm.\n</think>\n\n", "Four."], media=("image",))
    monkeypatch.setattr(room, "load_engine", lambda args: engine)
    chatter.load({"model_name_or_path": "mine", "template": "qwen3"})
    assert chatter.settle(60)
    tab, wrong = open_chat(browser, url)
    tab.set_viewport_size({"width": 390, "height": 780})
    tab.locator("#question textarea").wait_for()
    assert not wide(tab) and tab.locator("#image").is_visible() and not tab.locator("#audio").is_visible()
    box = tab.locator("#top-lang input").first
    box.click()
    tab.get_by_role("option", name="ja").click()
    who = text("ja", "chat.example_who")
    tab.locator("#chat").get_by_text(who).click()
    until(lambda: tab.locator("#question textarea").input_value() == who or bool(tab.wait_for_timeout(50)))
    tab.locator("#send").click()
    tab.locator("#chat").get_by_text("Four.").wait_for()
    tab.locator("#chat").get_by_text(text("ja", "chat.thought")).wait_for()
    loaded = text("ja", "infer.status_loaded").partition("{")[0]
    assert loaded in tab.locator("#infer-info_box").inner_text() and not wide(tab) and wrong == []
    tab.close()
