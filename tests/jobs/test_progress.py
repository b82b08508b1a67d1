# SPDX-License-Identifier: Apache-2.0
"""What is shown of a job: its log read bit by bit, damaged lines, curves in few points, the end of its output."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from llamafactory.jobs import Job, JobStore
from llamafactory.jobs.log_file import RotatedLog, as_shown, old_of, read_end
from llamafactory.jobs.progress import (
    Cursor,
    Curve,
    curves,
    difference,
    overlay,
    progress,
    read_log,
    seconds_a_step,
    tail,
    thin,
)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def begun(store: JobStore, name: str = "run", **config: Any) -> Job:
    """A job that runs, as far as the store knows."""
    number = store.submit("train", {"output_dir": f"saves/{name}", **config}).id
    store.begin(number)
    (store.workspace / "saves" / name).mkdir(parents=True, exist_ok=True)
    return store.get(number)


def line(step: int, **more: Any) -> str:
    return json.dumps({"current_steps": step, "total_steps": 100, "loss": 5.0 / step, "lr": 1e-4, **more}) + "\n"


def log_of(job: Job) -> Path:
    assert job.output_dir is not None
    return job.output_dir / "trainer_log.jsonl"


def test_a_log_is_read_bit_by_bit(tmp_path: Path) -> None:
    assert read_log(tmp_path).rows == [] and read_log(None).rows == []
    path = tmp_path / "trainer_log.jsonl"
    path.write_text(line(1) + line(2) + line(3)[:-9])  # the third is being written
    first = read_log(tmp_path)
    assert [row["current_steps"] for row in first.rows] == [1, 2] and first.fresh
    with path.open("a") as file:
        file.write(line(3)[-9:])
    second = read_log(tmp_path, first.cursor)
    assert [row["current_steps"] for row in second.rows] == [3] and not second.fresh
    third = read_log(tmp_path, second.cursor)
    assert third.rows == [] and not third.fresh and third.cursor == second.cursor


def test_a_log_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """A resumed run writes the lines up to its checkpoint into a new file; it may be longer by the next look."""
    path = tmp_path / "trainer_log.jsonl"
    path.write_text(line(1) + line(2) + line(3))
    cursor = read_log(tmp_path).cursor
    other = tmp_path / "other"
    other.write_text("".join(line(step) for step in (1, 2, 30, 40, 50)))
    os.replace(other, path)
    again = read_log(tmp_path, cursor)
    assert again.fresh and [row["current_steps"] for row in again.rows] == [1, 2, 30, 40, 50]
    path.write_text(line(1))  # the same file, shorter
    assert read_log(tmp_path, again.cursor) == read_log(tmp_path, Cursor())


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    broken = [
        "",
        "{",
        "[1]",
        "null",
        '{"loss": 1}',
        '{"current_steps": "3"}',
        "\0\0",
        '{"current_steps": 1, "lo\n',
        "{" * 9999,
    ]
    data = line(1).encode() + "\n".join(broken).encode() + b"\n\xff\xfe\n" + line(2).encode()
    (tmp_path / "trainer_log.jsonl").write_bytes(data)
    assert [row["current_steps"] for row in read_log(tmp_path).rows] == [1, 2]


def test_progress_is_what_was_logged_last(store: JobStore) -> None:
    job = begun(store)
    assert progress(job).step is None
    log_of(job).write_text(
        line(10, throughput=99.0, elapsed_time="0:00:05", remaining_time="0:00:45", percentage=10.0)
        + json.dumps({"current_steps": 12, "total_steps": 100, "eval_loss": 0.25, "percentage": 12.0}) + "\n"
        + '{"current_steps": 13, "tot'
    )  # fmt: skip
    seen = progress(job)
    assert (seen.step, seen.total, seen.percentage, seen.loss, seen.eval_loss) == (12, 100, 12.0, 0.5, 0.25)
    assert (seen.throughput, seen.elapsed, seen.remaining, seen.lr) == (99.0, "0:00:05", "0:00:45", 1e-4)
    assert seen.seconds is not None and 0 <= seen.seconds < 60


def test_an_earlier_run_in_the_same_folder_is_no_progress(store: JobStore) -> None:
    job = begun(store)
    log_of(job).write_text(line(100))
    os.utime(log_of(job), (time.time() - 60, time.time() - 60))
    assert progress(job).step is None and curves(job) == {}
    queued = store.submit("train", {"output_dir": "saves/run"})
    assert progress(queued).step is None and curves(queued) == {}


def test_curves_grow_and_begin_anew(store: JobStore) -> None:
    job = begun(store)
    curve = Curve(job)
    assert not curve.update()
    log_of(job).write_text(line(1) + line(2, **{"rewards/chosen": 0.5, "finished": True, "kl": float("nan")}))
    assert curve.update() and not curve.update()
    with log_of(job).open("a") as file:
        file.write(line(3, eval_loss=2.0))
    assert curve.update()
    assert curve.series == {
        "loss": [(1, 5.0), (2, 2.5), (3, 5.0 / 3)], "lr": [(1, 1e-4), (2, 1e-4), (3, 1e-4)],
        "rewards/chosen": [(2, 0.5)], "eval_loss": [(3, 2.0)],
    }  # fmt: skip
    assert curves(job) == curve.series
    log_of(job).unlink()
    log_of(job).write_text(line(1))
    assert curve.update() and curve.series["loss"] == [(1, 5.0)]


@pytest.mark.parametrize("number", [10, 1000, 1001, 5000, 100_003])
def test_a_thin_curve_keeps_its_ends_and_its_spikes(number: int) -> None:
    draw = random.Random(number)
    points = [(step, draw.random()) for step in range(number)]
    points[number // 3] = (number // 3, 99.0)
    points[number // 2] = (number // 2, -99.0)
    thinned = thin(points, 1000)
    assert len(thinned) <= 1000 and thinned == sorted(set(thinned)) and set(thinned) <= set(points)
    assert thinned[0] == points[0] and thinned[-1] == points[-1]
    assert {(number // 3, 99.0), (number // 2, -99.0)} <= set(thinned)
    if number <= 1000:
        assert thinned == points


def test_runs_laid_over_each_other(store: JobStore) -> None:
    one, two = begun(store, "one"), begun(store, "two")
    log_of(one).write_text(line(1) + line(2))
    log_of(two).write_text(line(1, reward=1.0))
    over = overlay([one, two])
    assert over["loss"] == {"1 one": [(1, 5.0), (2, 2.5)], "2 two": [(1, 5.0)]}
    assert over["reward"] == {"2 two": [(1, 1.0)]}


def test_difference_of_two_configurations(store: JobStore) -> None:
    one = begun(store, "one", lora_rank=8, dataset="a", bf16=True)
    two = begun(store, "two", lora_rank=16, dataset="a", neftune_noise_alpha=5)
    assert difference(one, two) == [
        ("output_dir", "saves/one", "saves/two"), ("lora_rank", 8, 16), ("bf16", True, None),
        ("neftune_noise_alpha", None, 5),
    ]  # fmt: skip
    assert difference(one, one) == []


def test_the_log_of_output_never_grows_beyond_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    log = RotatedLog(path, most=1000)
    text = b"".join(b"line %06d\n" % number for number in range(1000))
    for start in range(0, len(text), 77):
        log.write(text[start : start + 77])
        assert path.stat().st_size < 1077
    log.close()
    kept = old_of(path).read_bytes() + path.read_bytes()
    assert text.endswith(kept) and len(kept) > 1000
    assert read_end(path, 300).encode() == text[-300:]
    assert read_end(path, 1200).encode() == text[-1200:]
    assert read_end(tmp_path / "none", 100) == ""


def test_output_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    """The file's folder is away for a while, as a disk may be full for a while."""
    folder = tmp_path / "here"
    folder.mkdir()
    log = RotatedLog(folder / "output.log", most=4)
    log.write(b"first")
    folder.rename(tmp_path / "away")
    log.write(b"lost")
    log.write(b"also lost")
    (tmp_path / "away").rename(folder)
    log.write(b"last")
    log.close()
    kept = (folder / "output.log").read_text()
    assert kept == "\n[13 bytes of output are lost: No such file or directory]\nlast"
    assert (folder / "output.log.1").read_text() == "first"


def test_output_is_shown_as_a_terminal_would(store: JobStore) -> None:
    assert as_shown("a\r\nb\n") == "a\nb\n"
    assert as_shown("10%\r50%\r100%\ndone") == "100%\ndone"
    assert as_shown("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07 \x1b[2K\x1b[Aup") == "red link up"
    job = begun(store)
    assert tail(job) == ""
    (job.folder / "output.log").write_text("x" * 50_000 + "\nbar 1%\rbar 9%\nend\n")
    assert tail(job, 20) == "xxxxxxxx\nbar 9%\nend\n" and len(tail(job)) == 20_000


@pytest.mark.parametrize(
    ("elapsed", "step", "each"),
    [("0:01:40", 10, 10.0), ("1 day, 1:00:00", 100, 900.0), ("2 days, 0:00:00", 48, 3600.0), ("soon", 3, 0.0)],
)
def test_how_long_the_steps_of_a_run_take(store, elapsed, step, each):
    job = begun(store)
    assert seconds_a_step(progress(job)) == 0
    log_of(job).write_text(line(step, elapsed_time=elapsed))
    assert seconds_a_step(progress(job)) == each
