# SPDX-License-Identifier: Apache-2.0
"""The board as a process of its own in a workspace, and a person's hands on its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.jobs import Job, JobStore

REPOSITORY = Path(__file__).parents[2]
INSTALL = "the browser tests need Chromium: apt-get install chromium (make test does it where it may)"
READY = re.compile(r"ready at (http://\S+)")
PATIENCE = 60_000  # milliseconds; a machine under load is no failure


def launch_chromium(driver: Any) -> Any:
    """Start Debian's Chromium; a machine without one fails, so that these tests are never skipped unseen."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.fail(INSTALL)
    return driver.chromium.launch(executable_path=found, args=["--no-sandbox"])  # tests may run as root


def make_workspace(folder: Path, model: Path) -> Path:
    """A folder as a newcomer has it: demo data; and a saved configuration for a model that trains in seconds."""
    (folder / "data").mkdir(parents=True)
    rows = [{"instruction": f"count {number}", "output": f"{number} " * (number % 7 + 1)} for number in range(48)]
    (folder / "data" / "tiny.json").write_text(json.dumps(rows))
    (folder / "data" / "broken.json").write_text(json.dumps([{"nothing": "to learn"}] * 4))
    sets = {"tiny": {"file_name": "tiny.json"}, "broken": {"file_name": "broken.json"}}
    (folder / "data" / "dataset_info.json").write_text(json.dumps(sets))
    preset = {
        "top.model_name": "",
        "top.model_path": str(model),
        "top.template": "chatml",
        "train.dataset": ["tiny"],
        "train.cutoff_len": 64,
        "train.learning_rate": "1e-3",
        "train.batch_size": "4",
        "train.logging_steps": "1",
        "train.max_steps": "12",
    }
    (folder / "llamaboard_config").mkdir()
    (folder / "llamaboard_config" / "tiny.yaml").write_text(yaml.safe_dump(preset))
    return folder


class BoardServer:
    """``llamafactory-cli webui`` in a workspace; may be killed and started anew at the same port."""

    def __init__(self, workspace: Path, **variables: str) -> None:
        self.workspace = workspace
        self._variables = variables
        self.port = 0
        self.url = ""
        self.seconds = 0.0  # from start to the address
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the command and wait for the address that it prints."""
        log = self.workspace / f"server-{time.monotonic_ns()}.log"
        path = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "GRADIO_SERVER_PORT": str(self.port), **self._variables}
        began = time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "llamafactory", "webui"], cwd=self.workspace, stdout=file,
                stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
        while (found := READY.search(log.read_text())) is None:
            assert self._process.poll() is None and time.monotonic() - began < 120, log.read_text()
            time.sleep(0.1)
        self.seconds = time.monotonic() - began
        self.url = found[1]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it, and every job that still goes on."""
        assert self._process is not None
        store = JobStore(self.workspace)
        for job in store.list(["queued", "running", "stopping"]):
            store.cancel(job.id)
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)
        wait_until(lambda: not store.list(["running", "stopping"]))

    def start_and_wait(self, page: Page, name: str) -> Job:
        """Start a run from a page and wait until it trains."""
        job = page.start_run(self, name)
        page.tab.locator("#train-curves figure").first.wait_for()
        wait_until(lambda: self.jobs.get(job.id).state == "running")
        return job

    @property
    def jobs(self) -> JobStore:
        """The jobs of the workspace."""
        return JobStore(self.workspace)


def wait_until(holds: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return value


class Page:
    """A page in the browser; what goes wrong in it is kept."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.tab.on(
            "console", lambda said: self.wrong.append(f"{said.text} {said.location}") if said.type == "error" else None
        )
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("response", lambda one: self.wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        self.tab.on("request", lambda one: self.asked.append(one.url))
        self.tab.goto(url)
        self.tab.locator("#train-start_btn").wait_for()

    def close(self) -> None:
        """Close the window."""
        self.context.close()

    def open_tab(self, name: str) -> None:
        """Go to a tab by its place: its name is in the page's language."""
        self.tab.locator(f"#tab-{name}-button").click()
        self.tab.locator(f"#tab-{name}-button[aria-selected=true]").wait_for()

    def box(self, name: str) -> Any:
        """The box of a text field, ``TAB-NAME``."""
        return self.tab.locator(f"#{name} textarea, #{name} input").first

    def fill(self, name: str, text: str) -> None:
        """Write into a text field and leave it."""
        self.box(name).fill(text)
        self.box(name).blur()

    def choose(self, name: str, label: str) -> None:
        """Choose from a list."""
        self.box(name).click()
        self.tab.get_by_role("option", name=label, exact=True).first.click()

    def press(self, name: str) -> None:
        """Press a button."""
        self.tab.locator(f"#{name}").click()

    def choose_many(self, name: str, labels: list[str], instead_of: list[str] | None = None) -> None:
        """Choose from a list that takes several."""
        for label in instead_of or []:
            chip = self.tab.locator(f"#{name} .token", has_text=label)
            chip.locator(".token-remove").click()
            chip.wait_for(state="detached")
        for label in labels:
            self.box(name).click()
            self.tab.get_by_role("option", name=label, exact=True).first.click()
            self.tab.locator(f"#{name} .token", has_text=label).wait_for()
        self.box(name).blur()

    def unfold(self, title: str) -> None:
        """Open a folded group."""
        self.tab.get_by_role("button", name=title).first.click()

    def load_preset(self, name: str = "tiny") -> None:
        """Load a saved configuration and wait until it shows."""
        self.choose("train-preset", name)
        self.press("train-arg_load_btn")
        wait_until(lambda: self.box("train-learning_rate").input_value() == "1e-3" or self.tab.wait_for_timeout(50))

    def start_run(self, server: BoardServer, name: str) -> Job:
        """Start a run under a name; gives its job."""
        before = {job.id for job in server.jobs.list()}
        self.fill("train-output_dir", name)
        self.press("train-start_btn")

        def started() -> Job | None:
            self.tab.wait_for_timeout(50)
            return next((job for job in server.jobs.list() if job.id not in before), None)

        return wait_until(started)  # type: ignore[no-any-return]


@contextmanager
def opened(browser: Any, url: str, **settings: Any) -> Iterator[Page]:
    """A page, closed at the end; nothing may have gone wrong in it."""
    page = Page(browser, url, **settings)
    try:
        yield page
        assert page.wrong == [], page.wrong
    finally:
        page.close()
