# SPDX-License-Identifier: Apache-2.0
"""Rows with videos: tokens, loss and every gradient are those of transformers' processor and model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_case import Case, talk
from media_models import build, picture
from media_rows import loss_sum
from PIL import Image
from transformers import AutoModelForMultimodalLM
from transformers.video_utils import VideoMetadata

from llamafactory.data.collators import PaddingFreeCollator
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import is_isolating, load_model
from llamafactory.model.families.family import media_packing
from llamafactory.train.token_scores import attach

pytestmark = pytest.mark.vision

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "internvl", "smolvlm", "gemma4"]
APART = ("glm4v", "smolvlm")  # take pictures or videos in one batch
# Frames of three videos: several sizes, one of an odd number.
FILMS = {"a": (4, (64, 48)), "b": (6, (56, 56)), "c": (3, (40, 84))}


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: build(family, tmp_path_factory.mktemp(family), tiny_llama))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Pictures, and the frames of videos as pictures: what is decoded is not in question here."""
    picture(9, (64, 48)).save(tmp_path / "one.png")
    for name, (frames, size) in FILMS.items():
        for number in range(frames):
            picture(17 * number + ord(name), size).save(tmp_path / f"{name}{number}.png")
    return tmp_path


def film(name: str) -> list[str]:
    return [f"{name}{number}.png" for number in range(FILMS[name][0])]


def rows(family: str) -> list[dict[str, Any]]:
    """A video in front; text alone; two videos at other places, in other turns; a picture and a video."""
    second = "b" if family == "internvl" else "c"  # its processor takes as many frames of both
    found = [
        {"messages": talk("<video>What is it?", "A round thing."), "videos": [film("a")], "images": []},
        {"messages": talk("Hello you", "Hello, I am a small model."), "videos": [], "images": []},
        {
            "messages": talk("Look <video> there", "I see.", "Now this<video>", "Another."),
            "videos": [film("b"), film(second)],
            "images": [],
        },
        {"messages": talk("<image>One, and <video> then", "Both"), "videos": [film("a")], "images": ["one.png"]},
    ]
    return found[:-1] if family in APART else found


def official(case: Case, row: dict[str, Any], media: Path) -> dict[str, Any]:
    """The processor on one conversation: frames that are chosen already, two a second."""
    turns = []
    for turn in row["messages"]:
        parts: list[dict[str, Any]] = []
        for words in turn["content"].replace("<", "|<").replace(">", ">|").split("|"):
            if words in ("<image>", "<video>"):
                parts.append({"type": words[1:-1]})
            elif words:
                parts.append({"type": "text", "text": words})
        turns.append({"role": turn["role"], "content": parts})
    text = case.tokenizer.apply_chat_template(turns, tokenize=False)
    given: dict[str, Any] = {}
    if row["images"]:
        given["images"] = [[Image.open(media / name) for name in row["images"]]]
        if "InternVL" in type(case.processor).__name__:
            given["images_kwargs"] = {"crop_to_patches": False}  # unless the user sets the key
    if row["videos"]:
        films = [np.stack([np.asarray(Image.open(media / name)) for name in names]) for names in row["videos"]]
        facts = [
            VideoMetadata(len(one), 2.0, duration=len(one) / 2, frames_indices=list(range(len(one)))) for one in films
        ]
        given |= {"videos": [films], "video_metadata": [facts], "do_sample_frames": False}
    return dict(case.processor(text=[text], return_tensors="pt", **given))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(family: str, folder_of: Any, media: Path) -> None:
    folder, talks = folder_of(family), rows(family)
    case = Case(folder, media / "data", talks, image_max_pixels=10**6, image_min_pixels=1, cutoff_len=4096)
    oracle = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).train()
    alone = [official(case, row, media) for row in talks]
    for ours, theirs in zip(case.rows, alone, strict=True):
        assert theirs["input_ids"][0].tolist() == list(ours["input_ids"])
        theirs["labels"] = torch.tensor([list(ours["labels"])])
    count = sum(int((one["labels"] != -100).sum()) for one in alone)
    expected: Any = sum(loss_sum(oracle, one) for one in alone) / count
    expected.backward()
    wanted = gradients(oracle)

    parts = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False, "finetuning_type": "full"}
    base = {"model_name_or_path": str(folder), "dataset": "none", "output_dir": "none", "bf16": False}
    model = attach(load_model(case.tokenizer, get_train_args(base | parts)))
    batches = {"padded": case.batch()}
    if is_isolating(model) and media_packing(model.config).works:
        batches["packed"] = PaddingFreeCollator(case.tokenizer, case.template.batch_media())(case.rows)
    for name, batch in batches.items():
        model.zero_grad()
        loss = -model(**batch, score=True).log_probs.sum() / count
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
        found = gradients(model)
        assert found.keys() == wanted.keys()
        for weight, value in wanted.items():
            torch.testing.assert_close(
                found[weight], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=(name, weight): f"{n}: {text}"
            )


@pytest.mark.parametrize("family", APART)
def test_pictures_and_videos_that_would_be_mixed_up_are_refused(family: str, folder_of: Any, media: Path) -> None:
    """transformers itself would fail in the middle of a step."""
    with pytest.raises(ConfigError, match=r"rows.json, row 1: images and videos stand in one batch"):
        Case(folder_of(family), media / "data", rows("")[3:])
    picture_row = {"messages": talk("<image>One", "Yes"), "images": ["one.png"], "videos": []}
    case = Case(folder_of(family), media / "data", [rows("")[0], picture_row])
    with pytest.raises(ConfigError, match=r"rows.json, row 1: images and videos stand in one batch"):
        case.batch()
