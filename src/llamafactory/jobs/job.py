# SPDX-License-Identifier: Apache-2.0
"""One job: what shall run and what became of it; and what is no job."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..extras.errors import ConfigError, short
from ..extras.secrets import is_secret, mask_values

CACHE = "llamaboard_cache"  # of a workspace; users know it by this name
QUEUED, RUNNING, STOPPING = "queued", "running", "stopping"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, STOPPING, DONE, FAILED, CANCELLED)
ACTIVE = (RUNNING, STOPPING)
UNFINISHED = (QUEUED, *ACTIVE)

# Command -> the key that says where its result goes.
OUTPUT_KEYS = {
    "train": "output_dir",
    "export": "export_dir",
    "eval": "save_dir",
    "infer": "save_name",
    "preprocess": "tokenized_path",
}
COMMANDS = tuple(OUTPUT_KEYS)

# Variables of the shell that steer a run. A job keeps those it was submitted with: the runner may be another shell's.
STEERING = (
    "FORCE_TORCHRUN", "NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "RDZV_ID", "MIN_NNODES",
    "MAX_NNODES", "MAX_RESTARTS", "NODES_TIMEOUT", "USE_RAY", "RAY_ADDRESS",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "OPTIM_TORCH", "OMP_NUM_THREADS", "RECORD_VRAM",
    "CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "LLAMAFACTORY_VERBOSITY", "ALLOW_EXTRA_ARGS",
    "USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB", "HF_HUB_OFFLINE", "HF_HOME", "HF_DATASETS_CACHE",
    "LLAMABOARD_SAVE_SECONDS",
)  # fmt: skip
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")
_TOKEN_VARIABLES = {"hf_hub_token": "HF_TOKEN", "hub_token": "HF_TOKEN", "swanlab_api_key": "SWANLAB_API_KEY"}
_DEVICES = re.compile(r"\d{1,4}(,\d{1,4})*")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Job:
    """One row of the store.

    Attributes:
        id: Its number in the workspace; never given twice.
        name: For people.
        command: One of :data:`COMMANDS`.
        config: Flat keys.
        state: One of :data:`STATES`.
        position: Order in the queue, lowest first.
        devices: Numbers of accelerators ("0,1"); "" = all that there are.
        environment: Variables of :data:`STEERING` it was submitted with.
        created: Unix seconds, as are ``started`` and ``ended``.
        exit_code: Of the run, 128 + n after signal n; None while it has none, or if it is unknown.
        pid: The keeper's process, None before it has begun.
        pid_started: When that process began, see ``processes.py``.
        run_pid: The run's own process, the first of its group.
        run_started: When that process began.
        stops: How often it was asked to stop; from the second time on, it is not waited for.
        message: Why it failed, in one line.
        parent: The job it is a copy or a continuation of.
        workspace: The folder that its paths start from.
    """

    id: int
    name: str
    command: str
    config: dict[str, Any]
    state: str
    position: int
    devices: str
    environment: dict[str, str]
    created: float
    started: float | None
    ended: float | None
    exit_code: int | None
    pid: int | None
    pid_started: float | None
    run_pid: int | None
    run_started: float | None
    stops: int
    message: str
    parent: int | None
    workspace: Path

    @property
    def folder(self) -> Path:
        """Where its configuration, output and end are kept."""
        return self.workspace / CACHE / "jobs" / str(self.id)

    @property
    def output_dir(self) -> Path | None:
        """Where its results go; None if its configuration does not say it."""
        value = self.config.get(OUTPUT_KEYS[self.command])
        return self.workspace / Path(str(value)).expanduser() if value else None

    @property
    def config_path(self) -> Path:
        """The file that the run reads, and `llamafactory-cli chat` after it."""
        return self.folder / "config.yaml"


def check_job(command: str, config: Mapping[str, Any], name: str | None, devices: str) -> None:
    """Refuse what can be no job; whether the keys are right is the parser's to say.

    Raises:
        ConfigError: What is wrong, in one line.
    """
    if command not in COMMANDS:
        raise ConfigError(f"command: expected one of {', '.join(COMMANDS)}, got {short(command)}")
    if devices and not _DEVICES.fullmatch(devices):
        raise ConfigError(f"devices: expected numbers such as 0,1, got {short(devices)}")
    if devices and len(set(devices.split(","))) < len(devices.split(",")):
        raise ConfigError(f"devices: a number is given twice in {short(devices)}")
    if name is not None and not (name.isprintable() and 0 < len(name.strip()) <= _LONGEST_NAME):
        raise ConfigError(f"name: expected 1 to {_LONGEST_NAME} printable characters, got {short(name)}")
    for key, value in config.items():
        _check_value(key, value)


def _check_value(key: Any, value: Any) -> None:
    """The files of a job are YAML and JSON, may lie in a shared folder, and stay for good."""
    if not isinstance(key, str):
        raise ConfigError(f"configuration: keys are text, got {short(key)}")
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(f"{key}: expected text, numbers, lists or mappings, got {short(value)}") from None
    if "\\u0000" in text or "\0" in key:
        raise ConfigError(f"{short(key)}: holds a NUL character")
    if mask_values(value, key) != value:
        names = f"set {_TOKEN_VARIABLES[key]} in the environment" if key in _TOKEN_VARIABLES else ""
        other = "give it in the environment, or run the command itself" if is_secret(key) else "take the secret out"
        raise ConfigError(f"{key}: a job is kept on disk and holds no secrets; {names or other}")


def steering(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the variables that a job keeps: this process's, and over them what was given.

    Raises:
        ConfigError: A variable that steers no run.
    """
    for name in given or {}:
        if name not in STEERING:
            raise ConfigError(f"{name}: expected one of {', '.join(STEERING)}")
    both = {**os.environ, **(given or {})}
    return {name: both[name] for name in STEERING if name in both}


def free_place(place: str, workspace: Path, taken: Collection[Any]) -> str:
    """Return the first of ``place-2``, ``place-3``, … that neither exists nor is another job's.

    >>> free_place("saves/run-2", Path("/nowhere"), {"saves/run-3"})
    'saves/run-4'
    """
    path = Path(place)
    stem, number = re.fullmatch(r"(.*?)(?:-(\d{1,6}))?", path.stem, re.DOTALL).groups()  # type: ignore[union-attr]
    for count in itertools.count(int(number or 1) + 1):
        name = str(path.with_name(f"{stem}-{count}{path.suffix}"))
        if name not in taken and not (workspace / Path(name).expanduser()).exists():
            return name
    raise AssertionError("counting does not end")
