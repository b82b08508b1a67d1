# SPDX-License-Identifier: Apache-2.0
"""Scripts run in this process, in an empty folder."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(script, *words)`` -> what it printed; it works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def start(script: str, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return capsys.readouterr().out

    return start


@pytest.fixture
def refused(run: Run, capsys: pytest.CaptureFixture[str]) -> Run:
    """``refused(script, *words)`` -> the one line with which it ended."""

    def start(script: str, *words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(script, *words)
        assert ended.value.code in (1, 2)
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines and lines[-1].startswith("error: "), lines
        return lines[-1].removeprefix("error: ")

    return start
