# SPDX-License-Identifier: Apache-2.0
"""A whole run learns from films what no single frame shows: right on held-out ones, chance when they are swapped."""

from __future__ import annotations

import random
from pathlib import Path

import av
import numpy as np
import pytest
from media_models import build
from train.running import train
from train.test_media_learning import accuracy, learning_keys, write_sets

pytestmark = pytest.mark.vision

SIDE, SQUARE, FRAMES = 56, 18, 4
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def movement(draw: random.Random, path: Path) -> tuple[str, str]:
    """A bright square that crosses the middle of a dark ground, two frames a second."""
    name = draw.choice(list(DIRECTIONS))
    ground, colour = (tuple(draw.randint(*bounds) for _ in range(3)) for bounds in ((0, 60), (160, 255)))
    aside = draw.randint(0, SIDE - SQUARE)
    with av.open(str(path.with_suffix(".mp4")), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = SIDE
        stream.bit_rate = 2_000_000
        for number in range(FRAMES):
            pixels = np.full((SIDE, SIDE, 3), ground, np.uint8)
            way = round((SIDE - SQUARE) * number / (FRAMES - 1))
            along, across = DIRECTIONS[name]
            way = way if along + across > 0 else SIDE - SQUARE - way
            x, y = (way, aside) if along else (aside, way)
            pixels[y : y + SQUARE, x : x + SQUARE] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return f"{path.name}.mp4", name


def test_a_model_learns_to_see_movement(tiny_llama: Path, tmp_path: Path) -> None:
    write_sets(tmp_path, "video", movement, 640)
    keys = learning_keys(build("qwen2_vl", tmp_path / "model", tiny_llama), "qwen2_vl", tmp_path, 140, 32)
    out = train(keys)
    assert accuracy(out / "generated_predictions_held_out.jsonl") >= 0.9
    assert accuracy(out / "generated_predictions_swapped.jsonl") < 0.25 + 3 * (0.25 * 0.75 / 96) ** 0.5
