# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium: a person's way through it, and answers that try to harm."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from media_models import picture
from scripted_engine import ScriptedEngine, until

from .conftest import running

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # tests may run as root
        yield browser
        browser.close()


@pytest.fixture
def other_host() -> Iterator[tuple[str, list[str]]]:
    """A server that no answer may make the browser call; gives its address and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def submit(tab: Any, question: str, engine: ScriptedEngine | None = None) -> None:
    """Ask; with an engine, press again until it was asked: the page takes no click before the last answer is over."""
    tab.locator("#question textarea").fill(question)
    before = len(engine.asked) if engine else -1
    tab.locator("#send").click()
    for _ in range(40):
        tab.wait_for_timeout(250)
        if engine is None or len(engine.asked) > before:
            return
        tab.locator("#question textarea").fill(question)
        tab.locator("#send").click()


def test_a_conversation(browser, make_template, page_args):
    engine = ScriptedEngine(make_template("qwen3"), ["<think>\nHm, ", "well.\n</think>\n\n", "**Four**", " it is."])
    with running(engine, page_args) as url:
        tab = browser.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(url)
        submit(tab, "2 + 2?", engine)
        chat = tab.locator("#chat")
        chat.get_by_text("it is.").wait_for()
        assert chat.locator("strong").inner_text() == "Four"
        assert not chat.get_by_text("Hm, well.").is_visible()
        chat.get_by_text("Thought").click()
        chat.get_by_text("Hm, well.").wait_for()
        until(lambda: tab.locator("#question textarea").input_value() == "")

        engine.gate = threading.Semaphore(2)
        submit(tab, "Count", engine)
        until(lambda: engine.open == 1)
        tab.wait_for_timeout(300)  # longer than the page may wait before it tells of new text
        engine.gate.release()
        until(lambda: chat.locator("strong").count() == 2)
        refused: list[str] = []
        tab.on("response", lambda one: refused.append(one.url) if one.status >= 400 else None)
        tab.locator("#stop").click()
        until(lambda: engine.open == 0)
        assert chat.get_by_text("Count").is_visible()
        tab.wait_for_timeout(300)
        assert refused == []

        engine.gate = threading.Semaphore(3)
        submit(tab, "Again", engine)
        until(lambda: engine.open == 1)
        tab.close()
        until(lambda: engine.open == 0)
        assert errors == []


def wide(tab: Any) -> bool:
    """Whether something is wider than the screen."""
    return bool(tab.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


def test_a_phone(browser, make_template, page_args):
    """An example, keys, another answer, another question; all within 390 points."""
    engine = ScriptedEngine(make_template("qwen"), ["An", " answer."])
    with running(engine, page_args) as url:
        tab = browser.new_page(viewport={"width": 390, "height": 780})
        refused: list[str] = []
        tab.on("response", lambda one: refused.append(one.url) if one.status >= 400 else None)
        tab.goto(url)
        box = tab.locator("#question textarea")
        box.wait_for()
        for part in ("#question", "#send"):
            place = tab.locator(part).bounding_box()
            assert place["x"] >= 0 and place["x"] + place["width"] <= 390 and place["y"] + place["height"] <= 780
        assert not wide(tab) and tab.get_by_role("button", name="Send").count() == 1
        assert tab.title() == "llamafactory" and tab.locator("#title").get_by_text("llamafactory").is_visible()

        tab.locator("#chat").get_by_text("Who are you?").click()
        until(lambda: box.input_value() == "Who are you?" or bool(tab.wait_for_timeout(50)))
        box.press("End")
        box.press("Shift+Enter")
        box.type("Really?")
        assert box.input_value() == "Who are you?\nReally?" and engine.asked == []
        box.press("Enter")
        until(lambda: len(engine.asked) == 1 or bool(tab.wait_for_timeout(50)))
        tab.locator("#chat").get_by_text("An answer.").wait_for()
        assert engine.asked[0][0][-1].text == "Who are you?\nReally?" and not wide(tab)

        tab.wait_for_timeout(500)  # the page takes no click before the last answer is over
        box.fill("draft")
        engine.pieces = ["Another", " one."]
        tab.locator("#again").click()
        tab.locator("#chat").get_by_text("Another one.").wait_for()
        assert tab.locator("#chat").get_by_text("An answer.").count() == 0 and box.input_value() == "draft"
        assert [message.text for message in engine.asked[1][0]] == ["Who are you?\nReally?"]

        tab.wait_for_timeout(500)
        engine.pieces = ["A third."]
        tab.locator("#chat").get_by_label("Edit").first.click()
        tab.locator("#chat textarea").first.fill("Who am I?")
        tab.locator("#chat").get_by_label("Submit").first.click()
        tab.locator("#chat").get_by_text("A third.").wait_for()
        assert [message.text for message in engine.asked[2][0]] == ["Who am I?"]
        assert tab.locator("#chat").get_by_text("Who am I?").is_visible() and not wide(tab)

        tab.wait_for_timeout(500)
        tab.locator("#clear").click()
        tab.locator("#chat").get_by_text("Who are you?").wait_for()  # the examples are there again
        assert refused == []
        tab.close()


def test_an_error_is_a_line_on_the_page(browser, make_template, page_args):
    with running(ScriptedEngine(make_template("qwen")), page_args) as url:
        tab = browser.new_page()
        tab.goto(url)
        tab.get_by_text("Settings", exact=True).click()
        tab.get_by_label("Tools (JSON list of functions)").fill("{<img src=x onerror=alert(1)>")
        submit(tab, "Hi")
        tab.locator("#error").get_by_text("tools: not JSON").wait_for()
        assert tab.locator("#question textarea").input_value() == "Hi"
        tab.close()


def test_an_image_is_uploaded_and_goes_with_the_question(browser, make_template, page_args, tmp_path):
    picture(1).save(tmp_path / "a.png")
    engine = ScriptedEngine(make_template("qwen"), ["A ", "cat."], media=("image", "audio"))
    with running(engine, page_args) as url:
        tab = browser.new_page()
        tab.goto(url)
        tab.locator("#audio").wait_for()
        assert tab.locator("#video").count() == 0
        for _ in range(2):
            tab.locator("#image input[type=file]").set_input_files(str(tmp_path / "a.png"))
            tab.locator("#image").get_by_text("KB").or_(tab.locator("#image").get_by_text(" B")).first.wait_for()
            submit(tab, "What is it?", engine)
            tab.locator("#chat").get_by_text("cat.").last.wait_for()
            until(lambda: tab.locator("#image input[type=file]").count() == 1)  # the box is empty again
        messages = engine.asked[1][0]
        assert [[part.type for part in one.parts] for one in messages] == [
            ["image", "text"],
            ["text"],
            ["image", "text"],
        ]
        assert messages[0].parts[0].value == (tmp_path / "a.png").read_bytes()
        assert tab.locator("#chat").get_by_text("[image] What is it?").count() == 2
        tab.close()


def hostile(address: str) -> list[str]:
    return [
        "<script>window.harmed = 1</script>",
        "<img src=x onerror='window.harmed = 2'>",
        f"<img src='{address}/tag'>",
        f"![]({address}/markdown?secret)",
        f"\\`<img src='{address}/escaped' onerror='window.harmed = 3'>\\`",
        f"<iframe src='{address}/frame'></iframe>",
        f"<link rel=stylesheet href='{address}/style'>",
        f"<style>@import '{address}/import'; body {{ display: none }}</style>",
        f"<svg onload=\"window.harmed = 4; fetch('{address}/fetch')\">",
        "<details open ontoggle='window.harmed = 5'>x</details>",
        "[link](javascript:window.harmed=6)",
        f"<form action='{address}/form'><button id=trap>x</button></form>",
        "$$\\href{javascript:window.harmed=7}{x}$$",
        f"$$\\includegraphics{{{address}/katex}}$$",
        "```html\n<script>window.harmed = 8</script>\n```",
        "<!--",
        "</div></div></body>",
    ]


@pytest.mark.parametrize("escaped", [True, False])
def test_hostile_answers_do_nothing(browser, make_template, page_args, other_host, escaped):
    address, asked = other_host
    engine = ScriptedEngine(make_template("qwen"))
    with running(engine, page_args) as url:
        tab = browser.new_page()
        tab.goto(url)
        if not escaped:
            tab.get_by_text("Settings", exact=True).click()
            tab.get_by_label("Escape HTML").uncheck()
        for number, answer in enumerate(hostile(address)):
            engine.pieces = [f"begin{number}\n\n", answer, f"\n\nend{number}"]
            submit(tab, f"question{number}", engine)
            tab.locator("#chat").get_by_text(f"begin{number}").wait_for(timeout=10_000)
            until(lambda: tab.locator("#question textarea").input_value() == "")
        for link in tab.locator("#chat a").all():
            assert not (link.get_attribute("href") or "").startswith("javascript:")
        tab.wait_for_timeout(500)
        assert tab.evaluate("window.harmed") is None and asked == []
        strange = tab.locator("#chat script, #chat iframe, #chat form, #chat style:not(svg style), #chat link")
        assert [one.evaluate("node => node.outerHTML") for one in strange.all()] == []
        assert tab.locator("#question").is_visible()
        tab.close()
