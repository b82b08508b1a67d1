# SPDX-License-Identifier: Apache-2.0
"""The board in Chromium: what a person sees, chooses and gets wrong before anything runs."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from llamafactory.webui.interface import create_ui
from llamafactory.webui.texts.texts import LANGUAGES, text

from .board import Page, opened, wait_until
from .conftest import serve_page

TABS = ("train", "eval", "infer", "export", "data", "jobs")


def test_every_tab_in_every_language(chromium, board):
    """Nothing is missing, nothing is said in another language than the one chosen, nothing goes wrong or outside."""
    with opened(chromium, board.url) as page:
        for name in TABS:  # what was seen once stays in the page
            page.open_tab(name)
        for language in [*LANGUAGES[1:], LANGUAGES[0]]:
            page.choose("top-lang", language)
            page.tab.locator("#tab-train-button", has_text=text(language, "tabs.train")).wait_for()
            wanted = text(language, "train.start_btn", "value")
            page.tab.locator("#train-start_btn", has_text=wanted).wait_for(state="attached")
            for name in TABS:
                assert page.tab.locator(f"#tab-{name}-button").inner_text().strip() == text(language, f"tabs.{name}")
                shown = page.tab.locator(f"#tab-{name}").text_content()
                assert re.search(rf"undefined|\[object|\b{name}\.[a-z]+_", shown) is None, (language, name)
            stage = page.tab.locator("#train-training_stage").text_content().strip()
            assert stage.startswith(text(language, "training_stage")), (language, stage)
        host = urlsplit(board.url).netloc
        assert {urlsplit(one).netloc for one in page.asked if one.startswith("http")} == {host}


# Field, what is written into it, what the message must hold.
BAD = (
    ("train-learning_rate", "fast", "learning_rate"),
    ("train-num_train_epochs", "-3", "num_train_epochs"),
    ("train-max_grad_norm", "nan", "max_grad_norm"),
    ("train-train_seed", "1.5", "seed"),
    ("train-max_samples", "many", "max_samples"),
    ("train-batch_size", "0", "per_device_train_batch_size"),
    ("train-dataset_dir", "../outside", "dataset_dir"),
    ("train-output_dir", "../../etc", "output_dir"),
    ("top-model_path", "", "model_name_or_path"),
    ("train-dataset_dir", "/etc", "dataset_dir"),
)


def test_bad_input_at_ten_fields_is_told_at_the_field_and_starts_nothing(chromium, board):
    with opened(chromium, board.url) as page:
        page.load_preset()
        jobs = len(board.jobs.list())
        problems = page.tab.locator("#train-problems")
        for name, wrong, key in BAD:
            before = page.box(name).input_value()
            page.fill(name, wrong)
            problems.get_by_text(key).first.wait_for()
            page.tab.locator(f"#{name}.bad").wait_for()
            assert key in page.tab.locator(f"#{name}").inner_text()
            page.fill(name, before)
            problems.get_by_text(key).first.wait_for(state="hidden")
        page.fill("train-learning_rate", "fast")
        page.press("train-start_btn")
        problems.get_by_text("learning_rate").wait_for()
        assert len(board.jobs.list()) == jobs


def test_the_stage_greys_out_and_says_why_the_model_fills_its_template(chromium, board):
    with opened(chromium, board.url) as page:
        page.unfold(text("en", "group.rlhf"))
        page.tab.locator("#train-pref_loss").get_by_text("stage").first.wait_for()
        assert not page.box("train-pref_loss").is_enabled()
        page.choose("train-training_stage", "DPO")
        page.tab.locator("#train-pref_loss:not(.off)").wait_for()
        wait_until(lambda: page.box("train-pref_loss").is_enabled() or page.tab.wait_for_timeout(50))

        page.unfold(text("en", "group.model"))
        page.box("top-model_name").click()
        page.box("top-model_name").press("ControlOrMeta+a")
        page.box("top-model_name").press_sequentially("qwen3-0.6b-t")
        page.tab.get_by_role("option", name="Qwen3-0.6B-Thinking", exact=True).click()
        wait_until(lambda: "Qwen3-0.6B" in page.box("top-model_path").input_value() or page.tab.wait_for_timeout(50))
        assert page.box("top-template").input_value().startswith("qwen3")


def test_a_key_is_found_set_previewed_saved_and_loaded_again(chromium, board):
    with opened(chromium, board.url) as page:
        page.load_preset()
        page.unfold(text("en", "more_box"))
        page.box("train-search").fill("weight decay")
        page.box("train-weight_decay").wait_for()
        page.fill("train-weight_decay", "0.125")
        page.tab.locator("#train-set").get_by_text("weight_decay: 0.125").wait_for()
        page.press("train-cmd_preview_btn")
        page.tab.locator("#train-yaml").get_by_text("weight_decay").first.wait_for()
        assert "weight_decay=0.125" in page.tab.locator("#train-command .cm-content").inner_text().replace("\n", "")
        page.fill("train-learning_rate", "7e-4")  # what is shown stays true
        page.tab.locator("#train-yaml").get_by_text("0.0007").first.wait_for()

        page.box("train-preset").fill("mine")
        page.box("train-preset").press("Enter")
        page.press("train-arg_save_btn")
        page.tab.get_by_text("mine.yaml").first.wait_for()
        saved = board.workspace / "llamaboard_config" / "mine.yaml"
        page.load_preset()  # the one without what was set
        page.choose("train-preset", "mine")
        page.press("train-arg_load_btn")
        wait_until(lambda: page.box("train-learning_rate").input_value() == "7e-4" or page.tab.wait_for_timeout(50))
        page.tab.locator("#train-set").get_by_text("weight_decay: 0.125").wait_for()
    saved.unlink()


def test_a_phone(chromium, board):
    with opened(chromium, board.url, viewport={"width": 390, "height": 780}) as page:
        for name in TABS:
            button = page.tab.locator(f"#tab-{name}-button")
            if not button.is_visible():  # behind the menu of those that have no room
                page.tab.locator(".overflow-menu > button").click()
            page.tab.get_by_role("tab", name=text("en", f"tabs.{name}")).or_(
                page.tab.locator(".overflow-dropdown button", has_text=text("en", f"tabs.{name}"))
            ).first.click()
            page.tab.wait_for_timeout(300)
            assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390, name


@pytest.mark.slow
def test_a_megabyte_of_text_is_answered_in_one_line(chromium, board):
    page = Page(chromium, board.url)
    page.fill("train-output_dir", "x" * 2**20)
    page.press("train-start_btn")
    page.tab.get_by_text("the body is larger than 1048576 bytes").first.wait_for()
    assert [job for job in board.jobs.list() if "xxx" in job.name] == []
    page.close()


class Proxy(ThreadingHTTPServer):
    """A reverse proxy that has the page under a prefix, which it takes off."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.target = prefix, ""
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        if not self.path.startswith(self.server.prefix + "/"):
            # A browser asks for the site's icon, which is none of the page's.
            self.send_response(204 if self.path == "/favicon.ico" else 404)
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(self.server.target, timeout=300)
        upstream.request(
            self.command, self.path.removeprefix(self.server.prefix), body or None, dict(self.headers.items())
        )
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(http.client.IncompleteRead, ConnectionError, ValueError):  # one side has gone
            while part := answer.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()
        upstream.close()

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def behind_proxy(board, monkeypatch) -> Iterator[str]:
    monkeypatch.chdir(board.workspace)
    proxy, page = Proxy("/some/board"), create_ui()
    with serve_page(page, root_path="/some/board") as url, closing(page.board):
        proxy.target = urlsplit(url).netloc
        yield f"http://127.0.0.1:{proxy.server_port}/some/board/"
        proxy.shutdown()
        proxy.server_close()


def test_behind_a_proxy_with_a_prefix(chromium, behind_proxy):
    """Buttons answer, and no spinner is left turning."""
    with opened(chromium, behind_proxy) as page:
        page.load_preset()
        page.press("train-cmd_preview_btn")
        page.tab.locator("#train-yaml").get_by_text("chatml").first.wait_for()
        page.open_tab("jobs")
        page.tab.locator("#jobs-count p").wait_for()
        assert all(urlsplit(one).path.startswith("/some/board") for one in page.asked if one.startswith("http"))
