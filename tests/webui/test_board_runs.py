# SPDX-License-Identifier: Apache-2.0
"""The board in Chromium, with runs: a queue, a page that is closed and opened again, abort, chat, export."""

from __future__ import annotations

import json
from typing import Any

import pytest
from safetensors import safe_open

from llamafactory.jobs import Job
from llamafactory.webui.texts.texts import text

from .board import BoardServer, Page, opened, wait_until


def points(page: Page, place: str, figure: str) -> int:
    """How many points a curve has."""
    drawn = page.tab.locator(f"#{place} figure", has_text=figure).first
    return int(drawn.locator("polyline").last.get_attribute("points").count(","))


def left_below(log: Any) -> float:
    """How much of a log lies below what is seen of it."""
    return float(log.evaluate("box => box.scrollHeight - box.clientHeight - box.scrollTop"))


def ended(board: BoardServer, number: int, state: str) -> bool:
    return bool(board.jobs.get(number).state == state)


def test_from_opening_to_an_exported_model(chromium, board):
    """Three jobs of which the second fails, one page closed in mid-run, two runs overlaid, abort, chat, export."""
    with opened(chromium, board.url) as page:
        page.load_preset()
        first = page.start_run(board, "first")
        page.tab.locator("#train-progress .progress").wait_for()
        page.choose_many("train-dataset", ["broken"], instead_of=["tiny"])
        second = page.start_run(board, "second")
        page.choose_many("train-dataset", ["tiny"], instead_of=["broken"])
        page.fill("train-learning_rate", "1e-2")
        page.unfold(text("en", "group.extra"))
        page.fill("train-logging_steps", "20")
        page.unfold(text("en", "more_box"))
        page.box("train-search").fill("max_steps")
        page.fill("train-max_steps", "100000")
        page.tab.locator("#train-set").get_by_text("max_steps: 100000").wait_for()
        third = page.start_run(board, "endless")
        assert board.jobs.get(third.id).state in ("queued", "running")
    # The page is closed; nobody looks while they go on.
    wait_until(lambda: ended(board, first.id, "done"))
    wait_until(lambda: ended(board, second.id, "failed"))
    wait_until(lambda: board.jobs.get(third.id).state != "queued")
    with opened(chromium, board.url) as page:
        page.tab.locator("#train-progress").get_by_text("endless").wait_for()
        page.tab.locator("#train-curves figure").first.wait_for()
        page.press("train-stop_btn")
        page.tab.locator("#train-progress .progress.cancelled").wait_for()
        aborted(page, board.jobs.get(third.id))
        follow_the_log(page)
        look_at_jobs(page, first, second, third)
        talk(page)
        export(page, board)


def aborted(page: Page, job: Job) -> None:
    """It has saved what it had, and the page has every point of its curve, those from before it was opened too."""
    assert job.state == "cancelled"
    saved = sorted(job.output_dir.glob("checkpoint-*/adapter_model.safetensors"))
    with safe_open(saved[-1], "pt") as file:
        assert list(file.keys())
    rows = [json.loads(line) for line in (job.output_dir / "trainer_log.jsonl").read_text().splitlines()]
    logged = sum("learning_rate" in row or "lr" in row for row in rows)
    assert points(page, "train-curves", text("en", "figure.learning_rate")) == logged > 1


def follow_the_log(page: Page) -> None:
    """It is shown from its end, and stays where somebody scrolled to."""
    log = page.box("train-output")
    wait_until(lambda: left_below(log) < 4 or page.tab.wait_for_timeout(50))
    log.evaluate("box => { box.scrollTop = 5; box.value += '\\nmore' }")
    page.tab.wait_for_timeout(700)
    assert left_below(log) > 20
    log.evaluate("box => { box.scrollTop = box.scrollHeight; box.value += '\\nmore\\nand more' }")
    wait_until(lambda: left_below(log) < 4 or page.tab.wait_for_timeout(50))


def look_at_jobs(page: Page, first: Job, second: Job, third: Job) -> None:
    """The one that failed says why; the whole curve of one that nobody watched; two laid over each other."""

    def choose(job: Job) -> None:
        page.tab.locator("#jobs-list label", has_text=f"#{job.id} ").click()

    page.open_tab("jobs")
    choose(second)
    page.tab.locator("#jobs-details .reason").wait_for()
    choose(second)
    choose(first)
    page.tab.locator("#jobs-curves figure", has_text=text("en", "figure.loss")).wait_for()
    assert points(page, "jobs-curves", text("en", "figure.loss")) == 12
    choose(third)
    page.tab.locator("#jobs-details .differences").get_by_text("learning_rate").wait_for()
    overlaid = page.tab.locator("#jobs-curves figure").first
    assert [key.strip() for key in overlaid.locator(".key").all_inner_texts()] == [
        f"#{job.id} {job.name}" for job in (first, third)
    ]


def talk(page: Page) -> None:
    page.open_tab("train")
    page.load_preset()
    page.choose_many("top-checkpoint_path", ["first"])
    page.open_tab("infer")
    page.press("infer-load_btn")
    box = page.tab.locator("#question textarea").first
    box.wait_for()
    wait_until(lambda: box.is_enabled() or page.tab.wait_for_timeout(100))
    box.fill("count 3")
    page.tab.locator("#send").click()
    page.tab.locator("#chat [data-testid=bot], #chat .bot").first.wait_for()
    page.press("infer-unload_btn")


def export(page: Page, board: BoardServer) -> None:
    page.open_tab("export")
    page.fill("export-export_dir", "merged")
    page.press("export-start_btn")
    page.tab.locator("#export-progress .progress.done").wait_for()
    page.tab.locator("#export-proof").get_by_text(text("en", "export.proof")).wait_for()
    page.tab.locator("#export-proof").get_by_text("vllm", exact=False).first.wait_for()
    manifest = json.loads((board.workspace / "merged" / "run_manifest.json").read_text())
    assert manifest["export_proof"]["tensors"] > 0 and (board.workspace / "merged" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_newcomer_presses_one_button(chromium, tmp_path):
    """Nothing is chosen or typed: the first page trains SmolLM2 on the demo data, on one press."""
    import shutil

    from .board import REPOSITORY

    shutil.copytree(REPOSITORY / "data", tmp_path / "data")
    server = BoardServer(tmp_path)
    try:
        with opened(chromium, server.url) as page:
            page.press("train-start_btn")
            page.tab.locator("#train-progress .progress.done").wait_for(timeout=1_800_000)
            job = server.jobs.list()[0]
            assert (job.output_dir / "adapter_model.safetensors").exists()
            curve = [json.loads(line) for line in (job.output_dir / "trainer_log.jsonl").read_text().splitlines()]
            losses = [row["loss"] for row in curve if "loss" in row]
            assert sum(losses[-3:]) < sum(losses[:3])
    finally:
        server.stop()


@pytest.mark.slow
def test_the_server_is_killed_ten_times_in_mid_run(chromium, make_tiny_model, tmp_path):
    """A new server shows the job running, and when it is done, its whole curve."""
    from .board import make_workspace

    server = BoardServer(make_workspace(tmp_path / "work", make_tiny_model(max_position_embeddings=2048)))
    try:
        for number in range(10):
            with opened(chromium, server.url) as page:
                page.load_preset()
                page.unfold(text("en", "more_box"))
                page.box("train-search").fill("max_steps")
                page.fill("train-max_steps", "60")
                page.tab.locator("#train-set").get_by_text("max_steps: 60").wait_for()
                job = server.start_and_wait(page, f"run{number}")
            server.kill()
            server.start()
            with opened(chromium, server.url) as page:
                assert server.jobs.get(job.id).state in ("running", "done")
                page.tab.locator("#train-progress").get_by_text(f"run{number}").wait_for()
                page.tab.locator("#train-progress .progress.done").wait_for()
                assert points(page, "train-curves", text("en", "figure.learning_rate")) == 60
    finally:
        server.stop()
