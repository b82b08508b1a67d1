# SPDX-License-Identifier: Apache-2.0
"""Broken data of every kind, on the way that training takes: one line that names file and row, or the entry's key."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
import pytest

from llamafactory.data.processor import FeedbackProcessor, PairwiseProcessor, SupervisedProcessor
from llamafactory.data.sources.dataset_info import DatasetAttr
from llamafactory.data.sources.files import read_rows
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare


class Broken(NamedTuple):
    """One broken file, or entry of ``dataset_info.json``.

    Attributes:
        file: Its name.
        content: What it holds; a list is written as one row a line.
        words: What the message must hold.
        entry: The entry of ``dataset_info.json``, without the file's name; None: the file is given by its path.
        stage: Of the run.
    """

    file: str
    content: Any
    words: tuple[str, ...]
    entry: dict[str, Any] | None = None
    stage: str = "sft"


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


GOOD = {"instruction": "q", "output": "a"}
LINE = json.dumps(GOOD) + "\n"
FILES = [
    Broken("x.jsonl", LINE + '{"instruction": "q", \n', ("x.jsonl line 2", "bad JSON", "column")),
    Broken("x.jsonl", LINE + "instruction: q\n", ("x.jsonl line 2", "bad JSON")),
    Broken("x.jsonl", LINE + '{"instruction": "q", "output": NaN}\n', ("x.jsonl line 2", "'output'", "nan")),
    Broken("x.jsonl", LINE.encode() * 2 + b'{"instruction": "\xff"}\n', ("x.jsonl line 3", "UTF-8", "0xff")),
    Broken("x.jsonl", LINE + '{"instruction": "q \\ud83d"}\n', ("x.jsonl line 2", "\\ud83d", "half a character")),
    Broken("x.jsonl", LINE + '{"a": [{"b \\uDC00": 1}]}\n', ("x.jsonl line 2", "\\udc00", "half a character")),
    Broken("x.json", '[{"instruction": "q"}, {"a": "\\ud83d"}]', ("x.json row 2", "\\ud83d", "half a character")),
    Broken("x.jsonl", LINE.encode("utf-16"), ("x.jsonl line 1", "UTF-8", "0xff")),
    Broken("x.jsonl", LINE + "[1, 2]\n", ("x.jsonl line 2", "a list", "expected an object")),
    Broken("x.jsonl", LINE + '{"instruction": "' + "q" * 10_000_000 + "\n", ("x.jsonl line 2", "bad JSON")),
    Broken("x.jsonl", "", ("x.jsonl", "no rows")),
    Broken("x.jsonl", "\n \n", ("x.jsonl", "no rows")),
    Broken("x.json", "", ("x.json", "empty")),
    Broken("x.json", "[]", ("x.json", "no rows")),
    Broken("x.json", '{\n"data": [1]\n}', ("x.json", "top level is an object", "expected a list")),
    Broken("x.json", '"text"', ("x.json", "top level is text")),
    Broken("x.json", '[{"instruction": "q"},\n 5]', ("x.json row 2", "a number")),
    Broken("x.json", '[{"instruction": "q"},\n {"a" 1}]', ("x.json line 2", "bad JSON", "column")),
    Broken("x.json", LINE + '{"instruction": q}\n', ("x.json line 2", "bad JSON")),
    Broken("x.json", b'[{"a": "\xfe"}]', ("x.json", "UTF-8")),
    Broken("x.csv", "", ("x.csv", "empty")),
    Broken("x.csv", "instruction,output\nq,a\nq\n", ("x.csv line 3", "1 cells", "instruction, output")),
    Broken("x.csv", "instruction,instruction\nq,a\n", ("x.csv line 1", "repeated")),
    Broken("x.csv", 'instruction,output\nq,"a"b\n', ("x.csv line 2", "bad CSV")),
    Broken("x.csv", b"instruction,output\nq,a\nq,\xff\n", ("x.csv line 3", "byte 0xff at 3", "iconv -f CP1252")),
    Broken("x.csv", "q one,a one\nq two,a two\n", ("x.csv", "q one", "instruction + input + output")),  # no header
    Broken("x.parquet", "not parquet", ("x.parquet", "not a readable parquet file")),
    Broken("x.parquet", _parquet([GOOD] * 50)[:-20], ("x.parquet", "not a readable parquet file")),
    Broken("x.arrow", "not arrow", ("x.arrow", "not a readable arrow file")),
    Broken("x.jsonl.gz", LINE, ("x.jsonl.gz", "gzip")),
    Broken("x.jsonl.gz", gzip.compress(LINE.encode() * 50)[:-12], ("x.jsonl.gz", "cannot be read")),
    Broken("x.jsonl.zst", LINE, ("x.jsonl.zst", "cannot be read")),
    Broken("x.jsonl.zst", pa.compress(LINE.encode() * 50, codec="zstd", asbytes=True)[:-12], ("x.jsonl.zst",)),
    Broken("x.docx", "text", ("x.docx", "'docx'", "json, jsonl")),
    Broken("folder/notes.md", "x", ("folder", "no data file")),
]  # fmt: skip
CHAT = {"formatting": "sharegpt"}
NAMED = {"prompt": "instruction", "response": "output"}
PAIR = {"ranking": True, "columns": {"prompt": "instruction", "chosen": "c", "rejected": "r"}}
KTO = {"columns": {**NAMED, "kto_tag": "k"}}
U = {"from": "human", "value": "q"}
A = {"from": "gpt", "value": "a"}
ROWS = [
    Broken("x.jsonl", [{"foo": "q", "bar": "a"}], ("foo, bar", "layouts: messages", '="prompt=foo,response=bar"')),
    Broken("x.jsonl", [GOOD, {"instruction": "q", "output": 5}], ("x.jsonl line 2", "'output'", "5")),
    Broken("x.jsonl", [GOOD, {"instruction": "q", "output": ["a"]}], ("x.jsonl line 2", "'output'", "['a']")),
    Broken("x.jsonl", [GOOD, {"input": "q", "output": "a"}], ("x.jsonl line 2", "missing column 'instruction'")),
    Broken("x.jsonl", [{"instruction": "q", "output": ""}], ("none of its 1 rows is left", "1 no answer")),
    Broken("x.jsonl", [{"messages": [{"role": "user", "content": "q"}, {"role": "bot", "content": "a"}]}],
           ("x.jsonl line 1", "turn 2", "'bot'", "assistant")),
    Broken("x.jsonl", [{"messages": [{"speaker": "user", "content": "q"}]}], ("messages", "'speaker'", "role")),
    Broken("x.jsonl", [{"messages": "hello"}], ("x.jsonl", "'messages'", "no list of turns")),
    Broken("x.jsonl", [{"instruction": 3, "output": "a"}], ("x.jsonl line 1", "'instruction'", "3", "text"), {}),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "h": [["a"]]}],
           ("x.jsonl line 1", "'h', turn 1", "[question, answer]"), {"columns": {**NAMED, "history": "h"}}),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "t": "[{"}],
           ("x.jsonl line 1", "'t'", "not JSON"), {"columns": {**NAMED, "tools": "t"}}),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "t": [{"x": 1}]}],
           ("x.jsonl line 1", "tool 1", "function name"), {"columns": {**NAMED, "tools": "t"}}),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "t": '{"name": "f"}'}],
           ("x.jsonl line 1", "'t'", "expected a list"), {"columns": {**NAMED, "tools": "t"}}),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "i": ["p.png"]}],
           ("x.jsonl line 1", "'i'"), {"columns": {**NAMED, "images": "i"}}),
    Broken("x.jsonl", [{"conversations": []}], ("x.jsonl line 1", "holds no turn"), CHAT),
    Broken("x.jsonl", [{"conversations": U}], ("x.jsonl line 1", "expected a list"), CHAT),
    Broken("x.jsonl", [{"conversations": ["hi"]}], ("x.jsonl line 1", "turn 1", "'from'", "'value'"), CHAT),
    Broken("x.jsonl", [{"conversations": [{"value": "q"}, A]}], ("x.jsonl line 1", "turn 1", "None", "human"), CHAT),
    Broken("x.jsonl", [{"conversations": [{"from": "bot", "value": "x"}]}],
           ("x.jsonl line 1", "turn 1", "'bot'", "human, gpt, observation"), CHAT),
    Broken("x.jsonl", [{"conversations": [U, {"from": "gpt", "value": None}]}],
           ("x.jsonl line 1", "turn 2", "'value'", "null"), CHAT),
    Broken("x.jsonl", [{"conversations": [U, {"from": "gpt", "value": 5}]}], ("x.jsonl line 1", "turn 2", "5"), CHAT),
    Broken("x.jsonl", [{"conversations": [U, {"from": "function_call", "value": "call f"}]}],
           ("x.jsonl line 1", "turn 2", "not JSON", "call f"), CHAT),
    Broken("x.jsonl", [{"conversations": [U, {"from": "function_call", "value": "[]"}]}],
           ("x.jsonl line 1", "turn 2", "[]"), CHAT),
    Broken("x.jsonl", [{"conversations": [U, {**A, "train": "yes"}]}],
           ("x.jsonl line 1", "turn 2", "'train'", "'yes'"), CHAT),
    Broken("x.jsonl", [{"conversations": [U, {**A, "weight": -1}]}], ("x.jsonl line 1", "turn 2", "'weight'"), CHAT),
    Broken("x.jsonl", [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": ["f"]}]}],
           ("x.jsonl line 1", "turn 2"), {"formatting": "openai"}),
    Broken("x.jsonl", [{"q": "1", "output": "2"}], ("x.jsonl line 1", "missing column 'sys'", "'output', 'q'"),
           {"columns": {"prompt": "q", "system": "sys"}}),
    Broken("x.jsonl", [{"instruction": "q", "c": "a", "r": {}}], ("x.jsonl line 1", "'r'"), PAIR, "rm"),
    Broken("x.jsonl", [{"instruction": "q", "c": "a", "r": "b"}, {"instruction": "q", "c": "a"}],
           ("x.jsonl line 2", "missing column 'r'"), PAIR, "rm"),
    Broken("x.jsonl", [{"instruction": "q", "c": "a", "r": "a"}], ("x.jsonl, line 1", "the same answer"), PAIR, "rm"),
    Broken("x.jsonl", [{"instruction": "q", "c": "", "r": "b"}], ("x.jsonl, line 1", "chosen answer"), PAIR, "rm"),
    Broken("x.jsonl", [GOOD], ("x.jsonl",), {}, "rm"),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "k": "maybe"}],
           ("x.jsonl line 1", "'k'", "true or false"), KTO, "kto"),
    Broken("x.jsonl", [{"instruction": "q", "output": "a", "k": 2}], ("x.jsonl line 1", "'k'", "2"), KTO, "kto"),
    Broken("x.jsonl", [GOOD], ("x.jsonl",), {}, "kto"),
]  # fmt: skip
ENTRIES: list[tuple[Any, str, tuple[str, ...]]] = [
    ({"identity": {"file_name": "x"}}, "identty", ("'identty'", "did you mean identity", "dataset_info.json")),
    ({"identity": {"file_name": "x"}}, "./gone.jsonl", ("./gone.jsonl", "no such file")),
    ({"a": {"file_name": "gone.jsonl"}}, "a", ("'a'", "gone.jsonl does not exist")),
    ({"a": {"file_nam": "x"}}, "a", ("'a'", "'file_nam'", "did you mean file_name")),
    ({"a": {"file_name": "x", "columns": {"promt": "q"}}}, "a", ("columns", "'promt'", "did you mean prompt?")),
    ({"a": {"file_name": "x", "columns": {"system": "s", "response": "a"}}}, "a", ("columns", "names no prompt")),
    (
        {"a": {"file_name": "x", "ranking": True, "columns": {"prompt": "q", "chosen": "c"}}},
        "a",
        ("columns", "chosen and rejected", "ranking"),
    ),
    ({"a": {"file_name": "x", "columns": ["prompt"]}}, "a", ("columns", "list", "expected an object")),
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
    ("{", "a", ("not JSON",)),
    (None, "a", ("dataset_dir", "does not exist")),
]
PROCESSORS = {"sft": SupervisedProcessor, "rm": PairwiseProcessor, "kto": FeedbackProcessor}


def _refused(prepare: Prepare, processor: Any, **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(processor, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("broken", FILES + ROWS, ids=lambda one: f"{one.file}: {one.words[-1]}")
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, prepare: Prepare, broken: Broken) -> None:
    path = tmp_path / broken.file
    path.parent.mkdir(exist_ok=True)
    content = broken.content
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = str(path.parent if broken.file.startswith("folder") else path)
    if broken.entry is not None:
        (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": broken.file, **broken.entry}}))
        dataset = "x"
    message = _refused(prepare, PROCESSORS[broken.stage](), dataset=dataset, stage=broken.stage)
    assert all(word in message for word in broken.words), message
    assert len(message) < 500
    left = {found.name for found in (tmp_path / "hf-cache").glob("llamafactory/**/.*")}
    assert not left, "a failed preparation leaves nothing half made"


@pytest.mark.parametrize(("entries", "name", "words"), ENTRIES)
def test_a_wrong_entry_is_one_line_that_names_it(
    tmp_path: Path, prepare: Prepare, entries: Any, name: str, words: tuple[str, ...]
) -> None:
    if entries is not None:
        text = entries if isinstance(entries, str) else json.dumps(entries)
        (tmp_path / "dataset_info.json").write_text(text, encoding="utf-8")
    message = _refused(prepare, None, dataset=name)
    assert all(word in message for word in words), message


def test_a_byte_order_mark_and_a_row_of_ten_megabytes_are_no_fault(tmp_path: Path, prepare: Prepare) -> None:
    long = json.dumps({"instruction": "q", "output": "a" * 10_000_000})
    (tmp_path / "x.jsonl").write_text(LINE + long, encoding="utf-8-sig")
    assert len(prepare(dataset=str(tmp_path / "x.jsonl"), max_samples=1).train) == 1
    rows = read_rows(DatasetAttr("x", "file", str(tmp_path / "x.jsonl")))
    assert [len(row["output"]) for _, row in rows] == [1, 10_000_000]


@pytest.mark.parametrize("place", ["folder", "file", "hub"])
def test_a_loading_script_is_never_run(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ran = tmp_path / "myset", tmp_path / "ran"
    folder.mkdir()
    (folder / "myset.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n")
    attr = {
        "folder": DatasetAttr("myset", "file", str(folder)),
        "file": DatasetAttr("myset", "file", str(folder / "myset.py")),
        # What the hub's library would load is the same folder, as a downloaded repository is.
        "hub": DatasetAttr("myset", "hf", str(folder)),
    }[place]
    with pytest.raises(ConfigError, match="myset") as caught:
        list(read_rows(attr))
    assert "\n" not in str(caught.value)
    assert not ran.exists() and "myset" not in sys.modules
