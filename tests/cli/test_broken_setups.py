# SPDX-License-Identifier: Apache-2.0
"""Launches that cannot work: on every machine one line that says why is the last one, and none hangs.

Machines are processes with the variables of one each, all on this host.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SECONDS = 200  # a hang lasts for a quarter of an hour; on an idle machine each of these takes less than a minute
TWO = {"NNODES": "2", "NPROC_PER_NODE": "1", "NODES_TIMEOUT": "8"}

# Stands in for training where only how a worker ends matters; MODE says how, on the machine that has it.
PLANT = """
    import os, sys, time, types

    def run_exp(args=None):
        mode = os.environ.get("MODE", "")
        if mode == "leave":
            os._exit(7)
        if mode == "kill":
            os.kill(os.getpid(), 9)
        if mode == "raise":
            raise RuntimeError("planted here")
        if mode == "mistake":
            from llamafactory.extras.errors import ConfigError
            raise ConfigError("planted: mistake")
        if mode == "system":
            sys.exit("planted exit")
        if mode == "join":
            import torch.distributed as dist
            dist.init_process_group("gloo")
        time.sleep(300)

    if os.environ.get("CLOCK"):
        plain, ahead = time.time, float(os.environ["CLOCK"])
        time.time = lambda: plain() + ahead
    if os.environ.get("MODE") == "unborn" and "LOCAL_RANK" in os.environ:
        os._exit(9)
    if os.environ.get("LACKS"):
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: (
            None if name == os.environ["LACKS"] else found(name, package))
    if os.environ.get("MODE"):
        module = types.ModuleType("llamafactory.train.tuner")
        module.run_exp = run_exp
        sys.modules["llamafactory.train.tuner"] = module
"""


class Site:
    """A folder with a configuration, and machines that start from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[subprocess.Popen[str]] = []
        for name in ("plant", "model"):
            (folder / name).mkdir()
        (folder / "plant" / "sitecustomize.py").write_text(textwrap.dedent(PLANT))
        (folder / "rows.json").write_text(json.dumps([{"instruction": "Hi", "output": "Hello."}] * 8))
        keys = {
            "model_name_or_path": str(folder / "model"), "dataset": str(folder / "rows.json"), "template": "chatml",
            "output_dir": str(folder / "out"), "bf16": False, "max_steps": 2, "finetuning_type": "lora",
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(keys))

    def start(self, variables: dict[str, str], words: list[str], command: str = "train", cwd: str = "") -> None:
        path = os.pathsep.join(
            [variables.get("FIRST", ""), str(self.folder / "plant"), os.environ.get("PYTHONPATH", "")]
        )
        place = self.folder / cwd
        place.mkdir(exist_ok=True)
        self.children.append(
            subprocess.Popen(
                [sys.executable, "-m", "llamafactory", command, str(self.folder / "config.yaml"), *words],
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables, "PYTHONPATH": path},
                cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip

    def ends(self) -> list[tuple[int, str]]:
        """Return exit code and output of each machine."""
        deadline = time.monotonic() + SECONDS
        said = [child.communicate(timeout=max(1.0, deadline - time.monotonic()))[0] for child in self.children]
        return [(child.returncode, text) for child, text in zip(self.children, said, strict=True)]

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def last(output: str) -> str:
    return output.rstrip().splitlines()[-1]


Node = dict[str, Any]  # variables; "words" and "cwd" beside them
A, B = {"NODE_RANK": "0"}, {"NODE_RANK": "1"}
ONE = {"NNODES": "1", "FORCE_TORCHRUN": "1"}
MET = r"node 1 of 2 did not come to 127.0.0.1:"

# name -> the machines, and words of the last line of each.
FAST: dict[str, tuple[list[Node], list[tuple[str, ...]]]] = {
    "configurations differ": (
        [A | {"words": ["learning_rate=0.001"]}, B | {"words": ["learning_rate=0.01"]}],
        [("learning_rate: 0.001 on node 0 (", "0.01 on node 1 (")] * 2,
    ),
    "NODE_RANK is missing": ([{}, {}], [("NODE_RANK: two machines are node 0", "NODE_RANK is not set there")] * 2),
    "NODE_RANK is too high": ([{"NODE_RANK": "2"}], [("NODE_RANK: expected less than NNODES (2), got 2",)]),
    "a machine never comes": ([A | {"NODES_TIMEOUT": "2"}], [(MET, "within 2 s")]),
}
SLOW: dict[str, tuple[list[Node], list[tuple[str, ...]]]] = {
    "NPROC_PER_NODE differs": (
        [A, B | {"NPROC_PER_NODE": "2"}], [("NPROC_PER_NODE: 1 on node 0 (", "2 on node 1 (")] * 2
    ),
    "NPROC_PER_NODE is nothing": ([A | {"NPROC_PER_NODE": "0"}], [("NPROC_PER_NODE", "'0'")]),
    "NNODES differs": ([A, B | {"NNODES": "3"}], [("NNODES: 2 on node 0 (", "3 on node 1 (")] * 2),
    "two machines have one number": (
        [A | {"NNODES": "3"}, B | {"NNODES": "3"}, B | {"NNODES": "3"}],
        [("NODE_RANK: two machines are node 1: ",)] * 3,
    ),
    "MASTER_PORT differs": (
        [A, B | {"MASTER_PORT": "1"}], [(MET,), ("node 0 was not found at 127.0.0.1:1", "nobody listens there")]
    ),
    "MASTER_PORT is no number": ([A | {"MASTER_PORT": "http"}], [("MASTER_PORT", "'http'")]),
    "MASTER_ADDR is unknown to one": (
        [A, B | {"MASTER_ADDR": "nowhere.invalid"}],
        [(MET,), ("MASTER_ADDR: the name nowhere.invalid is not known",)],
    ),
    "MASTER_ADDR is not node 0": (
        [A | {"MASTER_ADDR": "192.0.2.1"}, B], [("node 0 ", " at 192.0.2.1:")] * 2
    ),
    "an unknown key on one": (
        [A, B | {"words": ["lerning_rate=1"]}], [(MET,), ("unknown key lerning_rate; did you mean learning_rate",)]
    ),
    "a package has another version": ([A, B | {"FIRST": "other"}], [("the version of peft: ", "9.9.9 on node 1")] * 2),
    "data is missing on one": (
        [A | {"words": ["dataset=./here.json"]}, B | {"words": ["dataset=./here.json"], "cwd": "elsewhere"}],
        [("node 1 (", "dataset: ./here.json")] * 2,
    ),
    "the model is missing on one": (
        [A | {"words": ["model_name_or_path=./model"]}, B | {"words": ["model_name_or_path=./model"], "cwd": "b"}],
        [("node 1 (", "model_name_or_path: './model' does not exist")] * 2,
    ),
    "a package is missing on one": (
        [
            A | {"words": ["predict_with_generate=true", "eval_dataset=here.json"]},
            B | {"words": ["predict_with_generate=true", "eval_dataset=here.json"], "LACKS": "jieba"},
        ],
        [("node 1 (", "predict_with_generate: needs the package jieba")] * 2,
    ),
    "output_dir cannot be made on one": (
        [A | {"words": ["output_dir=o"]}, B | {"words": ["output_dir=o"], "cwd": "taken"}],
        [(MET,), ("output_dir", "o")],
    ),
    "a rank leaves before the meeting of ranks": (
        [A | {"MODE": "join"}, B | {"MODE": "leave"}],
        [("node 1 (", "rank 1 ended with exit code 7"), ("rank 1 ended with exit code 7",)],
    ),
    "a rank is killed": (
        [A | {"MODE": "join"}, B | {"MODE": "kill"}],
        [("node 1 (", "rank 1 ended without a Python error: killed", "SIGKILL"), ("rank 1 ended", "SIGKILL")],
    ),
    "a rank raises": (
        [A | {"MODE": "join"}, B | {"MODE": "raise"}],
        [("node 1 (", "rank 1: RuntimeError: planted here"), ("RuntimeError: planted here",)],
    ),
    "a rank meets a mistake": (
        [A | {"MODE": "join"}, B | {"MODE": "mistake"}],
        [("node 1 (", "planted: mistake"), ("error: planted: mistake",)],
    ),
    "rank 0 raises": (
        [A | {"MODE": "raise"}, B | {"MODE": "join"}],
        [("RuntimeError: planted here",), ("node 0 (", "rank 0: RuntimeError: planted here")],
    ),
    "a rank cannot even start": (
        [A | {"MODE": "join"}, B | {"MODE": "unborn"}],
        [("node 1 (", "rank 1 (exit code 9) ended before it could say why"), ("rank 1 (exit code 9) ended",)],
    ),
    "a rank exits with a text": (
        [A | {"MODE": "join"}, B | {"MODE": "system"}],
        [("node 1 (", "rank 1 (exit code 1) ended"), ("rank 1 (exit code 1) ended", "stands above")],
    ),
    "an elastic job with fewer machines than it needs": (
        [ONE | {"RDZV_ID": "x", "MIN_NNODES": "3", "MAX_NNODES": "2"}], [("MAX_NNODES", "'2'")]
    ),
}  # fmt: skip


def check(site: Site, machines: list[Node], expected: list[tuple[str, ...]]) -> None:
    (site.folder / "here.json").write_text((site.folder / "rows.json").read_text())
    (site.folder / "taken").mkdir()
    (site.folder / "taken" / "o").write_text("a file")
    (site.folder / "taken" / "here.json").write_text("[]")
    other = site.folder / "other" / "peft-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 9.9.9\n")
    port = free_port()
    for machine in machines:
        variables = {key: value for key, value in machine.items() if key not in ("words", "cwd")}
        if "FIRST" in variables:
            variables["FIRST"] = str(site.folder / variables["FIRST"])
        site.start({"MASTER_PORT": port, **TWO, **variables}, machine.get("words", []), cwd=machine.get("cwd", ""))
        time.sleep(0.2)  # of two that want the same port, the first in the table has it
    for (code, output), words in zip(site.ends(), expected, strict=True):
        assert code != 0, output
        assert all(word in last(output) for word in words), output
        assert "Signals.SIG" not in output and "torch/distributed/run.py" not in output, output


@pytest.mark.parametrize("name", FAST)
def test_it_ends_with_one_line_on_every_machine(site: Site, name: str) -> None:
    check(site, *FAST[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_it_ends_with_one_line_on_every_machine_later(site: Site, name: str) -> None:
    check(site, *SLOW[name])


def test_a_taken_port_is_named_with_who_has_it(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        site.start(ONE | {"MASTER_PORT": port, "NPROC_PER_NODE": "2"}, [])
        [(code, output)] = site.ends()
    assert code == 1
    assert last(output).startswith(f"error: MASTER_PORT: {port} is taken on this machine"), output


@pytest.mark.slow
def test_a_port_that_another_program_has_is_said_on_both_machines(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        for node in (A, B):
            site.start({**TWO, **node, "MASTER_PORT": port}, [])
        (first, said), (second, found) = site.ends()
    assert first == second == 1
    assert f"MASTER_PORT: {port} is taken on this machine" in last(said), said
    assert "another program listens there" in last(found), found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_machine_that_is_gone_ends_the_others(site: Site, victim: int) -> None:
    port = free_port()
    for node in (A, B):
        site.start({**TWO, **node, "MASTER_PORT": port, "MODE": "join"}, [])
    time.sleep(15)
    assert [child.poll() for child in site.children] == [None, None]
    site.children[victim].send_signal(signal.SIGKILL)
    code, output = site.ends()[1 - victim]
    assert code == 1
    assert last(output).startswith(f"error: node {victim} (") and "it is gone" in last(output), output


@pytest.mark.slow
def test_ctrl_c_on_one_machine_ends_the_others(site: Site) -> None:
    port = free_port()
    for node in (A, B):
        site.start({**TWO, **node, "MASTER_PORT": port, "MODE": "join"}, [])
    time.sleep(15)
    site.children[0].send_signal(signal.SIGINT)
    (first, said), (second, heard) = site.ends()
    assert (first, last(said)) == (130, "interrupted")
    assert second == 130 and last(heard).startswith("error: node 0 (") and last(heard).endswith("interrupted"), heard
