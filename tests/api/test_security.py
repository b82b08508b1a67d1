# SPDX-License-Identifier: Apache-2.0
"""What has gone wrong in servers like this one, each as a test: remote and local media, keys, names, limits."""

from __future__ import annotations

import asyncio
import base64
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
from scripted_engine import ScriptedEngine

from llamafactory.api.errors import ApiError, public_text
from llamafactory.api.guard import depth_of
from llamafactory.api.media import MediaLoader
from llamafactory.api.settings import MediaPolicy, ServerSettings
from llamafactory.data.messages import Message, Part
from llamafactory.extras import remote_files
from llamafactory.extras.errors import ConfigError
from llamafactory.extras.remote_files import RefusedUrlError, check_url, fetch, is_public, public_address

from .conftest import MODEL, running

ANY_HOST = MediaPolicy(hosts=("*",), seconds=3, max_bytes=1000)
PUBLIC = "93.184.216.34"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "q"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
def engine(make_template: Callable[[str], Any]) -> ScriptedEngine:
    return ScriptedEngine(make_template("chatml"))


class Network:
    """Names and connections as the test wants them; counts lookups and connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}  # host → answers, one after another
        self.lookups: list[str] = []
        self.connections: list[tuple[str, int]] = []
        self.port = 0  # of the test's web server, to which every allowed connection goes
        self._connect = socket.create_connection
        monkeypatch.setattr(remote_files.socket, "getaddrinfo", self._resolve)
        monkeypatch.setattr(remote_files.socket, "create_connection", self._open)

    def _resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        self.lookups.append(host)
        answers = self.names.get(host, [[PUBLIC]])
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    def _open(self, address: tuple[str, int], timeout: float) -> socket.socket:
        self.connections.append(address)
        for family, kind, protocol, _, target in _real_getaddrinfo("127.0.0.1", self.port):
            sock = socket.socket(family, kind or socket.SOCK_STREAM, protocol)
            sock.settimeout(timeout)
            sock.connect(target)
            return sock
        raise AssertionError


_real_getaddrinfo = socket.getaddrinfo


class Handler(http.server.BaseHTTPRequestHandler):
    """``/to?URL`` redirects, ``/endless`` never ends, ``/slow`` drips, anything else is a small file."""

    def do_GET(self) -> None:
        path, _, target = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            while path in ("/endless", "/slow"):
                self.wfile.write(b"x" * (4096 if path == "/endless" else 1))
                self.wfile.flush()
                time.sleep(0.2 if path == "/slow" else 0)
            self.wfile.write(f"host {self.headers['Host']}".encode())
        except OSError:
            pass

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    found = Network(monkeypatch)
    found.port = web.server_address[1]
    yield found
    web.shutdown()
    web.server_close()


# S1: redirects


def test_the_connection_goes_to_the_address_that_was_checked(network: Network) -> None:
    assert fetch("http://files.example/a.png", ANY_HOST) == b"host files.example"
    assert (network.lookups, network.connections) == (["files.example"], [(PUBLIC, 80)])


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://files.example:8080/",
        "//10.0.0.1/",
        "gopher://files.example/",
    ],
)
def test_a_redirect_is_checked_like_the_first_url(network: Network, target: str) -> None:
    host = re.sub(r"^\w*:?//|[:/].*$", "", target)
    network.names = {host: [[host]]} if host[:1].isdigit() else {}
    with pytest.raises(RefusedUrlError):
        fetch(f"http://files.example/to?{target}", ANY_HOST)
    assert network.connections == [(PUBLIC, 80)]  # the first hop only


def test_redirects_are_counted(network: Network) -> None:
    url = "http://files.example/to?/to"  # leads to itself without a target
    with pytest.raises(RefusedUrlError):
        fetch(url + "?" + url, ANY_HOST)
    assert len(network.connections) <= ANY_HOST.redirects + 1


# S2: names that lead elsewhere


def test_a_name_that_changes_its_address_changes_nothing(network: Network) -> None:
    network.names = {"rebind.example": [[PUBLIC], ["127.0.0.1"]]}
    assert fetch("http://rebind.example/x", ANY_HOST) == b"host rebind.example"
    assert network.connections == [(PUBLIC, 80)]
    with pytest.raises(RefusedUrlError, match="not a public one"):
        fetch("http://rebind.example/x", ANY_HOST)
    assert len(network.connections) == 1


def test_one_private_address_among_several_is_enough(network: Network) -> None:
    network.names = {"mixed.example": [[PUBLIC, "10.1.2.3"]]}
    with pytest.raises(RefusedUrlError, match="not a public one"):
        fetch("http://mixed.example/x", ANY_HOST)
    assert network.connections == []


# S3: spellings


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fe80::1%25eth0]/",
        "http://a@127.0.0.1/",
        "http://files.example@127.0.0.1/",
        "http://127.0.0.1\\@files.example/",
        "http://0.0.0.0/",
        "http://localhost/",
        "http://127.0.0.1./",
        "http://ⓛocalhost/",
        "http://files.example\r\nX: y/",
        "http:///etc/passwd",
        "http://",
        "http://[",
        "ftp://files.example/",
    ],
)
def test_spellings_of_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real resolver; nothing may be connected to."""

    def no_connection(*_: Any, **__: Any) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(remote_files.socket, "create_connection", no_connection)
    with pytest.raises(RefusedUrlError):
        fetch(url, ANY_HOST)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fc00::1", False),
        ("fe80::1%eth0", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_name_without_address_says_no_more_than_a_dead_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(8, "nodename nor servname provided")

    monkeypatch.setattr(remote_files.socket, "getaddrinfo", unknown)
    with pytest.raises(RefusedUrlError, match=r"^the remote file cannot be read$"):
        public_address("nothing.example", 80)


# S4: local files


def load(value: Any, policy: MediaPolicy) -> Any:
    message = Message("user", (Part("image", value),))
    return asyncio.run(MediaLoader(policy).load([message], ("image",)))[0].parts[0].value


def refusal(value: Any, policy: MediaPolicy) -> str:
    with pytest.raises(ApiError) as caught:
        load(value, policy)
    assert caught.value.status == 400
    return caught.value.message


def test_local_files_are_off_by_default(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    assert ServerSettings.from_environment({}).media.folder is None
    assert refusal(str(tmp_path / "a.png"), MediaPolicy()) == refusal("/no/such/file", MediaPolicy())


def test_local_files_stay_in_their_folder(tmp_path: Path) -> None:
    safe, beside = tmp_path / "safe", tmp_path / "safe_evil"
    safe.mkdir(), beside.mkdir()
    (safe / "a.png").write_bytes(b"image")
    (beside / "b.png").write_bytes(b"secret")
    (safe / "link").symlink_to(beside / "b.png")
    os.mkfifo(safe / "pipe")
    policy = MediaPolicy(folder=str(safe), max_bytes=100)
    assert load("a.png", policy) == load(str(safe / "a.png"), policy) == b"image"
    (safe / "big").write_bytes(b"x" * 101)
    bad = [
        str(beside / "b.png"),
        "../safe_evil/b.png",
        "link",
        "missing",
        "/proc/self/environ",
        "",
        ".",
        "pipe",
        "a\0b",
    ]
    assert {refusal(path, policy) for path in [*bad, "big", f"file://{safe}/a.png"]} == {
        "messages: local files are not served, or not this one"
    }


# S5: bombs


def test_downloads_are_bounded_in_bytes_and_seconds(network: Network) -> None:
    with pytest.raises(RefusedUrlError, match="larger than 1000 bytes"):
        fetch("http://files.example/endless", ANY_HOST)
    begin = time.monotonic()
    with pytest.raises(RefusedUrlError, match="cannot be read"):
        fetch("http://files.example/slow", MediaPolicy(hosts=("*",), seconds=1))
    assert time.monotonic() - begin < 10


def test_data_urls_are_bounded() -> None:
    policy = MediaPolicy(max_bytes=30)
    assert load("data:image/png;base64," + base64.b64encode(b"x" * 30).decode(), policy) == b"x" * 30
    assert "larger than 30" in refusal("data:image/png;base64," + "A" * 50, policy)
    for url in ("data:image/png;base64,@@", "data:,abc", "data:", {"data": "x"}):
        refusal(url, policy)


# S6: allow-list


def test_remote_files_are_off_by_default_and_then_only_from_the_list(network: Network) -> None:
    assert ServerSettings.from_environment({}).media.hosts == ()
    listed = ServerSettings.from_environment({"SAFE_MEDIA_HOSTS": "Files.example, b.example"}).media
    assert fetch("http://files.example/x", listed)
    for policy, url in ((MediaPolicy(), "http://files.example/"), (listed, "http://files.example.evil.example/")):
        with pytest.raises(RefusedUrlError, match="SAFE_MEDIA_HOSTS"):
            check_url(url, policy)
    with pytest.raises(RefusedUrlError, match="SAFE_MEDIA_HOSTS"):
        fetch("http://files.example/to?http://other.example/", listed)


def test_a_model_of_text_fetches_nothing(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("llamafactory.api.media.fetch", lambda *words: asked.append(words))
    part = {"type": "image_url", "image_url": {"url": "http://files.example/x.png"}}
    with running(engine, media=ANY_HOST) as server:
        answer = httpx.post(server.url + CHAT, json={**BODY, "messages": [{"role": "user", "content": [part]}]})
    assert answer.status_code == 400 and "does not take image" in answer.text
    assert asked == []


# S11: fields that look like commands or paths stay words


@pytest.mark.parametrize(
    "value", ["; touch canary", "| touch canary", "`touch canary`", "$(touch canary)", "\n", "../../x"]
)
def test_fields_are_only_words(
    engine: ScriptedEngine, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = {"role": "user", "content": value, "name": value}
    with running(engine) as server:
        for change in ({"model": value}, {"stop": [value]}, {"messages": [message]}, {"user": value}):
            assert httpx.post(server.url + CHAT, json={**BODY, **change}).status_code in (200, 400, 404)
        assert httpx.get(f"{server.url}/v1/models/{quote(value, safe='')}").status_code == 404
    assert list(tmp_path.iterdir()) == []


# S12: address, key, Host, Origin


def test_another_address_needs_a_key(tiny_llama: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory.cli", "api", f"model_name_or_path={tiny_llama}", "template=chatml"],
        env={**os.environ, "API_HOST": "0.0.0.0", "API_KEY": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: API_HOST: 0.0.0.0 can be reached from other machines and needs an API_KEY; "
        "set API_KEY, or API_HOST=127.0.0.1\n"
    )


@pytest.mark.parametrize(
    ("environment", "ok"),
    [
        ({}, True),
        ({"API_HOST": "localhost"}, True),
        ({"API_HOST": "::1"}, True),
        ({"API_HOST": "127.0.0.2"}, True),
        ({"API_HOST": "0.0.0.0", "API_KEY": "k"}, True),
        ({"API_HOST": "::"}, False),
        ({"API_HOST": "192.168.0.7"}, False),
        ({"API_HOST": "example.com"}, False),
        ({"API_PORT": "70000"}, False),
        ({"API_PORT": "x"}, False),
        ({"API_VERBOSE": "perhaps"}, False),
        ({"MAX_CONCURRENT": "0"}, False),
    ],
)
def test_settings(environment: dict[str, str], ok: bool) -> None:
    if ok:
        assert ServerSettings.from_environment(environment).port == 8000
    else:
        with pytest.raises(ConfigError, match=rf"^{next(iter(environment))}: "):
            ServerSettings.from_environment(environment)


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nowhere", "/v1//models", "/%76%31/models"])
def test_nothing_but_health_and_the_documentation_without_the_key(engine: ScriptedEngine, path: str) -> None:
    with running(engine, key="right-key") as server:
        for authorization in (None, "Bearer wrong", "Bearer right-ke", "right-key", "Basic right-key", "Bearer é"):
            headers = {} if authorization is None else {"Authorization": authorization.encode()}
            answer = httpx.get(server.url + path, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
            assert "right-key" not in answer.text
        assert httpx.get(server.url + path, headers={"Authorization": "Bearer right-key"}).status_code != 401
        assert httpx.get(server.url + "/health").status_code == 200
        assert httpx.get(server.url + "/docs").status_code == 200
        assert server.client(api_key="right-key").chat.completions.create(**BODY).choices


def test_the_key_is_compared_in_constant_time(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    with running(engine, key="k") as server:
        assert httpx.get(server.url + "/v1/models", headers={"Authorization": "Bearer k"}).status_code == 401
    assert compared == [(b"k", b"k")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]", "10.0.0.1"]
)
def test_without_a_key_only_names_of_this_machine_are_served(engine: ScriptedEngine, host: str) -> None:
    with running(engine) as server:
        assert httpx.get(server.url + "/v1/models", headers={"Host": host}).status_code in (400, 403)
    with running(engine, hosts=("evil.example",)) as server:
        status = httpx.get(server.url + "/v1/models", headers={"Host": host}).status_code
        assert (status == 200) == host.startswith("evil.example")


def test_pages_of_other_origins_are_refused(engine: ScriptedEngine) -> None:
    page = {"Origin": "https://page.example"}
    with running(engine) as server:
        for origin in ("https://page.example", "null", "http://127.0.0.1", "http://localhost:1"):
            assert httpx.post(server.url + CHAT, json=BODY, headers={"Origin": origin}).status_code == 403
        same = httpx.post(server.url + CHAT, json=BODY, headers={"Origin": server.url})
        assert same.status_code == 200 and "access-control-allow-origin" not in same.headers
    asking = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with running(engine, origins=("https://page.example",), key="k") as server:
        preflight = httpx.options(server.url + CHAT, headers=asking)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in preflight.headers
        assert httpx.post(server.url + CHAT, json=BODY, headers=page).status_code == 401
        other = {**asking, "Origin": "https://other.example"}
        assert httpx.options(server.url + CHAT, headers=other).status_code == 403


# Limits of a body


def test_large_deep_and_broken_bodies(engine: ScriptedEngine) -> None:
    json_type = {"Content-Type": "application/json"}
    with running(engine, max_body=10_000) as server:

        def post(body: bytes, **headers: str) -> httpx.Response:
            return httpx.post(server.url + CHAT, content=body, headers={**json_type, **headers})

        assert post(b'{"a": "' + b"x" * 10_000 + b'"}').status_code == 413
        deep = post(b'{"model": "m", "messages": ' + b"[" * 4000 + b"]" * 4000 + b"}")
        assert deep.status_code == 400 and deep.json()["error"]["code"] == "too_deep"
        for body in (b"", b"{", b"nul", b"[]", b'"x"', b"\xff\xfe", b"NaN", b'{"model": 1e999}', b"1" * 5000):
            answer = post(body)
            assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}
        form = httpx.post(server.url + CHAT, content=b'{"model": "m"}', headers={"Content-Type": "text/plain"})
        assert form.status_code == 400  # what a page may send without asking is not read as JSON
    assert engine.asked == []


def test_a_body_that_drips_is_given_up(engine: ScriptedEngine) -> None:
    with running(engine, body_seconds=0.3) as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        sock.settimeout(20)
        assert b" 408 " in sock.recv(1000).splitlines()[0]


def test_depth_is_counted_outside_of_strings() -> None:
    assert depth_of(b'[[1, {"a": "[[[[[[\\"[[[["}], 2]', 2) == 3
    assert depth_of(b'"' + b"[" * 1000 + b'"', 64) == 0


# Nothing of the inside


def test_messages_name_no_folders() -> None:
    shown = public_text("template /home/me/x/mine.jinja: C:\\Users\\me\\a.txt and ../secret/b, 'saves/run/adapter' 1/2")
    assert shown == "template mine.jinja: a.txt and b, 'saves/run/adapter' 1/2"


def test_bodies_are_logged_only_on_demand(engine: ScriptedEngine, capfd: pytest.CaptureFixture[str]) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "private words"}]}
    with running(engine) as server:
        answer = httpx.post(f"{server.url}{CHAT}?secret=query", json=body)
        httpx.get(f"{server.url}/no%0A[INFO]%20such")
    shown = capfd.readouterr().err
    assert "private words" not in shown and "query" not in shown
    line = rf"POST {CHAT} 200 \d+ ms, 7 prompt \+ 2 completion tokens, {answer.headers['x-request-id']}$"
    assert len(re.findall(line, shown, re.MULTILINE)) == 1
    assert len(re.findall(r"GET /no%0A%5BINFO%5D%20such 404 \d+ ms, 0 prompt", shown)) == 1
    assert len(shown.splitlines()) == 2
    with running(engine, verbose=0) as server:
        httpx.post(server.url + CHAT, json=body)
    assert capfd.readouterr().err == ""
    with running(engine, verbose=2, key="the-key") as server:
        httpx.post(server.url + CHAT, json=body, headers={"Authorization": "Bearer the-key"})
    shown = capfd.readouterr().err
    assert "private words" in shown and "the-key" not in shown
