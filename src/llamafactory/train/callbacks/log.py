# SPDX-License-Identifier: Apache-2.0
"""``trainer_log.jsonl``: one line a log, for people, plots and the web UI."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ...extras.environment import is_env_enabled
from ...extras.errors import writing
from ...extras.files import write_atomic
from ...extras.logging import get_logger

logger = get_logger(__name__)
FILE_NAME = "trainer_log.jsonl"
# What stages log beside the loss.
_GROUPS = (
    *("rewards/", "logps/", "losses/", "kl", "nll", "loss/", "data_wait"),
    *("reward", "entropy", "clip_fraction", "response_length", "finished", "value_loss", "equal_groups"),
    *("rollout_seconds", "ndcg", "mrr", "recall", "f1", "mae", "pearson", "spearman"),
)


class LogCallback(TrainerCallback):
    """Appends to the log on the first rank, and sees to it that a checkpoint never falls between two logs.

    A resumed run starts its next mean at the checkpoint; logging there too makes the resumed and the uninterrupted run
    write the same lines.
    """

    def __init__(self) -> None:
        self.start = time.time()
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start, self.first_step = time.time(), state.global_step
        path = Path(args.output_dir) / FILE_NAME
        if not state.is_world_process_zero or not path.exists():
            return
        kept = _lines_until(path, state.global_step) if state.global_step else []
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        # Else the figures of the run would miss the steps since the last log.
        last = state.global_step >= state.max_steps
        if last or control.should_save or (control.should_evaluate and args.save_strategy == "best"):
            control.should_log = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self.on_step_end(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or not _is_progress(logs):
            return
        path = Path(args.output_dir) / FILE_NAME
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._entry(state, logs)) + "\n")

    def _entry(self, state: Any, logs: dict[str, float]) -> dict[str, Any]:
        elapsed = time.time() - self.start
        done = state.global_step - self.first_step
        left = (state.max_steps - state.global_step) * elapsed / done if done > 0 else 0.0
        entry = {
            "current_steps": state.global_step,
            "total_steps": state.max_steps,
            "loss": logs.get("loss"),
            "eval_loss": logs.get("eval_loss"),
            "predict_loss": logs.get("predict_loss"),
            "reward": logs.get("reward"),
            "accuracy": next(
                (
                    logs[key]
                    for key in ("rewards/accuracies", "eval_rewards/accuracies", "eval_accuracy", "accuracy")
                    if key in logs
                ),
                None,
            ),
            "lr": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "epoch": logs.get("epoch"),
            "throughput": logs.get("tokens_per_second"),
            "percentage": round(100 * state.global_step / state.max_steps, 2) if state.max_steps else 100.0,
            "elapsed_time": str(timedelta(seconds=int(elapsed))),
            "remaining_time": str(timedelta(seconds=int(left))),
        }
        entry = {key: value for key, value in entry.items() if value is not None}
        entry |= {key: value for key, value in logs.items() if key.removeprefix("eval_").startswith(_GROUPS)}
        if state.num_input_tokens_seen:
            entry["total_tokens"] = state.num_input_tokens_seen
        return entry | _memory()


def _lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Return the lines of a log up to a step; one that a kill cut off, or that is damaged, is left out."""
    lines, damaged = [], 0
    for raw in path.read_bytes().splitlines():
        try:
            line = json.loads(raw)
            if line["current_steps"] <= step:
                lines.append(line)
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += 1
    if damaged > 1:
        logger.warning_rank0("%s: %d damaged lines are left out", path, damaged)
    return lines


def _is_progress(logs: dict[str, float]) -> bool:
    return "loss" in logs or any(key.startswith("eval_") and key.endswith(("_loss", "_reward")) for key in logs)


def _memory() -> dict[str, float]:
    """Return peak device memory in GiB when RECORD_VRAM asks for it and there is a device."""
    if not is_env_enabled("RECORD_VRAM") or not torch.cuda.is_available():
        return {}
    return {
        "vram_allocated": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "vram_reserved": round(torch.cuda.max_memory_reserved() / 2**30, 2),
    }
