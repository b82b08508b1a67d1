# SPDX-License-Identifier: Apache-2.0
"""Every kind of file gives the same rows; every broken one names file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from llamafactory.data.formats import sharegpt
from llamafactory.data.sources.dataset_info import DatasetAttr, find_datasets
from llamafactory.data.sources.files import read_rows
from llamafactory.data.sources.sniff import sniff

ROWS = [{"instruction": "a\nb", "output": "é"}, {"instruction": 'c,"d"', "output": "日本"}]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    table = pa.Table.from_pylist(ROWS)
    if kind == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8-sig")
    elif kind == "lines.json":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode()))
    elif kind == "jsonl.zst":
        lines = "\n".join(json.dumps(row) for row in ROWS).encode()
        path.write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        opener = pa.ipc.new_stream if kind == "arrow" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, opener(sink, table.schema) as stream:
            stream.write_table(table)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(DatasetAttr("set", "file", str(path)))]


KINDS = ["json", "jsonl", "lines.json", "jsonl.gz", "jsonl.zst", "csv", "parquet", "arrow", "file.arrow"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    assert rows_of(write(tmp_path, kind)) == ROWS


def test_text_lines_and_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.txt").write_text("zero")
    (tmp_path / "README.md").write_text("not data")
    assert rows_of(tmp_path) == [{"text": "zero"}, {"text": "one"}, {"text": "two"}]


def test_places_name_lines_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    assert [str(place) for place, _ in read_rows(DatasetAttr("s", "file", str(path)))] == [
        f"{path} line 1",
        f"{path} line 3",
    ]


SNIFFED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"instruction": "q", "input": "", "output": "a"}, "alpaca", {"prompt": "instruction", "query": "input"}),
    ({"instruction": "q", "output": "a", "system": "s"}, "alpaca", {"query": None, "system": "system"}),
    ({"prompt": "q", "completion": "a"}, "alpaca", {"prompt": "prompt", "response": "completion"}),
    ({"question": "q", "answer": "a"}, "alpaca", {"prompt": "question", "response": "answer"}),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "alpaca", {"chosen": "chosen", "response": None}),
    ({"prompt": "q", "completion": "a", "label": True}, "alpaca", {"kto_tag": "label"}),
    ({"text": "t"}, "alpaca", {"prompt": "text", "response": None}),
    ({"conversations": [{"from": "human", "value": "q"}]}, "sharegpt", {"messages": "conversations"}),
    ({"messages": [{"role": "user", "content": "q"}], "tools": []}, "openai", {"tools": "tools"}),
    ({"conversations": [{"role": "user", "content": "q"}]}, "openai", {"messages": "conversations"}),
    ({"messages": '[{"role": "user", "content": "q"}]'}, "openai", {"messages": "messages"}),
]


@pytest.mark.parametrize(("row", "formatting", "columns"), SNIFFED)
def test_the_layout_is_read_off_the_rows(row: dict[str, Any], formatting: str, columns: dict[str, Any]) -> None:
    attr = sniff(DatasetAttr("x", "file", "x", formatting="auto"), [row])
    assert attr.formatting == formatting
    assert {name: getattr(attr.columns, name) for name in columns} == columns
    assert attr.ranking == ("chosen" in row)


def test_roles_as_other_tools_spell_them() -> None:
    for user, assistant in (("user", "assistant"), ("human", "gpt"), ("human", "chatgpt")):
        row = {"conversations": [{"from": user, "value": "q"}, {"from": assistant, "value": "a"}]}
        attr = sniff(DatasetAttr("x", "file", "x", formatting="auto"), [row])
        assert [message.role for message in sharegpt.convert(row, attr).messages] == ["user", "assistant"]


def test_whole_pairs_and_spelled_escapes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}\n')
    [attr] = find_datasets([str(path)], str(tmp_path))
    assert [row for _, row in read_rows(attr)] == [{"a": "\U0001f600", "b": "\\ud83d"}]
