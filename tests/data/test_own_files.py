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
    import openpyxl

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


def samples_of(path: Path, columns: str | None = None) -> list[Any]:
    from llamafactory.data.sources.dataset_info import find_datasets
    from llamafactory.data.sources.reading import open_set, to_samples

    (attr,) = find_datasets([str(path)], {}, columns)
    settled, rows = open_set(attr, None, 0)
    return list(to_samples(rows, settled))


def turns(sample: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in sample.messages]


NAMES = [
    ("Question", "Answer"), ("INPUT", "Output"), ("prompt", "completion"), ("User", "Assistant"), ("问题", "回答"),
    ("指令", "输出"), ("Instruction", "Response"), ("problem", "solution"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "answered"), NAMES)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_columns_as_people_call_them(tmp_path: Path, asked: str, answered: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    rows = [{"id": "7", asked: "two and two?", answered: "four"}]
    text = json.dumps(rows[0], ensure_ascii=False) if kind == "jsonl" else f"id;{asked};{answered}\n7;two and two?;four"
    path.write_text(text + "\n", encoding="utf-8")
    assert [turns(sample) for sample in samples_of(path)] == [[("user", "two and two?"), ("assistant", "four")]]


def test_columns_that_the_user_names(tmp_path: Path) -> None:
    path = tmp_path / "fragen.csv"
    path.write_text("Nr;Frage hier;Text dazu\n1;Wie viel?;Vier.\n", encoding="utf-8")
    (sample,) = samples_of(path, "prompt=frage hier,response=Text dazu")  # the case need not be right
    assert turns(sample) == [("user", "Wie viel?"), ("assistant", "Vier.")]
    with pytest.raises(ConfigError, match=r"columns: .*has no column 'Frage'; it has Nr, Frage hier, Text dazu"):
        samples_of(path, "prompt=Frage,response=Text dazu")
    with pytest.raises(ConfigError, match="is not of the form prompt=COLUMN"):
        samples_of(path, "Frage hier")


def test_a_table_of_a_hundred_columns_is_not_told_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{','.join(f'column_{number}' for number in range(100))}\n{'x,' * 99}x\n")
    with pytest.raises(ConfigError, match="column_19, …; known layouts") as caught:
        samples_of(tmp_path / "a.csv")
    assert len(str(caught.value)) < 700


def test_the_error_proposes_a_mapping_that_works(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"n": 1, "asked_of_us": "two and two?", "told": "four"}) + "\n")
    with pytest.raises(ConfigError, match=r"known layouts: .*instruction") as caught:
        samples_of(path)
    proposed = str(caught.value).split('columns="')[1].split('"')[0]
    (sample,) = samples_of(path, proposed)
    assert turns(sample) == [("user", "two and two?"), ("assistant", "four")]


def test_columns_beside_an_entry_are_refused(tmp_path: Path) -> None:
    from llamafactory.data.sources.dataset_info import check_columns, find_datasets

    entry = {"set": {"file_name": "a.json"}}
    with pytest.raises(ConfigError, match="columns: only for sets that are files; 'set' has an entry"):
        check_columns("prompt=q", find_datasets(["set"], entry))


USER, BETTER, WORSE = (
    {"role": "user", "content": "two and two?"},
    {"role": "assistant", "content": "four"},
    {"role": "assistant", "content": "five"},
)
PAIRS: list[dict[str, Any]] = [
    {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
    {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
    {"prompt": "two and two?", "chosen": [USER, BETTER], "rejected": [USER, WORSE]},
    {"messages": [USER, BETTER], "rejected_response": "five"},
    {"prompt": "two and two?", "chosen": "four", "rejected": "five"},
    {"chosen": "\n\nHuman: two and two?\n\nAssistant: four", "rejected": "\n\nHuman: two and two?\n\nAssistant: five"},
]


@pytest.mark.parametrize("row", PAIRS, ids=lambda row: ",".join(row))
def test_pairs_as_other_tools_write_them(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = samples_of(tmp_path / "a.jsonl")
    assert turns(sample) == [("user", "two and two?")]
    assert [message.text for message in sample.chosen] == ["four"]
    assert [message.text for message in sample.rejected] == ["five"]


def test_conversational_prompt_and_completion(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": [USER], "completion": [BETTER]}) + "\n")
    (sample,) = samples_of(tmp_path / "a.jsonl")
    assert turns(sample) == [("user", "two and two?"), ("assistant", "four")]


@pytest.mark.parametrize("mark", [{"loss": False}, {"training": False}, {"trainable": False}, {"masked": True}])
def test_marks_of_turns_that_shall_not_be_trained(tmp_path: Path, mark: dict[str, bool]) -> None:
    row = {"messages": [USER, BETTER | mark, USER, WORSE]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = samples_of(tmp_path / "a.jsonl")
    assert [message.weight for message in sample.messages] == [None, 0.0, None, None]


def test_calls_as_ms_swift_writes_them(tmp_path: Path) -> None:
    call = json.dumps({"name": "add", "arguments": {"a": 2}})
    row = {
        "messages": [
            USER, {"role": "tool_call", "content": call}, {"role": "tool_call", "content": call},
            {"role": "tool_response", "content": "4"}, BETTER,
        ]
    }  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = samples_of(tmp_path / "a.jsonl")
    assert [message.role for message in sample.messages] == ["user", "assistant", "tool", "assistant"]
    assert [made.name for made in sample.messages[1].tool_calls] == ["add", "add"]
