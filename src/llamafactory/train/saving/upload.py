# SPDX-License-Identifier: Apache-2.0
"""What goes to the hub: the model, its card and its figures; what tells of this machine, or only resumes, stays."""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.utils import PushInProgress

from ...extras.manifest import NAME as MANIFEST

# Only a resume reads them.
_STATE = (
    *("optimizer*", "scheduler*", "scaler*", "rng_state*", "rollout-*", "stream-*.json", "trainer_state.json"),
    *("run_config.json", "checkpoint_files.json"),
)
KEPT_HERE = (*_STATE, MANIFEST, "training_args.bin", ".*", "_*", "checkpoint-*", "runs/*")


def upload_run(trainer: Trainer, message: str, blocking: bool = True, **options: Any) -> Any:
    """Upload the folder of a run.

    Args:
        trainer: Of the first process.
        message: Of the commit.
        blocking: Wait for it, else return a future.
        options: As ``HfApi.upload_folder`` takes them.
    """
    from huggingface_hub import HfApi

    args = trainer.args
    given = {"folder_path": args.output_dir, "ignore_patterns": list(KEPT_HERE), "revision": args.hub_revision}
    upload: Any = HfApi(token=args.hub_token).upload_folder  # its type tells the two kinds of answers apart
    return upload(
        repo_id=str(trainer.hub_model_id), commit_message=message, run_as_future=not blocking, **given | options
    )


def upload_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Upload the model of a checkpoint while training goes on, and all of the checkpoint if ``hub_strategy`` says so.

    An upload that is still going on is not joined by another one, unless ``hub_always_push`` asks for it.
    """
    args, before = trainer.args, trainer.push_in_progress
    if args.hub_strategy == "end" or not (args.hub_always_push or before is None or before.is_done()):
        return
    for path in folder.iterdir():  # copies: the checkpoint may be rotated away before the upload has read it
        if path.is_file() and path.name != "README.md" and not any(fnmatch(path.name, name) for name in KEPT_HERE):
            shutil.copy(path, args.output_dir)
    message = f"Training in progress, step {trainer.state.global_step}"
    jobs: list[Future[Any]] = [upload_run(trainer, message, blocking=False)]
    if args.hub_strategy in ("checkpoint", "all_checkpoints"):
        place = "last-checkpoint" if args.hub_strategy == "checkpoint" else folder.name
        whole = {"folder_path": str(folder), "path_in_repo": place, "ignore_patterns": None}
        jobs.append(upload_run(trainer, f"{message}, checkpoint", blocking=False, **whole))
    trainer.push_in_progress = PushInProgress([*(before.jobs if before and not before.is_done() else []), *jobs])
