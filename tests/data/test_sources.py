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

from llamafactory.data.dataset_info import DatasetAttr
from llamafactory.data.sniff import sniff
from llamafactory.data.sources import read_rows
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare, write_jsonl

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


GOOD = '{"instruction": "q", "output": "a"}\n'
# name of the file, its content, words of the message
BROKEN: list[tuple[str, str | bytes | None, tuple[str, ...]]] = [
    ("x.jsonl", GOOD + '{"instruction": "q", \n', ("x.jsonl line 2", "bad JSON", "column")),
    ("x.jsonl", GOOD.encode() * 2 + b'{"instruction": "\xff"}\n', ("x.jsonl line 3", "UTF-8", "0xff")),
    ("x.jsonl", GOOD + "[1, 2]\n", ("x.jsonl line 2", "a list", "expected an object")),
    ("x.jsonl", "", ("x.jsonl", "no rows")),
    ("x.jsonl", "\n \n", ("x.jsonl", "no rows")),
    ("x.json", "", ("x.json", "empty")),
    ("x.json", "[]", ("x.json", "no rows")),
    ("x.json", '{\n"data": [1]\n}', ("x.json", "top level is an object", "expected a list")),
    ("x.json", '"text"', ("x.json", "top level is text")),
    ("x.json", '[{"instruction": "q"},\n 5]', ("x.json row 2", "a number")),
    ("x.json", '[{"instruction": "q"},\n {"a" 1}]', ("x.json line 2", "bad JSON", "column")),
    ("x.json", GOOD + '{"instruction": q}\n', ("x.json line 2", "bad JSON")),
    ("x.json", b'[{"a": "\xfe"}]', ("x.json", "UTF-8")),
    ("x.csv", "", ("x.csv", "empty")),
    ("x.csv", "instruction,output\nq,a\nq\n", ("x.csv line 3", "1 cells", "instruction, output")),
    ("x.csv", "instruction,instruction\nq,a\n", ("x.csv line 1", "repeated")),
    ("x.csv", 'instruction,output\nq,"a"b\n', ("x.csv line 2", "bad CSV")),
    ("x.csv", "q one,a one\nq two,a two\n", ("x.csv", "q one", "instruction + output")),
    ("x.parquet", "not parquet", ("x.parquet", "not a readable parquet file")),
    ("x.arrow", "not arrow", ("x.arrow", "not a readable arrow file")),
    ("x.jsonl.gz", GOOD, ("x.jsonl.gz", "gzip")),
    ("x.jsonl.gz", gzip.compress(GOOD.encode() * 50)[:-12], ("x.jsonl.gz", "cannot be read")),
    ("x.jsonl.zst", GOOD, ("x.jsonl.zst", "cannot be read")),
    ("x.jsonl.zst", pa.compress(GOOD.encode() * 50, codec="zstd", asbytes=True)[:-12], ("x.jsonl.zst",)),
    ("x.docx", "text", ("x.docx", "'docx'", "json, jsonl")),
    ("x.jsonl", '{"foo": "q", "bar": "a"}\n', ("x.jsonl", "bar, foo", "dataset_info.json")),
    ("x.jsonl", GOOD + '{"instruction": "q", "output": 5}\n', ("x.jsonl line 2", "'output'", "5")),
    ("x.jsonl", GOOD + '{"input": "q", "output": "a"}\n', ("x.jsonl line 2", "missing column 'instruction'")),
    ("x.jsonl", '{"messages": [{"role": "user", "content": "q"}, {"role": "bot", "content": "a"}]}\n',
     ("x.jsonl line 1", "turn 2", "'bot'", "assistant")),
    ("x.jsonl", '{"messages": [{"speaker": "user", "content": "q"}]}\n', ("messages", "'speaker'", "role")),
    ("x.jsonl", '{"messages": "hello"}\n', ("x.jsonl", "'messages'", "no list of turns")),
    ("x.jsonl", '{"instruction": "q", "output": ""}\n', ("none of its 1 rows is left", "1 no answer")),
    ("folder/notes.md", "x", ("folder", "no data file")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), BROKEN)
def test_a_broken_file_is_one_line_that_names_it(
    tmp_path: Path, prepare: Prepare, name: str, content: str | bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        prepare(dataset=str(path.parent if name.startswith("folder") else path))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    left = {path.name for path in (tmp_path / "hf-cache").glob("llamafactory/**/.*")}
    assert not left, "a failed preparation leaves nothing half made"


def test_a_column_that_the_listing_names_must_exist(tmp_path: Path, prepare: Prepare) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"q": "1", "output": "2"}])
    listing = {"x": {"file_name": "x.jsonl", "columns": {"prompt": "q", "system": "sys"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(listing))
    with pytest.raises(ConfigError, match=r"x\.jsonl line 1: missing column 'sys' .*found 'output', 'q'"):
        prepare(dataset="x")


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


def test_sharegpt_roles_called_user_and_assistant_are_seen() -> None:
    row = {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]}
    tags = sniff(DatasetAttr("x", "file", "x", formatting="auto"), [row]).tags
    assert (tags.user_tag, tags.assistant_tag) == ("user", "assistant")
