# SPDX-License-Identifier: Apache-2.0
"""Processes that share layers train as one process does: loss, gradient norm, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Keys
from .pairs import judged_set, pair_set
from .running import curve, log_of, train, train_elsewhere
from .test_fsdp import assert_same, run

PACKED = {"packing": True, "per_device_train_batch_size": 2}
ALONE = {"packing": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
CELLS = [(kind, rows) for kind in ("full", "lora") for rows in ("packed", "alone", "dpo")]


def _rows(name: str, folder: Path) -> dict[str, Any]:
    if name == "dpo":
        return {"stage": "dpo", "share_prompt": True, **pair_set(folder)}
    return PACKED if name == "packed" else ALONE


def shared(given: dict[str, Any], ranks: int, size: int, place: Path, **more: Any) -> Path:
    """Train on ranks, so many of which share each layer, with the batch of one process."""
    batch = given["per_device_train_batch_size"] * size
    return run(given | {"tensor_parallel_size": size, "per_device_train_batch_size": batch} | more, ranks, place)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        pytest.param(*cell, marks=[] if cell == ("lora", "packed") else pytest.mark.slow, id="-".join(cell))
        for cell in CELLS
    ],
)
def test_shared_layers_train_as_whole_ones(
    make_tiny_model: Any, keys: Keys, tmp_path: Path, kind: str, rows: str
) -> None:
    """SGD's weights after a step are the gradients: what is off there by a factor, Adam would hide."""
    model = make_tiny_model("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    given = keys(
        model_name_or_path=str(model), finetuning_type=kind, optim="sgd", learning_rate=0.05, max_grad_norm=0.0
    )
    given |= _rows(rows, tmp_path)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_same(one, shared(given, 2, 2, tmp_path / "parts"))
