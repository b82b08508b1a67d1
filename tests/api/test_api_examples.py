# SPDX-License-Identifier: Apache-2.0
"""scripts/api_example/test_toolcall.py and scripts/api_client.py against the real server."""

from __future__ import annotations

import runpy
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from llamafactory.chat.base_engine import Delta

from .conftest import Running, running

SCRIPTS = Path(__file__).parents[2] / "scripts"
CALL = '<tool_call>\n{"name": "mean_grade", "arguments": {"grades": ["A", "C"], "hours": [3, 1]}}\n</tool_call>'


class Calling(ScriptedEngine):
    """Calls once, then answers with what it was handed."""

    async def stream(self, prompt: Any, tools: Any = (), **overrides: Any) -> AsyncGenerator[Delta, None]:
        self.pieces = [CALL]
        if prompt[-1].role == "tool":
            self.pieces = [f"It is {prompt[-1].text}."]
        async for piece in super().stream(prompt, tools, **overrides):
            yield piece


def test_the_example_that_calls_a_function(
    make_template: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(Calling(make_template("qwen"))) as server:
        monkeypatch.setenv("API_PORT", str(server.port))
        monkeypatch.setattr(sys, "argv", ["test_toolcall.py"])
        runpy.run_path(str(SCRIPTS / "api_example" / "test_toolcall.py"), run_name="__main__")
    call, answer = capsys.readouterr().out.splitlines()
    assert call.startswith("mean_grade(") and call.endswith("= 3.5")  # (4.0 x 3 + 2.0) / 4
    assert answer == "It is 3.5."


def test_the_client_talks_in_four_ways(
    served: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a random model: every answer is one, and a forced call is one of the tool that there is."""
    monkeypatch.setattr(sys, "argv", ["api_client.py", f"{served.url}/v1"])
    runpy.run_path(str(SCRIPTS / "api_client.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert all(f"{kind}:" in out for kind in ("whole", "streamed", "JSON", "answer"))
    assert "get_weather" in out and '"city"' in out
