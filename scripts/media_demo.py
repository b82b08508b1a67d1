# SPDX-License-Identifier: Apache-2.0
"""Make the demo sets of images, videos and sound: drawn and synthesised, the same files on every run.

python scripts/media_demo.py data
"""

from __future__ import annotations

import json
import random
import sys
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (208, 32, 32), "green": (32, 144, 64), "blue": (40, 72, 200), "yellow": (232, 200, 40),
    "purple": (136, 48, 160), "black": (24, 24, 24),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
NUMBERS = ("no", "one", "two", "three", "four", "five")
DIRECTIONS = {"to the right": (1, 0), "to the left": (-1, 0), "upwards": (0, -1), "downwards": (0, 1)}
PITCHES = {"low": 220, "middle": 440, "high": 880}
SIZE = 112


def main() -> None:
    """Write three files of rows and the folder ``mllm_demo_data`` into the folder that is named."""
    root = Path(sys.argv[1])
    (root / "mllm_demo_data").mkdir(parents=True, exist_ok=True)
    draw = random.Random(20)
    for name, rows in (("mllm", images(root, draw)), ("mllm_video", videos(root, draw)), ("mllm_audio", sounds(root))):
        text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
        (root / f"{name}_demo.json").write_text(text, encoding="utf-8")


def images(root: Path, draw: random.Random) -> list[dict[str, Any]]:
    """Shapes to name and to count; of every two pictures some are compared."""
    rows = []
    for number in range(24):
        shape, colour, count = SHAPES[number % 3], draw.choice(list(COLOURS)), draw.randint(1, 4)
        name = f"mllm_demo_data/shapes_{number + 1:02}.png"
        picture = Image.new("RGB", (SIZE, SIZE), (244, 244, 240))
        for place in draw.sample(range(4), count):
            figure(ImageDraw.Draw(picture), shape, 8 + 52 * (place % 2), 8 + 52 * (place // 2), COLOURS[colour])
        picture.quantize(16).save(root / name, optimize=True)
        noun = f"{shape}{'s' if count > 1 else ''}"
        questions = [
            ("<image>What is in the picture?", f"{NUMBERS[count].capitalize()} {colour} {noun}."),
            (f"How many {shape}s do you see?", f"I see {NUMBERS[count]}."),
        ]
        rows.append(row("images", questions[: 1 + number % 2], [name]))
    for first, second in ((0, 3), (4, 7), (8, 11)):
        counts = [answer_of(rows[number]) for number in (first, second)]
        text = f"In the first: {counts[0].lower()} In the second: {counts[1].lower()}"
        names = [rows[number]["images"][0] for number in (first, second)]
        rows.append(row("images", [("<image><image>Describe both pictures.", text)], names))
    return rows


def figure(draw: ImageDraw.ImageDraw, shape: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
    """Draw one shape of 44 pixels."""
    right, bottom = left + 44, top + 44
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=colour)
    else:
        draw.polygon([(left + 22, top), (right, bottom), (left, bottom)], fill=colour)


def videos(root: Path, draw: random.Random) -> list[dict[str, Any]]:
    """A ball that moves for two seconds; each direction twice."""
    rows = []
    for number, direction in enumerate([*DIRECTIONS, *DIRECTIONS]):
        colour, (x, y) = draw.choice(list(COLOURS)), DIRECTIONS[direction]
        name = f"mllm_demo_data/ball_{number + 1}.mp4"
        with av.open(str(root / name), "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("mpeg4", rate=8, options={"flags": "+bitexact"})
            stream.width = stream.height = SIZE
            stream.bit_rate = 60_000
            for step in range(16):
                picture = Image.new("RGB", (SIZE, SIZE), (244, 244, 240))
                middle = [SIZE / 2 + way * (step - 7.5) * 5 for way in (x, y)]
                box = (middle[0] - 14, middle[1] - 14, middle[0] + 14, middle[1] + 14)
                ImageDraw.Draw(picture).ellipse(box, fill=COLOURS[colour])
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
        question = ("<video>Where does the ball move?", f"The {colour} ball moves {direction}.")
        rows.append(row("videos", [question], [name]))
    return rows


def sounds(root: Path) -> list[dict[str, Any]]:
    """Tones of three pitches, one to four of them."""
    rows = []
    for number in range(8):
        pitch, count = list(PITCHES)[number % 3], 1 + number % 4
        name = f"mllm_demo_data/tones_{number + 1}.wav"
        times = np.arange(2400) / 8000
        tone = np.sin(2 * np.pi * PITCHES[pitch] * times) * np.minimum(1, np.minimum(times, times[::-1]) * 50) * 0.5
        samples = np.concatenate([np.concatenate([tone, np.zeros(800)])] * count)
        with wave.open(str(root / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)  # 8 bits are enough for tones
            file.setframerate(8000)
            file.writeframes((128 + np.round(samples * 127)).astype(np.uint8).tobytes())
        noun = "tone" if count == 1 else "tones"
        answer = f"{NUMBERS[count].capitalize()} {pitch} {noun}."
        rows.append(row("audios", [("<audio>What do you hear?", answer)], [name]))
    return rows


def row(column: str, talk: list[tuple[str, str]], files: list[str]) -> dict[str, Any]:
    """A conversation with its files."""
    messages = [
        {"role": role, "content": text} for pair in talk for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return {"messages": messages, column: files}


def answer_of(row: dict[str, Any]) -> str:
    """The first answer of a conversation."""
    answer: str = row["messages"][1]["content"]
    return answer


if __name__ == "__main__":
    main()
