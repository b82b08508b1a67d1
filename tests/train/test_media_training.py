# SPDX-License-Identifier: Apache-2.0
"""Rows with images train: through the whole program, on a tiny model with the real processor of its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from media_models import build, picture

from llamafactory.train.tuner import run_exp


@pytest.fixture(scope="module")
def qwen2_vl(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl"), tiny_llama)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A data folder: rows with pictures of several sizes, one with two, one of text alone."""
    for number, size in enumerate([(64, 48), (90, 60), (40, 84)]):
        picture(number, size).save(tmp_path / f"{number}.png")
    talks = [
        (["<image>What is it?", "A round thing."], ["0.png"]),
        (["Hello", "Hello, I am a small model."], []),
        (["Look <image>", "I see.", "And <image> this?", "It is another one."], ["1.png", "2.png"]),
        (["Which number? <image>", "One."], ["1.png"]),
    ]
    found = [
        {
            "messages": [
                {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)
            ],
            "images": images,
        }
        for texts, images in talks
    ]
    (tmp_path / "rows.json").write_text(json.dumps(found))
    entry = {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages", "images": "images"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    return tmp_path


def train(model: Path, data: Path, **keys: Any) -> list[dict[str, Any]]:
    out = data / "out"
    base = {
        "model_name_or_path": str(model), "dataset": "rows", "dataset_dir": str(data), "template": "qwen2_vl",
        "output_dir": str(out), "stage": "sft", "do_train": True, "finetuning_type": "full", "max_steps": 2,
        "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-3, "save_strategy": "no",
        "bf16": False, "use_cpu": True, "report_to": "none", "overwrite_output_dir": True,
    }  # fmt: skip
    run_exp(base | keys)
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def test_pictures_train(qwen2_vl: Path, rows: Path) -> None:
    losses = train(qwen2_vl, rows)
    assert len(losses) == 2 and all(0 < entry["loss"] < 20 for entry in losses)


def test_the_demo_set_trains(qwen2_vl: Path, tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[2] / "data"
    assert len(train(qwen2_vl, tmp_path, dataset="mllm_demo", dataset_dir=str(data), max_samples=4)) == 2


def test_loading_processes_give_the_same_batches(qwen2_vl: Path, rows: Path) -> None:
    losses = [[one["loss"] for one in train(qwen2_vl, rows, dataloader_num_workers=count)] for count in (0, 2)]
    assert losses[0] == losses[1]
