# SPDX-License-Identifier: Apache-2.0
"""What stands on the screen: a bar in a terminal, short lines elsewhere, and the way on at the end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.train.callbacks.progress import WIDTH, line_of

from .conftest import Keys

# What the log lines begin with; a progress bar and a line of ours never share one.
_LINE = re.compile(r"^step \d+/\d+  ")


def _cli(file: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llamafactory.cli", "train", file.name]
    return subprocess.Popen(command, cwd=file.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


@pytest.fixture
def config(keys: Keys, tmp_path: Path) -> Any:
    """``config(**more)`` → a YAML file of a quick run."""

    def write(**more: Any) -> Path:
        given = keys(**more)
        if more.get("disable_tqdm") is None:
            del given["disable_tqdm"]
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump(given))
        return path

    return write


@pytest.mark.slow
def test_short_lines_where_there_is_no_terminal(config: Any, tmp_path: Path) -> None:
    run = _cli(
        config(do_train=True, do_eval=True, val_size=0.2, eval_strategy="steps", eval_steps=2), stdout=-1, stderr=-1
    )
    out, err = (text.decode() for text in run.communicate())
    assert run.returncode == 0, err
    lines = [line for line in (out + err).splitlines() if _LINE.match(line)]
    logged = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()]
    assert len(lines) == len(logged) > 5 + 2
    assert all(len(line) <= WIDTH for line in lines)
    assert "loss " in lines[0] and "tok/s " in lines[0] and "left " in lines[0]
    assert "{'" not in out + err and "\r" not in out + err, "raw mappings, or bars"
    assert "it/s" not in err
    assert out.rstrip().splitlines()[-3:-1] == ["Next:", "  llamafactory-cli chat my.yaml"]
    assert [row["current_steps"] for row in logged if "loss" in row] == [1, 2, 3, 4, 5]


def test_a_bar_in_a_terminal_and_the_way_on_after_ctrl_c(config: Any, tmp_path: Path) -> None:
    screen, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    run = _cli(config(max_steps=100_000, logging_steps=1), stdout=end, stderr=end, stdin=end)
    os.close(end)
    text = _read_until(screen, lambda text: text.count("loss ") > 5)
    run.send_signal(signal.SIGINT)
    text += _read_until(screen, lambda _: False)
    run.kill()
    assert run.wait(30) == 130, text
    last_bar = next(line for line in reversed(text.split("\r")) if "loss " in line and "%|" in line)
    assert len(last_bar.split("\n")[0]) <= 80 and "tok/s" in last_bar and "<" in last_bar  # elapsed<left
    lines = [re.split(r"[\r]", line)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    stopped = next(line for line in lines if "stopped by SIGINT" in line)
    assert stopped.startswith("[WARNING|"), "begins a line of its own"
    checkpoint = stopped.split("checkpoint: ")[1].strip()
    assert (tmp_path / checkpoint / "trainer_state.json").is_file()
    tail = [line.strip() for line in lines if line.strip()]
    assert tail[-2:] == ["To go on:", "llamafactory-cli train my.yaml"]


def _read_until(screen: int, enough: Callable[[str], bool]) -> str:
    text, end = "", time.monotonic() + 90
    while not enough(text) and time.monotonic() < end:
        if not select.select([screen], [], [], 1)[0]:
            continue
        try:
            text += os.read(screen, 4096).decode(errors="replace")
        except OSError:  # what Linux says when nobody holds the other end any more
            break
    return text


def test_a_line_shows_the_loss_first_and_fits() -> None:
    logs = {f"rewards/part_{number}": 0.123456 for number in range(9)} | {"epoch": 1.0, "loss": 2.34567, "step": 3}
    line = line_of(logs, WIDTH)
    assert line.startswith("loss 2.346  epoch 1.00  rewards/part_0 0.1235") and len(line) <= WIDTH
