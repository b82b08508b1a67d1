# SPDX-License-Identifier: Apache-2.0
"""Two writers never share a place, and what a killed one left there goes with the next."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.locks import locked, staging_folder

from .conftest import Keys
from .running import train

HOLD = (
    "import sys, time; from pathlib import Path; from llamafactory.extras import locks\n"
    "with locks.{}(Path(sys.argv[1]), 'key'): print('held', flush=True); time.sleep(600)"
)


@contextmanager
def other_process(kind: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process, which is killed at the end."""
    child = subprocess.Popen([sys.executable, "-c", HOLD.format(kind), path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process("locked", path) as first:
        line = rf"^output_dir: x is being written by process {first.pid} on \S+, since [-\d]+ [:\d]+; wait for it"
        with pytest.raises(ConfigError, match=line), locked(path, "output_dir: x"):
            pass
    with locked(path, "output_dir: x"):  # the first was killed: its lock is free at once, though its file is there
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_one_that_waits_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def wait() -> None:
        with locked(path, "x", wait=True):
            order.append("second")

    with other_process("locked", path) as first:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        order.append("first ends")
        first.send_signal(signal.SIGKILL)
        thread.join(20)
    assert order == ["first ends", "second"]


def test_many_that_take_turns_never_meet(tmp_path: Path) -> None:
    """Each removes the lock file at its end while others wait for it."""
    code = (
        "import sys, time; from pathlib import Path; from llamafactory.extras.locks import locked\n"
        "inside = Path(sys.argv[1], 'inside')\n"
        "for _ in range(20):\n"
        "    with locked(Path(sys.argv[1], 'lock'), 'x', wait=True):\n"
        "        inside.touch(exist_ok=False); time.sleep(0.002); inside.unlink()\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(4)]
    assert [child.wait(120) for child in children] == [0] * 4


def test_leftovers_of_a_killed_process_go_but_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "merged"
    with other_process("staging_folder", final) as first:
        with pytest.raises(ConfigError, match="is being written by"), staging_folder(final, "export_dir"):
            pass
        left = [path.name for path in tmp_path.glob(".merged.staging-*")]
        assert len(left) == 1
        first.kill()
        first.wait()
    for name in (".merged-old.staging-a", ".mergedx", "other"):
        (tmp_path / name).mkdir()
    with staging_folder(final, "export_dir") as staging:
        (staging / "f").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".merged-old.staging-a", ".mergedx", "other"]


def test_two_runs_in_one_folder(keys: Keys) -> None:
    given = keys()
    run = Path(given["output_dir"])
    run.mkdir(parents=True)
    with other_process("locked", run / ".llamafactory.lock") as first:
        with pytest.raises(
            ConfigError, match=rf"^output_dir: {re.escape(str(run))} is being written by .* {first.pid} "
        ):
            train(given)
        assert [path.name for path in run.iterdir()] == [".llamafactory.lock"]
    train(given)
    assert (run / "adapter_model.safetensors").exists() and not (run / ".llamafactory.lock").exists()


def test_a_run_that_cannot_start_leaves_no_folder(keys: Keys) -> None:
    given = keys(model_name_or_path="/nowhere")
    with pytest.raises(ConfigError):
        train(given)
    assert not Path(given["output_dir"]).exists()


def test_two_preprocess_of_one_cache_make_it_once(keys: Keys, tmp_path: Path) -> None:
    """The second waits for the first and takes what it has made."""
    code = (
        "import sys, time, os; from llamafactory.data.prepare import shards; from llamafactory.extras import locks\n"
        "encode, say, waits = shards.Encoder.__call__, locks.logger.info_rank0, sys.argv[1] + '-waits'\n"
        "def slow(self, samples):\n"
        "    until = time.monotonic() + 60\n"
        "    while not os.path.exists(waits) and time.monotonic() < until: time.sleep(0.05)\n"
        "    open(sys.argv[1], 'a').write('x'); return encode(self, samples)\n"
        "def told(*words): say(*words); open(waits, 'w').close()\n"
        "shards.Encoder.__call__, locks.logger.info_rank0 = slow, told\n"
        "from llamafactory.train.commands.preprocess import run_preprocess; run_preprocess(sys.argv[2:])"
    )
    words = [f"{key}={value}" for key, value in keys().items()]
    command = [sys.executable, "-c", code, tmp_path / "encoded", *words]
    one, two = (subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True) for _ in range(2))
    told = one.communicate(timeout=120)[1] + two.communicate(timeout=120)[1]
    assert (one.returncode, two.returncode) == (0, 0)
    assert (tmp_path / "encoded").read_text() == "x" and told.count("waiting for it") == 1


def test_two_preprocess_into_one_folder(keys: Keys, tmp_path: Path) -> None:
    given = keys(tokenized_path=str(tmp_path / "made"))
    with (
        other_process("locked", tmp_path / ".made.lock"),
        pytest.raises(ConfigError, match=r"^tokenized_path: .*made is being written by process \d+"),
    ):
        train(given)
    train(given)
    assert (tmp_path / "made").is_dir()
