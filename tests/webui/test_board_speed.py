# SPDX-License-Identifier: Apache-2.0
"""A workspace that was used for long: 500 checkpoints, 200 jobs. What is measured is printed and no condition."""

from __future__ import annotations

import pytest

from llamafactory.jobs import JobStore

from .board import BoardServer, Page, make_workspace, opened, wait_until

# In the browser's own clock: from the click until what was asked for is to be seen.
CLOCK = """async ([press, wanted]) => {
  const begin = performance.now();
  const target = document.querySelector(press);
  if (target.tagName === 'INPUT') target.focus(); else target.click();
  for (;;) {
    const found = document.querySelector(wanted);
    if (found && found.offsetParent !== null) return performance.now() - begin;
    await new Promise(again => setTimeout(again, 5));
  }
}"""


class Clock:
    """Both times of what is done on a page: as somebody waits, and what the page's own thread computed meanwhile."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._session = page.context.new_cdp_session(page.tab)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.figures: dict[str, tuple[int, int]] = {}

    def take(self, name: str, press: str, wanted: str) -> None:
        """Press something and wait until something is seen."""
        before = self._processor()
        waited = self._page.tab.evaluate(CLOCK, [press, wanted])
        self.figures[name] = (round(waited), round(self._processor() - before))
        self._page.tab.wait_for_timeout(700)

    def _processor(self) -> float:
        found = {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"]) * 1000


@pytest.mark.slow
def test_a_workspace_that_was_used_for_long(chromium, make_tiny_model, tmp_path, capsys):
    model = make_tiny_model()
    work = make_workspace(tmp_path / "work", model)
    runs = work / "saves" / model.name / "lora"
    for number in range(500):
        folder = runs / f"run{number // 25}" / f"checkpoint-{number % 25 + 1}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    store = JobStore(work)
    for number in range(200):
        job = store.submit("train", {"do_train": True, "output_dir": f"saves/run{number}"}, name=f"run{number}")
        store.cancel(job.id)
    server = BoardServer(work)
    try:
        with opened(chromium, server.url) as page:
            first = round(page.tab.evaluate("performance.now()"))
            clock = Clock(page)
            page.load_preset()
            for again in ("first", "again"):
                for tab in ("jobs", "export", "eval", "infer", "data", "train"):
                    clock.take(f"tab {tab}, {again}", f"#tab-{tab}-button", f"#tab-{tab}-button[aria-selected=true]")
            for name in ("model_name", "checkpoint_path", "model_name", "checkpoint_path"):
                clock.take(f"list {name}", f"#top-{name} input", "[role=option]")
                page.tab.keyboard.press("Escape")
                page.tab.wait_for_timeout(500)
            page.open_tab("jobs")
            wait_until(lambda: page.tab.locator("#jobs-list label").count() >= 25 or page.tab.wait_for_timeout(50))
    finally:
        server.stop()
    with capsys.disabled():
        print(f"\nthe address after {server.seconds:.1f} s, the page {first} ms after it was asked for")
        print(
            "\n".join(
                f"{name}: {waited} ms, of them {own} of the page's" for name, (waited, own) in clock.figures.items()
            )
        )
