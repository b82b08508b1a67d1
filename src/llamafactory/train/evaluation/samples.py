# SPDX-License-Identifier: Apache-2.0
"""Answers to a few prompts, shown at each evaluation: how the model speaks while it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from ...extras.errors import writing
from ...extras.files import write_atomic
from ...extras.logging import get_logger
from ..callbacks.reporters import log_texts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .prediction import Response

logger = get_logger(__name__)
NAME = "generated_samples.jsonl"
_SHOWN = 160  # characters on the screen


def log_samples(trainer: Any) -> None:
    """Answer the first prompts of each evaluation set; all ranks call this together.

    The answers go to :data:`NAME`, to the screen in short, and to the trackers that take text.

    Args:
        trainer: A ``Trainer``: its ``prompts``, ``responses``, state and trackers.
    """
    count, rows = trainer.run_args.finetuning.generate_samples, []
    for name, prompts in trainer.prompts.items():
        first = prompts.select(range(min(count, len(prompts))))
        for response in _of_all_ranks(trainer.responses(first)):
            rows.append({"current_steps": trainer.state.global_step, "set": name, "prompt": response.prompt,
                         "predict": response.text, "label": response.label})  # fmt: skip
    if trainer.is_world_process_zero() and rows:
        _write(Path(str(trainer.args.output_dir)) / NAME, trainer.state.global_step, rows)
        for row in rows:
            logger.info("sample at step %d: %s", row["current_steps"], " ".join(row["predict"].split())[:_SHOWN])
        log_texts(trainer.args.report_to or [], trainer.callback_handler, trainer.state.global_step, rows)


def _of_all_ranks(responses: Iterable[Response]) -> list[Response]:
    mine = list(responses)
    if not dist.is_initialized():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return sorted((response for part in parts for response in part), key=lambda response: response.row)


def _write(path: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Add rows; those that a run before a resume wrote of this step and later ones go."""
    old = path.read_text("utf-8").splitlines() if path.is_file() else []
    kept = [line for line in old if json.loads(line)["current_steps"] < step]
    with writing(path):
        write_atomic(
            path, "".join(f"{line}\n" for line in [*kept, *(json.dumps(row, ensure_ascii=False) for row in rows)])
        )
