# SPDX-License-Identifier: Apache-2.0
"""Features and batches of rows with media, against the family's own processor called officially on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_case import Case, talk
from media_models import FAMILIES, build, picture, tone
from PIL import Image

from llamafactory.data.collators import PaddingFreeCollator
from llamafactory.data.media.expansion import Expander
from llamafactory.data.media.shapes import Shape
from llamafactory.data.processor import PairwiseProcessor, PretrainProcessor
from llamafactory.extras.errors import ConfigError

ALWAYS = ("qwen2_vl", "gemma3")
SOUND = ("qwen2_audio",)


def _row(family: str) -> Any:
    return pytest.param(family, marks=[] if family in ALWAYS else [pytest.mark.slow])


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: build(family, tmp_path_factory.mktemp(family), tiny_llama))


def write_sound(path: Path, samples: np.ndarray) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def read_sound(path: Path) -> np.ndarray:
    import wave

    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for number, size in enumerate([(64, 48), (90, 60), (40, 84)]):
        picture(number, size).save(tmp_path / f"{number}.png")
        write_sound(tmp_path / f"{number}.wav", tone(300 + 200 * number, 0.3 + 0.2 * number))
    return tmp_path


def talks(kind: str) -> list[dict[str, Any]]:
    """A picture in front; text alone; two of other sizes at other places, in other turns."""
    column, end = {"image": ("images", "png"), "audio": ("audios", "wav")}[kind]
    return [
        {"messages": talk(f"<{kind}>What is it?", "A round thing."), column: [f"0.{end}"]},
        {"messages": talk("Hello you", "Hello, I am a small model."), column: []},
        {
            "messages": talk(f"Look <{kind}> there", "I see.", f"Now this<{kind}>", "Another."),
            column: [f"1.{end}", f"2.{end}"],
        },
    ]  # fmt: skip


def official(case: Case, rows: list[dict[str, Any]], kind: str, media: Path) -> dict[str, Any]:
    """The processor on the conversations, as its documentation has it: its template, its tokenizer, its padding."""
    column = {"image": "images", "audio": "audios"}[kind]
    texts, found = [], []
    for row in rows:
        turns = []
        for turn in row["messages"]:
            words = turn["content"].split(f"<{kind}>")
            parts: list[dict[str, Any]] = [{"type": "text", "text": words[0]}] if words[0] else []
            for more in words[1:]:
                parts += [{"type": kind}] + ([{"type": "text", "text": more}] if more else [])
            turns.append({"role": turn["role"], "content": parts})
        texts.append(case.tokenizer.apply_chat_template(turns, tokenize=False))
        if kind == "image":
            found.append([Image.open(media / name).convert("RGB") for name in row[column]])
        else:
            found.append([read_sound(media / name) for name in row[column]])
    given: dict[str, Any] = {"images": found}
    if "InternVL" in type(case.processor).__name__:
        given["images_kwargs"] = {"crop_to_patches": False}  # unless the user sets the key
    if kind == "audio":
        given = {"audio": [one for row in found for one in row], "sampling_rate": 16000}
    case.tokenizer.padding_side = "right"
    return dict(case.processor(text=texts, padding=True, return_tensors="pt", add_special_tokens=False, **given))


@pytest.mark.parametrize("family", [_row(family) for family in FAMILIES])
def test_batches_are_those_of_the_official_processor(family: str, folder_of: Any, media: Path) -> None:
    kind = "audio" if family in SOUND else "image"
    rows = talks(kind)
    # The processor would see each file as it is: the bounds of ours must not scale these.
    case = Case(folder_of(family), media / "set", rows, image_min_pixels=1)
    wanted = official(case, rows, kind, media)
    found = case.batch()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert found.keys() - wanted.keys() == {"labels"}
    # No medium is trained, and every answer is.
    for row, raw in zip(case.rows, rows, strict=True):
        trained = [token for token in row["labels"] if token != -100]
        said = "".join(turn["content"] + "<|im_end|>" for turn in raw["messages"] if turn["role"] == "assistant")
        assert case.tokenizer.decode(trained).replace("\n", "") == said
    assert [sum(len(some) for some in row["media"]) for row in case.rows] == [1, 0, 2]
    # In one line: the same tokens, the same media, token types without the padding.
    line = PaddingFreeCollator(case.tokenizer, case.template.batch_media())(case.rows)
    mask = found["attention_mask"].bool()
    for name, value in found.items():
        if name != "attention_mask":
            expected = value[mask][None] if value.shape[:2] == mask.shape else value
            assert torch.equal(line[name], expected), name


def test_rows_of_mixed_text_and_media_are_those_of_each_alone(folder_of: Any, media: Path) -> None:
    rows = talks("image")
    mixed = Case(folder_of("qwen2_vl"), media / "mixed", rows)
    alone = [Case(folder_of("qwen2_vl"), media / f"alone{number}", [row]).rows[0] for number, row in enumerate(rows)]
    for found, wanted in zip(mixed.rows, alone, strict=True):
        assert (found["input_ids"], found["labels"]) == (wanted["input_ids"], wanted["labels"])


def test_packed_rows_keep_media_in_the_order_of_their_sequences(folder_of: Any, media: Path) -> None:
    apart = Case(folder_of("qwen2_vl"), media / "apart", talks("image"))
    packed = Case(folder_of("qwen2_vl"), media / "packed", talks("image"), packing=True, cutoff_len=256)
    assert len(packed.rows) == 1 and len(packed.rows[0]["seq_lens"]) == 3
    make = PaddingFreeCollator(apart.tokenizer, apart.template.batch_media())
    one, other = make(apart.rows), make(packed.rows)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(other[name]), torch.as_tensor(value)), name


def test_prepared_data_holds_no_pixels(folder_of: Any, media: Path) -> None:
    case = Case(folder_of("qwen2_vl"), media / "set", talks("image"))
    assert case.rows[0]["media"] == [
        [{"type": "image", "source": str(media / "0.png"), "tokens": 4, "place": f"{media}/set/rows.json, row 1"}]
    ]
    assert case.data.folder and sum(path.stat().st_size for path in case.data.folder.rglob("*.arrow")) < 20_000


def test_pairs_hold_the_media_once_for_each_answer(folder_of: Any, media: Path) -> None:
    row = {"messages": talk("<image>Which?"), "chosen": talk("", "One.")[1], "rejected": talk("", "Two.")[1]}
    columns = {name: name for name in ("messages", "images", "chosen", "rejected")}
    keys = {"entry": {"ranking": True, "columns": columns}, "stage": "dpo"}
    case = Case(folder_of("qwen2_vl"), media / "set", [{**row, "images": ["1.png"]}], PairwiseProcessor(), **keys)
    assert [len(some) for some in case.rows[0]["media"]] == [1, 1]


def test_a_file_that_changed_is_named_with_its_row(folder_of: Any, media: Path) -> None:
    case = Case(folder_of("qwen2_vl"), media / "set", talks("image"))
    picture(5, (300, 200)).save(media / "0.png")
    with pytest.raises(ConfigError) as caught:
        case.batch()
    message = str(caught.value)
    assert "rows.json, row 1" in message and "took 4 tokens" in message and "takes 77 now" in message
    assert "\n" not in message
    (media / "0.png").unlink()
    with pytest.raises(ConfigError, match=r"rows\.json, row 1: image .*0\.png"):
        case.batch()


@pytest.mark.parametrize("rule", ["truncate", "split", "keep_start", "keep_end"])
@pytest.mark.parametrize("cutoff", [24, 40, 60, 90])
def test_no_medium_is_cut(folder_of: Any, media: Path, rule: str, cutoff: int) -> None:
    rows = talks("image")
    try:
        case = Case(folder_of("qwen2_vl"), media / "set", rows, cutoff_len=cutoff, overlong=rule)
    except ConfigError as error:
        assert "none of its 3 rows is left" in str(error)
        return
    pad = case.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for row in case.rows:
        assert len(row["input_ids"]) <= cutoff
        assert row["input_ids"].count(pad) == sum(one["tokens"] for some in row.get("media", ()) for one in some)
        assert all(label != pad for label in row["labels"])
    case.batch()


@pytest.mark.parametrize("packing", [False, True])
def test_running_text_has_media_too(folder_of: Any, media: Path, packing: bool) -> None:
    texts = ["A page with <image> a picture in it", "No picture at all", "Two <image> of <image> them"]
    rows = [{"text": text, "images": [f"{place}.png" for place in range(text.count("<image>"))]} for text in texts]
    entry = {"formatting": "alpaca", "columns": {"prompt": "text", "images": "images"}}
    keys = {"entry": entry, "stage": "pt", "packing": packing, "cutoff_len": 256}
    case = Case(folder_of("qwen2_vl"), media / "set", rows, PretrainProcessor(), **keys)
    pad = case.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = [token for row in case.rows for token in row["input_ids"]]
    end = case.tokenizer.eos_token
    shown = case.tokenizer.decode(ids).replace("<|image_pad|>", "").replace("<|vision_start|><|vision_end|>", "<image>")
    assert shown == "".join(text + end for text in texts)
    assert ids.count(pad) == sum(one["tokens"] for row in case.rows for some in row["media"] for one in some) > 6
    assert all(label != pad for row in case.rows for label in row["labels"])


def test_a_picture_at_an_address_is_trained_as_a_file_once_its_host_is_named(
    folder_of: Any, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamafactory.extras import remote_files

    monkeypatch.setenv("HF_DATASETS_CACHE", str(media / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(media / "cache"))
    monkeypatch.setattr(remote_files.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("93.184.216.34", 443))])
    monkeypatch.setattr(remote_files, "_get", lambda parts, *_: (media / parts.path.lstrip("/")).read_bytes())
    rows = [{"messages": talk("<image>What?", "It."), "images": ["https://pictures.example/0.png"]}]
    with pytest.raises(ConfigError, match=r"rows.json,? row 1: field 'images': 'https:.*0.png' is an address"):
        Case(folder_of("qwen2_vl"), media / "refused", rows)
    monkeypatch.setenv("SAFE_MEDIA_HOSTS", "other.example")
    with pytest.raises(
        ConfigError, match=r"rows.json,? row 1: .*0.png': remote files are fetched only from hosts that"
    ):
        Case(folder_of("qwen2_vl"), media / "refused", rows)
    monkeypatch.setenv("SAFE_MEDIA_HOSTS", "other.example, Pictures.Example")
    fetched = Case(folder_of("qwen2_vl"), media / "fetched", rows).batch()
    here = Case(folder_of("qwen2_vl"), media / "here", [rows[0] | {"images": ["0.png"]}]).batch()
    assert fetched.keys() == here.keys() and all(torch.equal(fetched[name], here[name]) for name in here)


@pytest.mark.parametrize("family", [_row(family) for family in FAMILIES if family not in SOUND])
def test_images_that_are_counted_take_what_the_processor_writes(family: str, folder_of: Any, media: Path) -> None:
    assert_counts_are_written(Case(folder_of(family), media / "data", talks("image")[:1]))


def assert_counts_are_written(case: Case) -> None:
    """Sizes at random, alone and two together; the long and the small ones among them."""
    draw = np.random.default_rng(0)
    expander = Expander(case.template.media)
    sizes = [(1, 1), (20, 300), (300, 20), *map(tuple, draw.integers(8, 200, (20, 2)).tolist())]
    for several in (1, 2):
        for start in range(0, len(sizes) - 1):
            shapes = [Shape("image", size) for size in sizes[start : start + several]]
            counted = expander._by_formula(shapes)
            assert not counted or counted == expander._by_processor(shapes)
