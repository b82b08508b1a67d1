# SPDX-License-Identifier: Apache-2.0
"""Data sets by name, by path and by entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.sources.dataset_info import Columns, Tags, find_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.extras.errors import ConfigError

from .conftest import write_jsonl


def listing(folder: Path, entries: Any) -> str:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (folder / "dataset_info.json").write_text(text, encoding="utf-8")
    return str(folder)


def test_columns_are_the_whole_list_and_tags_are_not(tmp_path: Path) -> None:
    entry = {
        "file_name": "a/b.json", "formatting": "sharegpt", "num_samples": 5, "split": "test", "subset": "en",
        "columns": {"tools": "tools"}, "tags": {"user_tag": "user"},
    }  # fmt: skip
    (attr,) = find_datasets(["mine"], listing(tmp_path, {"mine": entry}))
    assert (attr.place, attr.location) == ("file", str(tmp_path / "a/b.json"))
    assert (attr.formatting, attr.num_samples, attr.split, attr.subset) == ("sharegpt", 5, "test", "en")
    assert attr.columns == Columns(None, None, None, messages="conversations", tools="tools")
    assert attr.tags == Tags(user_tag="user")


def test_a_column_that_is_not_listed_does_not_exist(tmp_path: Path) -> None:
    entry = {"file_name": "x.json", "columns": {"prompt": "input", "response": "target"}}
    (attr,) = find_datasets(["mine"], listing(tmp_path, {"mine": entry}))
    assert attr.columns == Columns("input", None, "target", messages=None)


def test_hub_in_use_decides_between_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"x": {"hf_hub_url": "a/b", "ms_hub_url": "c/d", "om_hub_url": "e/f"}}
    for variable, place in ((None, "hf"), ("USE_MODELSCOPE_HUB", "ms"), ("USE_OPENMIND_HUB", "om")):
        with monkeypatch.context() as patch:
            if variable:
                patch.setenv(variable, "1")
            assert find_datasets(["x"], entries)[0].place == place


def test_names_paths_mapping_and_online(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    by_path, below = find_datasets([str(file), "rows.jsonl"], str(tmp_path))
    assert by_path.location == below.location == str(file)
    assert by_path.formatting == "auto"
    assert find_datasets(["org/set"], "ONLINE")[0].place == "hf"
    assert find_datasets(["m"], {"m": {"file_name": str(file)}})[0].location == str(file)


CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
TOOLS = [{"name": "f", "parameters": {}}]


@pytest.mark.parametrize("late", [{"tools": TOOLS}, {"tools": None}])
@pytest.mark.parametrize("way", [{}, {"streaming": True, "max_steps": 1}])
def test_a_listed_column_may_come_late(late: dict[str, Any], way: dict[str, Any], prepare: Any, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", [CHAT] * 25 + [{**CHAT, **late}])
    columns = {"messages": "messages", "tools": "tools"}
    entry = {"file_name": file, "formatting": "openai", "columns": columns}
    assert len(prepare(dataset="x", dataset_dir={"x": entry}, **way).train) == 26
    with pytest.raises(ConfigError, match=r"x\.jsonl line 1: missing column 'toolz' .*; found 'messages'"):
        prepare(dataset="x", dataset_dir={"x": {**entry, "columns": {**columns, "tools": "toolz"}}}, **way)


def test_a_column_that_is_asked_for_may_come_late(tmp_path: Path) -> None:
    rows = [{"Frage": "q", "Antwort": "a", "Regel": None}] * 25 + [{"Frage": "q", "Antwort": "a", "Regel": "s"}]
    columns = "prompt=frage,response=Antwort,system=Regel"
    (attr,) = find_datasets([write_jsonl(tmp_path / "x.jsonl", rows)], str(tmp_path), columns)
    attr, numbered = open_set(attr, None, seed=0)
    systems = [[one.text for one in sample.messages if one.role == "system"] for sample in to_samples(numbered, attr)]
    assert systems == [[]] * 25 + [["s"]]
