# SPDX-License-Identifier: Apache-2.0
"""Parquet and Arrow give back the rows that were put in: fields that a row never had do not come back as nulls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from llamafactory.data.formats.openai import convert
from llamafactory.data.sources.arrow_rows import rows_of
from llamafactory.data.sources.dataset_info import find_datasets
from llamafactory.data.sources.files import read_rows
from llamafactory.data.sources.reading import open_set

CALLS = [{"city": "Oslo"}, {"day": 3, "near": {"lat": 1.5}}, {"near": {"lon": 2.5, "tags": ["a", None]}}]
TOOLS = [
    {"name": "f", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
    {"name": "g", "parameters": {"type": "object", "properties": {"day": {"enum": [1, 3]}}}},
]
ROWS = [
    {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": call}}]},
        ],
        "tools": [{"type": "function", "function": tool}],
    }
    for call, tool in zip(CALLS, [*TOOLS, TOOLS[0]], strict=True)
]


def written(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    """Write rows as each library and kind of file has them."""
    if kind == "jsonl":
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    made = datasets.Dataset.from_list(rows)
    if kind == "json values":  # what load_dataset("json") makes of unlike objects
        written(rows, "jsonl", folder)
        made = datasets.load_dataset(
            "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "c")
        )
        (folder / "rows.jsonl").unlink()
    if kind == "arrow":
        path = folder / "rows.arrow"
        with pa.ipc.new_stream(path, made.data.table.schema) as stream:
            stream.write_table(made.data.table)
        return path
    made.to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "json values"])
def test_tool_calls_and_schemas_keep_their_fields(tmp_path: Path, kind: str) -> None:
    [attr] = find_datasets([str(written(ROWS, kind, tmp_path))], str(tmp_path))
    settled, rows = open_set(attr, None, 0)
    samples = [convert(row, settled) for _, row in rows]
    arguments = [sample.messages[1].tool_calls[0].arguments for sample in samples]
    assert [json.loads(value) if isinstance(value, str) else value for value in arguments] == CALLS
    functions = [dict(sample.tools[0].get("function", sample.tools[0])) for sample in samples]
    assert functions == [row["tools"][0]["function"] for row in ROWS]


@pytest.mark.parametrize("kind", ["jsonl", "json values"])
def test_a_null_that_the_row_has_stays(tmp_path: Path, kind: str) -> None:
    rows = [{"messages": [{"a": {"x": None}}, {"b": 1}]}, {"messages": [{"a": {"y": [None, 2]}}]}]
    [attr] = find_datasets([str(written(rows, kind, tmp_path))], str(tmp_path))
    assert [row for _, row in read_rows(attr)] == rows


CALL = pa.struct([("city", pa.string()), ("day", pa.int64())])
NESTED = [
    *(make(CALL) for make in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)),
    pa.list_(CALL, 2),
    pa.map_(pa.string(), CALL),
    pa.map_(pa.string(), pa.list_(CALL)),
    pa.list_(pa.map_(pa.string(), CALL)),
]


@pytest.mark.parametrize("kind", NESTED, ids=str)
def test_every_kind_of_nesting_is_looked_into(kind: Any) -> None:
    calls: Any = [{"city": "Oslo"}, {"day": 3}]
    if pa.types.is_map(kind):
        calls = {"a": {"city": "Oslo"}, "b": {"day": 3}}
        calls = {key: [call] for key, call in calls.items()} if pa.types.is_list(kind.item_type) else calls
    elif pa.types.is_map(kind.value_type):
        calls = [{"a": call} for call in calls]
    assert list(rows_of(pa.table({"x": pa.array([calls, None], kind)}))) == [{"x": calls}, {"x": None}]


def test_a_map_as_spark_writes_it_is_an_object_with_its_own_keys(tmp_path: Path) -> None:
    """Parquet's MAP: keys are the row's, so a null in it is one that the row has."""
    kind = pa.struct([("name", pa.string()), ("arguments", pa.map_(pa.string(), pa.string()))])
    rows = [
        {"call": {"name": "f", "arguments": {"city": "Oslo", "day": None}}},
        {"call": {"name": "g", "arguments": {}}},
    ]
    pa.parquet.write_table(pa.table({"call": pa.array([row["call"] for row in rows], kind)}), tmp_path / "a.parquet")
    [attr] = find_datasets([str(tmp_path / "a.parquet")], str(tmp_path))
    assert [row for _, row in read_rows(attr)] == rows


def test_columns_and_lists_keep_their_nulls() -> None:
    rows = [{"a": None, "b": [1, None], "c": {"d": None, "e": {"f": 1}}}, {"a": "x", "b": None, "c": None}]
    assert list(rows_of(pa.Table.from_pylist(rows))) == [
        {"a": None, "b": [1, None], "c": {"e": {"f": 1}}},
        {"a": "x", "b": None, "c": None},
    ]
