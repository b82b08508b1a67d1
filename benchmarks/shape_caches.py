# SPDX-License-Identifier: Apache-2.0
"""Memory and processor time of LoRA on rows of all lengths, by how many shapes torch's two caches on a CPU keep.

    .venv/bin/python benchmarks/shape_caches.py FOLDER_OF_SMOLLM2 [--steps 60] [--rounds 1]

Each run is a process of its own; the settings take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS = (1024, 128, 64)  # the first is torch's own
VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
DATA = Path(__file__).resolve().parents[1] / "data"


def resident() -> int:
    """Return the memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def train(model: str, steps: int) -> None:
    """Train in this process and print memory and seconds at a third of the way and at the end."""
    from llamafactory.launcher import prepare_environment

    prepare_environment()
    from transformers import TrainerCallback

    from llamafactory.train.tuner import run_exp

    class Watch(TrainerCallback):
        seconds = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.seconds += time.process_time() - self.start
            if state.global_step in (steps // 3, steps):
                print(f"SEEN {state.global_step} {resident()} {self.seconds:.1f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "model_name_or_path": model, "template": "smollm2", "dataset": "alpaca_en_demo", "dataset_dir": str(DATA),
            "max_samples": 400, "cutoff_len": 512, "packing": False, "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1, "max_steps": steps, "save_strategy": "no", "use_cpu": True, "threads": 1,
            "learning_rate": 1e-4, "disable_tqdm": True, "output_dir": folder, "overwrite_output_dir": True,
        }  # fmt: skip
        run_exp(keys, [Watch()])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        train(given.model, given.steps)
        return
    print("| shapes kept | step | resident, MiB | processor, s |\n|---|---|---|---|")
    for _ in range(given.rounds):
        for kept in SETTINGS:
            command = [sys.executable, __file__, given.model, "--steps", str(given.steps), "--here"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict.fromkeys(VARIABLES, str(kept))}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                if line.startswith("SEEN "):
                    print(f"| {kept} | {' | '.join(line.split()[1:])} |", flush=True)


if __name__ == "__main__":
    main()
