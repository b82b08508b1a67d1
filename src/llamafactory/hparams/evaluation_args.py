# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: task, shots, language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, SEED


@dataclass(frozen=True)
class EvaluationArguments:
    """Benchmarks."""

    task: str | None = arg(None, "Benchmark and split, such as mmlu_test.")
    task_dir: str = arg("evaluation", "Folder with the benchmark loaders.")
    batch_size: int = arg(4, "Questions per device at once.", within=AT_LEAST_1)
    seed: int = arg(42, "Seed that draws the examples.", within=SEED)
    lang: Literal["en", "zh"] = arg("en", "Prompt language.")
    n_shot: int = arg(5, "Worked examples before each question.", within=AT_LEAST_0)
    save_dir: str | None = arg(None, "Folder of results; must not exist.")
    download_mode: str = arg("reuse_dataset_if_exists", "Whether downloads are reused.")
