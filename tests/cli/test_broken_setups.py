# SPDX-License-Identifier: Apache-2.0
"""Launches that cannot work: on every machine one line that says why is the last one, and none hangs.

Machines are processes with the variables of one each, all on this host.
"""

from __future__ import annotations

import signal
import socket
import time
from typing import Any

import pytest
from machines import TWO, A, B, Site, free_port, last

Node = dict[str, Any]  # variables; "words" and "cwd" beside them
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
