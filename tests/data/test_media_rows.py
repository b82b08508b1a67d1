# SPDX-License-Identifier: Apache-2.0
"""Rows with images, videos and sound: where they come to stand, what is refused, and that training refuses all."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from llamafactory.data.formats.media import with_markers
from llamafactory.data.messages import Message, Part, Sample
from llamafactory.data.sources.dataset_info import DatasetAttr, find_datasets, find_media_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare

ALL = {"images": "images", "videos": "videos", "audios": "audios"}
ALPACA = {"prompt": "instruction"}
CHAT = {"formatting": "sharegpt", "columns": {"messages": "conversations", **ALL}}
OPENAI = {"formatting": "openai", "columns": {"messages": "messages", "images": "images"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with files that rows may name."""
    for name in ("a.png", "b.png", "sub/c.png", "v.mp4", "s.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def read(folder: Path, row: dict[str, Any], media_dir: str | None = None, **entry: Any) -> Sample:
    (folder / "rows.json").write_text(json.dumps([row]))
    (folder / "dataset_info.json").write_text(json.dumps({"set": {"file_name": "rows.json", **entry}}))
    return samples(find_media_datasets(["set"], str(folder), media_dir))[0]


def samples(sets: list[DatasetAttr]) -> list[Sample]:
    settled, rows = open_set(sets[0], None, 0)
    return list(to_samples(rows, settled))


def test_media_stand_where_their_markers_are(folder: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "<image>What is it? And <image> this, <video>?"},
            {"from": "gpt", "value": "A cat."},
            {"from": "human", "value": "<audio>\nAnd <image>"},
        ],
        "images": ["a.png", str(folder / "b.png"), "sub/c.png"],
        "videos": ["v.mp4"],
        "audios": ["s.wav"],
    }
    first, answer, last = read(folder, row, **CHAT).messages
    assert first.parts == (
        Part("image", str(folder / "a.png")), Part("text", "What is it? And "), Part("image", str(folder / "b.png")),
        Part("text", " this, "), Part("video", str(folder / "v.mp4")), Part("text", "?"),
    )  # fmt: skip
    assert answer == Message.of("assistant", "A cat.")
    assert [part.type for part in last.parts] == ["audio", "text", "image"]
    assert last.parts[2].value == str(folder / "sub/c.png")
    assert with_markers([last])[0].text == "<audio>\nAnd <image>"


def test_alpaca_and_pairs_have_media_too(folder: Path) -> None:
    row = {"instruction": "<image>Which?", "input": "<image>", "output": "a", "images": ["a.png", "b.png"]}
    sample = read(folder, row, columns={**ALPACA, "query": "input", "images": "images"})
    assert [part.type for part in sample.messages[0].parts] == ["image", "text", "image"]
    row = {
        "conversations": [{"from": "human", "value": "<image>?"}],
        "chosen": {"from": "gpt", "value": "yes <image>"},
        "rejected": {"from": "gpt", "value": "no <image>"},
        "images": ["a.png", "b.png"],
    }
    columns = {"messages": "conversations", "images": "images", "chosen": "chosen", "rejected": "rejected"}
    pair = read(folder, row, formatting="sharegpt", ranking=True, columns=columns)
    assert pair.chosen and pair.rejected
    for answer, text in ((pair.chosen, "yes "), (pair.rejected, "no ")):
        assert answer[0].parts == (Part("text", text), Part("image", str(folder / "b.png")))


def test_columns_hold_one_or_several_as_lists_or_json_and_frames_or_objects(folder: Path) -> None:
    ask = {"instruction": "<image>", "output": "a"}
    columns = {"columns": {**ALPACA, "images": "images"}}
    for value in ("a.png", ["a.png"], '["a.png"]', [{"path": "a.png", "bytes": None}]):
        (part,) = read(folder, {**ask, "images": value}, **columns).messages[0].parts
        assert part == Part("image", str(folder / "a.png"))
    row = {"instruction": "<video>", "v": [["a.png", "b.png"]]}
    (video,) = read(folder, row, columns={**ALPACA, "videos": "v"}).messages[0].parts
    assert video.value == [str(folder / "a.png"), str(folder / "b.png")]
    assert read(folder, {"instruction": "<video>", "images": None}, columns=columns["columns"]).messages == (
        Message.of("user", "<video>"),  # a set without that column: the user's own words
    )


def test_parts_of_the_openai_schema_are_media(folder: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
    sound = base64.b64encode(b"sound").decode()
    content = [
        {"type": "text", "text": "See <image>"},
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "image", "image": "sub/c.png"},
    ]
    row = {"messages": [{"role": "user", "content": content}]}
    (message,) = read(folder, row, formatting="openai").messages
    assert [part.value for part in message.parts] == [
        "See <image>", str(folder / "a.png"), b"pixels", b"sound", str(folder / "sub/c.png"),
    ]  # fmt: skip
    assert [part.type for part in message.parts] == ["text", "image", "image", "audio", "image"]
    # A part that names nothing takes the next of its column.
    content = [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]
    row = {"messages": [{"role": "user", "content": content}], "images": ["b.png"]}
    (message,) = read(folder, row, **OPENAI).messages
    assert message.parts == (Part("image", str(folder / "b.png")), Part("text", "what?"))


def test_other_markers_by_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_PLACEHOLDER", "[[img]]")
    row = {"instruction": "[[img]] is no <image>", "images": ["a.png"]}
    parts = read(folder, row, columns={**ALPACA, "images": "images"}).messages[0].parts
    assert parts == (Part("image", str(folder / "a.png")), Part("text", " is no <image>"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "<image>", "images": ["a.png", "b.png"]}, ["'images' holds 2", "1 markers <image>"]),
        ({"instruction": "<image><image>", "images": "a.png"}, ["'images' holds 1", "2 markers <image>"]),
        ({"instruction": "<image>", "images": []}, ["'images' holds 0", "1 markers <image>"]),
        ({"instruction": "<image>", "images": ["no.png"]}, ["'images'", "no such file", "no.png", "media_dir"]),
        ({"instruction": "<image>", "images": ["http://x/a.png"]}, ["'images'", "is an address", "SAFE_MEDIA_HOSTS"]),
        ({"instruction": "<image>", "images": ["data:image/png;base64,@"]}, ["'images'", "base64"]),
        ({"instruction": "<video>", "images": None, "videos": [["a.png", "x.png"]]}, ["'videos'", "x.png"]),
    ],
)
def test_what_does_not_fit_names_file_and_row(folder: Path, row: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, row, columns={**ALPACA, **{name: name for name in ("images", "videos") if name in row}})
    assert str(caught.value).startswith(f"{folder}/rows.json row 1: ") and "\n" not in str(caught.value)
    for word in expected:
        assert word in str(caught.value)


def test_where_relative_paths_begin(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "a.png").write_bytes(b"")
    row = {"instruction": "<image>", "output": "x", "images": ["a.png"]}
    found = [read(folder, row, columns={**ALPACA, "images": "images"}, media_dir=each) for each in (None, str(other))]
    assert [sample.messages[0].parts[0].value for sample in found] == [str(folder / "a.png"), str(other / "a.png")]
    # A file named by its path has its media beside it; its columns are found out.
    (sample,) = samples(find_media_datasets([str(folder / "rows.json")], "elsewhere", None))
    assert sample.messages[0].parts == (Part("image", str(folder / "a.png")),)


def test_a_set_of_a_hub_keeps_its_media_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    features = datasets.Features({"instruction": datasets.Value("string"), "images": datasets.List(datasets.Image())})
    rows = datasets.Dataset.from_list(
        [{"instruction": "<image>", "images": [{"bytes": data.getvalue(), "path": None}]}], features=features
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **keys: rows)
    sets = find_media_datasets(["a"], {"a": {"hf_hub_url": "o/r", "columns": {**ALPACA, "images": "images"}}}, None)
    (part,) = samples(sets)[0].messages[0].parts
    assert part == Part("image", {"bytes": data.getvalue(), "path": None})


@pytest.mark.parametrize("layout", ["column", "part", "sniffed"])
def test_training_refuses_rows_with_media(layout: str, folder: Path, prepare: Prepare) -> None:
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A cat."}]
    good = {"messages": [{**turns[0], "content": "who?"}, turns[1]], "images": []}
    row: dict[str, Any] = {"messages": turns, "images": ["a.png"]}
    if layout == "part":
        turns[0]["content"] = [{"type": "image_url", "image_url": {"url": "a.png"}}]  # type: ignore[assignment]
        row = {"messages": turns, "images": []}
    (folder / "rows.json").write_text(json.dumps([good, row]))
    (folder / "dataset_info.json").write_text(json.dumps({"set": {"file_name": "rows.json", **OPENAI}}))
    name = str(folder / "rows.json") if layout == "sniffed" else "set"
    with pytest.raises(ConfigError, match=r"rows\.json row 2: field '(images|messages)'.*the row has image") as caught:
        prepare(dataset=name, dataset_dir=str(folder))
    assert "\n" not in str(caught.value)
    assert find_datasets([name], str(folder))[0].media_dir is None
