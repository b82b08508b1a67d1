# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: task, shots, language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class EvaluationArguments:
    """TODO"""

    task: str | None = arg(None, "Benchmark name as <task>_<split>.")
    task_dir: str = arg("evaluation", "Folder with the benchmark loaders.")
    batch_size: int = arg(4, "Per-device batch.")
    seed: int = arg(42, "Sampling seed of few-shot examples.")
    lang: Literal["en", "zh"] = arg("en", "Prompt language.")
    n_shot: int = arg(5, "Few-shot example count.")
    save_dir: str | None = arg(None, "Result folder (must not exist).")
    download_mode: str = arg("reuse_dataset_if_exists", "Datasets-library download behaviour.")
