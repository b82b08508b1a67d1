# SPDX-License-Identifier: Apache-2.0
"""Processes that share each row train as one process does: loss, gradient norm, every gradient, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Keys
from .pairs import judged_set, pair_set
from .running import log_of, train
from .test_fsdp import assert_same, run

PACKED = {"packing": True, "per_device_train_batch_size": 2}
ALONE = {"packing": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
CELLS = [
    (size, kind, rows) for size in (2, 4) for kind in ("full", "lora") for rows in ("packed", "alone", "dpo")
]  # fmt: skip


def _rows(name: str, folder: Path) -> dict[str, Any]:
    if name == "dpo":
        return {"stage": "dpo", "share_prompt": True, **pair_set(folder)}
    return PACKED if name == "packed" else ALONE


def shared(given: dict[str, Any], ranks: int, size: int, place: Path, **more: Any) -> Path:
    """Train on ranks, so many of which share each row, with the batch of one process."""
    batch = given["per_device_train_batch_size"] * size
    return run(given | {"context_parallel_size": size, "per_device_train_batch_size": batch} | more, ranks, place)


@pytest.mark.parametrize(
    ("size", "kind", "rows"),
    [
        pytest.param(*cell, marks=[] if cell in ((2, "full", "packed"),) else pytest.mark.slow, id="-".join(map(str, cell)))
        for cell in CELLS
    ],
)
def test_shared_rows_train_as_whole_ones(
    make_tiny_model: Any, keys: Keys, tmp_path: Path, size: int, kind: str, rows: str
) -> None:
    """SGD's weights after a step are the gradients: what is off there by a factor, Adam would hide."""
    model = make_tiny_model("llama", num_attention_heads=8, num_key_value_heads=2, head_dim=8)
    given = keys(model_name_or_path=str(model), finetuning_type=kind, optim="sgd", learning_rate=0.05, max_grad_norm=0.0)
    given |= _rows(rows, tmp_path)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_same(one, shared(given, size, size, tmp_path / "parts"))
