# SPDX-License-Identifier: Apache-2.0
"""How long a look at a long history takes: 200 jobs, 500 checkpoints in the folder of results.

.venv/bin/python benchmarks/jobs.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamafactory.jobs import JobStore, ensure_runner
from llamafactory.jobs.progress import Curve, _thin_curves, curves, overlay, progress, tail

JOBS, CHECKPOINTS, STEPS, MANY_STEPS = 200, 500, 2000, 20_000


def history(workspace: Path) -> JobStore:
    """Make jobs that have ended, each with a curve and a full log of output; the last one has the checkpoints."""
    store = JobStore(workspace)
    for number in range(JOBS):
        job = store.submit("train", {f"key_{key}": "x" * 20 for key in range(60)} | {"output_dir": f"saves/{number}"})
        store.begin(job.id)
        store.finish(job.id, "done", 0, "", time.time())
        if number >= JOBS - 3:
            (job.folder / "output.log").write_bytes(b"step 1/2  loss 3.0\n" * 800_000)
            (workspace / "saves" / str(number)).mkdir(parents=True)
            (workspace / "saves" / str(number) / "trainer_log.jsonl").write_text(
                log_of(MANY_STEPS if number == JOBS - 2 else STEPS)
            )
    for step in range(CHECKPOINTS):
        folder = workspace / "saves" / str(JOBS - 1) / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"):
            (folder / name).write_bytes(b"x")
    return store


def log_of(steps: int) -> str:
    """Return a log of so many lines."""
    rows = [
        {
            "current_steps": step, "total_steps": steps, "loss": 5 / step, "lr": 1e-4, "grad_norm": 1.0,
            "percentage": step / steps, "elapsed_time": "0:00:01", "remaining_time": "0:00:01",
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


def milliseconds(action: Callable[[], Any], rounds: int = 15) -> tuple[float, float]:
    """The medians of some rounds: as a clock sees it, and of the processor alone (of this process)."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter(), time.process_time()
        action()
        times.append((1000 * (time.perf_counter() - begin[0]), 1000 * (time.process_time() - begin[1])))
    clock, processor = zip(*times, strict=True)
    return statistics.median(clock), statistics.median(processor)


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:
        store = history(Path(folder))
        job = store.get(JOBS)
        curve = Curve(job)
        curve.update()
        forget = _thin_curves.cache_clear
        rows = {
            "list, 200 jobs": lambda: store.list(),
            "list, the newest 20": lambda: store.list(limit=20),
            "list and progress of 20": lambda: [progress(one) for one in store.list(limit=20)],
            "ensure_runner with nothing to do": lambda: ensure_runner(store.workspace),
            "tail, of 15 MiB": lambda: tail(job),
            "progress, 500 checkpoints": lambda: progress(job),
            f"curves, {STEPS:,} steps, for the first time": lambda: (forget(), curves(job)),
            f"curves, {MANY_STEPS:,} steps, for the first time": lambda: (forget(), curves(store.get(JOBS - 1))),
            "curves, for the second time": lambda: curves(job),
            "curves, what has come since": lambda: curve.update(),
            "overlay of these three": lambda: (forget(), overlay(store.list(limit=3))),
            "submit and cancel": lambda: store.cancel(store.submit("train", {"output_dir": "x"}).id),
        }
        print("| median of 15 | ms | of these, the processor's |\n|---|---|---|")
        for name, action in rows.items():
            clock, processor = milliseconds(action)
            print(f"| {name} | {clock:.1f} | {processor:.1f} |")


if __name__ == "__main__":
    main()
