# SPDX-License-Identifier: Apache-2.0
"""The audit of pinned packages fails on a known hole and on silence (S14); the service here speaks OSV's protocol."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit.py"
ADVISORY = {
    "id": "GHSA-462w-v97r-4m45",
    "summary": "Sandbox escape",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10.1"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """Knows one hole: jinja2 2.4.1."""

    asked: ClassVar[list[tuple[str, str]]] = []
    broken = False

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = (query["package"]["name"], query["version"])
        self.asked.append(asked)
        self.send_response(503 if self.broken else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"vulns": [ADVISORY]} if asked == ("jinja2", "2.4.1") else {}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Osv.asked, Osv.broken = [], False
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()


def audit(url: str, folder: Path, pins: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = folder / "pins.txt"
    path.write_text(pins)
    command = [sys.executable, str(SCRIPT), "--osv-url", url, "--requirement", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_known_hole_fails_and_is_named(osv: str, tmp_path: Path) -> None:
    found = audit(osv, tmp_path, "numpy==2.4.0\njinja2==2.4.1\n", "--if-reachable")
    assert found.returncode == 1 and "GHSA-462w-v97r-4m45" in found.stdout and "2.10.1" in found.stdout
    assert ("numpy", "2.4.0") in Osv.asked


def test_packages_without_a_hole_pass(osv: str, tmp_path: Path) -> None:
    passed = audit(osv, tmp_path, "numpy==2.4.0\njinja2==3.1.6\n")
    assert passed.returncode == 0, passed.stderr
    assert {("numpy", "2.4.0"), ("jinja2", "3.1.6")} <= set(Osv.asked)


def test_silence_is_no_pass(osv: str, tmp_path: Path) -> None:
    Osv.broken = True
    for url in (osv, "http://127.0.0.1:9/v1/query"):
        silent = audit(url, tmp_path, "jinja2==2.4.1\n")
        assert silent.returncode == 2 and silent.stderr.startswith("NOT AUDITED: "), silent.stderr
        assert silent.stderr.count("\n") == 1
    allowed = audit(osv, tmp_path, "jinja2==2.4.1\n", "--if-reachable")
    assert allowed.returncode == 0 and "NOT AUDITED" in allowed.stderr


def test_every_pin_is_asked_about(osv: str, tmp_path: Path) -> None:
    pins = SCRIPT.parents[1] / "constraints.txt"
    passed = audit(osv, tmp_path, pins.read_text())
    assert passed.returncode == 0, passed.stderr
    assert len(set(Osv.asked)) >= sum("==" in line for line in pins.read_text().splitlines())
