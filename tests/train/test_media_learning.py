# SPDX-License-Identifier: Apache-2.0
"""Whole runs learn from pictures and sound what is only there: right on held-out ones, chance when they are swapped."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from media_models import build, tone
from PIL import Image, ImageDraw

from .running import train
from .test_media_runs import run_keys, write_wave

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
PITCHES = {"low": 200, "middle": 500, "high": 1100, "top": 2400}
HELD_OUT = 96


def squares(draw: random.Random, path: Path) -> tuple[str, str]:
    """One to three squares of a colour somewhere on a dark ground: twelve answers."""
    colour, count = draw.choice(list(COLOURS)), draw.randint(1, 3)
    image = Image.new("RGB", (56, 56), tuple(draw.randint(0, 60) for _ in range(3)))
    for place in draw.sample(range(4), count):
        x, y = (place % 2) * 28 + draw.randint(2, 6), (place // 2) * 28 + draw.randint(2, 6)
        ImageDraw.Draw(image).rectangle((x, y, x + 18, y + 18), fill=COLOURS[colour])
    image.save(path.with_suffix(".png"))
    return f"{path.name}.png", f"{count} {colour}"


def pitch(draw: random.Random, path: Path) -> tuple[str, str]:
    """A tone of one of four ranges, of any length and loudness."""
    name = draw.choice(list(PITCHES))
    sound = tone(PITCHES[name] * draw.uniform(0.85, 1.15), draw.uniform(0.3, 0.6)) * draw.uniform(0.3, 1)
    write_wave(path.with_suffix(".wav"), sound)
    return f"{path.name}.wav", name


def write_sets(folder: Path, kind: str, make: Any, size: int) -> None:
    """``training``, ``held_out``, and ``swapped``: the same questions and answers with one another's media."""
    draw = random.Random(0)
    (folder / "media").mkdir()
    examples = [make(draw, folder / "media" / str(number)) for number in range(size + HELD_OUT)]
    held_out = examples[size:]
    others = [name for name, _ in held_out]
    draw.shuffle(others)
    sets = {
        "training": examples[:size],
        "held_out": held_out,
        "swapped": [(other, answer) for other, (_, answer) in zip(others, held_out, strict=True)],
    }
    for name, some in sets.items():
        rows = [
            {"instruction": f"<{kind}>What?", "input": "", "output": answer, f"{kind}s": [medium]}
            for medium, answer in some
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "query": "input", "response": "output", f"{kind}s": f"{kind}s"}
    info = {name: {"file_name": f"{name}.json", "columns": columns} for name in sets}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def accuracy(file: Path) -> float:
    """How many predictions are the reference, to the letter."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == HELD_OUT
    return sum(row["predict"] == row["label"] for row in rows) / HELD_OUT


def learning_keys(model: Path, family: str, folder: Path, steps: int, size: int) -> dict[str, Any]:
    """A run on :func:`write_sets` that ends with greedy predictions."""
    keys = run_keys(model, family, folder / "out", max_steps=steps)
    keys |= {"dataset": "training", "eval_dataset": "held_out, swapped", "dataset_dir": str(folder)}
    keys |= {"media_dir": str(folder / "media"), "disable_shuffling": False, "do_train": True, "do_predict": True}
    keys |= {"eval_on_each_dataset": True, "predict_with_generate": True, "max_new_tokens": 8, "do_sample": False}
    keys |= {"learning_rate": 3e-3, "warmup_steps": 20, "lr_scheduler_type": "linear", "max_grad_norm": 1.0}
    return keys | {"per_device_train_batch_size": size, "per_device_eval_batch_size": 32, "logging_steps": 20}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "make", "steps", "size", "chance"),
    [("qwen2_vl", "image", squares, 140, 32, 1 / 12), ("qwen2_audio", "audio", pitch, 60, 16, 1 / 4)],
    ids=["pictures", "sound"],
)
def test_a_model_learns_to_look_and_listen(
    family: str, kind: str, make: Any, steps: int, size: int, chance: float, tiny_llama: Path, tmp_path: Path
) -> None:
    write_sets(tmp_path, kind, make, 20 * size)
    out = train(learning_keys(build(family, tmp_path / "model", tiny_llama), family, tmp_path, steps, size))
    assert accuracy(out / "generated_predictions_held_out.jsonl") >= 0.9
    # three standard errors of 96 draws above chance
    bound = chance + 3 * (chance * (1 - chance) / HELD_OUT) ** 0.5
    assert accuracy(out / "generated_predictions_swapped.jsonl") < bound
