# SPDX-License-Identifier: Apache-2.0
"""The runner and the keepers with real processes: runs that fail at once here, whole trainings in test_runs.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from orphans import processes

from llamafactory.extras.errors import ConfigError
from llamafactory.jobs import Job, JobStore, ensure_runner
from llamafactory.jobs.keeper import EXIT_FILE, run_environment
from llamafactory.jobs.processes import began, is_alive
from llamafactory.jobs.runner import settle

from .conftest import Workspace

WRONG = {"model_name_or_path": "m", "dataset": "d", "nonsense": 1}
WHY = "llamaboard_cache/jobs/{}/config.yaml:3: unknown key nonsense; `llamafactory-cli train -h` lists all keys"


def test_a_queue_goes_on_after_a_failure_and_after_its_runner_was_killed(workspace: Workspace) -> None:
    """A wrong one, a training in the middle of which the runner is killed, a wrong one."""
    store = workspace.store
    first = store.submit("train", WRONG)
    second = store.submit("train", workspace.keys(max_steps=30))
    third = store.submit("train", WRONG)
    ensure_runner(workspace.folder)
    ensure_runner(workspace.folder)  # one is enough
    job = workspace.wait(second.id, lambda job: job.run_pid is not None)
    workspace.runner().kill()
    failed = store.get(first.id)
    assert (failed.state, failed.exit_code, failed.message) == ("failed", 1, "error: " + WHY.format(first.id))
    assert workspace.output(failed) == failed.message + "\n"
    while processes(workspace.mark) and any("runner" in one.cmdline() for one in processes(workspace.mark)):
        time.sleep(0.05)
    ensure_runner(workspace.folder)
    again = store.get(second.id)
    assert (again.state, again.pid, again.run_pid) == ("running", job.pid, job.run_pid)
    assert workspace.end_of(third.id).message == "error: " + WHY.format(third.id)
    done = store.get(second.id)
    assert (done.state, done.exit_code, done.message) == ("done", 0, ""), workspace.output(done)
    assert done.ended is not None and (store.get(third.id).started or 0.0) >= done.ended
    steps = [step for step, _ in curve_of(done)]
    assert steps == list(range(1, 31))
    end = time.monotonic() + 10
    while processes(workspace.mark):  # runner and keepers end with their work
        assert time.monotonic() < end
        time.sleep(0.05)


def curve_of(job: Job) -> list[tuple[int, float]]:
    from llamafactory.jobs.progress import curves

    return curves(job)["loss"]


def test_two_runners_are_impossible(workspace: Workspace) -> None:
    store = workspace.store
    blocker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = began(blocker.pid)
    assert started is not None
    number = store.submit("train", WRONG).id
    store.begin(number)
    store.claim(number, blocker.pid, started)  # work enough for a runner to stay
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-P", "-m", "llamafactory.jobs", "runner", str(workspace.folder)], check=True, timeout=60
        )
    time.sleep(1.5)
    assert workspace.runner().is_running()
    blocker.kill()
    blocker.wait()
    assert workspace.end_of(number).message == "its keeper was killed, and with it the run"


def test_a_number_that_another_process_has_now_is_not_the_run(workspace: Workspace) -> None:
    store = workspace.store
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = began(other.pid)
        assert started is not None and is_alive(other.pid, started) and not is_alive(other.pid, started - 60)
        for number, began_at in ((1, started), (2, started - 60)):
            store.submit("train", WRONG)
            store.begin(number)
            store.claim(number, other.pid, began_at)
        settle(store)
        assert [store.get(number).state for number in (1, 2)] == ["running", "failed"]
        assert other.poll() is None  # nobody has ended it
    finally:
        other.kill()
        other.wait()
    assert not is_alive(other.pid, started) and not is_alive(None, None) and not is_alive(2**40, 1.0)
    settle(store)
    assert store.get(1).state == "failed"


def test_a_process_that_has_ended_and_was_not_waited_for_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
    assert began(child.pid) is None
    child.wait()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"exit_code": 0}', '{"exit_code": 0, "message": "", "ended": "x"}']
)
def test_a_damaged_note_of_an_end_is_said(workspace: Workspace, content: str) -> None:
    store = workspace.store
    job = store.submit("train", WRONG)
    store.begin(job.id)
    store.claim(job.id, 2**22 + 1, 1.0)
    (job.folder / EXIT_FILE).write_text(content)
    settle(store)
    ended = store.get(job.id)
    assert ended.state == "failed" and ended.message.endswith("exit.json is damaged, so its end is not known")


def test_a_keeper_that_never_begins(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three tries the job has failed, and the queue goes on."""
    from llamafactory.jobs import runner

    monkeypatch.setattr(runner, "_BEGIN_SECONDS", 0.0)
    started = []
    monkeypatch.setattr(runner, "start_detached", lambda words, log, cwd: started.append(words))
    store = workspace.store
    store.submit("train", WRONG)
    one = runner.Runner(store)
    while one.step():
        assert len(started) < 9
    assert started == [["keeper", str(workspace.folder), "1"]] * 3
    assert store.get(1).message == f"it could not be started; see {workspace.folder}/llamaboard_cache/runner.log"


def test_a_job_of_devices_that_are_not_there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    job = workspace.store.submit("train", WRONG, devices="2")
    ensure_runner(workspace.folder)
    ended = workspace.end_of(job.id)
    assert ended.message == "error: devices: 2 is not there, 2 are visible (4,5)" and ended.exit_code == 1


def test_environment_of_a_run(store_of: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What steers a run is the submitter's, not the runner's; tokens are the runner's, and in no file."""
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    monkeypatch.setenv("HF_TOKEN", "hf_verysecrettoken")
    monkeypatch.delenv("FORCE_TORCHRUN", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = store_of.submit("train", {"output_dir": "saves/x"}, devices="1,0")
    own = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "8", "HF_TOKEN": "hf_verysecrettoken", "PATH": "/bin"}
    made = run_environment(job, own)
    assert (made["NPROC_PER_NODE"], made["PATH"], made["HF_TOKEN"]) == ("2", "/bin", "hf_verysecrettoken")
    assert "FORCE_TORCHRUN" not in made
    assert made["CUDA_VISIBLE_DEVICES"] == made["ASCEND_RT_VISIBLE_DEVICES"] == "1,0"
    assert made["LLAMABOARD_ENABLED"] == "1" and made["LLAMABOARD_WORKDIR"] == str(store_of.workspace / "saves/x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-abc")
    assert run_environment(store_of.submit("train", {}, devices="1"), own)["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    assert run_environment(store_of.submit("train", {}), own)["CUDA_VISIBLE_DEVICES"] == "4, GPU-abc"
    with pytest.raises(ConfigError, match=r"^devices: 2 is not there, 2 are visible "):
        run_environment(store_of.submit("train", {}, devices="2"), own)


@pytest.fixture
def store_of(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def test_no_file_of_a_job_holds_a_token(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecrettoken")
    job = workspace.store.submit("train", WRONG)
    ensure_runner(workspace.folder)
    workspace.end_of(job.id)
    files = [path for path in (workspace.folder / "llamaboard_cache").rglob("*") if path.is_file()]
    assert {"jobs.db", "config.yaml", "output.log", "exit.json"} <= {path.name for path in files}
    assert [path for path in files if b"verysecret" in path.read_bytes()] == []


def test_a_file_of_the_workspace_is_not_taken_for_a_module(workspace: Workspace) -> None:
    for name in ("yaml", "psutil", "sqlite3", "llamafactory"):
        (workspace.folder / f"{name}.py").write_text("raise SystemExit('taken from the workspace')")
    job = workspace.store.submit("train", WRONG)
    ensure_runner(workspace.folder)
    assert workspace.end_of(job.id).message == "error: " + WHY.format(job.id)


def test_nothing_of_the_queue_imports_torch() -> None:
    code = (
        "import sys, llamafactory.jobs.commands, llamafactory.jobs.keeper, llamafactory.jobs.progress\n"
        "print([name for name in ('torch', 'transformers', 'gradio', 'llamafactory.hparams') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_signals_of_a_terminal_reach_no_run(workspace: Workspace) -> None:
    """Who submits may be killed with all of its process group and session, as a closed terminal does."""
    code = (
        "import sys, time; from pathlib import Path; from llamafactory.jobs import JobStore, ensure_runner\n"
        "store = JobStore(Path(sys.argv[1])); store.submit('train', {'nonsense': 1}); ensure_runner(store.workspace)\n"
        "print('submitted', flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", code, str(workspace.folder)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None and child.stdout.readline() == "submitted\n"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert workspace.end_of(1).exit_code == 1
