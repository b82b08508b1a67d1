# SPDX-License-Identifier: Apache-2.0
"""Start-up and the quickstart's training in two checkouts of this project, in turn in one run.

    git worktree add ../before REVISION
    .venv/bin/python benchmarks/before_after.py ../before [--rounds 3] [--steps 20]

Prints a Markdown table of medians and the ratio after / before. Both use the packages of this environment; the model
must have been converted once (`make quickstart`). Seconds of training are the run's own ``train_runtime``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = "examples/quickstart.yaml"
START_UPS = 10  # a start is short: so many each round


def timed(checkout: Path, *words: str) -> float:
    """Run a command of one checkout; returns wall seconds."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory", *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - start


def train(checkout: Path, steps: int) -> tuple[float, float]:
    """Train so many steps of the quickstart; returns the run's own seconds and its loss."""
    with tempfile.TemporaryDirectory() as folder:
        timed(checkout, "train", CONFIG, f"output_dir={folder}/run", f"max_steps={steps}", "save_strategy=no")
        results = json.loads(Path(folder, "run", "all_results.json").read_text("utf-8"))
    return results["train_runtime"], results["train_loss"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(options.rounds):
        sides = [("before", options.before.resolve()), ("after", REPOSITORY)]
        for side, checkout in sides if number % 2 == 0 else reversed(sides):
            for command in ("version", "help"):
                figures[f"`{command}`, s"][side] += [timed(checkout, command) for _ in range(START_UPS)]
            seconds, loss = train(checkout, options.steps)
            figures[f"{options.steps} steps, s"][side].append(seconds)
            figures["loss"][side].append(loss)
    print("| figure | before | after | after / before |\n|---|---|---|---|")
    for name, sides_of in figures.items():
        before, after = (statistics.median(sides_of[side]) for side in ("before", "after"))
        print(f"| {name} | {before:.4g} | {after:.4g} | {after / before:.3f} |")


if __name__ == "__main__":
    main()
