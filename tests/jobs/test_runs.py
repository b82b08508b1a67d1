# SPDX-License-Identifier: Apache-2.0
"""Whole trainings as jobs: killed around them, cancelled, resumed, side by side, and talkative."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from orphans import processes

from llamafactory.jobs import Job, ensure_runner
from llamafactory.jobs.progress import curves, tail

from .conftest import Workspace

pytestmark = pytest.mark.slow
NOISE_SECONDS = int(os.environ.get("LLAMAFACTORY_TEST_NOISE_SECONDS", "60"))
SUBMIT = """
    import json, sys, time; from pathlib import Path; from llamafactory.jobs import JobStore, ensure_runner
    store = JobStore(Path(sys.argv[1])); store.submit("train", json.loads(sys.argv[2])); ensure_runner(store.workspace)
    print("submitted", flush=True); time.sleep(600)
"""


def steps_of(job: Job) -> list[int]:
    return [step for step, _ in curves(job, 10**6)["loss"]]


@pytest.mark.parametrize("attempt", range(10))
def test_kill_of_the_server_and_of_the_runner_loses_nothing(workspace: Workspace, attempt: int) -> None:
    """At any moment of the run; then the run is found running, comes to its end, and has its whole curve."""
    import json

    moment = random.Random(attempt).uniform(0.0, 8.0)
    argv = [sys.executable, "-c", textwrap.dedent(SUBMIT), str(workspace.folder)]
    keys = json.dumps(workspace.keys(max_steps=200))
    server = subprocess.Popen([*argv, keys], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdout is not None and server.stdout.readline() == "submitted\n"
    job = workspace.wait(1, lambda job: job.run_pid is not None)
    time.sleep(moment)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    workspace.runner().kill()
    assert workspace.store.get(1).state == "running"
    time.sleep(random.Random(attempt).choice((0.0, 4.0, 20.0)))  # the last is beyond the end of the run
    listed = workspace.cli("list")
    assert listed.returncode == 0 and ("running" in listed.stdout or "done" in listed.stdout), listed
    ended = workspace.end_of(1)
    assert (ended.state, ended.exit_code) == ("done", 0), workspace.output(ended)
    assert (ended.pid, ended.run_pid) == (job.pid, job.run_pid)
    assert steps_of(ended) == list(range(1, 201))


@pytest.mark.parametrize("ranks", [1, 2])
def test_cancel_saves_and_leaves_no_process(workspace: Workspace, ranks: int) -> None:
    """The checkpoint that it saves is one that the same job goes on from, to the curve of an uninterrupted run."""
    several = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"} if ranks == 2 else {}
    store = workspace.store
    keys = workspace.keys(max_steps=60, dataloader_num_workers=1, ddp_backend="gloo")
    job = store.submit("train", keys, environment=several)
    ensure_runner(workspace.folder)
    workspace.step(job.id, 10)
    before = group_of(store.get(job.id))
    assert len(before) >= (4 if ranks == 2 else 2)  # run, (torchrun, ranks,) workers that load
    store.cancel(job.id)
    asked = time.monotonic()
    while any(psutil.pid_exists(pid) for pid in before):
        assert time.monotonic() - asked < 10
        time.sleep(0.05)
    ended = workspace.end_of(job.id, 5)
    assert ended.state == "cancelled" and ended.message == ""
    saved = sorted((workspace.folder / "saves/run").glob("checkpoint-*"))
    assert len(saved) == 1
    step = int(saved[0].name.rpartition("-")[2])
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(workspace.model), saved[0])

    again = store.resume(job.id)
    ensure_runner(workspace.folder)
    done = workspace.end_of(again.id)
    assert done.state == "done", workspace.output(done)
    assert steps_of(done) == list(range(1, 61)) and steps_of(store.get(job.id)) == list(range(1, step + 1))
    whole = store.submit("train", keys | {"output_dir": "saves/whole"}, environment=several)
    ensure_runner(workspace.folder)
    assert curves(done)["loss"] == curves(workspace.end_of(whole.id))["loss"]


def group_of(job: Job) -> list[int]:
    assert job.pid is not None
    return [process.pid for process in psutil.Process(job.pid).children(recursive=True)]


def test_a_run_that_does_not_end_is_ended(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It and a process that it started in a session of its own ignore every signal that can be ignored."""
    plant(
        workspace,
        monkeypatch,
        """
        import signal, subprocess, sys, threading, time
        if sys.argv[-1:] and "config.yaml" in str(sys.orig_argv):
            code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
            subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal = lambda *_: None
        """,
    )
    store = workspace.store
    job = store.submit("train", workspace.keys(max_steps=100_000))
    ensure_runner(workspace.folder)
    workspace.step(job.id, 3)
    assert "deaf" in workspace.output(job)
    before = group_of(store.get(job.id))
    assert len(before) == 2
    store.cancel(job.id)
    asked = time.monotonic()
    while any(psutil.pid_exists(pid) for pid in before):
        assert time.monotonic() - asked < 10
        time.sleep(0.05)
    assert time.monotonic() - asked > 5  # it was given time
    assert workspace.end_of(job.id, 5).state == "cancelled"

    again = store.submit("train", workspace.keys(max_steps=100_000, output_dir="saves/other"))
    ensure_runner(workspace.folder)
    workspace.step(again.id, 3)
    before = group_of(store.get(again.id))
    store.cancel(again.id)
    store.cancel(again.id)  # at once
    asked = time.monotonic()
    while any(psutil.pid_exists(pid) for pid in before):
        assert time.monotonic() - asked < 3
        time.sleep(0.05)


def plant(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let every Python process that is started from now on run some code first."""
    folder = workspace.folder / "plant"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def test_a_keeper_that_is_killed(workspace: Workspace) -> None:
    """The run ends with a checkpoint, the job has failed, and resume goes on from there."""
    store = workspace.store
    job = store.submit("train", workspace.keys(max_steps=400))
    ensure_runner(workspace.folder)
    running = workspace.step(job.id, 20)
    assert running.pid is not None
    psutil.Process(running.pid).kill()
    ended = workspace.end_of(job.id, 45)
    assert (ended.state, ended.exit_code) == ("failed", None)
    assert ended.message == "its keeper was killed, and with it the run"
    assert len(list((workspace.folder / "saves/run").glob("checkpoint-*"))) == 1
    again = store.resume(job.id)
    ensure_runner(workspace.folder)
    done = workspace.end_of(again.id)
    assert done.state == "done" and steps_of(done) == list(range(1, 401))


def test_a_run_that_is_killed_from_outside(workspace: Workspace) -> None:
    store = workspace.store
    job = store.submit("train", workspace.keys(max_steps=100_000))
    other = store.submit("train", workspace.keys(output_dir="saves/other"))
    ensure_runner(workspace.folder)
    running = workspace.step(job.id, 3)
    assert running.run_pid is not None
    psutil.Process(running.run_pid).kill()
    ended = workspace.end_of(job.id, 10)
    assert (ended.state, ended.exit_code) == ("failed", 137)
    assert ended.message == "ended from outside by SIGKILL; the machine may have run out of memory"
    assert workspace.end_of(other.id).state == "done"


def test_three_in_the_queue_of_which_the_second_fails(workspace: Workspace) -> None:
    """The last is moved to the front; the failure is one of training, with its traceback in the output."""
    store = workspace.store
    one = store.submit("train", workspace.keys(output_dir="saves/one"))
    two = store.submit("train", workspace.keys(output_dir="saves/two", dataset="gone"))
    three = store.submit("train", workspace.keys(output_dir="saves/three"))
    store.move(three.id, up=True)
    store.move(three.id, up=True)
    ensure_runner(workspace.folder)
    ended = [workspace.end_of(job.id) for job in (three, one, two)]
    assert [job.state for job in ended] == ["done", "done", "failed"]
    assert ended[2].message.startswith("error: dataset")
    begun = [job.started or 0.0 for job in ended]
    assert begun == sorted(begun) and all((a.ended or 0) <= (b.started or 0) for a, b in pairwise(ended))


def test_jobs_of_other_devices_run_side_by_side(workspace: Workspace) -> None:
    store = workspace.store
    places = [("a", "0"), ("b", "1"), ("c", "0")]
    jobs = [
        store.submit("train", workspace.keys(max_steps=40, output_dir=name), devices=devices)
        for name, devices in places
    ]
    ensure_runner(workspace.folder)
    a, b, c = (workspace.end_of(job.id) for job in jobs)
    assert {a.state, b.state, c.state} == {"done"}
    assert abs((a.started or 0) - (b.started or 0)) < 5 < 60 and (b.started or 0) < (a.ended or 0)
    assert (c.started or 0) >= (a.ended or 0)


def test_a_talkative_run_is_not_held_up(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MB a second on stderr with nobody reading: steps go on, and the files stay small.

    LLAMAFACTORY_TEST_NOISE_SECONDS=600 makes it ten minutes.
    """
    plant(
        workspace,
        monkeypatch,
        """
        import os, sys, threading, time
        def talk():
            while True:
                os.write(2, b"x" * 99_999 + b"\\n")
                time.sleep(0.1)
        if "train" in sys.orig_argv:
            threading.Thread(target=talk, daemon=True).start()
        """,
    )
    store = workspace.store
    job = store.submit("train", workspace.keys(max_steps=10_000_000, logging_steps=10))
    ensure_runner(workspace.folder)
    running = workspace.step(job.id, 10)
    assert running.run_pid is not None and running.pid is not None
    begin, seen, written = time.monotonic(), [0], psutil.Process(running.run_pid).io_counters().write_chars
    while time.monotonic() - begin < NOISE_SECONDS:
        time.sleep(NOISE_SECONDS / 6)
        seen.append(workspace.step(job.id, seen[-1] + 1) and steps_of(store.get(job.id))[-1])
    assert seen == sorted(set(seen)) and store.get(job.id).state == "running", seen
    said = psutil.Process(running.run_pid).io_counters().write_chars - written
    assert said > NOISE_SECONDS * 500_000  # it was not held up
    files = [path.stat().st_size for path in running.folder.glob("output.log*")]
    assert sum(files) < 34 * 2**20
    assert psutil.Process(running.pid).memory_info().rss < 100 * 2**20
    assert "x" * 99 in tail(running)
    print(f"{NOISE_SECONDS} s, {said / 2**20:.0f} MiB said, steps {seen}, kept {sum(files) / 2**20:.1f} MiB")
    store.cancel(job.id)
    assert workspace.end_of(job.id, 15).state == "cancelled"


def test_results_of_a_run_stay_with_its_job(workspace: Workspace) -> None:
    """A later run in the same folder replaces the log there, not what the history shows."""
    store = workspace.store
    first = store.submit("train", workspace.keys(max_steps=4))
    second = store.submit("train", workspace.keys(max_steps=7, overwrite_output_dir=True))
    ensure_runner(workspace.folder)
    assert workspace.end_of(second.id).state == "done"
    found: dict[int, Any] = {job.id: steps_of(store.get(job.id)) for job in (first, second)}
    assert found == {first.id: [1, 2, 3, 4], second.id: [1, 2, 3, 4, 5, 6, 7]}
    assert (store.get(first.id).folder / "all_results.json").is_file()


def test_other_commands_are_jobs_too(workspace: Workspace) -> None:
    """A run, then its export and answers with it, in one queue."""
    store = workspace.store
    keys = workspace.keys()
    store.submit("train", keys)
    exported = store.submit("export", keys | {"export_dir": "exported"})
    answers = store.submit("infer", keys | {"save_name": "answers.jsonl", "max_new_tokens": 4, "max_samples": 3})
    tokens = store.submit("preprocess", keys | {"output_dir": "saves/p", "tokenized_path": "tokens"})
    ensure_runner(workspace.folder)
    assert workspace.end_of(tokens.id).state == "done"
    for job in (exported, answers):
        assert store.get(job.id).state == "done", workspace.output(job)
    assert (workspace.folder / "exported" / "model.safetensors").is_file()
    assert (workspace.folder / "answers.jsonl").read_text().count("\n") == 3
    assert (workspace.folder / "tokens").is_dir()
    assert not processes(workspace.mark) or time.sleep(2) or not processes(workspace.mark)
    assert Path(store.get(exported.id).output_dir or "") == workspace.folder / "exported"
