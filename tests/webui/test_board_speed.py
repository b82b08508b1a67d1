# SPDX-License-Identifier: Apache-2.0
"""A workspace that was used for long: 500 checkpoints, 200 jobs. What is measured is printed and no condition."""

from __future__ import annotations

import json

import pytest

from llamafactory.jobs import JobStore

from .board import BoardServer, make_workspace, opened, wait_until

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
    figures: dict[str, float] = {}
    try:
        with opened(chromium, server.url) as page:
            entry = "JSON.parse(JSON.stringify(performance.getEntriesByType('navigation')[0])).domComplete"
            figures["first page, ms since it was asked for"] = page.tab.evaluate("performance.now()")
            figures["document complete"] = page.tab.evaluate(entry)
            page.load_preset()
            for again in ("first", "again"):
                for tab in ("jobs", "export", "eval", "infer", "data", "train"):
                    press, wanted = f"#tab-{tab}-button", f"#tab-{tab}-button[aria-selected=true]"
                    figures[f"tab {tab}, {again}"] = page.tab.evaluate(CLOCK, [press, wanted])
                    page.tab.wait_for_timeout(500)
            figures["list of models"] = page.tab.evaluate(CLOCK, ["#top-model_name input", "[role=option]"])
            page.tab.keyboard.press("Escape")
            page.tab.wait_for_timeout(500)
            figures["list of checkpoints"] = page.tab.evaluate(CLOCK, ["#top-checkpoint_path input", "[role=option]"])
            page.tab.keyboard.press("Escape")
            page.open_tab("jobs")
            wait_until(lambda: page.tab.locator("#jobs-list label").count() >= 25 or page.tab.wait_for_timeout(50))
    finally:
        server.stop()
    with capsys.disabled():
        print(json.dumps({name: round(value) for name, value in figures.items()}, indent=2))
