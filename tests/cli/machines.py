# SPDX-License-Identifier: Apache-2.0
"""Machines of one launch: processes with the variables of one each, all on this host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

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


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def last(output: str) -> str:
    return output.rstrip().splitlines()[-1]


A, B = {"NODE_RANK": "0"}, {"NODE_RANK": "1"}
