# SPDX-License-Identifier: Apache-2.0
"""Steps on a machine whose cores are idle, and on one with a core taken by somebody else.

    .venv/bin/python benchmarks/threads.py [--rounds 2] [--steps 8]

Prints a Markdown table: the median seconds of a step (LoRA on SmolLM2-135M-Instruct, the same rows in each run), and
its ratio to one thread under the same conditions. The first two steps are left out. `before` is how threads were set
when a wait did not spin and nobody looked at the cores. Bars: with a core taken `auto` is at most 1.3 times one
thread; on idle cores it is at most `before`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training import CACHE, REPOSITORY, common_keys, local_model

WISHES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCH_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SIDES: dict[str, tuple[str, dict[str, str]]] = {
    "one thread": ("1", {}),
    "before: all cores": (str(os.cpu_count()), {"OMP_WAIT_POLICY": "PASSIVE"}),
    "auto": ("auto", {}),
}


@contextmanager
def taken(cores: int) -> Iterator[None]:
    """Somebody else computes on so many cores."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def step_seconds(model: Path, threads: str, env: dict[str, str], steps: int) -> tuple[list[float], str]:
    """Train and return the seconds of each step but the first two, and what was said about threads."""
    output_dir = CACHE / "threads"
    keys = common_keys(model, output_dir, steps) | {
        "dataset": "alpaca_en_demo",
        "dataset_dir": str(REPOSITORY / "data"),
        "stage": "sft",
        "threads": threads,
        "gradient_accumulation_steps": 1,
    }
    words = [f"{key}={value}" for key, value in keys.items()]
    clean = {name: value for name, value in os.environ.items() if name not in WISHES}
    command = [sys.executable, "-m", "llamafactory.cli", "train", *words]
    done = subprocess.run(command, env=clean | env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    rates = [row["trained_tokens_per_second"] for row in history if "trained_tokens_per_second" in row]
    said = [line for line in done.stderr.splitlines() if " threads: " in line]
    # The rows of a step are the same in all runs, so that 1 / rate is its time up to a factor of its own.
    return [1 / rate for rate in rates[2:]], said[-1].partition("] ")[2] if said else ""


def main() -> None:
    """Take all sides in turns, idle and with a core taken, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    model = local_model()
    found: dict[tuple[int, str], list[list[float]]] = {}
    for number in range(options.rounds):
        for cores in (0, 1):
            for name, (threads, env) in SIDES.items():
                with taken(cores):
                    seconds, said = step_seconds(model, threads, env, options.steps)
                found.setdefault((cores, name), []).append(seconds)
                print(
                    f"round {number + 1}, {cores} taken, {name}: {said}, load {os.getloadavg()[0]:.1f}", file=sys.stderr
                )
    print(f"| cores taken (of {os.cpu_count()}) | threads | a step, to one thread's |\n|---|---|---|")
    for (cores, name), rounds in found.items():
        print(f"| {cores} | {name} | {ratio(rounds, found[cores, 'one thread']):.2f} |")


def ratio(rounds: list[list[float]], one: list[list[float]]) -> float:
    """Median over steps of their mean time to that of the same step with one thread."""
    means = [[statistics.mean(times) for times in zip(*some, strict=True)] for some in (rounds, one)]
    return statistics.median(ours / theirs for ours, theirs in zip(*means, strict=True))


if __name__ == "__main__":
    main()
