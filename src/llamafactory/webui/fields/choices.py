# SPDX-License-Identifier: Apache-2.0
"""What the lists of the page offer: data sets of a folder, what earlier runs left, this machine's devices."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from ...extras.errors import ConfigError
from ...extras.files import read_json
from ..workspace import inside, is_text

INFO = "dataset_info.json"
_MOST = 2000  # names in a list
_WEIGHTS = ("adapter_config.json", "config.json")
_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")


def list_datasets(folder: str) -> list[str]:
    """Names of the data sets that are registered in a folder of the workspace; none where there is no list."""
    try:
        found = read_json(inside(folder or "data", "dataset_dir") / INFO)
    except ConfigError:
        return []
    return [name for name in map(str, found) if is_text(name)][:_MOST]


def offer_datasets(folder: str) -> tuple[str, list[str]]:
    """A folder, and the names of the data sets that are registered in it."""
    return folder, list_datasets(folder)


def list_checkpoints(folder: str | Path) -> list[tuple[str, str]]:
    """What earlier runs left in a folder of the workspace, newest run first, each with its checkpoints.

    Returns:
        Name and path, both relative: to the folder, and to the workspace.
    """
    try:
        place = inside(folder, "checkpoint_path")
    except ConfigError:
        return []
    found: list[str] = []
    for run in sorted(_folders(place), key=changed_at, reverse=True):
        steps = [entry.name for entry in _folders(Path(run.path)) if entry.name.startswith("checkpoint-")]
        found += [run.name] if _has_weights(run.path) else []
        found += [f"{run.name}/{step}" for step in sorted(steps, key=_number, reverse=True)]
        if len(found) >= _MOST:
            break
    return [(name, os.path.join(folder, name)) for name in found[:_MOST]]


def new_run(kind: str = "train") -> str:
    """A name for a run that nothing has yet, as the reference of such pages writes it."""
    return time.strftime(f"{kind}_%Y-%m-%d-%H-%M-%S")


def is_new_run(name: str) -> bool:
    """Whether a name is one of :func:`new_run`."""
    return re.fullmatch(r"[a-z]+_\d{4}(-\d\d){5}", name) is not None


def list_devices() -> list[str]:
    """Numbers of this machine's NVIDIA and Ascend devices, found without torch; none on other machines."""
    found = [name for name in _names(Path("/dev")) if re.fullmatch(r"nvidia\d+|davinci\d+", name)]
    return sorted((str(_number(name)) for name in found), key=int)


def _names(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _folders(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return [entry for entry in entries if is_text(entry.name) and entry.name[:1] != "." and _is_folder(entry)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def changed_at(entry: os.DirEntry[str] | Path) -> float:
    """When a file or folder was last changed; one that is gone by now counts as the oldest."""
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def _has_weights(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, name)) for name in _WEIGHTS)


def _number(name: str) -> int:
    found = _LAST_NUMBER.search(name)
    return int(found[1]) if found else 0
