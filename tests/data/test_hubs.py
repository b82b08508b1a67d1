# SPDX-License-Identifier: Apache-2.0
"""Sets on a hub, with the hub's library standing still or replaced by a stub."""

from __future__ import annotations

import sys
from typing import Any

import datasets
import pytest

from llamafactory.data.sources.dataset_info import DatasetAttr, find_datasets
from llamafactory.data.sources.files import read_rows
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare


def test_an_online_set_is_asked_for_by_its_parts_and_sniffed(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(path: str, **keys: Any) -> datasets.Dataset:
        asked.update(path=path, **keys)
        return datasets.Dataset.from_list([{"messages": [{"role": r, "content": "x"} for r in ("user", "assistant")]}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    module = prepare(dataset="org/chats", dataset_dir="ONLINE")
    assert asked == {"path": "org/chats", "name": None, "data_dir": None, "split": "train"}
    assert module.train["source"][:] == ["org/chats"]
    (attr,) = find_datasets(["a"], {"a": {"hf_hub_url": "o/r", "subset": "en", "folder": "d", "split": "test"}})
    assert [str(place) for place, _ in read_rows(attr)] == ["o/r (test) row 1"]
    assert asked == {"path": "o/r", "name": "en", "data_dir": "d", "split": "test"}


@pytest.mark.parametrize(("place", "package"), [("ms", "modelscope"), ("om", "openmind")])
def test_a_missing_hub_package_is_one_line(place: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        list(read_rows(DatasetAttr("x", place, "org/set")))


def test_an_unreachable_set_is_one_line_with_its_name(prepare: Prepare) -> None:
    # HF_HUB_OFFLINE is set for all tests.
    for keys in ({"dataset_dir": "ONLINE"}, {"dataset_dir": "REMOTE:org/nowhere"}):
        with pytest.raises(ConfigError, match="cannot be loaded") as caught:
            prepare(dataset="org/nothing", **keys)
        assert "\n" not in str(caught.value)
        assert "org/no" in str(caught.value)
