# SPDX-License-Identifier: Apache-2.0
"""Commands whose answer the page waits for: ``preview``, ``check-data``, ``plan``; each is a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ...extras.errors import ConfigError
from ...extras.files import parse_json
from ...extras.parents import ask_to_end_with_parent
from ...extras.secrets import mask
from ..workspace import CACHE, workspace

SECONDS = 300.0  # that the page waits for an answer
_MOST_BYTES = 16 * 2**20  # of an answer
_AT_ONCE = threading.BoundedSemaphore(2)  # each has a tokenizer in memory


def run_side_command(command: str, config: Mapping[str, Any], seconds: float = SECONDS) -> str:
    """Run a command on a configuration and return what it prints.

    Args:
        command: One that starts no training.
        config: Its flat keys.
        seconds: After which it is ended.

    Raises:
        ConfigError: It failed (its own last line), took too long, or others are still running.
    """
    folder = workspace() / CACHE
    folder.mkdir(exist_ok=True)
    if not _AT_ONCE.acquire(timeout=seconds):
        raise ConfigError(f"{command}: others still run; try again")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="ask-") as place:
            file = Path(place) / "config.yaml"
            file.write_text(yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False), "utf-8")
            return _run(command, file, Path(place), seconds)
    finally:
        _AT_ONCE.release()


def ask_json(command: str, config: Mapping[str, Any]) -> Any:
    """Run ``plan`` or ``check-data`` and return its report.

    Raises:
        ConfigError: See :func:`run_side_command`.
    """
    return parse_json(run_side_command(command, {**config, "report_format": "json"}), f"what {command} says")


def ask_rows(config: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return rows as the model will see them: what ``preview`` says of each.

    Raises:
        ConfigError: See :func:`run_side_command`.
    """
    said = run_side_command("preview", {**config, "preview_format": "json", "preview_samples": count})
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def _run(command: str, file: Path, place: Path, seconds: float) -> str:
    argv = [sys.executable, "-P", "-m", "llamafactory", command, str(file)]
    with (place / "out").open("w+b") as out, (place / "err").open("w+b") as err:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=workspace(), start_new_session=True,
            preexec_fn=ask_to_end_with_parent,
        )  # fmt: skip
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{command}: gave no answer within {seconds:.0f} seconds") from None
        finally:
            _end(child)
        said, errors = _read(out), _read(err)
    if code:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        reason = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
        raise ConfigError(mask(reason or (lines[-1] if lines else f"{command} ended with code {code}")))
    return said


def _read(file: Any) -> str:
    file.seek(0)
    return file.read(_MOST_BYTES).decode("utf-8", "replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the command's process group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
