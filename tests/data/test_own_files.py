# SPDX-License-Identifier: Apache-2.0
"""Files as people have them: other separators, Excel, rows under a key, other encodings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.sources.dataset_info import DatasetAttr
from llamafactory.data.sources.files import read_rows
from llamafactory.extras.errors import ConfigError

ROWS = [{"question": "Was kostet es, heute?", "answer": "5;50 €"}, {"question": "a|b", "answer": "zwei\nZeilen"}]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(DatasetAttr("set", "file", str(path)))]


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_any_separator(tmp_path: Path, name: str, separator: str, encoding: str) -> None:
    import csv

    with (tmp_path / name).open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(ROWS)
    assert rows_of(tmp_path / name) == ROWS


def test_excel_takes_the_first_sheet_that_holds_rows(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "empty"
    sheet = book.create_sheet("rows")
    for cells in ([], ["question", "answer"], ["two and two?", 4], [], ["say it", "a\nb"]):
        sheet.append(cells)
    book.save(tmp_path / "a.xlsx")
    assert rows_of(tmp_path / "a.xlsx") == [
        {"question": "two and two?", "answer": "4"},
        {"question": "say it", "answer": "a\nb"},
    ]
    (tmp_path / "b.xlsx").write_bytes((tmp_path / "a.xlsx").read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"b\.xlsx: not a readable Excel file"):
        rows_of(tmp_path / "b.xlsx")


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_under_one_key(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS, "tags": ["x"]}, indent=indent))
    assert rows_of(path) == ROWS
    path.write_text(json.dumps({"train": ROWS, "test": ROWS}, indent=2))
    with pytest.raises(ConfigError, match="'train', 'test' all hold rows"):
        rows_of(path)
    one = {"messages": [{"role": "user", "content": "q"}], "id": 1}
    path.write_text(json.dumps(one))
    assert rows_of(path) == [one]


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("Frage;Antwort\nWie heißt du?;Jörg, schön", "cp1252", "CP1252"),
        ("问题,回答\n今天天气怎么样?,很好", "gbk", "GB18030"),
        ("вопрос,ответ\nкак дела,хорошо", "cp1251", "CP1251"),
        ("question\tanswer\nq\ta\n", "utf-16", "UTF-16"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "txt", "json"])
def test_other_encodings_are_named_with_their_cure(
    tmp_path: Path, text: str, encoding: str, named: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes((json.dumps([text], ensure_ascii=False) if kind == "json" else text).encode(encoding))
    with pytest.raises(
        ConfigError, match=f"line [12]: not UTF-8 text .* looks like {named}; convert it: iconv"
    ) as caught:
        rows_of(path)
    cure = str(caught.value).split("convert it: ")[1]
    import subprocess

    subprocess.run(["bash", "-c", cure], check=True)
    assert text.splitlines()[0] in (tmp_path / f"a.utf8.{kind}").read_text(encoding="utf-8-sig") or kind == "json"
