# SPDX-License-Identifier: Apache-2.0
"""The parts of the board without a browser: pictures, lists, what is told again and what is not, a demonstration."""

from __future__ import annotations

import errno
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.jobs import JobStore
from llamafactory.webui import common
from llamafactory.webui import runner as runner_module
from llamafactory.webui.common import load_config
from llamafactory.webui.components.top import remember_model
from llamafactory.webui.drawing import device_memory, reports
from llamafactory.webui.drawing.chart import Series, chart, shown
from llamafactory.webui.drawing.jobs_view import PAGE, details, differences, listed
from llamafactory.webui.drawing.results import list_predictions, list_results
from llamafactory.webui.drawing.watching import draw, figure_of
from llamafactory.webui.fields import presets
from llamafactory.webui.fields.choices import is_new_run, list_checkpoints, list_datasets, new_run
from llamafactory.webui.fields.fields import COMMON
from llamafactory.webui.fields.presets import list_presets
from llamafactory.webui.handlers.jobs_page import JobsPage
from llamafactory.webui.interface import create_ui, read_board_settings
from llamafactory.webui.manager import Manager
from llamafactory.webui.runner import Asked, Runner

HARM = "<script>alert(1)</script>\n\n# x"


def parsed(html: str) -> ElementTree.Element:
    """HTML of ours in one line, each element closed."""
    assert "\n" not in html
    return ElementTree.fromstring(html.replace("<br>", "<br/>").replace('<hr class="cut">', '<hr class="cut"/>'))


def test_a_chart_draws_what_it_was_given():
    points = [(step, 3 - step / 10) for step in range(1, 21)]
    tree = parsed(
        chart("Loss", [Series("a", [*points, (21, float("nan"))]), Series(HARM, [(5, 1.0)], 1)], "nats", "Step")
    )
    lines = [one.attrib["points"].split() for one in tree.iter("polyline")]
    assert [len(line) for line in lines] == [20, 1]
    places = [tuple(map(float, place.split(","))) for place in lines[0]]
    assert places == sorted(places) and [y for _, y in places] == sorted(y for _, y in places)  # it falls: y grows
    steps = {round(b[0] - a[0], 1) for a, b in pairwise(places)}
    assert max(steps) - min(steps) < 0.3  # evenly spaced, like the steps
    words = "".join(tree.itertext())
    assert "nats" in words and "Step" in words and " ".join(HARM.split()) in words and not list(tree.iter("script"))
    assert chart("Loss", [Series("a", [(1, float("inf"))])]) == ""


def test_long_curves_are_smoothed_over_what_was_logged():
    wild = [(step, float(step % 2)) for step in range(100)]
    tree = parsed(chart("Loss", [Series("loss", wild, smoothed=True)]))
    raw, smooth = (
        [float(place.split(",")[1]) for place in one.attrib["points"].split()] for one in tree.iter("polyline")
    )
    assert len(raw) == len(smooth) == 100 and max(smooth[20:]) - min(smooth[20:]) < (max(raw) - min(raw)) / 2


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1e-05, "1e-05"), (0.1, "0.1"), (12345.6, "12,346"), (-2.5, "-2.5")]
)
def test_numbers_on_axes_are_short(value, text):
    assert shown(value) == text


def test_curves_of_one_kind_share_a_picture():
    same = ("kl", "grad_norm")
    names = dict.fromkeys(("loss", "eval_loss", "eval_a_loss"), "loss") | {name: name for name in same}
    names |= {"lr": "learning_rate", "rewards/chosen": "rewards", "rewards/accuracies": "accuracy"}
    assert {name: figure_of(name) for name in names} == names
    tree = parsed(draw({name: [(1, 1.0), (2, 2.0)] for name in names}, "en"))
    assert len(list(tree.iter("figure"))) == len(set(names.values()))


def test_half_characters_of_rows_can_be_sent():
    assert reports.text("a\ud800<").encode() == b"a?&lt;"


def test_rows_mark_exactly_what_is_trained():
    row = {
        "input_ids": [1, 2, 3],
        "labels": [-100, 2, 3],
        "source": HARM,
        "stretches": [[["<b>ask\n", False], ["say", True]]],
    }
    tree = parsed(reports.rows([row], "trained", "read", 5))
    body = tree.find("section/div")
    assert [(one.tag, one.text) for one in body] == [("span", "<b>ask"), ("mark", "say")]
    heading = "".join(tree.find("section/h5").itertext())
    assert heading.startswith("5 · <script>") and "3 tokens, 2 trained" in heading


def test_a_plan_that_does_not_fit_says_what_would():
    words = dict.fromkeys(("fits", "too_big", "of", "with", "speed", "none"), "w") | {"too_big": "NO", "with": "WITH"}
    found = {"fits": False, "peak_bytes": 3 * 2**30, "available_bytes": 2**30, "device": "d"}
    found |= {"parts": {"weights": 2**30}, "alternatives": [{"change": {"quantization_bit": 4}, "peak_bytes": 2**29}]}
    said = "".join(parsed(reports.plan(found, words)).itertext())
    assert "NO: 3.00" in said and "WITH quantization_bit=4: 0.50 GiB" in said


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner_module, "ensure_runner", lambda workspace: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    (tmp_path / "data" / "dataset_info.json").write_text('{"alpaca_en_demo": {"file_name": "rows.json"}}')
    return tmp_path


def test_lists_offer_what_is_there(workspace):
    assert (
        list_datasets("data") == ["alpaca_en_demo"] and list_datasets("../x") == [] and list_datasets("nowhere") == []
    )
    for name in (
        "saves/m/lora/run/checkpoint-5",
        "saves/m/lora/run/checkpoint-10",
        "saves/m/lora/empty",
        "saves/m/lora/run",
    ):
        (workspace / name).mkdir(parents=True, exist_ok=True)
    (workspace / "saves/m/lora/run/adapter_config.json").write_text("{}")
    names = ["run", "run/checkpoint-10", "run/checkpoint-5"]
    assert list_checkpoints(Path("saves/m/lora")) == [(name, f"saves/m/lora/{name}") for name in names]
    assert list_checkpoints("/etc") == [] and is_new_run(new_run()) and not is_new_run("mine")


def test_names_and_files_that_are_damaged_hide_only_themselves(workspace):
    """Bytes that are no text, line breaks, links that lead to themselves: the page opens, and shows the others."""
    runs = workspace / "saves" / "SmolLM2-135M-Instruct-GGUF" / "lora"
    for name in (b"good", b"no\xfftext", b"two\nlines"):
        folder = os.fsencode(runs) + b"/" + name
        os.makedirs(folder)
        for file in (b"adapter_config.json", b"predict_results.json", b"generated_predictions.jsonl"):
            Path(os.fsdecode(folder + b"/" + file)).write_text("{}")
    (runs / "loop").symlink_to("loop")
    configs = workspace / "llamaboard_config"
    configs.mkdir()
    for name in (b"good.yaml", b"no\xfftext.yaml", b"loop.yaml"):
        Path(os.fsdecode(os.fsencode(configs) + b"/" + name)).write_text("{}")
    (configs / "loop.yaml").unlink()
    (configs / "loop.yaml").symlink_to("loop.yaml")
    (workspace / "data" / "dataset_info.json").write_text('{"good": {}, "half\\ud800": {}}')
    (workspace / "llamaboard_cache").mkdir(exist_ok=True)
    (workspace / "llamaboard_cache" / "user_config.yaml").write_text("lang: [en]\npath_dict: 5\n")
    assert [name for name, _ in list_checkpoints(runs.relative_to(workspace))] == ["good"]
    assert list_datasets("data") == list_presets() == ["good"]
    assert [result.folder for result in list_results()] == [str((runs / "good").relative_to(workspace))]
    assert len(list_predictions()) == 1
    create_ui().get_config_file()
    remember_model("ko", "Qwen3-0.6B-Thinking", "huggingface")
    assert load_config()["lang"] == "ko" and list(load_config()["path_dict"]) == ["Qwen3-0.6B-Thinking"]


def test_export_looks_at_its_fields_when_one_is_changed(workspace):
    """Greyed out from the start and not for ever; what is wrong is said at once, what nobody has filled in is not."""
    page = create_ui()
    manager = page.board.manager
    names = ("export_quantization_dataset", "export_quantization_bit", "export_dir")
    marked, bits, place = (manager.get_elem_by_id(f"export.{name}") for name in names)
    assert marked.interactive is False
    look = next(fn for fn in page.fns.values() if {(bits._id, "change"), (place._id, "blur")} <= set(fn.targets))
    given = {one: getattr(one, "value", None) for one in look.inputs}
    changes = manager.values(look.fn(given | {bits: "4"}))
    assert changes["export.export_quantization_dataset"]["interactive"] and not changes["export.problems"]["visible"]
    changes = manager.values(look.fn(given | {place: "../outside"}))
    assert "export_dir" in changes["export.problems"]["value"] and changes["export.export_dir"]["elem_classes"] == [
        "bad"
    ]


def test_a_disk_that_takes_nothing_is_one_line(workspace, monkeypatch):
    """Also where the folder itself is gone; what the page remembers of its user is no reason to stop."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "llamaboard_config/mine.yaml")

    page = create_ui()
    manager = page.board.manager
    save = next(fn for fn in page.fns.values() if manager.get_elem_by_id("train.arg_save_btn")._id in dict(fn.targets))
    given = {one: getattr(one, "value", None) for one in save.inputs} | {manager.get_elem_by_id("train.preset"): "mine"}
    monkeypatch.setattr(presets, "write_atomic", full)
    monkeypatch.setattr(common, "write_atomic", full)
    assert "No space left on device; free some space" in manager.values(save.fn(given))["train.problems"]["value"]
    remember_model("ko", None, None)
    gone = workspace / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "has been removed" in manager.values(save.fn(given))["train.problems"]["value"]


def test_what_a_terminal_may_a_page_does_not_start_again(workspace):
    runner = Runner(Manager())
    page = JobsPage(runner)
    for wrong in ({"trust_remote_code": True}, {"output_dir": "/tmp/elsewhere"}):
        job = submit(
            runner.store, "theirs", model_name_or_path="x", stage="sft", template="default", dataset="alpaca_en_demo"
        )
        config = json.dumps(job.config | wrong)
        with runner.store._database.writing() as connection:
            connection.execute("UPDATE jobs SET config=?, state='failed' WHERE id=?", (config, job.id))
        for work in (page.resume, page.copy):
            said = work(Asked("jobs", {}, "en", {"list": [str(job.id)]}))["jobs.problems"]["value"]
            assert next(iter(wrong)) in said
        assert runner.store.list()[0].id == job.id


def submit(store: JobStore, name: str, **more: Any) -> Any:
    return store.submit("train", {"do_train": True, "output_dir": f"saves/{name}", **more}, name=name)


def test_the_list_has_the_queue_in_its_order_then_the_newest(workspace):
    store = JobStore(workspace)
    jobs = [submit(store, f"job{number}") for number in range(PAGE + 5)]
    store.cancel(jobs[3].id)
    store.move(jobs[1].id, up=True)
    found, first, count = listed(store, "all", "", 0)
    assert [job.name for job in found[:3]] == ["job1", "job0", "job2"] and (len(found), first, count) == (
        PAGE,
        0,
        PAGE + 5,
    )
    found, first, count = listed(store, "all", "", 99)
    assert (found[-1].name, first, count) == ("job3", PAGE, PAGE + 5)
    assert [job.name for job in listed(store, "cancelled", "", 0)[0]] == ["job3"]
    assert [job.name for job in listed(store, "all", "JOB29", 0)[0]] == ["job29"]


def test_what_is_said_of_jobs_shows_no_place_outside_and_no_markup(workspace):
    store = JobStore(workspace)
    one, other = submit(store, HARM.split("\n")[0], learning_rate=1e-3), submit(store, "b", learning_rate=2e-3)
    said = "".join(parsed(differences(one, other, "en")).itertext())
    assert "learning_rate" in said and "0.001" in said and "do_train" not in said
    assert not list(parsed(details(one, "en")).iter("script"))
    outside = store.submit("train", {"output_dir": "/etc/x"}, name="o")
    assert "/etc" not in details(outside, "en")


def asked(store: JobStore, **state: Any) -> Asked:
    values = {name: field.default for name, field in COMMON.items() if field.tab in ("top", "train")}
    return Asked("train", values, "en", state)


def test_a_run_that_is_started_is_shown_and_told_once(workspace):
    runner = Runner(Manager())
    changes = runner.start(asked(runner.store))
    job = runner.store.list()[0]
    assert job.config["dataset"] == "alpaca_en_demo" and is_new_run(job.name)
    assert changes["train.job"] == job.id and job.name in changes["train.progress_bar"]["value"]
    seen = changes["train.seen"]
    assert runner.monitor("train", job.id, seen, "en") == {}
    runner.store.cancel(job.id)
    changes = runner.monitor("train", job.id, seen, "en")
    assert "cancelled" in changes["train.progress_bar"]["value"] and not changes["timer.train"].active
    assert runner.monitor("train", job.id, changes["train.seen"], "en") == {}
    assert runner.newest("train").id == job.id
    other = submit(runner.store, "elsewhere")
    assert runner.show_newest("train", job.id, "en")["train.job"] == other.id
    runner.store.cancel(other.id)
    assert runner.show_newest("train", job.id, "en").get("train.job", job.id) == job.id
    runner.store.remove(job.id)
    assert runner.monitor("train", job.id, {}, "en")["train.job"] is None


def test_the_curve_of_a_run_is_read_bit_by_bit(workspace):
    runner = Runner(Manager())
    job = runner.store.submit("train", {"do_train": True, "output_dir": "saves/r"}, name="r")
    runner.store.begin(job.id)
    log = workspace / "saves" / "r" / "trainer_log.jsonl"
    log.parent.mkdir(parents=True)
    counts = []
    for step in range(1, 4):
        with log.open("a") as file:
            file.write(json.dumps({"current_steps": step, "total_steps": 3, "loss": 1 / step}) + "\n")
        drawn = runner.monitor("train", job.id, {}, "en")["train.loss_viewer"]["value"]
        counts.append(len(re.search(r'polyline points="([^"]*)"', drawn)[1].split()))
    assert counts == [1, 2, 3]


def test_a_demonstration_runs_nothing(workspace):
    page = create_ui(demo_mode=True)
    manager, runner = page.board.manager, page.board.runner
    assert not manager.has("export.start_btn") and not manager.has("tabs.export") and manager.has("train.start_btn")
    save = next(fn for fn in page.fns.values() if manager.get_elem_by_id("train.arg_save_btn")._id in dict(fn.targets))
    given = {one: getattr(one, "value", None) for one in save.inputs} | {manager.get_elem_by_id("train.preset"): "mine"}
    assert "demonstration" in manager.values(save.fn(given))["train.problems"]["value"]
    assert not (workspace / "llamaboard_config").exists()
    for work in (runner.start, runner.abort, runner.estimate, runner.preview_rows):
        with pytest.raises(ConfigError, match=r"demonstration|no run"):
            work(asked(runner.store))
    assert runner.store.list() == []


def test_the_command_takes_share_alone(monkeypatch):
    monkeypatch.setenv("GRADIO_AUTH", "a:b")
    assert read_board_settings(["--share"]).share and not read_board_settings([]).share
    with pytest.raises(ConfigError, match=r"takes no 'my.yaml'"):
        read_board_settings(["my.yaml"])


def test_memory_of_devices_is_asked_of_their_driver(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0, H200, 3072, 4096\\n1, GB10, [N/A], [N/A]\\n2, H200, 0, 2048\\n'\n")
    program.chmod(0o755)
    monkeypatch.setattr(device_memory, "_last", (float("-inf"), ""))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    tree = parsed(device_memory.device_memory())
    assert [one.text.strip() for one in tree.iter("span")] == ["GPU 0: 1.0 / 4.0 GiB", "GPU 2: 2.0 / 2.0 GiB"]
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(device_memory, "_last", (float("-inf"), ""))
    assert device_memory.device_memory() == ""


def test_a_list_of_checkpoints_that_is_open_does_not_move(tmp_path, monkeypatch):
    """What is new stands at its end until the list is closed; nothing is sent that the page has, and never a choice."""
    from llamafactory.webui.components.top import offer_checkpoints
    from llamafactory.webui.components.widgets import list_news

    def save(run: str) -> None:
        folder = tmp_path / "saves" / "mine" / "lora" / run
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        os.utime(folder, (clock := next(clocks), clock))

    def offer(offered, opened, path="mine"):
        update, kept = list_news(offer_checkpoints, opened, None, path, "lora", offered)
        assert "value" not in update
        return [name for name, _ in update.get("choices", [])], kept

    monkeypatch.chdir(tmp_path)
    clocks = iter(range(1_000_000_000, 1_000_000_100))
    save("first")
    names, offered = offer(("", []), opened=True)
    assert names == ["first"]
    assert offer(offered, opened=True)[0] == []
    save("second")
    names, offered = offer(offered, opened=True)
    assert names == ["first", "second"]
    names, offered = offer(offered, opened=False)
    assert names == ["second", "first"]
    assert offer(offered, opened=True, path="another")[1][1] == []
