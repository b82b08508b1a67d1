# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: they appear whole or not at all, and the same holds when they go."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from transformers.trainer_callback import ExportableState

from ...extras.environment import rank_number
from ...extras.errors import ConfigError, writing
from ...extras.file_list import find_damage, write_file_list
from ...extras.files import make_writable, publish_folder
from ...extras.locks import locked
from ...extras.logging import get_logger, is_rank0
from .run_config import NAME as RUN_CONFIG

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

logger = get_logger(__name__)
_NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
_FILES = "checkpoint_files.json"
_STAGING = ".staging-"
_TRASH = ".trash-"
_LEFT = re.compile(r"\.((staging|trash)-(checkpoint-\d+|model)|rehearsal-\w+)")


def checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the resumable checkpoint folders in ``output_dir``, oldest step first."""
    return [path for path in _numbered(output_dir) if (path / STATE).is_file()]


def _numbered(output_dir: str | os.PathLike[str]) -> list[Path]:
    """Return everything that is called a checkpoint, oldest step first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def resume_point(output_dir: str, wanted: str | None, overwrite: bool) -> Path | None:
    """Return the checkpoint to continue from, None to start anew; all ranks call this together.

    A damaged checkpoint is named; unless it was asked for by its name, the newest whole one before it is taken.

    Args:
        output_dir: The run's folder.
        wanted: ``resume_from_checkpoint``: a folder, ``true`` (the last one, which must exist), ``false`` (start anew)
            or None.
        overwrite: ``overwrite_output_dir``: start anew, except in a worker that an elastic launch has restarted.

    Raises:
        ConfigError: The checkpoint asked for is not there or not whole.
    """
    if wanted is not None and wanted.lower() not in ("true", "false"):
        return _named(Path(wanted).expanduser())
    if wanted is not None and wanted.lower() == "true":
        if not _numbered(output_dir):
            raise ConfigError(f"resume_from_checkpoint: no checkpoint in {output_dir}")
        return _newest_whole(output_dir)
    return None if (overwrite or wanted is not None) and not is_restarted() else _newest_whole(output_dir)


def is_restarted() -> bool:
    """Whether this process stands for one that died in an elastic launch."""
    return rank_number("TORCHELASTIC_RESTART_COUNT") > 0


def _named(folder: Path) -> Path:
    if not (folder / STATE).is_file():
        raise ConfigError(f"resume_from_checkpoint: {folder} is not a checkpoint (it has no {STATE})")
    damage = next((found for found in _gathered(_damage(folder)) if found), None)
    if damage is None:
        return folder
    others = [path for path in reversed(_numbered(folder.parent)) if path.name != folder.name]
    whole = next((path for path in others if _damage(path) is None), None)
    cure = f"the newest whole one beside it is {whole}" if whole else "there is no whole one beside it"
    raise ConfigError(f"resume_from_checkpoint: {folder} is damaged ({damage}); {cure}")


def _newest_whole(output_dir: str) -> Path | None:
    """Return the newest checkpoint that is whole for every rank; each damaged one is named.

    Raises:
        ConfigError: There are checkpoints, but none is whole, or not all ranks find one.
    """
    bound, damaged = sys.maxsize, dict[str, str]()
    while True:
        step = _newest_step(output_dir, bound, damaged)
        steps = _gathered(step)
        if len(set(steps)) == 1:
            break
        bound = min(steps)
    said = "; ".join(f"{name} is damaged ({damage})" for name, damage in damaged.items())
    if step < 0:
        if not any(_gathered(bool(_numbered(output_dir)))):
            return None
        raise ConfigError(
            f"output_dir: {output_dir} has no whole checkpoint: {said or 'other processes see none'}; "
            "overwrite_output_dir: true starts anew"
        )
    if damaged:
        logger.warning_rank0("%s: %s; the newest whole one is checkpoint-%d", output_dir, said, step)
    return checkpoint_folder(output_dir, step)


def _newest_step(output_dir: str, bound: int, damaged: dict[str, str]) -> int:
    """Return the newest whole step up to ``bound``, -1 if there is none; take down those that are damaged."""
    for path in reversed(_numbered(output_dir)):
        if _step(path) <= bound and path.name not in damaged:
            damage = _damage(path)
            if damage is None:
                return _step(path)
            damaged[path.name] = damage
    return -1


def _damage(folder: Path) -> str | None:
    return find_damage(folder, _FILES, (STATE,), RUN_CONFIG)


def _gathered(value: Any) -> list[Any]:
    """Return a value of each rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def make_output_dir(output_dir: str | os.PathLike[str]) -> None:
    """Make the run's folder before anything slow happens.

    Raises:
        ConfigError: The folder cannot be made or written.
    """
    make_writable(Path(output_dir), "output_dir")


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
            if _LEFT.fullmatch(path.name):
                shutil.rmtree(path)
    if old_checkpoints:
        for path in _numbered(output_dir):
            _remove(path)


@contextmanager
def staged_checkpoint(args: TrainingArguments, step: int) -> Iterator[Path]:
    """Give a hidden folder to write ``checkpoint-<step>`` into; all ranks call this together.

    When all ranks have written, one rename publishes it.

    Args:
        args: Names the run's folder, and the place of this process.
        step: Optimizer steps done.
    """
    with writing(checkpoint_folder(args.output_dir, step)):
        yield staging_folder(args.output_dir, step)
        publish(args, step)


@contextmanager
def naming_the_last(final: Path) -> Iterator[None]:
    """Say beside what keeps a checkpoint from being written which one is there."""
    try:
        yield
    except ConfigError as error:
        there = checkpoints(final.parent)
        last = f"the newest whole one is {there[-1].name}" if there else "there is none before it"
        raise ConfigError(f"{error}; {final.name} is not saved, {last}") from error


def staging_folder(output_dir: str | os.PathLike[str] | None, step: int) -> Path:
    """Return where the checkpoint of a step is written."""
    final = checkpoint_folder(output_dir, step)
    return final.with_name(f"{_STAGING}{final.name}")


def publish(args: TrainingArguments, step: int, group: dist.ProcessGroup | None = None) -> None:
    """Give a checkpoint its name once all ranks have written; all call this together.

    Args:
        args: Names the run's folder, and the place of this process.
        step: Optimizer steps done.
        group: Of all ranks; None = the one that training uses.
    """
    final, staging = checkpoint_folder(args.output_dir, step), staging_folder(args.output_dir, step)
    _barrier(group)
    if args.process_index == 0:
        _publish(staging, final)
    _barrier(group)
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
    write_file_list(staging, _FILES)
    if final.exists():  # saved again at the same step, for example by Ctrl-C right after a scheduled save
        _remove(final)
    publish_folder(staging, final)


def rotate(output_dir: Path, limit: int | None, best: str | None, latest: Path | None = None) -> None:
    """Keep the newest ``limit`` checkpoints, the best one and the ``latest`` among them.

    A run that resumed from an older checkpoint saves steps before those that are there.
    """
    if limit is None or limit <= 0:
        return
    kept = checkpoints(output_dir)
    newest = [path for path in kept if path == latest] or kept[-1:]
    spare = [path for path in kept if path not in newest and (best is None or path != Path(best))]
    room = limit - len(newest) - (len(kept) - len(newest) - len(spare))
    for path in spare[: max(0, len(spare) - max(0, room))]:
        _remove(path)


def _remove(path: Path) -> None:
    """Delete a folder; it loses its name first, so a kill in between leaves no half checkpoint."""
    trash = path.with_name(_TRASH + path.name)
    os.replace(path, trash)
    shutil.rmtree(trash)


def _barrier(group: dist.ProcessGroup | None) -> None:
    if dist.is_initialized():
        dist.barrier(group)
