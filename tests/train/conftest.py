# SPDX-License-Identifier: Apache-2.0
"""Small data of ragged lengths, and keys of a quick run on it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_WORDS = "who are you what is the name of a river story star number fox rain world please write think answer".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def alpaca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 instruction rows of very different lengths."""
    draw = random.Random(0)
    rows = [
        {
            "instruction": " ".join(draw.choices(_WORDS, k=draw.randint(1, 12))),
            "output": " ".join(draw.choices(_WORDS, k=draw.choice((1, 2, 5, 20)))),
        }
        for _ in range(48)
    ]
    path = tmp_path_factory.mktemp("data") / "ragged.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


Keys = Callable[..., dict[str, Any]]


@pytest.fixture
def keys(tiny_llama: Path, alpaca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """``keys(**more)`` → flat keys of a quick float32 run on the ragged rows."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))  # read once, at its import

    def build(**more: Any) -> dict[str, Any]:
        return {
            "model_name_or_path": str(tiny_llama),
            "dataset": str(alpaca),
            "template": "chatml",
            "output_dir": str(tmp_path / "run"),
            "bf16": False,
            "cutoff_len": 128,
            "max_steps": 5,
            "logging_steps": 1,
            "save_strategy": "no",
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 4,
            "disable_tqdm": True,
            **more,
        }

    return build


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps precision settings for the whole process; tests must not inherit them."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()
