# SPDX-License-Identifier: Apache-2.0
"""The job store: what is kept, the queue's order, what can be no job, and what a broken store says."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.extras.errors import ConfigError
from llamafactory.jobs import JobStore
from llamafactory.jobs.runner import startable

KEYS = {"model_name_or_path": "org/m", "dataset": "d", "output_dir": "saves/x", "stage": "sft", "lora_rank": 8}


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def test_a_job_is_kept_as_it_was_submitted(store: JobStore, tmp_path: Path) -> None:
    config = KEYS | {"dataset": "数据,b", "deepspeed": {"a": [1, 2.5, None, True]}, "run_name": "'; rm -rf / \"$(x)\n#"}
    job = store.submit("train", config, name="第一", devices="1,0", environment={"NPROC_PER_NODE": "2"})
    again = JobStore(tmp_path).get(job.id)
    assert again == job and again.config == config
    assert (again.name, again.state, again.devices, again.environment["NPROC_PER_NODE"]) == (
        "第一",
        "queued",
        "1,0",
        "2",
    )
    assert yaml.safe_load(again.config_path.read_text("utf-8")) == config
    assert again.output_dir == tmp_path / "saves/x" and again.folder == tmp_path / "llamaboard_cache/jobs/1"


def test_the_queue_can_be_put_in_another_order(store: JobStore) -> None:
    a, b, c = (store.submit("train", KEYS | {"output_dir": name}).id for name in "abc")
    order = lambda: [job.id for job in store.queue()]  # noqa: E731
    assert order() == [a, b, c] and [job.id for job in store.list()] == [c, b, a]
    store.move(c, up=True)
    assert order() == [a, c, b]
    store.move(a, up=True)  # the first stays first
    store.move(b, up=False)  # the last stays last
    assert order() == [a, c, b]
    store.move(a, up=False)
    assert order() == [c, a, b]
    assert store.begin(c) and not store.begin(c)
    store.move(a, up=True)  # not over what runs
    assert order() == [a, b]
    with pytest.raises(ConfigError, match=f"^job {c}: is running, only queued jobs can be moved$"):
        store.move(c, up=True)
    assert [job.id for job in store.list(["queued"], limit=1)] == [b]


def test_numbers_are_never_given_twice(store: JobStore) -> None:
    first = store.submit("train", KEYS).id
    store.cancel(first)
    store.remove(first)
    second = store.submit("train", KEYS)
    assert second.id == first + 1
    with pytest.raises(ConfigError, match=f"^job {first}: there is none of this number in "):
        store.get(first)
    for number in (-1, 0, 2**63, 10**30):
        with pytest.raises(ConfigError, match="there is none of this number"):
            store.get(number)


def test_what_is_left_of_another_store_is_not_taken_for_the_job_s(store: JobStore, tmp_path: Path) -> None:
    left = tmp_path / "llamaboard_cache" / "jobs" / "1"
    left.mkdir(parents=True)
    (left / "exit.json").write_text('{"exit_code": 0}')
    store.submit("train", KEYS)
    assert [path.name for path in left.iterdir()] == ["config.yaml"]


def test_processes_and_threads_submit_at_the_same_time(store: JobStore, tmp_path: Path) -> None:
    code = (
        "import sys, json; from pathlib import Path; from llamafactory.jobs import JobStore\n"
        "store = JobStore(Path(sys.argv[1]))\n"
        "print([store.submit('train', {'output_dir': sys.argv[2] + str(n)}).id for n in range(20)])"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    with ThreadPoolExecutor(4) as pool:
        mine = list(pool.map(lambda n: store.submit("train", {"output_dir": f"c{n}"}).id, range(20)))
    theirs = [number for child in children for number in json.loads(child.communicate(timeout=60)[0])]
    jobs = store.list()
    assert sorted(mine + theirs) == list(range(1, 61)) == sorted(job.id for job in jobs)
    assert len({job.position for job in jobs}) == 60
    assert all(yaml.safe_load(job.config_path.read_text()) == job.config for job in jobs)


@pytest.mark.parametrize(
    ("command", "config", "more", "message"),
    [
        ("chat", {}, {}, "command: expected one of train, export, eval, infer, preprocess, got 'chat'"),
        ("train", {"a": object()}, {}, "a: expected text, numbers, lists or mappings, got <object"),
        ("train", {1: "a"}, {}, "configuration: keys are text, got 1"),
        ("train", {"a": ["x\0y"]}, {}, "'a': holds a NUL character"),
        ("train", {}, {"devices": "0;1"}, "devices: expected numbers such as 0,1, got '0;1'"),
        ("train", {}, {"devices": "0,0"}, "devices: a number is given twice in '0,0'"),
        ("train", {}, {"name": "a\nb"}, "name: expected 1 to 100 printable characters, got"),
        ("train", {}, {"name": ""}, "name: expected 1 to 100 printable characters, got ''"),
        ("train", {}, {"environment": {"LD_PRELOAD": "x"}}, "LD_PRELOAD: expected one of FORCE_TORCHRUN"),
        (
            "train", {"hf_hub_token": "hf_abcdef"}, {},
            "hf_hub_token: a job is kept on disk and holds no secrets; set HF_TOKEN in the environment",
        ),
        ("train", {"vllm_config": {"hf_token": "hf_abcdef"}}, {}, "vllm_config: a job is kept on disk"),
        ("train", {"dataset": "https://me:pass@host/x"}, {}, "dataset: a job is kept on disk and holds no secrets"),
    ],
)  # fmt: skip
def test_what_can_be_no_job(
    store: JobStore, command: str, config: dict[Any, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        store.submit(command, config, **more)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert store.list() == [] and not (store.folder / "jobs" / "1").exists()


def test_a_job_that_has_not_ended_is_neither_resumed_nor_removed(store: JobStore) -> None:
    number = store.submit("train", KEYS).id
    with pytest.raises(ConfigError, match=r"^job 1: is queued, only failed and cancelled jobs can be resumed$"):
        store.resume(number)
    store.begin(number)
    store.claim(number, 1, 0.0)
    with pytest.raises(ConfigError, match=r"^job 1: is running; cancel it first$"):
        store.remove(number)
    assert store.cancel(number).state == "stopping" and store.cancel(number).stops == 2
    assert store.finish(number, "done", 0, "", 1.0) and not store.finish(number, "failed", 1, "", 2.0)
    with pytest.raises(ConfigError, match=r"^job 1: is done already$"):
        store.cancel(number)
    with pytest.raises(ConfigError, match=r"^job 1: is done, only failed .*; `jobs copy` runs it again$"):
        store.resume(number)


def test_a_job_has_one_keeper(store: JobStore) -> None:
    number = store.submit("train", KEYS).id
    assert not store.claim(number, 7, 1.0)  # nobody has begun it
    store.begin(number)
    assert store.claim(number, 7, 1.0) and not store.claim(number, 8, 1.0)
    assert store.get(number).pid == 7


def test_a_job_that_is_cancelled_before_its_keeper_begins_never_runs(store: JobStore) -> None:
    number = store.submit("train", KEYS).id
    store.begin(number)
    assert store.cancel(number).state == "cancelled"
    assert not store.claim(number, 7, 1.0)


def test_resume_goes_on_in_the_same_folder(store: JobStore) -> None:
    more = {"overwrite_output_dir": True, "resume_from_checkpoint": "false"}
    first = store.submit("train", KEYS | more, devices="1", environment={"NPROC_PER_NODE": "2"})
    store.cancel(first.id)
    second = store.resume(first.id)
    assert second.config == KEYS and second.parent == first.id and second.state == "queued"
    assert (second.devices, second.environment, second.name) == (first.devices, first.environment, first.name)


def test_a_copy_has_a_folder_of_its_own(store: JobStore, tmp_path: Path) -> None:
    first = store.submit("train", KEYS)
    (tmp_path / "saves/x-2").mkdir(parents=True)
    second = store.copy(first.id, lora_rank=16, stage=None)
    assert second.config == {
        "model_name_or_path": "org/m", "dataset": "d", "output_dir": "saves/x-3", "lora_rank": 16
    }  # fmt: skip
    assert store.copy(second.id).config["output_dir"] == "saves/x-4"
    assert store.copy(first.id, output_dir="else").config["output_dir"] == "else"
    answers = store.submit("infer", {"save_name": "answers.jsonl"})
    assert store.copy(answers.id).config["save_name"] == "answers-2.jsonl"


def test_devices_are_shared_out_in_order(store: JobStore) -> None:
    def chosen(running: list[str], queued: list[str]) -> list[int]:
        jobs = [store.submit("train", {}, devices=devices) for devices in (*running, *queued)]
        first = jobs[0].id
        for job in jobs[: len(running)]:
            store.begin(job.id)
        now = [store.get(job.id) for job in jobs]
        return [job.id - first - len(running) for job in startable(now[len(running) :], now[: len(running)])]

    assert chosen([], ["", ""]) == [0]
    assert chosen(["0"], ["0", "1"]) == [1]
    assert chosen(["0"], ["1", "2,3", "1"]) == [0, 1]
    assert chosen(["0"], ["0,1", "1", "2"]) == [2]  # the first waits for 0 and 1: nobody takes 1 before it
    assert chosen(["0"], ["", "1"]) == []  # the first waits for all
    assert chosen([""], ["0", "1"]) == []
    assert chosen([], ["0", "", "1"]) == [0]


def test_a_store_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "llamaboard_cache").mkdir()
    path = tmp_path / "llamaboard_cache" / "jobs.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError) as caught:
        JobStore(tmp_path)
    assert str(caught.value) == f"{path}: it is no job store; move it away to begin a new history"


def test_a_damaged_store_is_said_in_one_line(store: JobStore, tmp_path: Path) -> None:
    for number in range(12):
        store.submit("train", KEYS | {"run_name": "x" * 8000 + str(number)})
    path = tmp_path / "llamaboard_cache" / "jobs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[8192:-4096] = os.urandom(len(data) - 8192 - 4096)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"jobs\.db: it is damaged; move it away to begin a new history$"):
        store.list()


def test_a_store_of_a_newer_version_is_left_alone(store: JobStore, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "llamaboard_cache" / "jobs.db") as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(ConfigError, match=r"was written by a newer version of this program; update it$"):
        JobStore(tmp_path)


def test_a_store_that_another_process_writes_for_too_long(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.jobs import database

    monkeypatch.setattr(database, "WAIT_SECONDS", 0.1)
    other = sqlite3.connect(store.folder / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match=r"another process has been writing it for too long; try again$"):
        store.submit("train", KEYS)
    assert store.list() == []  # readers do not wait
    other.execute("ROLLBACK")
    other.close()
    store.submit("train", KEYS)


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "llamaboard_cache").write_text("")
    with pytest.raises(ConfigError, match=r"^workspace: .*llamaboard_cache cannot be made "):
        JobStore(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/usr/bin/setpriv"), reason="root may write anywhere")
def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "llamaboard_cache"
    folder.mkdir(mode=0o555)
    code = "import sys; from pathlib import Path; from llamafactory.jobs import JobStore; JobStore(Path(sys.argv[1]))"
    drop = ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"ConfigError: workspace: {folder} is not writable")


def test_a_full_disk_is_said_in_one_line(store: JobStore) -> None:
    """A limit on the size of files stands for the disk; the job is not half there afterwards."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from llamafactory.jobs import JobStore\n"
        "store = JobStore(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from llamafactory.extras.errors import shown\n"
        "try:\n    store.submit('train', {'run_name': 'x' * 100_000})\n"
        "except Exception as error:\n    print(shown(error))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.workspace)], capture_output=True, text=True)
    assert "jobs" in done.stdout and ", 1)" in done.stdout and done.stderr == "", done
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert store.list() == []
    assert store.submit("train", KEYS).state == "queued"
