# SPDX-License-Identifier: Apache-2.0
"""What is trained on pictures or sound is learned from them: right on held-out ones, chance when they are swapped.

The media are encoded by transformers' own processor; model, parts, scores and loss are those of a run.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_models import build, tone
from media_rows import Official, in_one_line
from PIL import Image, ImageDraw

from llamafactory.hparams import get_train_args
from llamafactory.model import is_isolating, load_model
from llamafactory.train.token_scores import attach

Example = tuple[Any, str]
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
PITCHES = {"low": 200, "middle": 500, "high": 1100, "top": 2400}


def squares(draw: random.Random) -> Example:
    """One to three squares of a colour somewhere on a dark ground: twelve answers."""
    colour, count = draw.choice(list(COLOURS)), draw.randint(1, 3)
    image = Image.new("RGB", (56, 56), tuple(draw.randint(0, 60) for _ in range(3)))
    for place in draw.sample(range(4), count):
        x, y = (place % 2) * 28 + draw.randint(2, 6), (place // 2) * 28 + draw.randint(2, 6)
        ImageDraw.Draw(image).rectangle((x, y, x + 18, y + 18), fill=COLOURS[colour])
    return image, f"{count} {colour}"


def pitch(draw: random.Random) -> Example:
    """A tone of one of four ranges, of any length and loudness."""
    name = draw.choice(list(PITCHES))
    sound = tone(PITCHES[name] * draw.uniform(0.85, 1.15), draw.uniform(0.3, 0.6)) * draw.uniform(0.3, 1)
    return sound.astype(np.float32), name


def encode(official: Official, examples: list[Example], kind: str) -> dict[str, torch.Tensor]:
    """A padded batch in which the answers alone are labels."""
    rows = [
        [
            {"role": "user", "content": [{"type": kind, kind: medium}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        for medium, answer in examples
    ]
    batch = official.batch(rows)
    labels = torch.full_like(batch["labels"], -100)
    for row, (_, answer) in enumerate(examples):
        end = int(batch["attention_mask"][row].sum()) - 2  # <|im_end|> and a line break
        part = slice(end - len(official.tokenizer(answer)["input_ids"]), end)
        labels[row, part] = batch["input_ids"][row, part]
    return {**batch, "labels": labels}


def accuracy(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """How many answers are right in every token."""
    labels = batch["labels"]
    with torch.no_grad():
        found = model(**{name: one for name, one in batch.items() if name != "labels"}).logits.argmax(-1)
    right = (found[:, :-1] == labels[:, 1:]) | (labels[:, 1:] == -100)
    return float(right.all(1).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "make", "steps", "size", "chance"),
    [("qwen2_vl", "image", squares, 140, 32, 1 / 12), ("qwen2_audio", "audio", pitch, 60, 16, 1 / 4)],
    ids=["pictures", "sound"],
)
def test_a_model_learns_to_look_and_listen(
    family: str, kind: str, make: Any, steps: int, size: int, chance: float, tiny_llama: Path, tmp_path: Path
) -> None:
    official = Official(build(family, tmp_path / "model", tiny_llama))
    keys = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False, "finetuning_type": "full"}
    base = {"model_name_or_path": str(official.folder), "dataset": "none", "output_dir": "none", "bf16": False}
    model: Any = attach(load_model(official.tokenizer, get_train_args(base | keys)))
    draw = random.Random(0)
    training, held_out = [make(draw) for _ in range(20 * size)], [make(draw) for _ in range(96)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * max(0.05, 1 - step / steps)
        batch = encode(official, draw.sample(training, size), kind)
        scores = model(**(in_one_line(batch) if is_isolating(model) else batch), score=True)
        optimizer.zero_grad()
        (-scores.log_probs.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    assert accuracy(model, encode(official, held_out, kind)) >= 0.9
    others = [medium for medium, _ in held_out]
    draw.shuffle(others)
    swapped = [(medium, answer) for medium, (_, answer) in zip(others, held_out, strict=True)]
    # three standard errors of 96 draws above chance
    assert accuracy(model, encode(official, swapped, kind)) < chance + 3 * (chance * (1 - chance) / 96) ** 0.5
