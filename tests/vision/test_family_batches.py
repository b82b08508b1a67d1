# SPDX-License-Identifier: Apache-2.0
"""Every family that takes media and can be built: what we train on is what transformers' processor and model make."""

from __future__ import annotations

import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import media_models
import numpy as np
import pytest
import torch
from data.media.test_training_rows import assert_counts_are_written
from media_case import Case, talk
from media_models import picture, tone
from media_rows import loss_sum
from PIL import Image
from transformers import AutoModelForMultimodalLM
from transformers.video_utils import VideoMetadata

from llamafactory.data.collators import PaddingFreeCollator
from llamafactory.data.media.decode import read_video
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import is_isolating, load_model
from llamafactory.model.families.family import media_packing, reads_prefix_both_ways
from llamafactory.train.token_scores import attach

from . import families

pytestmark = pytest.mark.vision

BOTH = ("image", "video")
# What each is tried with; those of media_models.py are tried with pictures or sound alone in tests/train as well.
KINDS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "internvl", "smolvlm"), BOTH),
    **{name: tuple(row.text) for name, row in families.FAMILIES.items() if name != "paligemma"},
}
APART = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "smolvlm")  # take pictures or videos in one batch
ONE_LENGTH = ("internvl",)  # take videos of as many frames in a row
AS_MANY = ("llava_next_video", "llava_onevision", "video_llava")  # in a batch
# Frames of three videos: several sizes, one of an odd number.
FILMS = {"a": (4, (64, 48)), "b": (6, (56, 56)), "c": (3, (40, 84)), "d": (4, (56, 56)), "e": (4, (40, 84))}
PICTURES = {"one": (64, 48), "two": (56, 56), "three": (40, 84)}
SOUNDS = {"low": (300, 0.4), "high": (800, 0.7), "short": (500, 0.3)}


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(family: str) -> Path:
        build = families.build if family in families.FAMILIES else media_models.build
        return build(family, tmp_path_factory.mktemp(family), tiny_llama)

    return cache(make)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Pictures, sounds, and the frames of videos as pictures: what is decoded is not in question here."""
    for number, (name, size) in enumerate(PICTURES.items()):
        picture(number + 9, size).save(tmp_path / f"{name}.png")
    for name, (frames, size) in FILMS.items():
        for number in range(frames):
            picture(17 * number + ord(name), size).save(tmp_path / f"{name}{number}.png")
    for name, (hertz, seconds) in SOUNDS.items():
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes((tone(hertz, seconds) * 30000).astype("<i2").tobytes())
    return tmp_path


def film(name: str) -> list[str]:
    return [f"{name}{number}.png" for number in range(FILMS[name][0])]


def row(*texts: str, **media: list[Any]) -> dict[str, Any]:
    return {"messages": talk(*texts), "images": [], "videos": [], "audios": []} | media


def rows(family: str) -> list[dict[str, Any]]:
    """Of each kind one in front, and two at other places, in other turns; text alone; all kinds in one row."""
    second = "b" if family in ONE_LENGTH else "c"
    some = {
        "image": ["one.png", "two.png", "three.png"],
        "video": [*map(film, "ade")] if family in AS_MANY else [film("a"), film("b"), film(second)],
        "audio": ["low.wav", "high.wav", "short.wav"],
    }
    kinds = KINDS[family]
    if family in APART:
        kinds = ("video",)
    found = [row("Hello you", "Hello, I am a small model.")]
    for kind in kinds:
        one, two, three = some[kind]
        found.insert(0, row(f"<{kind}>What is it?", "A round thing.", **{f"{kind}s": [one]}))
        turns = (f"Look <{kind}> there", "I see.", f"Now this<{kind}>", "Another.")
        found.append(row(*turns, **{f"{kind}s": [two, three]}))
    if len(kinds) > 1:
        text = ", and ".join(f"<{kind}> one" for kind in kinds)
        found.append(row(f"{text} then", "All", **{f"{kind}s": some[kind][:1] for kind in kinds}))
    return found


def official(case: Case, row: dict[str, Any], media: Path) -> dict[str, Any]:
    """The processor on one conversation: frames that are chosen already, two a second."""
    text = case.tokenizer.apply_chat_template(parts_of(row), tokenize=False)
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
        given |= {"videos": [films], "video_metadata": [facts], "do_sample_frames": False, "fps": 2.0}
    if row["audios"]:
        given |= {"audio": [samples(media / name) for name in row["audios"]], "sampling_rate": 16000}
    found = case.processor(text=[text], return_tensors="pt", **given)
    return {
        name: one.float() if torch.is_tensor(one) and one.is_floating_point() else one for name, one in found.items()
    }


def parts_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row, their text cut at the media."""
    turns = []
    for turn in row["messages"]:
        parts: list[dict[str, Any]] = []
        for words in turn["content"].replace("<", "|<").replace(">", ">|").split("|"):
            if words in ("<image>", "<video>", "<audio>"):
                parts.append({"type": words[1:-1]})
            elif words:
                parts.append({"type": "text", "text": words})
        turns.append({"role": turn["role"], "content": parts})
    return turns


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("family", KINDS)
def test_loss_and_gradients_are_those_of_transformers(family: str, folder_of: Any, media: Path) -> None:
    folder, talks = folder_of(family), rows(family)
    case = Case(folder, media / "data", talks, image_max_pixels=10**6, image_min_pixels=1, cutoff_len=4096)
    oracle = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).train()
    alone = [official(case, row, media) for row in talks]
    for ours, theirs in zip(case.rows, alone, strict=True):
        assert theirs["input_ids"][0].tolist() == list(ours["input_ids"])
        theirs["labels"] = torch.tensor([list(ours["labels"])])
    assert_same(case, folder, oracle, alone)


def assert_same(case: Case, folder: Path, oracle: Any, alone: list[dict[str, Any]]) -> None:
    """Loss and every gradient of all rows in one batch, padded and in one line, are those of each row alone."""
    count = sum(int((one["labels"] != -100).sum()) for one in alone)
    expected: Any = sum(loss_sum(oracle, one) for one in alone) / count
    expected.backward()
    wanted = gradients(oracle)

    parts = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False, "finetuning_type": "full"}
    base = {"model_name_or_path": str(folder), "dataset": "none", "output_dir": "none", "bf16": False}
    model = attach(load_model(case.tokenizer, get_train_args(base | parts)))
    batches = {"padded": case.batch(prefix_types=reads_prefix_both_ways(model.config))}
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


@pytest.mark.parametrize("family", [name for name, kinds in KINDS.items() if "image" in kinds])
def test_images_that_are_counted_take_what_the_processor_writes(family: str, folder_of: Any, media: Path) -> None:
    assert_counts_are_written(Case(folder_of(family), media / "data", rows(family)[-1:]))


def speaking_film(path: Path, hertz: float, seconds: float = 2.0) -> None:
    """Four frames, two a second, with a tone; no sound at 0 Hz."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=2)
        video.width, video.height = 64, 48
        audio = container.add_stream("aac", rate=16000, layout="mono") if hertz else None
        for number in range(int(2 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture(17 * number + int(hertz))), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is None:
            return
        sound = av.AudioFrame.from_ndarray(tone(hertz, seconds)[None], format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


@pytest.mark.parametrize("family", ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"])
def test_the_sound_of_videos_trains_with_them(family: str, folder_of: Any, media: Path) -> None:
    folder = folder_of(family)
    for number in (0, 1, 2):
        speaking_film(media / f"{number}.mp4", 300.0 * number)
    talks = [row(f"<video>What? {number}", "A tone.", videos=[f"{number}.mp4"]) for number in (1, 2)]
    talks.append(row("Look <video> and <audio> there", "Both.", videos=["2.mp4"], audios=["low.wav"]))
    silent = row("<video>A silent one?", "Yes.", videos=["0.mp4"])
    keys = {"use_audio_in_video": True, "video_max_pixels": 10**6, "video_min_pixels": 1, "cutoff_len": 4096}
    case = Case(folder, media / "data", talks, **keys)
    oracle = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).train()
    limits, alone = case.template.media.limits, []
    for ours, one in zip(case.rows, talks, strict=True):
        text = case.tokenizer.apply_chat_template(parts_of(one), tokenize=False)
        (video,) = (read_video(str(media / name), limits) for name in one["videos"])
        assert video.sound is not None
        count = len(video.frames)
        facts = VideoMetadata(count, video.fps, duration=count / video.fps, frames_indices=list(range(count)))
        theirs = dict(
            case.processor(
                text=[text],
                videos=[[np.stack([np.asarray(frame) for frame in video.frames])]],
                audio=[video.sound, *(samples(media / name) for name in one["audios"])],
                audio_from_video_indices=[0, *(None for _ in one["audios"])],
                load_audio_from_video=True,
                video_metadata=[[facts]],
                do_sample_frames=False,
                fps=video.fps,
                return_tensors="pt",
            )
        )
        assert theirs["input_ids"][0].tolist() == list(ours["input_ids"])
        alone.append(theirs | {"labels": torch.tensor([list(ours["labels"])]), "use_audio_in_video": True})
    assert_same(case, folder, oracle, alone)
    with pytest.raises(ConfigError, match="row 1: videos with a sound and videos without stand in one batch"):
        Case(folder, media / "both", [talks[0], silent], **keys).batch()
    assert "use_audio_in_video" not in Case(folder, media / "silent", [silent], **keys).batch()


def test_paligemma(folder_of: Any, media: Path) -> None:
    """Its processor writes prompt and answer by itself, one turn of each."""
    folder = folder_of("paligemma")
    talks = [row("<image>What is it?", "A round thing.", images=["one.png"])]
    talks.append(row("<image>Which number is there then?", "One.", images=["two.png"]))
    case = Case(folder, media / "data", talks, template="paligemma", image_max_pixels=10**6, image_min_pixels=1)
    oracle = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).train()
    alone = []
    for ours, one in zip(case.rows, talks, strict=True):
        question, answer = (turn["content"] for turn in one["messages"])
        picture = [Image.open(media / name) for name in one["images"]]
        theirs = dict(case.processor(text=[question], suffix=[answer], images=[picture], return_tensors="pt"))
        assert theirs["input_ids"][0].tolist() == list(ours["input_ids"])
        assert theirs["labels"][0].tolist() == list(ours["labels"])
        alone.append(theirs)
    assert_same(case, folder, oracle, alone)


@pytest.mark.parametrize("family", AS_MANY)
def test_videos_of_more_and_fewer_frames_are_refused_in_one_batch(family: str, folder_of: Any, media: Path) -> None:
    talks = [row("<video>What?", "That.", videos=[film(name)]) for name in "ab"]
    case = Case(folder_of(family), media / "data", talks)
    with pytest.raises(ConfigError, match=r"rows.json, row 1: videos of 4 and 6 frames stand in one batch"):
        case.batch()


@pytest.mark.parametrize("family", ["glm4v", "smolvlm"])
def test_pictures_and_videos_that_would_be_mixed_up_are_refused(family: str, folder_of: Any, media: Path) -> None:
    """transformers itself would fail in the middle of a step."""
    both = row("<image>One, and <video> then", "Both", images=["one.png"], videos=[film("a")])
    with pytest.raises(ConfigError, match=r"rows.json, row 1: images and videos stand in one batch"):
        Case(folder_of(family), media / "data", [both])
    apart = [row("<video>What?", "That.", videos=[film("a")]), row("<image>One", "Yes", images=["one.png"])]
    case = Case(folder_of(family), media / "data", apart)
    with pytest.raises(ConfigError, match=r"rows.json, row 1: images and videos stand in one batch"):
        case.batch()
