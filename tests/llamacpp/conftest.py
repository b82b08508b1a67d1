# SPDX-License-Identifier: Apache-2.0
"""One process in llama.cpp's own environment answers the jobs of all tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).resolve().parents[2] / ".cache" / "llamacpp-env" / "bin" / "python"


@pytest.fixture(scope="session")
def ask() -> Iterator[Callable[..., dict[str, Any]]]:
    """``ask(file=..., ids=... | text=... | conversations=...)`` → the worker's answer."""
    worker = Path(__file__).with_name("worker.py")
    process = subprocess.Popen([PYTHON, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None

    def answer(**job: Any) -> dict[str, Any]:
        print(json.dumps(job), file=process.stdin, flush=True)
        line = process.stdout.readline()
        assert line, f"llama.cpp ended with {process.wait()}"
        return json.loads(line)

    yield answer
    process.stdin.close()
    process.wait()
