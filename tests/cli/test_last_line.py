# SPDX-License-Identifier: Apache-2.0
"""What a stopped command says last begins a line of its own, however many progress bars were being drawn."""

from __future__ import annotations

import subprocess
import sys

import pytest

BARS = """
import sys
from tqdm.auto import tqdm
from llamafactory import cli
from llamafactory.extras.errors import ConfigError
from llamafactory.extras.logging import get_logger

def work():
    bars = [tqdm(total=9, desc="outer"), tqdm(total=9, desc="inner", position=1, leave=False)]
    for bar in bars:
        bar.update(3)
    get_logger("x").warning("said in between")
    raise {error}

cli.launch = work
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("error", "last", "code"),
    [
        ("ConfigError('the key is wrong')", "error: the key is wrong", 1),
        ("KeyboardInterrupt", "interrupted", 130),
        ("OSError(28, 'No space left on device', 'run/x')", "error: run/x: No space left on device; free some", 1),
        ("RuntimeError('a fault of ours')", "RuntimeError: a fault of ours", 1),
    ],
)
def test_it_begins_a_line(error: str, last: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", BARS.format(error=error)], capture_output=True, check=False)
    lines = done.stderr.rstrip(b"\n").split(b"\n")  # a carriage return begins no line in a file
    assert done.returncode == code
    assert lines[-1].startswith(last.encode()), done.stderr[-500:]
    if code == 1 and "RuntimeError" in error:
        assert any(line.startswith(b"Traceback") for line in lines)


def test_ctrl_c_while_the_interpreter_ends_is_no_traceback() -> None:
    program = (
        "import atexit, os, signal, sys; from llamafactory import cli; "
        "atexit.register(os.kill, os.getpid(), signal.SIGINT); "
        "sys.argv = ['llamafactory-cli', 'version']; sys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
