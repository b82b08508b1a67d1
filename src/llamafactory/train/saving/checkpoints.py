# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: they appear whole or not at all, and the same holds when they go."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from transformers.trainer_callback import ExportableState

from ...extras.errors import ConfigError
from ...extras.files import publish_folder
from ...extras.locks import locked
from ...extras.logging import is_rank0

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

_NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
_STAGING = ".staging-"
_TRASH = ".trash-"


def checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the resumable checkpoint folders in ``output_dir``, oldest step first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / STATE).is_file()]


def resume_point(output_dir: str, wanted: str | None, overwrite: bool) -> Path | None:
    """Return the checkpoint to continue from, None to start anew.

    Args:
        output_dir: The run's folder.
        wanted: ``resume_from_checkpoint``: a folder, ``true`` (the last one, which must exist), ``false`` (start anew)
            or None.
        overwrite: ``overwrite_output_dir``: start anew, except in a worker that an elastic launch has restarted.

    Raises:
        ConfigError: The checkpoint asked for is not there or not whole.
    """
    last = next(iter(reversed(checkpoints(output_dir))), None)
    if wanted is not None and wanted.lower() not in ("true", "false"):
        folder = Path(wanted).expanduser()
        if not (folder / STATE).is_file():
            raise ConfigError(f"resume_from_checkpoint: {folder} is not a checkpoint (it has no {STATE})")
        return folder
    if wanted is not None and wanted.lower() == "true":
        if last is None:
            raise ConfigError(f"resume_from_checkpoint: no checkpoint in {output_dir}")
        return last
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return last if restarted or not (overwrite or wanted is not None) else None


def make_output_dir(output_dir: str | os.PathLike[str]) -> None:
    """Make the run's folder before anything slow happens.

    Raises:
        ConfigError: The folder cannot be made or written.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be made ({error.strerror})") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"output_dir: {folder} is not writable")


@contextmanager
def own_output_dir(output_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Make the run's folder and keep other runs out of it.

    Raises:
        ConfigError: The folder cannot be made or written, or another run is writing there.
    """
    is_new = not Path(output_dir).exists()
    make_output_dir(output_dir)
    if not is_rank0():  # the first process stands for all
        yield
        return
    try:
        with locked(Path(output_dir) / ".llamafactory.lock", f"output_dir: {output_dir}"):
            yield
    finally:
        if is_new:  # a run that could not start leaves no empty folder
            with suppress(OSError):
                Path(output_dir).rmdir()


def clear_leftovers(output_dir: str | os.PathLike[str], old_checkpoints: bool) -> None:
    """Remove what a killed run left half done; with ``old_checkpoints`` also the checkpoints of an earlier run."""
    folder = Path(output_dir)
    if folder.is_dir():
        for path in list(folder.iterdir()):
            if path.name.startswith((_STAGING, _TRASH)):
                shutil.rmtree(path)
    if old_checkpoints:
        for path in checkpoints(output_dir):
            _remove(path)


@contextmanager
def staged_checkpoint(args: TrainingArguments, step: int) -> Iterator[Path]:
    """Give a hidden folder to write ``checkpoint-<step>`` into; all ranks call this together.

    When all ranks have written, one rename publishes it.

    Args:
        args: Names the run's folder, and the place of this process.
        step: Optimizer steps done.
    """
    final = checkpoint_folder(args.output_dir, step)
    staging = final.with_name(f"{_STAGING}{final.name}")
    yield staging
    _barrier()
    if args.process_index == 0:
        _publish(staging, final)
    _barrier()
    if args.local_process_index == 0 and staging.is_dir():  # a node that shares no disk with the first
        _publish(staging, final)


def checkpoint_folder(output_dir: str | os.PathLike[str] | None, step: int) -> Path:
    """Return where the checkpoint of a step is, or would be."""
    return Path(str(output_dir)) / f"checkpoint-{step}"


def best_checkpoint(output_dir: str | os.PathLike[str] | None, state: TrainerState) -> str | None:
    """Return the checkpoint of the best step if it is there or about to be saved, else the best one known before."""
    if state.best_global_step:
        best = checkpoint_folder(output_dir, state.best_global_step)
        if state.best_global_step == state.global_step or best.is_dir():
            return str(best)
    return state.best_model_checkpoint


def callback_states(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Return the present state of stateful callbacks, by class, as transformers saves it."""
    return {
        type(callback).__name__: callback.state() for callback in callbacks if isinstance(callback, ExportableState)
    }


def _publish(staging: Path, final: Path) -> None:
    if final.exists():  # saved again at the same step, for example by Ctrl-C right after a scheduled save
        _remove(final)
    publish_folder(staging, final)


def rotate(output_dir: Path, limit: int | None, best: str | None) -> None:
    """Keep the newest ``limit`` checkpoints, the best one among them."""
    if limit is None or limit <= 0:
        return
    kept = checkpoints(output_dir)
    newest = kept[-1:]
    spare = [path for path in kept[:-1] if best is None or path != Path(best)]
    room = limit - len(newest) - (len(kept) - len(newest) - len(spare))
    for path in spare[: max(0, len(spare) - max(0, room))]:
        _remove(path)


def _remove(path: Path) -> None:
    """Delete a folder; it loses its name first, so a kill in between leaves no half checkpoint."""
    trash = path.with_name(_TRASH + path.name)
    os.replace(path, trash)
    shutil.rmtree(trash)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
