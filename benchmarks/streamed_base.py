# SPDX-License-Identifier: Apache-2.0
"""Memory and time of QLoRA with the quantized base in memory, and in a file (``stream_layers``).

    .venv/bin/python benchmarks/streamed_base.py [--hidden 1024] [--layers 24] [--length 64]

A random Llama in bfloat16, nf4 with quantized scales, adapters on q_proj of next to no size; loading and one forward
and backward pass with recomputation, a process each; the file is made in the second row. *own* is the most memory that
is the process's own (RssAnon), above what it had before it loaded the model; *all* has the pages of mapped files too,
which the kernel takes back when memory is short.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from activations import make_model

BASE = {"quantization_bit": 4, "lora_target": "q_proj", "lora_rank": 1, "activation_checkpointing": True, "bf16": True}
ROWS: dict[str, dict[str, Any]] = {
    "in memory": {},
    "in a file, which is made": {"stream_layers": True},
    "in a file": {"stream_layers": True},
}


class Memory(threading.Thread):
    """Samples what this process holds; ``most`` in bytes: its own pages, and all."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = [0, 0]

    def run(self) -> None:
        while True:
            self.most = [max(pair) for pair in zip(self.most, resident(), strict=True)]
            time.sleep(0.01)


def resident() -> list[int]:
    """Bytes of pages of this process's own, and with those of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(status[key].split()[0]) for key in ("RssAnon", "VmRSS")]


def measure(given: dict[str, Any], length: int) -> None:
    """Print how far memory rose, seconds of loading and of the step, and a sum of gradients."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch

    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.token_scores import attach

    args = get_train_args(given)
    tokenizer = load_tokenizer(args.model)
    torch.ones(64, 64).bfloat16() @ torch.ones(64, 64).bfloat16()
    torch.manual_seed(0)
    before, memory, start = resident(), Memory(), time.perf_counter()
    memory.start()
    model: Any = attach(load_model(tokenizer, args))
    loaded = time.perf_counter()
    ids = torch.randint(1000, (1, length), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids, score=True).log_probs.sum().backward()
    seconds = time.perf_counter() - loaded
    total = sum(float(one.grad.double().abs().sum()) for one in model.parameters() if one.grad is not None)
    rises = [most - first for most, first in zip(memory.most, before, strict=True)]
    print(json.dumps([*rises, loaded - start, seconds, total]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("length", 64), ("hidden", 1024), ("layers", 24)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(json.loads(asked.one), asked.length)
        return
    print(
        "| quantized base | own, MiB | all, MiB | loading, s | step, s | sum of gradients |\n|---|---|---|---|---|---|"
    )
    os.makedirs(".cache", exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.abspath(".cache"), prefix="streamed-") as folder:
        make_model(folder, asked.hidden, asked.layers)
        for name, keys in ROWS.items():
            given = {"model_name_or_path": folder, "dataset": "none", "output_dir": f"{folder}/run", **BASE, **keys}
            given["offload_folder"] = f"{folder}/offload"
            command = [sys.executable, __file__, "--length", str(asked.length), "--one", json.dumps(given)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            own, everything, loading, step, total = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {own / 2**20:.0f} | {everything / 2**20:.0f} | {loading:.0f} | {step:.0f} | {total!r} |",
                flush=True,
            )
        [file] = Path(folder, "offload").iterdir()
        print(f"\nthe file: {file.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
