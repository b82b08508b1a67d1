# SPDX-License-Identifier: Apache-2.0
"""The buttons of the tab Data, from an upload to a registered set whose rows were looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from llamafactory.data.sources.dataset_info import find_datasets
from llamafactory.extras.errors import ConfigError
from llamafactory.webui import interface
from llamafactory.webui.fields.choices import offer_datasets
from llamafactory.webui.handlers import data_page
from llamafactory.webui.runner import Asked

REPOSITORY = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("in_workspace")


class Tab:
    """What a page holds of the tab, as its elements would: handlers change it."""

    def __init__(self, values: dict | None = None, language: str = "en") -> None:
        self.values, self.language = values or {}, language
        self.state: dict = {"formatting": "alpaca", "ranking": False, "dataset_dir": "data", "rows_from": 0}
        self.shown: dict = {}

    def press(self, work, **given) -> dict:
        self.state |= given
        changes = work(Asked("data", self.values, self.language, self.state))
        for name, change in changes.items():
            value = change.get("value") if isinstance(change, dict) and change.get("__type__") == "update" else change
            self.state[name.partition(".")[2]] = value
        self.shown |= changes
        return changes


def test_an_upload_is_mapped_edited_and_registered(tmp_path):
    source = tmp_path / "questions.jsonl"
    source.write_text('{"alfa": "Who <b>?", "beta": "I.", "gamma": "x"}\n{"alfa": "2", "beta": "3", "gamma": "y"}\n')
    tab = Tab()
    tab.press(data_page.upload, upload=str(source))
    assert tab.state["path"] == "data/uploads/questions.jsonl" and tab.state["name"] == "questions"
    assert tab.shown["data.column_prompt"]["choices"] == ["", "alfa", "beta", "gamma"]
    assert "not recognized" in tab.state["found"] and "<b>" not in tab.state["found"] and "gamma" in tab.state["found"]
    tab.press(data_page.save, column_prompt="alfa", column_response="beta")
    listing = json.loads(Path("data/dataset_info.json").read_text())
    assert listing["questions"] == {
        "file_name": "uploads/questions.jsonl", "columns": {"prompt": "alfa", "response": "beta"}
    }  # fmt: skip
    assert "questions" in offer_datasets("data")[1]  # what the list shows when it is opened
    with pytest.raises(ConfigError, match="is registered already"):
        tab.press(data_page.save)
    again = Tab()
    again.press(data_page.edit, registered="questions")
    assert (again.state["column_prompt"], again.state["column_response"], again.state["anew"]) == ("alfa", "beta", True)
    again.press(data_page.save, column_query="gamma")
    (attr,) = find_datasets(["questions"], "data")
    assert attr.columns.query == "gamma"


def test_a_known_layout_fills_the_mapping():
    tab = Tab(language="zh")
    tab.press(data_page.look, path="data/dpo_en_demo.json")
    assert tab.state["formatting"] == "sharegpt" and tab.state["ranking"] is True
    assert (tab.state["column_messages"], tab.state["column_chosen"]) == ("conversations", "chosen")
    tab.press(data_page.look, path="data/identity.json")  # nothing of the file before it is left
    assert tab.state["ranking"] is False and tab.state["column_chosen"] == ""


def test_mistakes_are_said():
    tab = Tab()
    for work, given, message in (
        (data_page.save, {"name": "x"}, "Upload a file"),
        (data_page.edit, {"registered": ""}, "Choose a registered set"),
        (data_page.look, {"path": "../x.json"}, "outside of the workspace"),
        (data_page.look, {"path": "nothing.json"}, "does not exist"),
        (data_page.edit, {"registered": "sums_demo", "dataset_dir": "../outside"}, "outside of the workspace"),
    ):
        with pytest.raises(ConfigError, match=message):
            tab.press(work, **given)
    assert tab.press(data_page.upload, upload=None) == {}


def test_a_demonstration_writes_nothing(monkeypatch):
    """Through the handlers of a page that was built, as its buttons call them."""
    before = Path("data/dataset_info.json").read_bytes()
    page = interface.create_ui(demo_mode=True)
    try:
        manager = page.board.manager
        button = manager.get_elem_by_id("data.register_btn")
        (function,) = [one for one in page.fns.values() if (button._id, "click") in one.targets]
        given = {elem: getattr(elem, "value", None) for elem in function.inputs}
        given |= {manager.get_elem_by_id(f"data.{key}"): value for key, value in
                  {"path": "data/identity.json", "name": "evil", "formatting": "alpaca"}.items()}  # fmt: skip
        answer = function.fn(given)
    finally:
        page.board.close()
    assert "demonstration" in answer[manager.get_elem_by_id("data.problems")]["value"]
    assert Path("data/dataset_info.json").read_bytes() == before


@pytest.mark.slow
def test_every_row_is_checked_and_shown_with_its_trained_tokens(make_tiny_model):
    folder = make_tiny_model()
    Path("data/mine.json").write_text(json.dumps([
        {"instruction": "question <one>", "output": "answer"}, {"instruction": "question <one>", "output": "answer"},
        {"instruction": 5, "output": "broken"},
    ]))  # fmt: skip
    values = {"top.model_path": str(folder), "top.model_name": "", "top.template": "qwen"}
    tab = Tab(values)
    tab.press(data_page.look, path="data/mine.json")
    tab.press(data_page.check)
    report = tab.state["report"]
    assert "mine.json" in report and "this set" in report and "Repeated" in report
    Path("data/mine.json").write_text(json.dumps([{"instruction": f"q <{n}>", "output": f"a{n}"} for n in range(6)]))
    tab.press(data_page.check)
    assert "Every row can be trained on" in tab.state["report"]
    tab.press(data_page.preview)
    assert "<mark>a0" in tab.state["rows"] and "&lt;0&gt;" in tab.state["rows"] and "a4" not in tab.state["rows"]
    tab.press(lambda asked: data_page.preview(asked, 1))
    assert "<mark>a4" in tab.state["rows"] and tab.state["rows_from"] == 4
    assert [path.name for path in Path("llamaboard_cache").iterdir()] == []
