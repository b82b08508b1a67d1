# SPDX-License-Identifier: Apache-2.0
"""The example files for pictures and sound train as they stand, a tiny model in place of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from media_models import build

from .running import curve, train

ROOT = Path(__file__).resolve().parents[2]


def train_example(name: str, model: Path, out: Path) -> list[Any]:
    """Three steps of a file of ``examples/`` on the demo sets of ``data/``; its keys but for what a laptop lacks."""
    keys = yaml.safe_load((ROOT / "examples" / name).read_text("utf-8"))
    small = {
        "model_name_or_path": str(model),
        "output_dir": str(out),
        "bf16": False,
        "max_steps": 3,
        "logging_steps": 1,
    }
    small |= {"max_samples": 12, "preprocessing_num_workers": 1, "dataloader_num_workers": 1, "plot_loss": False}
    return curve(train(keys | small | {"dataset_dir": str(ROOT / "data"), "gradient_accumulation_steps": 2}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("train_lora/qwen2_5vl_lora_sft.yaml", "qwen2_5_vl"),
        ("train_full/qwen2_5vl_full_sft.yaml", "qwen2_5_vl"),
        ("train_qlora/qwen2_5vl_bnb_sft.yaml", "qwen2_5_vl"),
        ("train_lora/qwen2audio_lora_sft.yaml", "qwen2_audio"),
    ],
)
def test_an_example_trains(name: str, family: str, tiny_llama: Path, tmp_path: Path) -> None:
    found = train_example(name, build(family, tmp_path / "model", tiny_llama), tmp_path / "out")
    assert len(found) == 3 and all(0 < loss < 20 and norm > 0 for _, loss, norm in found)
