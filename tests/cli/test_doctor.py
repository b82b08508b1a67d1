# SPDX-License-Identifier: Apache-2.0
"""`doctor` names what is wrong with machines and network, each in one line, on every machine, and ends with 1."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import TWO, A, B, Site, free_port, last

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.launching import ways_to_others
from llamafactory.train.doctor.bandwidth import check_devices
from llamafactory.train.doctor.storage import look_at_storage

ALONE = {"NPROC_PER_NODE": "1"}


def faults(output: str) -> list[str]:
    return [line.removeprefix("fault: ") for line in output.splitlines() if line.startswith("fault: ")]


def examine(site: Site, machines: list[dict[str, str]], *words: str, cwds: tuple[str, ...] = ("", "")) -> list:
    port = free_port()
    for machine, cwd in zip(machines, cwds, strict=False):
        site.start({"MASTER_PORT": port, **TWO, **machine}, list(words), "doctor", cwd)
        time.sleep(0.2)
    return site.ends()


def test_what_is_missing_on_this_machine(site: Site) -> None:
    """Model, data and a package at once, without torch."""
    (site.folder / "plant" / "sitecustomize.py").open("a").write("\nsys.modules['torch'] = None\n")
    site.start(
        {"NPROC_PER_NODE": "1", "LACKS": "jieba"},
        ["dataset=./no.json", "model_name_or_path=./no", "predict_with_generate=true", "eval_dataset=./no.json"],
        "doctor",
    )
    [(code, output)] = site.ends()
    assert code == 1
    found = faults(output)
    assert [re.match(r"\w+", line)[0] for line in found] == ["predict_with_generate", "model_name_or_path", "dataset"]
    assert last(output) == f"error: 3 faults; the first: {found[0]}"


@pytest.mark.slow
def test_two_machines_that_are_well(site: Site) -> None:
    ends = examine(site, [A | {"NPROC_PER_NODE": "2"}, B | {"NPROC_PER_NODE": "2"}])
    for code, output in ends:
        assert code == 0, output
        assert last(output) == "nothing is wrong" and not faults(output)
        lines = dict(line.split(None, 1) for line in output.splitlines() if not line.startswith("["))
        assert re.fullmatch(r"node 0 \(.*\): 0 to 1; node 1 \(.*\): 2 to 3", lines["ranks"])
        assert re.match(r"gloo, 4 processes: \d+\.\d\d GB/s", lines["all-reduce"])
        assert lines["storage"] == f"{site.folder / 'out'} is shared"
    assert not (site.folder / "out").exists()


@pytest.mark.slow
def test_everything_at_once(site: Site) -> None:
    """Settings, versions, clocks, storage, data and number of processes: all faults are named on both machines."""
    other = site.folder / "other" / "peft-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 9.9.9\n")
    (site.folder / "b").mkdir()
    (site.folder / "here.json").write_text("[]")
    port, words = free_port(), ["dataset=./here.json", "output_dir=out"]
    site.start({"MASTER_PORT": port, **TWO, **A}, words, "doctor")
    strange = B | {"CLOCK": "100", "NPROC_PER_NODE": "2", "FIRST": str(site.folder / "other")}
    site.start({"MASTER_PORT": port, **TWO, **strange}, [*words, "seed=7"], "doctor", "b")
    for code, output in site.ends():
        assert code == 1
        found = "\n".join(faults(output))
        for words_of_one in (
            r"dataset: \./here\.json",
            r"NPROC_PER_NODE: 1 on node 0 \(.*\), 2 on node 1 \(",
            r"the version of peft: .* on node 0 \(.*\), 9\.9\.9 on node 1 \(",
            r"seed: .* on node 0 \(.*\), 7 on node 1 \(",
            r"clocks: node 1 \(.*\) is (99\.\d|100\.\d) s ahead of node 0",
            r"output_dir: node 0 \(.*\) does not see what node 1 \(.*\) writes into out",
        ):
            assert re.search(words_of_one, found), output
        assert "all-reduce" in output  # the network is looked at all the same


@pytest.mark.slow
def test_a_machine_that_does_not_come(site: Site) -> None:
    [(code, output)] = examine(site, [A])
    assert code == 1
    assert re.fullmatch(r"node 1 of 2 did not come to 127.0.0.1:\d+ .*within 20 s", faults(output)[0]), output


@pytest.mark.slow
def test_folders_that_are_one_and_shall_not_be(tmp_path: Path) -> None:
    """And folders that are not one; two ends of a line in two threads, each with its own place."""
    assert look_together(tmp_path, {"save_on_each_node": True}, "out", "out")[1].startswith(
        "save_on_each_node: true, but"
    )
    assert look_together(tmp_path, {"save_on_each_node": True}, "out", "own") == (
        "each machine has its own (save_on_each_node)",
        "",
    )
    assert look_together(tmp_path, {}, "out", "out")[1] == ""
    assert look_together(tmp_path, {}, "out", "own")[1].startswith("output_dir: node 0 (")


def look_together(root: Path, keys: dict, first: str, second: str) -> tuple[str, str]:
    import threading

    from llamafactory.extras.line import Place
    from llamafactory.extras.meeting import meet
    from llamafactory.hparams import get_train_args

    port, found = int(free_port()), {}

    def node(rank: int, folder: str) -> None:
        given = {"model_name_or_path": "m", "dataset": "d", "output_dir": str(root / folder), **keys}
        with meet(Place(rank, 2, "127.0.0.1", port), 20) as line:
            found[rank] = look_at_storage(get_train_args(given), line)

    other = threading.Thread(target=node, args=(1, second))
    other.start()
    node(0, first)
    other.join()
    assert bool(found[0][1]) == bool(found[1][1])
    return found[0]


def test_more_processes_than_accelerators() -> None:
    check_devices(8, 8)
    check_devices(8, 0)  # on the CPU any number goes
    with pytest.raises(ConfigError, match=r"^NPROC_PER_NODE: 8 processes, but this machine offers 4 accelerators$"):
        check_devices(8, 4)


def test_the_device_that_leads_to_the_others_is_named_unless_it_was() -> None:
    import psutil

    addresses = [(name, one.address) for name, its in psutil.net_if_addrs().items() for one in its if one.family == 2]
    for name, address in addresses:
        own = {} if address.startswith("127.") else {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
        assert ways_to_others({}, address) == own
        assert ways_to_others({}, f"::ffff:{address}") == own
        assert "GLOO_SOCKET_IFNAME" not in ways_to_others({"GLOO_SOCKET_IFNAME": "eth9"}, address)


HOSTS = {"da": ("10.77.21.1", "va"), "db": ("10.77.21.2", "vb")}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them; their loopback devices are their own."""
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "va", "netns", "da", "type", "veth", "peer", "name", "vb", "netns", "db")
    except (OSError, subprocess.CalledProcessError):
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip("network namespaces may not be made here")
    for name, (address, device) in HOSTS.items():
        ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield
    for name in HOSTS:
        ip("netns", "del", name)


def on_hosts(folder: Path, address: str, *words: str) -> list[tuple[int, str]]:
    children = []
    for rank, name in enumerate(HOSTS):
        variables = {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": address, **ALONE}
        argv = [
            "ip",
            "netns",
            "exec",
            name,
            sys.executable,
            "-m",
            "llamafactory",
            "doctor",
            str(folder / "config.yaml"),
        ]
        children.append(
            subprocess.Popen(
                [*argv, *words],
                env={**os.environ, **variables},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    said = [child.communicate(timeout=60)[0] for child in children]
    return [(child.returncode, text) for child, text in zip(children, said, strict=True)]


@pytest.mark.slow
def test_two_hosts(hosts: None, site: Site) -> None:
    """The name of this host leads to 127.0.0.1, which would be another host's own: gloo is told the device."""
    for code, output in on_hosts(site.folder, HOSTS["da"][0]):
        assert code == 0, output
        assert re.search(r"all-reduce +gloo, 2 processes", output)
    for code, output in on_hosts(site.folder, HOSTS["db"][0]):  # the machines have each other's numbers
        assert code == 1
        assert "10.77.21.2:29500" in faults(output)[0], output


@pytest.mark.slow
def test_little_shared_memory(site: Site) -> None:
    """What a container has whom nobody gave more: 64 MiB."""
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm && exec"
    if subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], check=False).returncode:
        pytest.skip("mounts may not be made here")
    argv = [sys.executable, "-m", "llamafactory", "doctor", str(site.folder / "config.yaml")]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} "$@"', "sh", *argv],
        env={**os.environ, **ALONE}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert faults(done.stdout)[0].startswith("/dev/shm: 64 MiB are free, workers of the data and NCCL need 512 MiB;")
