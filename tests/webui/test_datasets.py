# SPDX-License-Identifier: Apache-2.0
"""The Data tab's work on files: uploads, layouts, entries of dataset_info.json that leave all else as it was."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from llamafactory.data.sources.dataset_info import find_datasets, find_media_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.extras.errors import ConfigError
from llamafactory.webui.handlers import datasets
from llamafactory.webui.handlers.datasets import entry_of, look_at, make_entry, mapping_of, register, take_upload

REPOSITORY = Path(__file__).parents[2]
LISTING = Path("data/dataset_info.json")


pytestmark = pytest.mark.usefixtures("in_workspace")


@pytest.mark.parametrize("name", json.loads((REPOSITORY / "data" / "dataset_info.json").read_text()))
def test_the_layout_of_every_demo_set_is_that_of_its_entry(name):
    """What is sniffed makes the same samples as the entry that people wrote."""
    entry = entry_of(name)
    found = look_at(f"data/{entry['file_name']}")
    assert not found.problem and found.rows and found.said
    made = make_entry(found.path, found.formatting, found.ranking, found.columns, found.tags, "data")
    written, (sniffed,) = (
        find_media_datasets([name], "data", "data"),
        find_media_datasets(["x"], {"x": {**made, "file_name": f"data/{made['file_name']}"}}, "data"),
    )

    def samples(attr):
        attr, rows = open_set(attr, 5, 0)
        return [(s.messages, s.chosen, s.rejected, s.label, s.tools) for s in to_samples(rows, attr)]

    assert samples(sniffed) == samples(written[0])


def test_a_file_with_its_own_columns_is_mapped_and_trained_on(in_workspace):
    Path("data/mine.csv").write_text("alfa;beta;gamma\nWer?;Ich.;1\n")
    found = look_at("data/mine.csv")
    assert found.present == ("alfa", "beta", "gamma") and found.problem
    assert found.columns == {"prompt": "alfa", "response": "beta"}  # a guess, to be corrected
    entry = make_entry(found.path, "alpaca", False, {"prompt": "alfa", "response": "beta"}, folder="data")
    assert entry == {"file_name": "mine.csv", "columns": {"prompt": "alfa", "response": "beta"}}
    register("mine", entry)
    (attr,) = find_datasets(["mine"], "data")
    attr, rows = open_set(attr, None, 0)
    (sample,) = to_samples(rows, attr)
    assert [message.text for message in sample.messages] == ["Wer?", "Ich."]
    assert mapping_of(entry_of("mine")).columns == {"prompt": "alfa", "response": "beta"}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_other_entries_stay_byte_for_byte(newline, mark):
    odd = '{ "a" : {"file_name":"a.json",   "columns": {"prompt": "\\u00e4 } , {"}},\n\n'
    odd += '\t"b": {"file_name": "b.json"}\n  }\n'
    before = mark + odd.replace("\n", newline).encode()
    LISTING.write_bytes(before)
    register("new.set-1", {"file_name": "identity.json"})
    after = LISTING.read_bytes()
    cut = before.index(b"}" + newline.encode() + b"  }") + 1
    assert after.startswith(before[:cut] + b",") and after.endswith(before[cut:])
    assert b"\r\n" in after if newline == "\r\n" else b"\r" not in after
    register("b", {"file_name": "c.json"}, anew=True)
    replaced = LISTING.read_bytes()
    assert replaced[: before.index(b'{"file_name": "b')] == before[: before.index(b'{"file_name": "b')]
    assert list(json.loads(replaced.decode("utf-8-sig"))) == ["a", "b", "new.set-1"]
    assert entry_of("b") == {"file_name": "c.json"}


@pytest.mark.parametrize("text", ["{}", "{ }", "{\n}\n", None])
def test_the_first_entry(text):
    LISTING.unlink()
    if text is not None:
        LISTING.write_text(text)
    register("one", {"file_name": "identity.json"})
    assert json.loads(LISTING.read_text()) == {"one": {"file_name": "identity.json"}}
    assert [name for name in os.listdir("data") if name.startswith(".")] == []


def test_a_folder_without_a_listing_gets_one():
    register("one", make_entry("data/identity.json", "alpaca", False, {}, folder="sets"), "sets")
    (attr,) = find_datasets(["one"], "sets")
    assert os.path.samefile(attr.location, "data/identity.json")


def test_a_name_that_is_taken_is_said():
    before = LISTING.read_bytes()
    with pytest.raises(ConfigError, match="name: identity is registered already"):
        register("identity", {"file_name": "x.json"})
    for name in ("", "a b", "a,b", "../x", "a/b", "a\nb", "x" * 101, '"', "$(touch ran)"):
        with pytest.raises(ConfigError, match="is no name of a set"):
            register(name, {"file_name": "x.json"})
    assert LISTING.read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "{", "", '{"a": 1} x', "[" * 10_000])
def test_a_damaged_listing_is_left_alone(text):
    LISTING.write_text(text)
    with pytest.raises(ConfigError):
        register("new", {"file_name": "identity.json"})
    assert LISTING.read_text() == text


def _register(number: int) -> None:
    register(f"set_{number}", {"file_name": "identity.json"})


def test_many_at_once_lose_nothing():
    before = set(json.loads(LISTING.read_text()))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_register, range(24))
    assert set(json.loads(LISTING.read_text())) == before | {f"set_{number}" for number in range(24)}


def test_uploads_get_names_of_their_own(tmp_path):
    source = tmp_path / "rows.json"
    source.write_text('[{"instruction": "a", "output": "b"}]')
    assert [take_upload(str(source)) for _ in range(3)] == [
        "data/uploads/rows.json", "data/uploads/rows_2.json", "data/uploads/rows_3.json"
    ]  # fmt: skip
    assert Path("data/uploads/rows_3.json").read_bytes() == source.read_bytes()
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"instruction": "a", "output": "b"}\n'))
    assert take_upload(str(packed)) == "data/uploads/rows.jsonl.gz"
    assert look_at("data/uploads/rows.jsonl.gz").columns == {"prompt": "instruction", "response": "output"}
    assert sorted(os.listdir("data/uploads")) == ["rows.json", "rows.jsonl.gz", "rows_2.json", "rows_3.json"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Anna's rows é.csv", "Anna_s rows é.csv"), ("-rf.json", "rf.json"), ("a$(x).json", "a__x_.json"),
        ("a\nb.json", "a_b.json"),
    ],
)  # fmt: skip
def test_an_upload_with_an_odd_name_is_called_without_the_odd_signs(name, kept, tmp_path):
    source = tmp_path / name
    source.write_text('[{"instruction": "a", "output": "b"}]')
    assert take_upload(str(source)) == f"data/uploads/{kept}"


@pytest.mark.parametrize("name", ["evil.py", "run.sh", "x.yaml", "noending", ".json"])
def test_uploads_that_are_no_rows_are_refused(name, tmp_path, in_workspace):
    source = tmp_path / name
    source.write_text("[]")
    with pytest.raises(ConfigError, match="upload: "):
        take_upload(str(source))
    assert not (in_workspace / "data" / "uploads").exists() or os.listdir("data/uploads") == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.json", "data/nothing.json", "a\0b", "data/README.md", "~/x.json", ""]
)
def test_places_that_are_no_rows_of_the_workspace(path):
    with pytest.raises(ConfigError) as caught:
        look_at(path)
    assert "\n" not in str(caught.value)


def test_broken_files_are_one_line():
    for name, content in (
        ("a.json", b"{"),
        ("b.jsonl", b"\xff\xfe{"),
        ("c.csv", b""),
        ("d.parquet", b"PAR1"),
        ("e.json.gz", b"x"),
        ("f.json", b"[]"),
    ):
        Path("data", name).write_bytes(content)
        try:
            said = look_at(f"data/{name}").problem
        except ConfigError as error:
            said = str(error)
        assert said and "\n" not in said and name in said, name


def test_entries_that_cannot_be_read_are_refused():
    with pytest.raises(ConfigError, match="names no prompt"):
        make_entry("data/identity.json", "alpaca", False, {"response": "output"})
    with pytest.raises(ConfigError, match="chosen and rejected"):
        make_entry("data/identity.json", "sharegpt", True, {"messages": "x"})
    with pytest.raises(ConfigError, match="formatting"):
        make_entry("data/identity.json", "evil", False, {})
    with pytest.raises(ConfigError, match="outside of the workspace"):
        make_entry("/etc/passwd", "alpaca", False, {})


def test_a_set_elsewhere_is_not_edited():
    with pytest.raises(ConfigError, match="on a hub"):
        mapping_of({"hf_hub_url": "a/b"})
    with pytest.raises(ConfigError, match="outside of the workspace"):
        mapping_of({"file_name": "/etc/passwd"})
    with pytest.raises(ConfigError, match="is not in"):
        entry_of("nothing")


def test_long_cells_are_cut():
    Path("data/long.json").write_text(json.dumps([{"instruction": "x" * 10**6, "output": ["y" * 10**6]}]))
    found = look_at("data/long.json")
    assert max(len(str(value)) for value in found.rows[0].values()) == datasets._MOST_TEXT + 1
