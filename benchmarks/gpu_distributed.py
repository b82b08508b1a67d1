# SPDX-License-Identifier: Apache-2.0
"""Copies, shards, ZeRO and shared rows on all GPUs of a machine: see ``gpu_distributed.sh``."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from distributed import make_model, make_rows, run

# Dense bfloat16, FLOP/s, by a word of the device's name (vendors' data sheets).
SPEEDS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12, "MI300": 1307e12}
_ZERO = {"train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": "auto"}}
ENGINES: dict[str, dict[str, Any]] = {
    "copies": {},
    "fsdp": {"fsdp": "full_shard"},
    "zero 2": {"deepspeed": {**_ZERO, "zero_optimization": {"stage": 2}}},
    "zero 3": {"deepspeed": {**_ZERO, "zero_optimization": {"stage": 3}}},
    "shared rows": {"context_parallel_size": 2},
}
# Name -> layers, width, method.
SHAPES = {"0.5B, full": (26, 1024, "full"), "8B, lora": (40, 3584, "lora")}
TINY = {"tiny, full": (2, 64, "full"), "tiny, lora": (2, 64, "lora")}


def measure(keys: dict[str, Any], ranks: int, tokens: int, weights: int, folder: Path) -> list[str]:
    """Train and return the cells of a row."""
    try:
        _, notes = run(keys, ranks, folder)
    except SystemExit as error:
        return [str(error).strip().splitlines()[-1][:90], "", ""]
    begun = notes[0]["begun"]
    step = statistics.median(after - before for before, after in pairwise(begun[2:]))
    rows = ranks // keys.get("context_parallel_size", 1)
    speed = tokens * rows / step
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    most = next((value for word, value in SPEEDS.items() if word in name), None)
    work = 6 if keys["finetuning_type"] == "full" else 4  # frozen weights have no gradients of their own
    share = f"{work * weights * speed / (most * ranks):.2f}" if most else "-"
    peak = max(note["device_mb"] or note["own_mb"] for note in notes)
    return [f"{speed:,.0f}", share, f"{peak:,.0f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    ranks = 2 if tiny else torch.cuda.device_count()
    if not ranks:
        parser.error("no GPU here; --tiny runs on the CPU")
    length = 64 if tiny else 2048
    print(f"{ranks} x {'CPU process' if tiny else torch.cuda.get_device_name()}, rows of {length} tokens\n")
    print("| shape | engine | tokens/s | MFU | peak MB a process |\n|---|---|---|---|---|", flush=True)
    for shape, (layers, hidden, kind) in (TINY if tiny else SHAPES).items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with torch.device("cpu" if tiny else "cuda"):
                weights = make_model(folder / "model", layers, hidden, "bfloat16", quiet=True)
            torch.cuda.empty_cache()
            keys: dict[str, Any] = {
                "model_name_or_path": str(folder / "model"), "dataset": str(make_rows(folder, length)),
                "cutoff_len": length, "max_steps": 6, "finetuning_type": kind, "bf16": True, "use_cpu": tiny,
            }  # fmt: skip
            for engine, more in ENGINES.items():
                if engine.startswith("zero") and find_spec("deepspeed") is None:
                    cells = ["deepspeed is not installed", "", ""]
                elif more and ranks < 2:
                    cells = ["needs two GPUs", "", ""]
                else:
                    pure = {"pure_bf16": True} if kind == "full" and "deepspeed" not in more else {}
                    cells = measure({**keys, **pure, **more}, ranks, length, weights, folder)
                print(f"| {shape} | {engine} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
