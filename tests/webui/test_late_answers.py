# SPDX-License-Identifier: Apache-2.0
"""Answers that come late, as on a machine under load: nothing that was typed, chosen or pressed meanwhile is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llamafactory.jobs import JobStore
from llamafactory.webui import runner
from llamafactory.webui.components import more_keys, widgets
from llamafactory.webui.handlers import presets_page
from llamafactory.webui.interface import create_ui
from llamafactory.webui.texts.texts import text

from .board import make_workspace, opened, wait_until
from .board_client import PageClient
from .conftest import serve_page

SLOW = 0.6  # seconds of a handler on such a machine: longer than it takes to press the next button


@pytest.fixture
def served(tmp_path, monkeypatch, make_tiny_model) -> Iterator[str]:
    """A board whose handlers run in this process, where no run is started."""
    monkeypatch.chdir(make_workspace(tmp_path / "work", make_tiny_model(max_position_embeddings=2048)))
    monkeypatch.setattr(runner, "ensure_runner", lambda *_: None)
    page = create_ui()
    with closing(page.board), serve_page(page) as url:
        yield url


def test_what_is_chosen_before_a_save_is_answered_stays(chromium, served, monkeypatch):
    """The note that it is saved comes before the answer, which must not choose for the user."""
    save, answer = presets_page.save, threading.Event()

    def slow_save(asked: Any) -> Any:
        changes = save(asked)
        answer.wait(60)
        return changes

    monkeypatch.setattr(presets_page, "save", slow_save)
    with opened(chromium, served) as page:
        page.fill("train-learning_rate", "7e-4")
        page.box("train-preset").fill("mine")
        page.box("train-preset").press("Enter")
        page.press("train-arg_save_btn")
        page.tab.get_by_text("mine.yaml").first.wait_for()
        page.choose("train-preset", "tiny")
        answer.set()
        page.tab.wait_for_timeout(SLOW * 1000)
        page.press("train-arg_load_btn")
        wait_until(lambda: page.box("train-learning_rate").input_value() == "1e-3" or page.tab.wait_for_timeout(50), 20)
        assert page.box("train-preset").input_value() == "tiny"


def test_a_run_starts_with_the_keys_that_were_typed_just_before(chromium, served, monkeypatch):
    set_key = more_keys.set_key

    def slow_set_key(*given: Any) -> Any:
        time.sleep(SLOW)
        return set_key(*given)

    monkeypatch.setattr(more_keys, "set_key", slow_set_key)
    store = JobStore(Path.cwd())
    with opened(chromium, served) as page:
        page.load_preset()
        page.unfold(text("en", "more_box"))
        page.box("train-search").fill("adam beta")
        page.box("train-adam_beta1").wait_for()
        page.fill("train-adam_beta1", "0.75")
        page.fill("train-adam_beta2", "0.5")
        page.fill("train-adam_beta1", "0.625")  # while the first is not answered
        page.press("train-start_btn")
        (job,) = wait_until(lambda: page.tab.wait_for_timeout(50) or store.list())
        assert (job.config["adam_beta1"], job.config["adam_beta2"]) == (0.625, 0.5)


def test_a_look_at_the_jobs_takes_no_choice_away(served):
    """The list is brought anew while it is looked at: what was chosen meanwhile is not in the question."""
    store, page = JobStore(Path.cwd()), PageClient(served)
    first = store.submit("train", {"do_train": True, "output_dir": "saves/a"}, name="a")
    page.press("tab-jobs", "select", changes="jobs-list")
    page.fill("jobs-list", [str(first.id)])
    second = store.submit("train", {"do_train": True, "output_dir": "saves/b"}, name="b")
    page.props["jobs-list"].pop("value")
    page.tick()
    assert [number for _, number in page.props["jobs-list"]["choices"]] == [str(first.id), str(second.id)]
    assert "value" not in page.props["jobs-list"]
    store.cancel(first.id)
    store.remove(first.id)
    page.tick()
    assert page.values["jobs-list"] == []


def test_handlers_take_turns_at_what_they_keep_for_each_other(in_workspace):
    """Except for what follows one that did: because it takes seconds, or because what is kept has changed."""
    page = create_ui()
    with closing(page.board) as board:
        assert widgets.IN_TURN["concurrency_limit"] == 1
        names = ("more", "marks", "job", "seen")
        kept = {elem for elem in board.manager.get_elem_list() if named(board, elem).partition(".")[2] in names}
        for function in page.fns.values():
            shared = kept.intersection({*function.inputs, *function.outputs})
            in_turn = function.concurrency_id == widgets.IN_TURN["concurrency_id"]
            follows = all(event in ("then", "change") for _, event in function.targets)
            assert not shared or in_turn or follows, (function.targets, [named(board, elem) for elem in shared])


def named(board: Any, elem: Any) -> str:
    return str(board.manager.get_id_by_elem(elem))
