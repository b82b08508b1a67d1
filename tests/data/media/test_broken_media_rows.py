# SPDX-License-Identifier: Apache-2.0
"""Rows with odd or broken media: each is one line that names file and row, or is trained rightly."""

from __future__ import annotations

import json
import os
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_models import build, picture, tone
from PIL import Image

from llamafactory.data.collators import PaddedCollator
from llamafactory.data.loader import resolve_stage
from llamafactory.data.prepare.shards import Encoder
from llamafactory.data.processor import SupervisedProcessor
from llamafactory.data.sources.dataset_info import find_media_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.data.template_loader import get_template, take_media
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_processor, load_tokenizer

from .processors import TORCHVISION

Run = Callable[[dict[str, Any]], dict[str, Any]]


def sound(path: Path, samples: np.ndarray, rate: int = 16000) -> None:
    """A WAV file of floats [n, channels]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def write_files(folder: Path) -> None:
    whole = picture(1, (64, 48))
    whole.save(folder / "good.png")
    whole.save(folder / "good.jpg")
    whole.save(folder / "named.txt", "PNG")
    whole.save(folder / "moving.gif", save_all=True, append_images=[picture(2, (64, 48))])
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("RGB", (3000, 1)).save(folder / "line.png")
    picture(1, (40, 30)).convert("L").save(folder / "grey.png")
    picture(1, (40, 30)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.new("RGBA", (40, 30), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.new("I;16", (40, 30), 40000).save(folder / "deep.png")
    turned = whole.getexif()
    turned[0x0112] = 6
    whole.save(folder / "turned.jpg", exif=turned)
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    data = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    data = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "flipped.png").write_bytes(data[:60] + bytes(20) + data[80:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    one = tone(300, 0.4)[:, None]
    sound(folder / "good.wav", one)
    sound(folder / "silent.wav", np.zeros((8000, 1)))
    sound(folder / "seven.wav", np.repeat(one, 7, axis=1))
    sound(folder / "fast.wav", one, 44100)
    sound(folder / "none.wav", one[:0])
    data = (folder / "good.wav").read_bytes()
    (folder / "cut.wav").write_bytes(data[: len(data) // 3])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "noise.wav").write_bytes(bytes(range(256)) * 20)


def film(path: Path, frames: int, times: Callable[[int], int] | None = None) -> None:
    """A video of so many frames, four a second or shown at ``times`` (milliseconds)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=4)
        video.width, video.height = 64, 48
        video.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture(17 * number)), format="rgb24")
            frame.pts, frame.time_base = times(number) if times else 250 * number, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def write_films(folder: Path) -> None:
    film(folder / "good.mp4", 6)
    film(folder / "one.mp4", 1)
    film(folder / "uneven.mkv", 6, lambda number: (0, 40, 900, 950, 2400, 2500)[number])
    film(folder / "at once.mkv", 4, lambda number: number)  # a thousand a second
    film(folder / "none.mp4", 0)
    data = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    data = (folder / "uneven.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: 2 * len(data) // 3])
    (folder / "empty.mp4").write_bytes(b"")
    still = picture(1, (64, 48))
    still.save(folder / "timeless.gif", save_all=True, append_images=[picture(2, (64, 48))], duration=0)
    still.save(folder / "still.gif")


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("media")
    write_files(folder)
    write_films(folder)
    return {
        kind: _run(build(family, tmp_path_factory.mktemp(family), tiny_llama), family, folder)
        for kind, family in (("image", "qwen2_vl"), ("audio", "qwen2_audio"))
    }


def _run(model: Path, family: str, folder: Path) -> Run:
    args = get_train_args(
        {
            "model_name_or_path": str(model),
            "template": family,
            "dataset": "rows",
            "dataset_dir": str(folder),
            "output_dir": "none",
        }
    )
    tokenizer, processor = load_tokenizer(args.model), SupervisedProcessor()
    media = load_processor(args.model, tokenizer)
    template = get_template(tokenizer, args.data)
    take_media(template, media, args.media)
    encoder = Encoder(processor, template, tokenizer, resolve_stage(processor, args))

    def run(row: dict[str, Any]) -> dict[str, Any]:
        """The batch of a row."""
        entry = {"file_name": "rows.json", "formatting": "openai", "columns": {name: name for name in row}}
        (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}))
        (folder / "rows.json").write_text(json.dumps([row]))
        attr, rows = open_set(find_media_datasets(["rows"], str(folder), None)[0], None, 0)
        columns = encoder(list(to_samples(rows, attr))).columns
        features = [{name: column[0] for name, column in columns.items() if column[0] is not None}]
        return PaddedCollator(tokenizer, media=template.batch_media())(features)

    return run


def ask(text: str, answer: str = "Yes.", **media: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}], **media}


BROKEN = {
    "missing": (ask("<image>", images=["no.png"]), "no such file"),
    "zero bytes": (ask("<image>", images=["empty.png"]), "empty.png"),
    "truncated JPEG": (ask("<image>", images=["cut.jpg"]), "cut.jpg"),
    "truncated PNG": (ask("<image>", images=["cut.png"]), "cut.png"),
    "text": (ask("<image>", images=["text.png"]), "text.png"),
    "20k x 20k": (ask("<image>", images=["huge.png"]), "more than 67108864 pixels"),
    "1 x 3000": (ask("<image>", images=["line.png"]), "aspect ratio"),
    "folder": (ask("<image>", images=["folder.png"]), "no such file"),
    "pipe": (ask("<image>", images=["pipe.png"]), "no such file"),
    "link to nothing": (ask("<image>", images=["link.png"]), "no such file"),
    "address": (ask("<image>", images=["https://example.com/a.png"]), "is an address"),
    "number": (ask("<image>", images=[7]), "image"),
    "object": (ask("<image>", images=[{"a": "b"}]), "image"),
    "null": (ask("<image>", images=[None]), "image"),
    "bad data address": (ask("<image>", images=["data:image/png;base64,@"]), "base64"),
    "fewer files": (ask("<image><image>", images=["good.png"]), "2 markers"),
    "more files": (ask("<image>", images=["good.png", "good.png"]), "1 markers"),
    "no marker": (ask("What?", images=["good.png"]), "0 markers"),
    "no file": (ask("<image>", images=[]), "1 markers"),
    "sound for a picture": (ask("<image>", images=["good.wav"]), "good.wav"),
    "sound, model of pictures": (ask("<audio>", audios=["good.wav"]), "this model takes image"),
    "video without torchvision": (ask("<video>", videos=["moving.gif"]), "this model takes image"),
    "silent file without samples": (ask("<audio>", audios=["none.wav"]), "none.wav"),
    "cut sound": (ask("<audio>", audios=["cut.wav"]), "cut off"),
    "empty sound": (ask("<audio>", audios=["empty.wav"]), "empty.wav"),
    "noise": (ask("<audio>", audios=["noise.wav"]), "noise.wav"),
    "picture for a sound": (ask("<audio>", audios=["good.png"]), "good.png"),
    "picture, model of sound": (ask("<image>", images=["good.png"]), "this model takes audio"),
}
if TORCHVISION:
    del BROKEN["video without torchvision"]
    BROKEN |= {
        "video that is missing": (ask("<video>", videos=["no.mp4"]), "no such file"),
        "video of no bytes": (ask("<video>", videos=["empty.mp4"]), "empty.mp4"),
        "video without a frame": (ask("<video>", videos=["none.mp4"]), "none.mp4"),
        "video that is cut": (ask("<video>", videos=["cut.mp4"]), "cut.mp4"),
        "video that lost its end": (ask("<video>", videos=["cut.mkv"]), "cut off"),
        "sound for a video": (ask("<video>", videos=["good.wav"]), "good.wav"),
        "text for a video": (ask("<video>", videos=["text.png"]), "text.png"),
        "fewer videos": (ask("<video><video>", videos=["good.mp4"]), "2 markers"),
        "frames of no number": (ask("<video>", videos=[[]]), "empty"),
        "frames of two sizes": (ask("<video>", videos=[["good.png", "grey.png"]]), "differ in size"),
        "a frame that is missing": (ask("<video>", videos=[["good.png", "no.png"]]), "no such file"),
    }
OF_SOUND = {"silent file without samples", "cut sound", "empty sound", "noise", "picture for a sound"}
OF_SOUND |= {"picture, model of sound"}
GOOD = {
    "JPEG": ask("<image>", images=["good.jpg"]),
    "another name": ask("<image>", images=["named.txt"]),
    "moving": ask("<image>", images=["moving.gif"]),
    "one pixel": ask("<image>", images=["pixel.png"]),
    "grey": ask("<image>", images=["grey.png"]),
    "CMYK": ask("<image>", images=["cmyk.jpg"]),
    "transparent": ask("<image>", images=["clear.png"]),
    "16 bits": ask("<image>", images=["deep.png"]),
    "turned": ask("<image>", images=["turned.jpg"]),
    "the answer holds it": ask("Draw.", "Here: <image>", images=["good.png"]),
    "one string": ask("<image>", images="good.png"),
    "silence": ask("<audio>", audios=["silent.wav"]),
    "seven channels": ask("<audio>", audios=["seven.wav"]),
    "another rate": ask("<audio>", audios=["fast.wav"]),
}
if TORCHVISION:
    GOOD |= {
        "video": ask("<video>", videos=["good.mp4"]),
        "one frame": ask("<video>", videos=["one.mp4"]),
        "no times": ask("<video>", videos=["timeless.gif"]),
        "a picture as a video": ask("<video>", videos=["still.gif"]),
        "variable frame rate": ask("<video>", videos=["uneven.mkv"]),
        "thousand frames a second": ask("<video>", videos=["at once.mkv"]),
        "video in the answer": ask("Draw.", "Here: <video>", videos=["good.mp4"]),
    }


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_one_line_with_file_and_row(name: str, runs: dict[str, Run]) -> None:
    row, word = BROKEN[name]
    with pytest.raises(ConfigError) as caught:
        runs["audio" if name in OF_SOUND else "image"](row)
    message = str(caught.value)
    assert "\n" not in message and "rows.json" in message and "row 1: " in message
    assert word in message


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_row_is_trained(name: str, runs: dict[str, Run]) -> None:
    row = GOOD[name]
    batch = runs["audio" if "audios" in row else "image"](row)
    kinds = {"audios": "input_features", "videos": "pixel_values_videos", "images": "pixel_values"}
    values = next(batch[name] for kind, name in kinds.items() if kind in row)
    assert np.isfinite(values.numpy()).all()
    assert (batch["labels"] != -100).sum() > 1
    if name == "transparent":  # laid on white
        assert values.min() > 1
    if name == "turned":
        upright = runs["image"](GOOD["JPEG"])["image_grid_thw"][0].tolist()
        assert batch["image_grid_thw"][0].tolist() == [upright[0], upright[2], upright[1]]
