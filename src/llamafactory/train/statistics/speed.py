# SPDX-License-Identifier: Apache-2.0
"""Speed of training steps, measured on running text of full length, and what share of a device's arithmetic it is."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter as clock
from typing import Any

from transformers import TrainerCallback

from ...extras.errors import ConfigError
from ...hparams import get_train_args
from ..planning.devices import find_device
from ..tuner import run_exp
from .operations import count_operations

_WORDS = (
    "river", "number", "star", "wizard", "answer", "question", "little", "morning", "seven", "window", "garden",
    "winter", "letter", "orange",
)  # fmt: skip
# Products of a step in forward passes: frozen weights have no gradient of their own to be computed.
_PASSES = {"full": 3}
_PASSES_OF_ADAPTERS = 2


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        seconds: A step took, the first left out.
        tokens: Of a step, all processes together.
        flops: Of a step, as torch counts the products of forward and backward pass.
        peak: FLOP/s of the devices in the number format of the run; None where it is not known.
    """

    seconds: float
    tokens: int
    flops: float
    peak: float | None

    @property
    def share(self) -> float | None:
        """Model FLOPs utilization (Chowdhery et al. 2022, appendix B)."""
        return None if self.peak is None else self.flops / self.seconds / self.peak


class _Watch(TrainerCallback):
    """Times at which steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.processes = 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(clock())
        self.processes = args.world_size


def measure_steps(keys: dict[str, Any], batch_size: int, seq_length: int, num_steps: int) -> Speed:
    """Train on rows of ``seq_length`` tokens and return how fast.

    Args:
        keys: Model, method and what else the run shall be.
        batch_size: Rows of a device and step.
        seq_length: Tokens of each.
        num_steps: Steps that are timed; one goes before them.

    Raises:
        ConfigError: A key cannot be used, or a number is not positive.
    """
    for name, number in {"batch_size": batch_size, "seq_length": seq_length, "num_steps": num_steps}.items():
        if number < 1:
            raise ConfigError(f"{name}: expected 1 or more, got {number}")
    watch = _Watch()
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        text = Path(folder) / "text.jsonl"
        _write_text(text, batch_size * 8, seq_length)
        run = {
            "stage": "pt", "do_train": True, "dataset": str(text), "packing": False, "overlong": "truncate",
            "cutoff_len": seq_length,
            "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 1, "max_steps": num_steps + 1,
            "output_dir": str(Path(folder) / "run"), "save_strategy": "no", "report_to": "none", "logging_steps": 1,
            "overwrite_cache": True, **keys,
        }  # fmt: skip
        args = get_train_args(run)
        run_exp(run, callbacks=[watch])
    seconds = (watch.ends[-1] - watch.ends[0]) / num_steps
    forward = count_operations(args, batch_size, seq_length)[0] * watch.processes
    passes = _PASSES.get(args.finetuning.finetuning_type, _PASSES_OF_ADAPTERS)
    device = find_device(None, args.training.use_cpu)
    narrow = args.training.bf16 or args.training.fp16 or args.finetuning.pure_bf16
    peak = None if device.speed is None else device.speed.flops(narrow) * watch.processes
    return Speed(seconds, batch_size * seq_length * watch.processes, float(forward * passes), peak)


def report(speed: Speed) -> str:
    """The lines that a script prints."""
    share = "unknown: the device is in no table" if speed.share is None else f"{speed.share:.2%}"
    return "\n".join((
        f"seconds a step: {speed.seconds:.4f}", f"tokens a second: {speed.tokens / speed.seconds:,.0f}",
        f"FLOP/s: {speed.flops / speed.seconds:.4e}", f"MFU: {share}",
    ))  # fmt: skip


def _write_text(file: Path, rows: int, words: int) -> None:
    """Rows of more words than a run takes tokens, which it cuts at its length."""
    draw = random.Random(0)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            out.write(json.dumps({"text": " ".join(draw.choices(_WORDS, k=words))}) + "\n")
