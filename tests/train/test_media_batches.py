# SPDX-License-Identifier: Apache-2.0
"""Loss and every gradient of batches with media, against transformers' own forward of each conversation alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import FAMILIES, MORE_FAMILIES, build
from media_rows import Official, in_one_line, loss_sum, rows_of

from llamafactory.hparams import get_train_args
from llamafactory.model import is_isolating, load_model
from llamafactory.model.families.family import media_packing
from llamafactory.train.token_scores import attach

ALWAYS = ("qwen2_vl", "gemma3", "llava")
PADDED = {"gemma4", "qwen2_audio", "qwen3_5"}
NEEDS_TORCHVISION = {"mistral3"}


def _row(family: str) -> Any:
    marks = [] if family in ALWAYS else [pytest.mark.slow]
    if family in NEEDS_TORCHVISION:
        marks.append(pytest.mark.skipif(find_spec("torchvision") is None, reason="its processor needs torchvision"))
    return pytest.param(family, marks=marks)


ROWS = [_row(family) for family in FAMILIES | MORE_FAMILIES]


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: build(family, tmp_path_factory.mktemp(family), tiny_llama))


def ours(folder: Path, tokenizer: Any, **keys: Any) -> Any:
    """The model as a run trains it, every weight of it."""
    base = {"model_name_or_path": str(folder), "dataset": "none", "output_dir": "none", "bf16": False}
    parts = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False, "finetuning_type": "full"}
    return attach(load_model(tokenizer, get_train_args(base | parts | keys)))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("family", ROWS)
def test_loss_and_gradients_are_those_of_each_conversation_alone(family: str, folder_of: Callable[[str], Path]) -> None:
    """Pictures at other places, text before and behind, a row without: in one line where the family can, and padded."""
    official = Official(folder_of(family))
    rows = rows_of("audio" if family == "qwen2_audio" else "image")
    oracle = official.model()
    batch = official.batch(rows)
    count = int((batch["labels"] != -100).sum())
    alone = [official.batch([row]) for row in rows]
    for one, labels in zip(alone, batch["labels"], strict=True):
        one["labels"] = labels[None, : one["input_ids"].shape[1]]
    expected = sum(loss_sum(oracle, one) for one in alone) / count
    expected.backward()
    wanted = gradients(oracle)
    assert len(wanted) > 20

    model = ours(folder_of(family), official.tokenizer)
    packs = is_isolating(model) and media_packing(model.config).works
    assert packs == (family not in PADDED)
    for given in [batch, in_one_line(batch)] if packs else [batch]:
        model.zero_grad()
        loss = -model(**given, score=True).log_probs.sum() / count
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
        found = gradients(model)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
