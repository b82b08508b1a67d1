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

from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.model import is_isolating, load_model
from llamafactory.model.families.family import media_packing
from llamafactory.train.token_scores import attach
from llamafactory.train.tuner import export_model

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


@pytest.mark.parametrize("family", ["qwen2_vl", pytest.param("qwen2_audio", marks=pytest.mark.slow)])
def test_an_adapter_on_every_part_answers_the_same_when_loaded_and_exported(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folder_of(family)
    official = Official(folder)
    batch = official.batch(rows_of("audio" if family == "qwen2_audio" else "image"))
    model = ours(folder, official.tokenizer, finetuning_type="lora")
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (-model(**batch, score=True).log_probs.mean()).backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "adapter")
    inputs = {name: one for name, one in batch.items() if name != "labels"}
    with torch.no_grad():
        before = official.model().eval()(**inputs).logits
        trained = model.eval()(**inputs).logits
    assert (trained - before).abs().max() > 0.1
    keys = {"model_name_or_path": str(folder), "adapter_name_or_path": str(tmp_path / "adapter")}
    served: Any = load_model(official.tokenizer, get_infer_args(keys | {"infer_dtype": "float32"}), trainable=False)
    export_model(keys | {"export_dir": str(tmp_path / "export")})
    exported = Official(tmp_path / "export")
    again = exported.batch(rows_of("audio" if family == "qwen2_audio" else "image"))
    assert again.keys() == batch.keys() and all(torch.equal(again[name], batch[name]) for name in batch)
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        for other in (served, exported.model().eval()):
            torch.testing.assert_close(other(**inputs).logits[mask], trained[mask], rtol=0, atol=1e-4)


def test_rows_with_media_are_padded_where_they_would_not_stay_apart(tiny_llama: Path, tmp_path: Path) -> None:
    """Text is laid end to end all the same."""
    from datasets import Dataset

    from llamafactory.data.collators import PaddedCollator, PaddingFreeCollator
    from llamafactory.data.loader import DatasetModule
    from llamafactory.data.template_loader import get_template, take_media
    from llamafactory.plugins import resolve
    from llamafactory.train.workflow import choose_collator

    rows = {"input_ids": [[1, 2]], "labels": [[-100, 2]], "seq_lens": [[2]]}
    sets = {"text": Dataset.from_dict(rows), "media": Dataset.from_dict(rows | {"media": [["a.png"]]})}
    stage = resolve("stages", "sft")
    for family, wanted in {"llava": PaddingFreeCollator, "llava_onevision": PaddedCollator}.items():
        folder = build("llava", tmp_path / family, tiny_llama)
        official = Official(folder)
        model = ours(folder, official.tokenizer)
        model.config.model_type = family  # all else of the two is alike
        args = get_train_args({"model_name_or_path": str(folder), "dataset": "none", "output_dir": "none"})
        template = get_template(official.tokenizer, args.data)
        take_media(template, official.processor, args.media)
        chosen = {
            name: choose_collator(stage, model, template, DatasetModule(one, {}, None), args)
            for name, one in sets.items()
        }
        assert type(chosen["text"]) is PaddingFreeCollator and type(chosen["media"]) is wanted
