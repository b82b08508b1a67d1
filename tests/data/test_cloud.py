# SPDX-License-Identifier: Apache-2.0
"""Object stores by fsspec's own in-memory store: every kind of file, folders, changes, what is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from llamafactory.data.sources.dataset_info import DatasetAttr, find_datasets
from llamafactory.data.sources.files import read_rows
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare, alpaca_rows
from .test_loader import CountingProcessor
from .test_sources import KINDS, ROWS, write


@pytest.fixture(autouse=True)
def store() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def put_rows(store: fsspec.AbstractFileSystem, path: str, number: int) -> None:
    store.pipe(path, "".join(json.dumps(row) + "\n" for row in alpaca_rows(number)).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read(tmp_path: Path, store: fsspec.AbstractFileSystem, kind: str) -> None:
    store.pipe(f"/bucket/rows.{kind}", write(tmp_path, kind).read_bytes())
    rows = read_rows(DatasetAttr("set", "cloud", f"memory://bucket/rows.{kind}"))
    assert [row for _, row in rows] == ROWS


def test_plain_addresses_folders_and_entries(
    prepare: Prepare, tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    put_rows(store, "/bucket/a/1.jsonl", 3)
    put_rows(store, "/bucket/a/2.jsonl", 4)
    store.pipe("/bucket/a/README.md", b"not data")
    assert len(prepare(dataset="memory://bucket/a").train) == 7
    assert len(prepare(dataset="memory://bucket/a/2.jsonl").train) == 4
    entry = {"cloud": {"cloud_file_name": "memory://bucket/a/1.jsonl"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entry))
    assert prepare(dataset="cloud").train["source"][:] == ["cloud"] * 3
    (attr,) = find_datasets(["memory://bucket/a"], str(tmp_path))
    assert [str(place) for place, _ in read_rows(attr)][3] == "memory://bucket/a/2.jsonl line 1"


def test_a_changed_object_is_a_miss(prepare: Prepare, store: fsspec.AbstractFileSystem) -> None:
    processor = CountingProcessor()
    put_rows(store, "/bucket/a.jsonl", 3)
    for _ in range(2):
        prepare(processor, dataset="memory://bucket/a.jsonl")
    assert processor.samples == 3
    put_rows(store, "/bucket/a.jsonl", 5)
    assert len(prepare(processor, dataset="memory://bucket/a.jsonl").train) == 5


def test_what_is_missing_is_one_line(
    prepare: Prepare, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/bucket/b/README.md", b"not data")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    wrong = {
        "memory://bucket/none.jsonl": "cannot be read",
        "memory://bucket/b": "no data file",
        "s3://bucket/x.jsonl": "pip install s3fs",
        "nowhere://bucket/x.jsonl": "nowhere",
    }
    for address, words in wrong.items():
        with pytest.raises(ConfigError, match=words) as caught:
            prepare(dataset=address)
        assert address in str(caught.value)
        assert "\n" not in str(caught.value)
