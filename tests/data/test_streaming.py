# SPDX-License-Identifier: Apache-2.0
"""Rows of a stream against those of a preparation that encodes everything first."""

from __future__ import annotations

import copy
import csv
import gzip
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafactory.data.processor import PromptProcessor
from llamafactory.data.sources import files as sources
from llamafactory.data.sources.dataset_info import DatasetAttr
from llamafactory.data.sources.files import read_rows
from llamafactory.data.sources.row_index import RowIndex, write_index
from llamafactory.data.streaming import rows as streaming
from llamafactory.data.streaming.rows import StreamRows, rows_of
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare, alpaca_rows, write_jsonl

Sequences = Counter[tuple[tuple[int, ...], tuple[int, ...]]]


def sequences(rows: Any) -> Sequences:
    found: Sequences = Counter()
    for row in rows:
        start = 0
        for length in row["seq_lens"]:
            part = slice(start, start + length)
            found[tuple(row["input_ids"][part]), tuple(row["labels"][part])] += 1
            start += length
    return found


def streamed(rows: StreamRows, epoch: int = 0, ranks: int = 1, seed: int | None = 7) -> list[dict[str, Any]]:
    order = rows.order(epoch, seed)
    blocks = [block for rank in range(ranks) for block in rows.blocks(order, rank, ranks)]
    return [row for block in blocks for row in rows_of(rows.encode(block).table)]


def files(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    """The same rows in every kind of file."""
    import pyarrow as pa
    import pyarrow.parquet

    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "a.jsonl").write_text("\ufeff" + text.replace("\n", "\n \n\n", 3), encoding="utf-8")
    (folder / "lines.json").write_text(text)
    (folder / "list.json").write_text(json.dumps(rows, indent=1))
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write(text)
    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    (folder / "parts").mkdir()
    for part in range(2):
        write_jsonl(folder / "parts" / f"{part}.jsonl", rows[part::2])
    names = ["a.jsonl", "lines.json", "list.json", "a.jsonl.gz", "a.csv", "a.parquet", "parts"]
    return [str(folder / name) for name in names]


def test_every_row_of_every_kind_of_file_can_be_read_by_its_number(tmp_path: Path) -> None:
    rows = [{"instruction": f"zählt {n}\u2028", "output": "x" * n} for n in range(30)]
    for path in files(tmp_path, rows):
        attr = DatasetAttr(path, "file", path)
        expected = list(read_rows(attr))
        folder = tmp_path / "index" / Path(path).name
        write_index(attr, folder)
        index = RowIndex(folder)
        numbers = np.random.default_rng(0).permutation(30).tolist()
        for same in (index, copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
            assert len(same) == 30
            assert list(same.read(numbers)) == [expected[number] for number in numbers], path


def test_blank_lines_of_text_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\ufeff\n one \n\u3000\n\ntwo\r\nthree", encoding="utf-8")
    attr = DatasetAttr("t", "file", str(tmp_path / "t.txt"))
    write_index(attr, tmp_path / "index")
    index = RowIndex(tmp_path / "index")
    assert list(index.read(range(len(index)))) == list(read_rows(attr))
    (tmp_path / "t.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="holds no rows"):
        write_index(attr, tmp_path / "none")


def test_rows_of_a_hub_are_copied_once(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_hub(attr: DatasetAttr) -> list[dict[str, str]]:
        opened.append(attr.location)
        return alpaca_rows(12)

    monkeypatch.setattr(sources, "open_hub", open_hub)
    keys = {"dataset": "some/set", "dataset_dir": "ONLINE", "streaming": True}
    rows = prepare(**keys).train
    assert len(prepare(**keys).train) == len(rows) == 12 and opened == ["some/set"]
    assert sequences(streamed(rows)) == sequences(prepare(**keys | {"streaming": False}).train)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_epoch_has_the_rows_of_a_prepared_one(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool, ranks: int
) -> None:
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 50)
    monkeypatch.setattr(streaming, "PACKED_BLOCK_ROWS", 100)
    one = write_jsonl(tmp_path / "one.jsonl", alpaca_rows(331, words=30))
    two = write_jsonl(tmp_path / "two.jsonl", [{"prompt": f"n {i}", "response": f"{i}"} for i in range(77)])
    keys = {"dataset": f"{one},{two}", "packing": packing, "cutoff_len": 100, "preprocessing_batch_size": 32}
    expected = sequences(prepare(**keys).train)
    rows = prepare(**keys, streaming=True).train
    for epoch in (0, 1):
        found = streamed(rows, epoch, ranks)
        assert sequences(found) == expected
        assert all(len(row["input_ids"]) <= 100 for row in found)
        raw = [number for row in found for number in row["rows"]]
        assert sorted(raw) == list(range(408))
        assert all(len(row["channels"]) == len(row["seq_lens"]) == len(row["rows"]) for row in found)
        assert all(
            (number >= 331) == bool(c) for row in found for number, c in zip(row["rows"], row["channels"], strict=True)
        )
    if packing and ranks == 1:
        assert sum(len(row["input_ids"]) for row in found) / (100 * len(found)) > 0.95


@given(st.integers(1, 3000), st.integers(1, 500), st.integers(0, 3), st.integers(1, 5))
def test_orders_are_permutations_and_ranks_share_them(size: int, buffer: int, epoch: int, ranks: int) -> None:
    index: Any = range(size)
    attr = DatasetAttr("a", "file", "a")
    encoder: Any = type("E", (), {"args": type("A", (), {"packing": False})})
    rows = StreamRows([streaming.StreamSet(attr, index, np.arange(size))], encoder, "concat", None, buffer)
    order = rows.order(epoch, 1)
    assert sorted(order.tolist()) == list(range(size))
    assert order.tolist() == rows.order(epoch, 1).tolist()
    if size > 50 and buffer > 50:
        assert order.tolist() != rows.order(epoch + 1, 1).tolist() != rows.order(epoch + 1, 2).tolist()
    assert rows.order(epoch, None).tolist() == list(range(size))
    shares = [np.concatenate(rows.blocks(order, rank, ranks)) for rank in range(ranks)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for step in range(size // ranks):
        assert [share[step] for share in shares] == order[step * ranks : (step + 1) * ranks].tolist()


def test_choices_of_rows_are_those_of_a_prepared_run(prepare: Prepare, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", alpaca_rows(60, words=9))
    entry = {"file_name": "a.jsonl", "num_samples": 75, "repeat": 2}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": entry}))
    keys = {"dataset": "a", "max_samples": 70, "val_size": 0.2, "do_eval": True}
    plain, stream = prepare(**keys), prepare(**keys, streaming=True)
    assert sequences(streamed(stream.train)) == sequences(plain.train)
    assert sequences(stream.eval[""]) == sequences(plain.eval[""])
    prompts, expected = (prepare(PromptProcessor(), **keys, streaming=flag).eval[""] for flag in (True, False))
    assert Counter(prompts["reference"]) == Counter(expected["reference"])
    assert stream.report.train_rows == len(stream.train) == 112
    again = prepare(**keys | {"max_samples": 69}, streaming=True)
    assert again.report.fingerprint != stream.report.fingerprint


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over"])
def test_shares_are_within_one_percent_and_each_epoch_mixes_anew(
    prepare: Prepare, tmp_path: Path, strategy: str
) -> None:
    for name in "abc":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"instruction": f"{name}{i}", "output": "x"} for i in range(20_000)])
    names = ",".join(str(tmp_path / f"{name}.jsonl") for name in "abc")
    rows = prepare(dataset=names, mix_strategy=strategy, interleave_probs="7,2,1", streaming=True).train
    first, second = rows.order(0, 3), rows.order(1, 3)
    for order in (first, second):
        assert np.bincount(order // 20_000) / len(order) == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
        for start in range(0, 20_000, 5000):  # also along the way
            part = np.bincount(order[start : start + 5000] // 20_000, minlength=3) / 5000
            assert part == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    assert first.tolist() == rows.order(0, 3).tolist()
    assert first[:1000].tolist() != second[:1000].tolist()
    if strategy == "interleave_under":
        small = [set(order[order >= 40_000].tolist()) for order in (first, second)]
        assert small[0] != small[1], "what the first epoch leaves out is not left out of the next"


def test_once_gives_every_row_once(prepare: Prepare, tmp_path: Path) -> None:
    one, two = (write_jsonl(tmp_path / f"{n}.jsonl", alpaca_rows(n)) for n in (30, 100))
    keys = {"dataset": f"{one},{two}", "mix_strategy": "interleave_once", "interleave_probs": "3,1"}
    rows = prepare(**keys, streaming=True).train
    for epoch in (0, 1):
        assert sorted(rows.order(epoch, 5).tolist()) == list(range(130))
    assert (rows.order(0, 5)[:30] < 30).mean() > 0.5


def test_weights_of_tokens_come_along(prepare: Prepare, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]
    path = write_jsonl(tmp_path / "w.jsonl", [{"messages": turns}, {"messages": [turns[0], {**turns[1], "weight": 1}]}])
    for packing in (False, True):
        found = streamed(prepare(dataset=path, packing=packing, streaming=True).train)
        pairs = Counter(
            weight
            for row in found
            for weight, label in zip(row["weights"], row["labels"], strict=True)
            if label != -100
        )
        assert pairs == {0.5: 2, 1.0: 2}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"instruction": 5, "output": "x"}', "line 51: field 'instruction'"),
        (b'{"instruction": "a", ', "line 51: bad JSON"),
        (b'{"instruction": "\xff"}', "line 51: not UTF-8 text"),
        (b"[1]", "line 51: is a list, expected an object"),
    ],
)
def test_a_broken_row_is_named_when_it_is_reached(prepare: Prepare, tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, alpaca_rows(50))
    path.write_bytes(path.read_bytes() + line + b"\n")
    rows = prepare(dataset=str(path), streaming=True).train
    with pytest.raises(ConfigError) as caught:
        streamed(rows)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"deduplicate": True}, "deduplicate: needs all rows encoded, so not with streaming"),
        ({"tokenized_path": "x"}, "tokenized_path: needs all rows encoded"),
        ({"group_by_length": True}, "train_sampling_strategy: group_by_length: needs all rows encoded"),
        ({"buffer_size": 0}, "buffer_size: expected 1 or more, got 0"),
    ],
)
def test_what_needs_all_rows_is_refused(prepare: Prepare, tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(dataset=write_jsonl(tmp_path / "a.jsonl", alpaca_rows(3)), streaming=True, **keys)


def test_a_set_that_leaves_nothing_says_why(prepare: Prepare, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "q", "output": ""}] * 5)
    with pytest.raises(ConfigError, match="none of the first 5 rows is left \\(5 no answer"):
        prepare(dataset=path, streaming=True).train.rate(0)
