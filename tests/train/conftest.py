# SPDX-License-Identifier: Apache-2.0
"""Small data of ragged lengths, and keys of a quick run on it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .running import train

# Those are for the environment that has DeepSpeed; elsewhere they are not there, rather than skipped.
collect_ignore = [] if find_spec("deepspeed") else ["test_deepspeed.py"]

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


def quick_keys(model: Path, data: Path, output_dir: Path, **more: Any) -> dict[str, Any]:
    """Return flat keys of a quick float32 run."""
    return {
        "model_name_or_path": str(model),
        "dataset": str(data),
        "template": "chatml",
        "output_dir": str(output_dir),
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


@pytest.fixture
def keys(tiny_llama: Path, alpaca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """``keys(**more)`` → flat keys of a quick float32 run on the ragged rows."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))  # read once, at its import

    def build(**more: Any) -> dict[str, Any]:
        return quick_keys(tiny_llama, alpaca, tmp_path / "run") | more

    return build


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps precision settings for the whole process; tests must not inherit them."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


Saved = tuple[dict[str, Any], Path]
SAVED = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, alpaca: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """Keys and folder of a run with checkpoints 3 and 6 ; to be copied."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
        settings = quick_keys(tiny_llama, alpaca, folder / "run", **SAVED)
        yield settings, train(settings)
