# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with one machine before a run; no torch is needed to find it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.sources.dataset_info import find_media_datasets
from ...extras.errors import ConfigError
from ...extras.files import make_writable
from ...extras.packages import version_of
from ...hparams import split_list
from ...hparams.roll_call import PACKAGES
from ...hparams.rules.packages import require_packages

if TYPE_CHECKING:
    from ...hparams import TrainArgs

SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED = 512 << 20  # a container has 64 MiB when nobody asked for more
_NEEDED = [name for name in PACKAGES if name not in ("llamafactory", "deepspeed")]


def stoppers(args: TrainArgs) -> list[str]:
    """Return what would end a run on this machine for sure."""
    return [fault for name, _, fault in look_at_machine(args) if fault and name != str(SHARED_MEMORY)]


def look_at_machine(args: TrainArgs) -> Iterator[tuple[str, str, str]]:
    """Yield ``(what was looked at, what was found, what is wrong or "")``.

    Args:
        args: Of the run.
    """
    looks: dict[str, Callable[[TrainArgs], str]] = {
        "packages": _packages,
        str(SHARED_MEMORY): _shared_memory,
        "model": _model,
        "data": _data,
        "output_dir": _output,
    }
    for name, look in looks.items():
        try:
            yield name, look(args), ""
        except ConfigError as error:
            yield name, "", str(error)


def _packages(args: TrainArgs) -> str:
    missing = [name for name in _NEEDED if version_of(name) is None]
    if missing:
        raise ConfigError(f"{missing[0]}: the package is not installed; pip install {' '.join(missing)}")
    require_packages(args)
    return f"torch {version_of('torch')}, transformers {version_of('transformers')}"


def _shared_memory(_: TrainArgs) -> str:
    if not SHARED_MEMORY.is_dir():
        return "this system has none"
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize
    if free < LEAST_SHARED:
        raise ConfigError(
            f"{SHARED_MEMORY}: {free >> 20} MiB are free, workers of the data and NCCL need {LEAST_SHARED >> 20} MiB; "
            "of a container, docker run --shm-size=16g (Kubernetes: an emptyDir in Memory mounted there)"
        )
    return f"{free / 2**30:.1f} GiB free"


def _model(args: TrainArgs) -> str:
    name = args.model.model_name_or_path
    places: dict[str, list[str]] = {
        "model_name_or_path": [str(name or "")],
        "adapter_name_or_path": split_list(args.model.adapter_name_or_path),
    }
    for key, paths in places.items():
        for path in paths:
            if path and path.startswith((".", "/", "~")) and not Path(path).expanduser().exists():
                raise ConfigError(f"{key}: '{path}' does not exist")
    return str(name)


def _data(args: TrainArgs) -> str:
    data = args.data
    names = [*split_list(data.dataset), *split_list(data.eval_dataset)]
    if data.tokenized_path and Path(data.tokenized_path).expanduser().is_dir():
        return f"tokenized_path {data.tokenized_path}"
    found = find_media_datasets(names, data.dataset_dir, data.media_dir, data.columns)
    for one in found:
        if one.place == "file" and not Path(one.location).expanduser().exists():
            raise ConfigError(f"dataset: {one.name}: {one.location} does not exist")
    elsewhere = sum(one.place != "file" for one in found)
    return f"{len(found)} sets" + (f", {elsewhere} of them to be downloaded" if elsewhere else "")


def _output(args: TrainArgs) -> str:
    folder = Path(str(args.training.output_dir))
    before = folder.exists()
    make_writable(folder, "output_dir")
    if not before:
        with suppress(OSError):  # another machine may have written into it by now
            folder.rmdir()
    return str(folder)
