# SPDX-License-Identifier: Apache-2.0
"""Whatever is written into a field: nothing runs, nothing appears outside of the workspace, one clear message."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafactory.jobs import JobStore
from llamafactory.webui import runner as runner_module
from llamafactory.webui.fields.fields import fields_on
from llamafactory.webui.interface import create_ui

HOSTILE = {
    "command": "$(touch ../ran)`touch ../ran`; touch ../ran | touch ../ran && touch ../ran\n touch ../ran",
    "way out": "../../../../../../tmp/outside",
    "absolute": "/etc/passwd",
    "nul": "a\0b",
    "long": "x" * 2**20,
    "markup": "<img src=x onerror=alert(1)></code><script>alert(1)</script>",
    "yaml": "!!python/object/apply:os.system ['touch ../ran']",
}
BUTTONS = ("cmd_preview_btn", "start_btn", "arg_save_btn", "arg_load_btn")
TABS = ("train", "export")
QUICK = ("way out",)  # each takes seconds
GOOD = {"export.export_dir": "merged"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace inside of a folder that must stay as it is."""
    folder = tmp_path_factory.mktemp("around")
    workspace = folder / "workspace"
    (workspace / "data").mkdir(parents=True)
    (workspace / "data" / "rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    (workspace / "data" / "dataset_info.json").write_text('{"alpaca_en_demo": {"file_name": "rows.json"}}')
    before = Path.cwd()
    os.chdir(workspace)
    yield workspace
    os.chdir(before)


@pytest.fixture(scope="module")
def page(place: Path) -> Any:
    return create_ui()


def press(page: Any, tab: str, button: str, wrong: dict[str, Any], **state: Any) -> dict[str, Any]:
    """Call the handler of a button as gradio does, with all its inputs; gives changes by name."""
    manager = page.board.manager
    elem = manager.get_elem_by_id(f"{tab}.{button}")
    found = [fn for fn in page.fns.values() if any(target == elem._id for target, _ in fn.targets)]
    assert len(found) == 1
    given = {one: getattr(one, "value", None) for one in found[0].inputs}
    values = wrong | {f"{tab}.{name}": value for name, value in state.items()}
    for name, value in values.items():
        if manager.has(name) and manager.get_elem_by_id(name) in given:
            given[manager.get_elem_by_id(name)] = value
    answer = found[0].fn(given)
    return manager.values(answer) if answer.get("__type__") is None else {}


def message_of(changes: dict[str, Any], tab: str) -> str:
    found = changes.get(f"{tab}.problems")
    return found["value"] if isinstance(found, dict) else ""


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is looked at by nobody: what was let through must be seen, not run."""
    monkeypatch.setattr(runner_module, "ensure_runner", lambda workspace: None)


def everything_around(place: Path) -> list[str]:
    return sorted(path.relative_to(place.parent).as_posix() for path in place.parent.rglob("*"))


@pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in HOSTILE if kind not in QUICK)]
)
@pytest.mark.parametrize("tab", TABS)
def test_every_field_takes_anything(page, place, tab, kind):
    """Each field in turn, front and folded: a message that says which, or a job whose words are only words."""
    wrong = HOSTILE[kind]
    for field in [*fields_on("top").values(), *fields_on(tab).values()]:
        value = [wrong] if field.widget == "multi" else wrong
        front = page.board.manager.has(field.id)
        changes = press(
            page, tab, "start_btn", GOOD | {field.id: value}, **({} if front else {"more": {field.id: value}})
        )
        message = message_of(changes, tab)
        assert len(message) < 3000, field.id
        assert "<script" not in message and "<img" not in message, field.id
        assert message.count("<li>") <= 3, (field.id, message)
    own = ("workspace/data", "workspace/llamaboard_cache", "workspace/llamaboard_config")
    assert [path for path in everything_around(place) if path != "workspace" and not path.startswith(own)] == []
    assert JobStore(place).list()  # some fields take any text: it is theirs alone
    for job in JobStore(place).list():
        for key in ("output_dir", "export_dir"):
            if job.config.get(key):
                assert (place / job.config[key]).resolve().is_relative_to(place), job.config
        assert not job.config.get("trust_remote_code")


@pytest.mark.parametrize("kind", HOSTILE)
def test_names_of_presets_and_searches_take_anything(page, place, kind):
    before = everything_around(place)
    for button in ("arg_save_btn", "arg_load_btn"):
        message = message_of(press(page, "train", button, {}, preset=HOSTILE[kind]), "train")
        assert message.count("<li>") == 1 and len(message) < 3000
    assert everything_around(place) == before


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["devices", "nnodes", "node_rank", "master_addr", "master_port"])
def test_where_a_run_goes_takes_anything(page, place, name, kind):
    """What is no device or number is refused; what is let through is a variable's text in a file."""
    value = [HOSTILE[kind]] if name == "devices" else HOSTILE[kind]
    changes = press(page, "train", "start_btn", {"train.dataset": []}, **{name: value})
    assert message_of(changes, "train").count("<li>") == 1
