# SPDX-License-Identifier: Apache-2.0
"""Data sets by name, by path and by entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.dataset_info import Columns, Tags, find_datasets
from llamafactory.extras.errors import ConfigError


def listing(folder: Path, entries: Any) -> str:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (folder / "dataset_info.json").write_text(text, encoding="utf-8")
    return str(folder)


def test_an_entry_is_read_with_defaults_for_what_it_does_not_list(tmp_path: Path) -> None:
    entry = {
        "file_name": "a/b.json", "formatting": "sharegpt", "num_samples": 5, "split": "test", "subset": "en",
        "columns": {"tools": "tools"}, "tags": {"user_tag": "user"},
    }  # fmt: skip
    (attr,) = find_datasets(["mine"], listing(tmp_path, {"mine": entry}))
    assert (attr.place, attr.location) == ("file", str(tmp_path / "a/b.json"))
    assert (attr.formatting, attr.num_samples, attr.split, attr.subset) == ("sharegpt", 5, "test", "en")
    assert attr.columns == Columns(tools="tools")
    assert attr.tags == Tags(user_tag="user")


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


BROKEN: list[tuple[Any, str, tuple[str, ...]]] = [
    ({"identity": {"file_name": "x"}}, "identty", ("'identty'", "did you mean identity?", "dataset_info.json")),
    ({"identity": {"file_name": "x"}}, "./gone.jsonl", ("./gone.jsonl", "no such file")),
    ({"a": {"file_nam": "x"}}, "a", ("'a'", "'file_nam'", "did you mean file_name")),
    ({"a": {"file_name": "x", "columns": {"promt": "q"}}}, "a", ("columns", "'promt'", "did you mean prompt?")),
    ({"a": {"file_name": "x", "tags": {"user": "q"}}}, "a", ("tags", "'user'", "user_tag")),
    ({"a": {"file_name": "x", "tags": {"user_tag": 1}}}, "a", ("user_tag", "1")),
    ({"a": {"file_name": "x", "formatting": "sharegtp"}}, "a", ("'sharegtp'", "alpaca, sharegpt, openai")),
    ({"a": {"file_name": "x", "ranking": "yes"}}, "a", ("ranking", "'yes'", "true or false")),
    ({"a": {"file_name": "x", "num_samples": 0}}, "a", ("num_samples", "0")),
    ({"a": {"file_name": 3}}, "a", ("'a'", "3")),
    ({"a": {"script_url": "x"}}, "a", ("script_url", "not run")),
    ({"a": {}}, "a", ("no place", "file_name")),
    ({"a": "x.json"}, "a", ("'a'", "expected an object")),
    ([1], "a", ("top level", "list")),
    ("{", "a", ("not valid JSON",)),
    (None, "a", ("dataset_dir", "does not exist")),
]


@pytest.mark.parametrize(("entries", "name", "words"), BROKEN)
def test_a_wrong_entry_is_one_clear_line(tmp_path: Path, entries: Any, name: str, words: tuple[str, ...]) -> None:
    folder = str(tmp_path) if entries is None else listing(tmp_path, entries)
    with pytest.raises(ConfigError) as caught:
        find_datasets([name], folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
