# SPDX-License-Identifier: Apache-2.0
"""Tokenizing that is killed goes on where it was; the process that died is named by its rows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.prepare import shards
from llamafactory.data.processor import SupervisedProcessor
from llamafactory.extras.errors import ConfigError
from llamafactory.train.commands.preprocess import run_preprocess

from .conftest import Prepare, alpaca_rows, write_jsonl
from .test_loader import CountingProcessor

ROWS, SHARD = 200, 10

# The command itself, with small shards, each slow enough to be killed in between.
SLOW = """
import sys, time
from pathlib import Path
import datasets.config
from llamafactory.data.prepare import shards
from llamafactory.train.commands.preprocess import run_preprocess
cache, log, pause, words = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]
datasets.config.HF_DATASETS_CACHE = cache
shards.SHARD_ROWS = 10
encode = shards.Encoder.__call__
def slow(self, samples):
    time.sleep(pause)
    with open(log, "a") as file:
        file.write(f"{len(samples)}\\n")
    return encode(self, samples)
shards.Encoder.__call__ = slow
run_preprocess(words)
"""


def words(tiny_llama: Path, tmp_path: Path, path: str, **keys: Any) -> list[str]:
    keys = {
        "model_name_or_path": tiny_llama,
        "template": "chatml",
        "dataset": path,
        "output_dir": tmp_path / "o",
        **keys,
    }
    return [f"{key}={value}" for key, value in keys.items()]


def encoded(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def finished(store: Path) -> list[Path]:
    found = store.iterdir() if store.exists() else ()
    return [folder for folder in found if folder.name[0] != "." and shards.is_shard(str(folder))]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_job_goes_on_with_the_shards_that_exist(
    tmp_path: Path, tiny_llama: Path, prepare: Prepare, own_cache: Path, workers: int
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(ROWS))
    log, store = tmp_path / "log", own_cache / "llamafactory" / "shards"
    arguments = words(tiny_llama, tmp_path, path, preprocessing_num_workers=workers)
    command = [sys.executable, "-c", SLOW, str(own_cache), str(log)]
    child = subprocess.Popen([*command, "0.1", *arguments], start_new_session=True)
    while SHARD * len(finished(store)) < 0.6 * ROWS:
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    kept = len(finished(store))
    assert kept < ROWS / SHARD
    log.unlink()
    done = subprocess.run([*command, "0", *arguments], check=True, capture_output=True, text=True, timeout=120)
    assert encoded(log) == ROWS - SHARD * kept <= 0.4 * ROWS + SHARD
    assert f"prepared: train {ROWS} rows, in {own_cache}" in done.stdout
    assert not finished(store), "the features are kept once"
    processor = CountingProcessor()
    resumed = prepare(processor, dataset=path).train[:]
    assert processor.samples == 0, "training finds what the command made"
    assert resumed == prepare(dataset=path, overwrite_cache=True).train[:]


def test_a_mended_row_costs_its_shard_alone(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    rows: list[Any] = alpaca_rows(100)
    rows[75] = {"instruction": "x", "output": 5}
    processor, path = CountingProcessor(), write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=r"a\.jsonl line 76: field 'output' is 5"):
        prepare(processor, dataset=path)
    before = processor.samples
    assert before >= 70
    write_jsonl(tmp_path / "a.jsonl", alpaca_rows(100))
    assert len(prepare(processor, dataset=path).train) == 100
    assert processor.samples <= 100 + 10


class DyingProcessor(SupervisedProcessor):
    """Its process is killed at one row, as the kernel kills for want of memory."""

    def encode(self, samples: Any, *rest: Any) -> Any:
        if any(message.text == "count 34" for sample in samples for message in sample.messages):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(samples, *rest)


def test_a_dead_process_names_its_rows_and_the_others_work_stays(
    tmp_path: Path, prepare: Prepare, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(60))
    with pytest.raises(ConfigError, match=r"tokenized .*a\.jsonl line 31 to line 40 was killed by signal 9"):
        prepare(DyingProcessor(), dataset=path, preprocessing_num_workers=2)
    processor = CountingProcessor()
    assert len(prepare(processor, dataset=path).train) == 60
    assert 10 <= processor.samples <= 40


def test_a_second_start_is_quick(tmp_path: Path, tiny_llama: Path, own_cache: Path, capfd: Any) -> None:
    arguments = words(tiny_llama, tmp_path, write_jsonl(tmp_path / "a.jsonl", alpaca_rows(20_000)))
    run_preprocess(arguments)
    start = time.process_time()
    run_preprocess(arguments)
    assert time.process_time() - start < 2
    first, second = (line for line in capfd.readouterr().out.splitlines() if line.startswith("prepared"))
    assert first == second


def test_half_shards_of_killed_processes_go(tmp_path: Path) -> None:
    """Those of processes that live, and of other machines, may still become whole."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = [f".{socket.gethostname()}-{os.getpid()}-a", f".elsewhere-{ended.pid}-b", "0123456789abcdef"]
    for name in (*kept, f".{socket.gethostname()}-{ended.pid}-c"):
        (tmp_path / name).mkdir()
    shards.clear_old(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_workers_end_whatever_a_signal_does_here() -> None:
    """A fork has the handlers of its parent, such as that of a training which finishes its step first."""
    code = """
import signal
from llamafactory.data.prepare.workers import map_in_processes
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
print(sorted(map_in_processes(str, iter([3, 5]), 2)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['3', '5']\n"
