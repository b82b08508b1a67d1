# SPDX-License-Identifier: Apache-2.0
"""Who may reach the page, from where, and what of this machine it shows."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import httpx
import pytest
from scripted_engine import ScriptedEngine

from llamafactory.extras.errors import ConfigError
from llamafactory.webui import interface
from llamafactory.webui.chatting.conversation import escape
from llamafactory.webui.serving.loading import LoadingPage
from llamafactory.webui.serving.settings import WebSettings

from .conftest import running
from .test_page import ask, connect, texts

LOGIN = {"GRADIO_AUTH": "ann:pass:word"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, "GRADIO_SERVER_NAME: 0.0.0.0 can be reached from other machines"),
        ({"GRADIO_SERVER_NAME": "192.168.1.5"}, "GRADIO_SERVER_NAME: 192.168.1.5 can be reached"),
        ({"GRADIO_SERVER_NAME": "::"}, "GRADIO_SERVER_NAME: :: can be reached"),
        ({"GRADIO_SERVER_NAME": "example.org"}, "GRADIO_SERVER_NAME: example.org can be reached"),
        ({"GRADIO_SHARE": "1"}, "GRADIO_SHARE: a public page needs a login"),
        ({"GRADIO_SHARE": "perhaps"}, "GRADIO_SHARE: expected 1 or 0"),
        ({"GRADIO_SERVER_PORT": "99999"}, "GRADIO_SERVER_PORT: expected a whole number from 0 to 65535"),
        ({"GRADIO_AUTH": "secret"}, "GRADIO_AUTH: expected name:password"),
        ({"GRADIO_AUTH": ":secret"}, "GRADIO_AUTH: expected name:password"),
    ],
)
def test_settings_that_expose_the_page_are_refused_in_one_line(variables, message):
    with pytest.raises(ConfigError) as caught:
        WebSettings.from_environment(variables)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_settings_are_read():
    assert WebSettings.from_environment({}) == WebSettings("127.0.0.1", None, None, False)
    assert WebSettings.from_environment({"GRADIO_IPV6": "1"}).host == "::1"
    public = WebSettings.from_environment({**LOGIN, "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "81"})
    assert (public.host, public.port, public.login) == ("0.0.0.0", 81, ("ann", "pass:word"))


def test_a_refusal_comes_before_the_model_is_loaded(monkeypatch, page_args):
    monkeypatch.setattr(interface, "load_engine", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    with pytest.raises(ConfigError, match="GRADIO_AUTH"):
        interface.run_web_demo(page_args)
    with interface.take_address(WebSettings(port=0)) as taken:
        taken.listen()
        monkeypatch.setenv("GRADIO_SERVER_NAME", "127.0.0.1")
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(ConfigError, match=r"GRADIO_SERVER_PORT: cannot bind .* put GRADIO_SERVER_PORT="):
            interface.run_web_demo(page_args)


def test_without_a_chosen_port_the_next_free_one_is_taken():
    with interface.take_address(WebSettings()) as first:
        first.listen()
        with interface.take_address(WebSettings()) as second:
            assert first.getsockname()[1] < second.getsockname()[1] < 7960


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/upload",
        "/gradio_api/vibe-edit",
        "/gradio_api/run/chat",
        "/gradio_api/stream/x",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2fetc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_but_the_page_is_served(page, path, method):
    answer = httpx.request(method, page + path, json={} if method == "POST" else None)
    assert answer.status_code in (403, 404, 405), answer.text
    assert "root:" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:7860"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1", "Host": "localhost:2"}, 403),
        ({"Origin": "http://localhost:2", "Host": "localhost:2"}, 200),
    ],
    ids=str,
)
def test_other_names_and_other_pages_are_refused(page, headers, status):
    assert httpx.get(f"{page}/config", headers=headers).status_code == status


def test_large_bodies_are_refused(page):
    assert httpx.post(f"{page}/gradio_api/queue/join", content=b" " * (2**20 + 1)).status_code == 413
    assert httpx.post(f"{page}/gradio_api/queue/join", content=iter([b"{}"])).status_code == 411


def test_the_browser_is_told_to_load_nothing_from_elsewhere(page):
    answer = httpx.get(page)
    assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_tells_no_path_of_this_machine(page, page_args):
    folder = page_args.model.model_name_or_path.rpartition("/")[0]
    assert folder and folder not in httpx.get(f"{page}/config").text + httpx.get(page).text


def test_a_login_is_asked_for(make_template, page_args):
    engine = ScriptedEngine(make_template("qwen"))
    with running(engine, page_args, login=("ann", "secret")) as url:
        assert httpx.get(f"{url}/config").status_code == 401
        assert httpx.post(f"{url}/gradio_api/queue/join", json={"data": [], "fn_index": 0}).status_code == 401
        assert httpx.post(f"{url}/login", data={"username": "ann", "password": "x"}).status_code == 400
        assert engine.asked == []
        client = connect(url, auth=("ann", "secret"))
        assert texts(ask(client, "Hi")[0])[1][1] == "ab"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("1 < 2 & `a < b`", "1 &lt; 2 & `a < b`"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n&lt;i>"),
        ("````\n```\n<b>\n````\n<i>", "````\n```\n<b>\n````\n&lt;i>"),
        ("```\n<b> not closed", "```\n<b> not closed"),
        ("`\n<img src=x>\n`", "`\n&lt;img src=x>\n`"),
    ],
)
def test_html_is_shown_and_code_keeps_its_characters(text, shown):
    assert escape(text) == shown


def test_the_command_serves_until_it_is_told_to_stop(page_args, monkeypatch):
    keys = ["template=qwen", "infer_dtype=float32", f"model_name_or_path={page_args.model.model_name_or_path}"]
    monkeypatch.setenv("GRADIO_SERVER_PORT", "0")
    command = [sys.executable, "-m", "llamafactory", "webchat", *keys]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"open (http://127\.0\.0\.1:\d+) in a browser", line):
                break
        else:
            pytest.fail("".join(lines))
        loading = httpx.get(found[1], timeout=10)
        assert loading.status_code == 503 and "The model is loading" in loading.text
        assert 'http-equiv="refresh"' in loading.text and loading.headers["retry-after"] == "2"
        assert next((line for line in process.stdout if "the page is ready" in line), None), "it never was"
        try:
            client = connect(found[1])
            assert ask(client, "Hi", max_new_tokens=4)[2] == ""
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
        assert process.wait(timeout=30) == 0, rest
        assert "Traceback" not in rest


def test_who_sends_a_request_byte_by_byte_does_not_keep_the_page_from_opening():
    over = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        page = LoadingPage(listener).__enter__()
        with socket.create_connection(listener.getsockname()) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert slow.recv(1)  # it is being answered

            def drip() -> None:
                while not over.wait(0.05):
                    with suppress(OSError):  # the page has closed it
                        slow.sendall(b"x")

            threads = [threading.Thread(target=work) for work in (drip, page.__exit__)]
            for thread in threads:
                thread.start()
            threads[1].join(30)
            opens = not threads[1].is_alive()
            over.set()
            threads[0].join()
        assert opens
