# SPDX-License-Identifier: Apache-2.0
"""Results of evaluations read from disk, and predictions a page at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.webui.components.eval import go_to, refresh, show_rows
from llamafactory.webui.drawing import results
from llamafactory.webui.drawing.results import (
    list_predictions,
    list_results,
    predictions_shown,
    read_predictions,
    results_table,
)

HOSTILE = "<script>alert(1)</script>\n\"'&"


@pytest.fixture(autouse=True)
def in_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, when: int, **files: object) -> Path:
    folder = Path("saves") / name
    folder.mkdir(parents=True)
    for file, value in files.items():
        path = folder / f"{file}.json"
        path.write_text(json.dumps(value))
        os.utime(path, (when, when))
    return folder


def write_predictions(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "generated_predictions.jsonl"
    rows = [{"prompt": f"q{n} {HOSTILE}", "predict": f"p{n}", "label": f"l{n} 日本"} for n in range(count)]
    path.write_text("".join(json.dumps(row, ensure_ascii=n % 2 == 0) + "\n" for n, row in enumerate(rows)))
    return path


def test_results_stand_beside_each_other_newest_first():
    run("m/lora/old", 100, predict_results={"predict_bleu-4": 12.5, "predict_runtime": 3.0, "predict_samples": 4})
    run("m/lora/new", 300, predict_results={"predict_bleu-4": 20.0, "predict_rouge-1": 31.25})
    run("m/lora/loss", 200, eval_results={"eval_loss": 1.5, "epoch": 3})
    bench = {"basics_test": {"subjects": {"sums": 50.0}, "categories": {}, "average": 50.0}}
    run("m/lora/bench", 400, results=bench)
    run("m/lora/old/checkpoint-5", 500, predict_results={"predict_bleu-4": 99.0})  # not a run of its own
    (run("m/lora/broken", 600) / "eval_results.json").write_text("{")
    found = list_results()
    assert [(result.folder, result.kind) for result in found] == [
        ("saves/m/lora/bench", "benchmark"), ("saves/m/lora/new", "predict"), ("saves/m/lora/loss", "eval"),
        ("saves/m/lora/old", "predict"),
    ]  # fmt: skip
    assert found[1].figures == {"bleu-4": 20.0, "rouge-1": 31.25} and found[2].figures == {"loss": 1.5}
    assert found[0].figures == {"basics_test sums": 50.0, "basics_test average": 50.0}
    table = results_table(found, "en")
    assert table.index("m/lora/bench") < table.index("m/lora/new") and "31.25" in table and "\n" not in table
    assert "No evaluation" in results_table([], "en")


def test_names_of_runs_are_escaped():
    run("<img src=x onerror=alert(1)>", 1, eval_results={"<b>": 1.0})
    assert "<img" not in results_table(list_results(), "en") and "<b>" not in results_table(list_results(), "en")


@pytest.mark.parametrize("first", [0, 1, 63, 64, 65, 127, 128, 195, 199])
def test_a_page_holds_the_rows_asked_for(first):
    path = write_predictions(Path("saves/m/lora/eval"), 200)
    rows, total = read_predictions(str(path), first, 5)
    expected = [json.loads(line) for line in path.read_text().splitlines()[first : first + 5]]  # the whole file
    assert rows == expected and total == 200 and list(rows[0]) == ["prompt", "label", "predict"]


def test_only_the_rows_asked_for_are_read(monkeypatch):
    path = write_predictions(Path("saves/m/lora/eval"), 5000)
    read_predictions(str(path), 0)
    decoded = []
    monkeypatch.setattr(results.json, "loads", lambda line: decoded.append(line) or {"prompt": "x"})
    read_predictions(str(path), 4000, 5)
    assert len(decoded) == 5


def test_a_file_that_grows_is_seen():
    path = write_predictions(Path("saves/m/lora/eval"), 10)
    assert read_predictions(str(path), 0)[1] == 10
    write_predictions(path.parent, 12)
    assert read_predictions(str(path), 11)[0][0]["predict"] == "p11"
    assert read_predictions(str(path), 10**9)[0][0]["predict"] == "p11"  # beyond the end: the last


def test_predictions_are_shown_as_text():
    path = write_predictions(Path("saves/m/lora/eval"), 3)
    rows, total = read_predictions(str(path), 0)
    shown = predictions_shown(rows, 0, total, "en")
    assert "<script" not in shown and "&lt;script&gt;" in shown and "\n" not in shown
    assert shown.index("Prompt") < shown.index("Label") < shown.index("Answer") and "3 / 3" in shown


def test_other_stages_columns_are_shown_too():
    path = Path("saves/m/rm/generated_predictions.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text('{"chosen": 1.5, "rejected": -2}\n')
    assert read_predictions(str(path), 0)[0] == [{"chosen": 1.5, "rejected": -2}]
    assert "chosen" in predictions_shown([{"chosen": 1.5}], 0, 1, "zh")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x/generated_predictions.jsonl", "saves/secret.json", "a\0b",
     "saves/none/generated_predictions.jsonl"],
)  # fmt: skip
def test_no_other_file_is_shown(path, in_workspace):
    (in_workspace / "saves").mkdir()
    (in_workspace / "saves" / "secret.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        read_predictions(path, 0)
    assert "predictions" in str(caught.value)


def test_a_link_out_of_the_workspace_is_not_followed(in_workspace, tmp_path_factory):
    outside = write_predictions(tmp_path_factory.mktemp("outside"), 2)
    Path("saves").mkdir()
    Path("saves/generated_predictions.jsonl").symlink_to(outside)
    assert list_predictions() == []
    with pytest.raises(ConfigError, match="outside of the workspace"):
        read_predictions("saves/generated_predictions.jsonl", 0)


def test_broken_rows_are_one_line():
    path = Path("saves/m/generated_predictions.jsonl")
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"prompt": 1}\n{"prompt"\n[1]\n\xff\xfe\n')
    for row in (1, 2, 3):
        with pytest.raises(ConfigError, match=f"predictions: row {row + 1}"):
            read_predictions(str(path), row, 1)


def test_what_the_buttons_of_predictions_do():
    pytest.importorskip("gradio")
    path = str(write_predictions(Path("saves/m/lora/eval"), 12))
    shown, first, number = show_rows("en", path, 5)
    assert "p5" in shown and "p9" in shown and "p10" not in shown and (first, number) == (5, "6")
    assert show_rows("en", path, -5)[1] == 0 and show_rows("en", path, 99)[1] == 11
    assert go_to("en", path, "8", 0)[1] == 7 and go_to("en", path, "many", 3)[1] == 3
    assert go_to("en", path, "9" * 500, 3)[1] == 11
    assert show_rows("en", None, 3) == ("", 0, "1")
    table, files = refresh("en")
    assert files["choices"] == [(path, path)] or files["choices"] == [path]
    assert "No evaluation" in table["value"]


def test_many_checkpoints_are_not_looked_into():
    folder = run("m/lora/run", 1, eval_results={"eval_loss": 1.0})
    for number in range(500):
        (folder / f"checkpoint-{number}").mkdir()
    assert [result.folder for result in list_results()] == ["saves/m/lora/run"]
