# SPDX-License-Identifier: Apache-2.0
"""Launching several processes: the argument list, the environment, and how failures come home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.launching import torchrun_argv, worker_environment

WORDS = ["train", "a folder/c.yaml", 'fsdp_config={"a": 1}']
RUN = [sys.executable, "-m", "llamafactory.extras.torchrun"]
TAIL = ["--module", "llamafactory.launcher", *WORDS]


def static(workers, nodes, rank, address, port):
    return [
        *RUN, "--nproc-per-node", workers, "--nnodes", nodes, "--node-rank", rank,
        "--master-addr", address, "--master-port", port, *TAIL,
    ]  # fmt: skip


def elastic(workers, nodes, name, endpoint, restarts):
    return [
        *RUN, "--nproc-per-node", workers, "--nnodes", nodes, "--rdzv-id", name, "--rdzv-backend", "c10d",
        "--rdzv-endpoint", endpoint, "--max-restarts", restarts, *TAIL,
    ]  # fmt: skip


TWO = {"NPROC_PER_NODE": "2"}


@pytest.mark.parametrize(
    ("env", "argv"),
    [
        (TWO | {"MASTER_PORT": "1234"}, static("2", "1", "0", "127.0.0.1", "1234")),
        (
            TWO | {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"},
            static("2", "3", "2", "10.0.0.1", "7"),
        ),
        (TWO | {"NNODES": "2", "MASTER_ADDR": "host"}, static("2", "2", "0", "host", "29500")),
        (TWO | {"RDZV_ID": "job", "MASTER_PORT": "5"}, elastic("2", "1:1", "job", "127.0.0.1:5", "0")),
        (
            TWO | {"RDZV_ID": "job", "NNODES": "2", "MIN_NNODES": "1", "MAX_NNODES": "4", "MAX_RESTARTS": "3"},
            elastic("2", "1:4", "job", "127.0.0.1:29500", "3"),
        ),
        (TWO | {"RDZV_ID": "job", "NNODES": "2", "MASTER_PORT": "5"}, elastic("2", "2:2", "job", "127.0.0.1:5", "0")),
    ],
)
def test_argument_list(env, argv):
    assert torchrun_argv(WORDS, env) == argv


def test_a_free_port_is_taken_when_none_is_set():
    argv = torchrun_argv(WORDS, TWO)
    port = int(argv[argv.index("--master-port") + 1])
    assert 1024 <= port <= 65535
    assert port != int(torchrun_argv(WORDS, TWO)[argv.index("--master-port") + 1])


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE: expected a whole number from 1 to 1000000, got 'two'"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE: expected a whole number from 1 to 1000000, got '0'"),
        (TWO | {"NNODES": "-1"}, "NNODES: expected a whole number"),
        (TWO | {"NNODES": "2", "NODE_RANK": "2"}, r"NODE_RANK: expected less than NNODES \(2\), got 2"),
        (TWO | {"MASTER_PORT": "http"}, "MASTER_PORT: expected a whole number"),
        (
            TWO | {"RDZV_ID": "x", "MIN_NNODES": "3", "MAX_NNODES": "2"},
            "MAX_NNODES: expected a whole number from 3 to 1000000, got '2'",
        ),
    ],
)
def test_bad_variables_are_named(env, message):
    with pytest.raises(ConfigError, match="^" + message):
        torchrun_argv(WORDS, env)


def test_worker_environment():
    cores = len(os.sched_getaffinity(0))
    assert worker_environment(TWO) == {
        "OMP_NUM_THREADS": str(max(1, cores // 2)),
        "LLAMAFACTORY_SHARED_CORES": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
    }
    assert set(worker_environment(TWO | {"OPTIM_TORCH": "0"})) == {"OMP_NUM_THREADS", "LLAMAFACTORY_SHARED_CORES"}
    assert "OMP_NUM_THREADS" not in worker_environment(TWO | {"OMP_NUM_THREADS": "3"})
    assert "PYTORCH_CUDA_ALLOC_CONF" not in worker_environment(TWO | {"PYTORCH_CUDA_ALLOC_CONF": ""})


@pytest.mark.parametrize(
    ("env", "accelerators", "keys", "launched"),
    [
        ({}, 0, {}, False),
        ({}, 1, {}, False),
        ({}, 2, {}, True),
        ({}, 2, {"use_cpu": "true"}, False),
        ({"FORCE_TORCHRUN": "1"}, 0, {}, True),
        ({"FORCE_TORCHRUN": "0"}, 0, {}, False),
        ({"NNODES": "2"}, 1, {}, True),
        ({"RDZV_ID": "job"}, 1, {}, True),
        ({"FORCE_TORCHRUN": "1", "LOCAL_RANK": "0"}, 2, {}, False),
    ],
)
def test_when_torchrun_is_used(monkeypatch, env, accelerators, keys, launched):
    from llamafactory import launcher
    from llamafactory.extras import device

    ran = []
    for name in ("FORCE_TORCHRUN", "NNODES", "RDZV_ID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "count_accelerators", lambda: accelerators)
    monkeypatch.setattr(launcher, "run_torchrun", lambda words: ran.append(words) or 7)
    monkeypatch.setattr(launcher, "handler", lambda command: lambda: ran.append(command))
    words = ["train", "model_name_or_path=m", "dataset=d", *(f"{key}={value}" for key, value in keys.items())]
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", *words])
    assert launcher.launch() == (7 if launched else 0)
    assert ran == [words if launched else "train"]


WORKER = """
    import json, os, sys, time, types, pathlib

    def run_exp(args=None):
        import torch.distributed as dist
        from llamafactory.extras.errors import ConfigError
        rank, mode = int(os.environ["RANK"]), os.environ["MODE"]
        dist.init_process_group("gloo")
        pathlib.Path(f"argv{rank}.json").write_text(json.dumps(sys.argv[1:]))
        dist.barrier()
        if mode == "raise" and rank == 1:
            raise RuntimeError("planted at rank 1")
        if mode == "user":
            raise ConfigError("data.jsonl:3: planted mistake")
        if mode == "kill" and rank == 1:
            os.kill(os.getpid(), 9)
        if mode == "wait":
            pathlib.Path(f"ready{rank}").touch()
            time.sleep(60)
        dist.barrier()
        dist.destroy_process_group()

    module = types.ModuleType("llamafactory.train.tuner")
    module.run_exp = run_exp
    sys.modules["llamafactory.train.tuner"] = module
"""


@pytest.fixture
def start(tmp_path):
    """Start real training processes whose `run_exp` is the small function above."""
    plant = tmp_path / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(textwrap.dedent(WORKER))
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "the config.yaml").write_text("model_name_or_path: m\ndataset: d\n")

    def run(mode: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(plant), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "MODE": mode, "FORCE_TORCHRUN": "1", "OMP_NUM_THREADS": "1", **TWO}
        words = ["train", "the config.yaml", "run_name=two words; $(x)"]
        return subprocess.Popen(
            [sys.executable, "-m", "llamafactory", *words],
            cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return folder, run


def test_two_processes_get_the_words_unchanged(start):
    import json

    folder, run = start
    child = run("fine")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    for rank in (0, 1):
        assert json.loads((folder / f"argv{rank}.json").read_text()) == [
            "train",
            "the config.yaml",
            "run_name=two words; $(x)",
        ]


def test_the_first_traceback_is_printed_last(start):
    _, run = start
    child = run("raise")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    last = errors.rstrip().splitlines()
    assert last[-1] == "RuntimeError: planted at rank 1"
    assert "rank 1 failed first:" in last[-20:]
    assert errors.count("RuntimeError: planted at rank 1") == 1


def test_a_users_mistake_in_the_workers_is_one_line(start):
    _, run = start
    child = run("user")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    assert errors.rstrip().splitlines()[-1] == "error: data.jsonl:3: planted mistake"
    assert errors.count("planted mistake") == 1


def test_a_killed_worker_gets_a_hint(start):
    _, run = start
    child = run("kill")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    last = errors.rstrip().splitlines()[-1]
    assert last.startswith("rank 1 ended without a Python error: killed from outside (SIGKILL).")


def test_sigterm_is_handed_on_and_waited_for(start):
    folder, run = start
    child = run("wait")
    deadline = time.monotonic() + 60
    while not all((folder / f"ready{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert errors.rstrip().splitlines()[-1] == "interrupted"
