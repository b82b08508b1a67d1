# SPDX-License-Identifier: Apache-2.0
"""A NaN does not go unseen, and does not reach the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamafactory.train.nonfinite import NonFiniteError

from .conftest import Keys
from .running import curve, train, weights_of

_POISON = "~"  # in one row only; its embedding becomes NaN


class _Poisoner(TrainerCallback):
    """A model that holds NaN is not loaded; this one gets its own when training begins."""

    def __init__(self, token: int) -> None:
        self.token = token

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.get_input_embeddings().weight.data[self.token] = torch.nan


@pytest.fixture
def poisoned(make_tiny_model: Callable[..., Path], tmp_path: Path, keys: Keys) -> Callable[..., Path]:
    """Trains a model that gives NaN for one token on rows of which number 6 holds it."""
    from transformers import AutoTokenizer

    model = make_tiny_model(tie_word_embeddings=False)
    (token,) = AutoTokenizer.from_pretrained(model)(_POISON)["input_ids"]
    rows = [{"instruction": f"say {n}", "output": _POISON if n == 6 else "yes"} for n in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    given = {"model_name_or_path": str(model), "dataset": str(tmp_path / "rows.json"), "disable_shuffling": True}
    return lambda **more: train(keys(**given, per_device_train_batch_size=2, **more), [_Poisoner(token)])


def test_stop_names_step_row_and_module(poisoned: Callable[..., Path]) -> None:
    with pytest.raises(NonFiniteError) as stopped:
        poisoned(max_steps=6)
    message = str(stopped.value)
    assert message.startswith("step 4: loss is nan on rank 0; training rows 6, 7; first bad module:")
    assert "embed_tokens" in message and "\n" not in message


def test_skip_leaves_weights_finite_and_goes_on(poisoned: Callable[..., Path]) -> None:
    run = poisoned(max_steps=6, on_nonfinite="skip")
    assert all(weight.isfinite().all() for weight in weights_of(run).values())
    losses = [loss for _, loss, _ in curve(run)]
    assert len(losses) == 6 and all(math.isfinite(loss) for loss in losses)
    assert json.loads((run / "train_results.json").read_text())["skipped_steps"] == 1


def test_continue_goes_on(poisoned: Callable[..., Path]) -> None:
    run = poisoned(max_steps=5, on_nonfinite="continue")
    assert any(weight.isnan().any() for weight in weights_of(run).values())
