# SPDX-License-Identifier: Apache-2.0
"""Take the pictures of docs/webui.md: start the board in a folder, train, and look at each tab.

python scripts/screenshots.py [WORKSPACE]     needs Chromium, playwright and the quickstart's model; minutes
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = REPOSITORY / "docs" / "images"
PATIENCE = 900_000  # milliseconds


def start(workspace: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the board; gives its process and address."""
    log = workspace / "server.log"
    environment = {**os.environ, "GRADIO_SERVER_PORT": "0", "HOSTNAME": "board"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "llamafactory", "webui"],
            cwd=workspace,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    while (found := re.search(r"ready at (http://\S+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    return process, found[1]


def box(tab: Any, name: str) -> Any:
    """The box of a field."""
    return tab.locator(f"#{name} textarea, #{name} input").first


def fill(tab: Any, name: str, text: str) -> None:
    """Write into a field and leave it."""
    box(tab, name).fill(text)
    box(tab, name).blur()


def run(tab: Any, name: str, rate: str) -> None:
    """Train for a minute under a name and wait for the end."""
    fill(tab, "train-learning_rate", rate)
    fill(tab, "train-output_dir", name)
    tab.locator("#train-start_btn").click()
    tab.locator("#train-progress").get_by_text(name).wait_for()
    tab.locator("#train-progress .progress.done").wait_for()


def save(tab: Any, name: str, element: str | None = None) -> None:
    """Take one picture, without anybody's pointer in it."""
    tab.mouse.move(0, 0)
    tab.wait_for_timeout(800)
    place = {"path": str(IMAGES / f"webui-{name}.png")}
    tab.locator(element).screenshot(**place) if element else tab.screenshot(**place)


def to_top(tab: Any, element: str) -> None:
    """Let an element stand at the upper edge of the window."""
    tab.locator(element).evaluate("element => element.scrollIntoView()")


def show(tab: Any, name: str) -> None:
    """Open a tab of the page."""
    tab.locator(f"#tab-{name}-button").click()
    tab.wait_for_timeout(1500)


def take(driver: Any, url: str) -> None:
    """The pictures, in the order of the page."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    tab = browser.new_page(viewport={"width": 1280, "height": 860})
    tab.set_default_timeout(PATIENCE)
    tab.goto(url)
    tab.locator("#train-start_btn").wait_for()
    save(tab, "train")
    for name, value in (("train-batch_size", "2"), ("train-cutoff_len", "96")):
        fill(tab, name, value)
    tab.locator("#train-more button").first.click()
    fill(tab, "train-search", "max_steps")
    fill(tab, "train-max_steps", "32")
    save(tab, "search", "#train-more")
    tab.locator("#train-more button").first.click()
    tab.locator("#train-data_preview_btn").click()
    tab.locator("#train-rows mark").first.wait_for()
    save(tab, "preview", "#train-rows-box")
    tab.locator("#train-plan_btn").click()
    tab.locator("#train-plan .verdict").wait_for()
    save(tab, "plan", "#train-plan")
    run(tab, "gentle", "1e-4")
    run(tab, "brisk", "2e-3")
    to_top(tab, "#train-progress")
    save(tab, "run")
    show(tab, "jobs")
    for label in tab.locator("#jobs-list label").all()[:2]:
        label.click()
    tab.locator("#jobs-curves figure").first.wait_for()
    to_top(tab, "#jobs-list")
    save(tab, "jobs")
    for name in ("eval", "data", "export"):
        show(tab, name)
        save(tab, name)
    talk(tab)
    phone(browser, url)
    browser.close()


def talk(tab: Any) -> None:
    """Load what was trained, and ask."""
    box(tab, "top-checkpoint_path").click()
    tab.get_by_role("option", name="brisk", exact=True).first.click()
    box(tab, "top-checkpoint_path").blur()
    show(tab, "infer")
    tab.locator("#infer-load_btn").click()
    question = tab.locator("#question textarea").first
    question.wait_for()
    question.fill("What is the capital of France?")
    tab.locator("#send").click()
    tab.locator("#chat .bot").first.wait_for()
    tab.wait_for_timeout(10_000)
    to_top(tab, "#chat")
    save(tab, "chat")
    tab.locator("#infer-unload_btn").click()


def phone(browser: Any, url: str) -> None:
    """The page on a phone, in the dark."""
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}?__theme=dark")
    page.locator("#train-progress .progress").wait_for()
    to_top(page, "#train-progress")
    save(page, "phone")


def main() -> None:
    """Start, look, stop."""
    from playwright.sync_api import sync_playwright

    workspace = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="board-"))
    workspace.mkdir(parents=True, exist_ok=True)
    shutil.copytree(REPOSITORY / "data", workspace / "data", dirs_exist_ok=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    process, url = start(workspace)
    try:
        with sync_playwright() as driver:
            take(driver, url)
    finally:
        process.terminate()
        process.wait()
    print(json.dumps(sorted(path.name for path in IMAGES.glob("webui-*.png"))))


if __name__ == "__main__":
    main()
