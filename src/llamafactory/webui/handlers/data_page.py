# SPDX-License-Identifier: Apache-2.0
"""What the buttons of the tab Data do."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.files import read_json
from ..drawing import reports
from ..fields import configuration
from ..runner import preview_page, told
from ..workspace import CACHE, relative, workspace
from .datasets import PARTS, TAGS, Found, entry_of, look_at, make_entry, mapping_of, register, take_upload
from .side_commands import run_side_command

if TYPE_CHECKING:
    from ..runner import Asked

Changes = dict[str, Any]
_NAME = "this_set"  # of a set that has no entry yet
_REPORT = "check_data.json"
_FIGURES = ("rows", "bad", "duplicates", "dropped", "longest", "trained", "reasoning", "tools")


def upload(asked: Asked) -> Changes:
    """Take an uploaded file into the workspace and look at it."""
    given = asked.state.get("upload")
    if not given:
        return {}
    try:
        return _show(asked, look_at(take_upload(str(given)))) | {"data.upload": None}
    except ConfigError as error:  # the box takes the next file
        return told("data", error) | {"data.upload": None}


def look(asked: Asked) -> Changes:
    """Look at the file or folder whose path was typed."""
    return _show(asked, look_at(str(asked.state.get("path") or "")))


def edit(asked: Asked) -> Changes:
    """Show a registered set with its mapping."""
    name, folder = str(asked.state.get("registered") or ""), _folder(asked)
    if not name:
        raise ConfigError(asked.text("alert.no_set"))
    return _show(asked, mapping_of(entry_of(name, folder), folder)) | {"data.name": name, "data.anew": True}


def check(asked: Asked) -> Changes:
    """Look at every row, with the code that training uses, in a process of its own."""
    import gradio as gr

    (workspace() / CACHE).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace() / CACHE, prefix="check-") as place:
        config = _config(asked) | {"output_dir": relative(place), "overwrite_output_dir": True}
        said = ""
        try:
            run_side_command("check-data", {**config, "report_format": "json"})
        except ConfigError as error:  # broken rows are one too; what was found was written before
            said = str(error)
        report = Path(place) / _REPORT
        if not report.exists():
            raise ConfigError(said)
        shown = check_shown(read_json(report), asked)
    return {"data.report": gr.update(value=shown, visible=True)} | _no_problems()


def preview(asked: Asked, move: int = 0) -> Changes:
    """Show rows as the model will see them, the trained tokens coloured."""
    import gradio as gr

    first, shown = preview_page(asked, _config(asked), move)
    if shown is None:
        return {}
    return {"data.rows": gr.update(value=shown, visible=True), "data.rows_from": first} | _no_problems()


def save(asked: Asked) -> Changes:
    """Put the set into ``dataset_info.json``."""
    import gradio as gr

    name, folder = str(asked.state.get("name") or "").strip(), _folder(asked)
    entry = _entry(asked, folder)
    register(name, entry, folder, anew=bool(asked.state.get("anew")))
    gr.Info(f"{asked.text('alert.registered')} {reports.text(name)}")
    return _no_problems()  # the list of sets is brought when it is opened


def check_shown(found: Mapping[str, Any], asked: Asked) -> str:
    """A report of ``check-data`` as a table, with what is wrong below it."""
    head = [asked.text("data.set"), *(asked.text(f"data.figure_{name}") for name in _FIGURES)]
    lines, notes = [], []
    for one in found["sets"]:
        counts = one.get("counts") or {}
        figures = {
            **one, "dropped": counts.get("dropped", 0), "longest": counts.get("longest", 0),
            "trained": f"{one['trained_share']:.1%}",
        }  # fmt: skip
        lines.append([one["name"].replace(_NAME, asked.text("data.this_set")), *(figures[name] for name in _FIGURES)])
        notes += [
            *one["problems"],
            *(f"{asked.text('data.figure_duplicates')}: {place}" for place in one["repeated"][:5]),
        ]
        notes += [f"{asked.text('data.figure_dropped')}: {place}" for place in one["dropped"][:5]]
    items = "".join(f"<li>{reports.text(note[:1000])}</li>" for note in notes)
    listed = f'<ul class="problems">{items}</ul>' if items else f"<p>{reports.text(asked.text('data.all_good'))}</p>"
    return reports.table(head, lines) + listed


def found_shown(found: Found, asked: Asked) -> str:
    """What a file was taken for, and its first rows."""
    lines = [[str(row.get(column, ""))[:300] for column in found.present] for row in found.rows]
    said = f"<p>{reports.text(found.said)}</p>"
    if found.problem:
        words = f"{asked.text('data.not_recognized')} {found.problem}"
        said = f'<ul class="problems"><li>{reports.text(words[:1000])}</li></ul>'
    return said + reports.table(found.present, lines, "rows")


def _show(asked: Asked, found: Found) -> Changes:
    """The fields of a file that was looked at."""
    import gradio as gr

    stem = Path(found.path).name.partition(".")[0]
    changes: Changes = {
        "data.path": found.path,
        "data.found": gr.update(value=found_shown(found, asked), visible=True),
        "data.formatting": found.formatting,
        "data.ranking": found.ranking,
        "data.name": stem,
        "data.anew": False,
        "data.rows": gr.update(value="", visible=False),
        "data.report": gr.update(value="", visible=False),
        "data.rows_from": 0,
    }
    choices = ["", *found.present]
    changes |= {f"data.column_{part}": gr.update(choices=choices, value=found.columns.get(part, "")) for part in PARTS}
    changes |= {f"data.tag_{name}": found.tags.get(name, "") for name in TAGS}
    return changes | _no_problems()


def _entry(asked: Asked, folder: str) -> dict[str, Any]:
    state = asked.state
    if not state.get("path"):
        raise ConfigError(asked.text("alert.no_file"))
    columns = {part: state.get(f"column_{part}") for part in PARTS}
    tags = {name: str(state.get(f"tag_{name}") or "").strip() for name in TAGS}
    return make_entry(
        str(state["path"]), str(state.get("formatting")), bool(state.get("ranking")), columns, tags, folder
    )


def _config(asked: Asked) -> dict[str, Any]:
    """The keys of a run over the set as it is mapped, with the model and the stage that are chosen."""
    config = configuration.build("train", asked.values)
    for key in ("eval_dataset", "val_size", "eval_strategy", "eval_steps", "output_dir", "media_dir", "columns"):
        config.pop(key, None)
    config |= {"dataset": _NAME, "dataset_dir": {_NAME: _entry(asked, ".")}}
    problems = configuration.check("check-data", config)
    if problems:
        raise ConfigError(problems[0][1])
    return config


def _folder(asked: Asked) -> str:
    return str(asked.state.get("dataset_dir") or "data")


def _no_problems() -> Changes:
    import gradio as gr

    return {"data.problems": gr.update(value="", visible=False)}
