# SPDX-License-Identifier: Apache-2.0
"""Configurations and packed batches for the tests of the model room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamafactory.hparams import InferArgs, TrainArgs, get_infer_args, get_train_args


@pytest.fixture
def train_args(tmp_path: Path) -> Callable[..., TrainArgs]:
    """``train_args(model, key=value, ...)`` → arguments of a float32 training run on that model."""

    def build(model: str | Path, **keys: Any) -> TrainArgs:
        base = {"model_name_or_path": str(model), "dataset": "none", "output_dir": str(tmp_path / "out"), "bf16": False}
        return get_train_args(base | keys)

    return build


@pytest.fixture
def infer_args() -> Callable[..., InferArgs]:
    """``infer_args(model, key=value, ...)`` → arguments of a float32 inference."""

    def build(model: str | Path, **keys: Any) -> InferArgs:
        return get_infer_args({"model_name_or_path": str(model), "infer_dtype": "float32"} | keys)

    return build
