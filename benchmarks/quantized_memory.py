# SPDX-License-Identifier: Apache-2.0
"""Peak memory of QLoRA against LoRA: a random model of 500 million parameters, some steps in a process each.

``python benchmarks/quantized_memory.py`` prints, for each way to hold the base weights, how far the resident memory
rose above what the process had before it loaded the model, and the speed. Pages of the weight file that the kernel
mapped for reading are counted apart: they are given back when anybody needs them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "LoRA, bf16": {},
    "QLoRA, nf4 double": {"quantization_bit": 4},
    "QLoRA, bnb int8": {"quantization_bit": 8},
    "QLoRA, torchao int8": {"quantization_bit": 8, "quantization_method": "torchao"},
    "QLoRA, quanto int8": {"quantization_bit": 8, "quantization_method": "quanto"},
    "QLoRA, hqq 4": {"quantization_bit": 4, "quantization_method": "hqq"},
}


def make_model(folder: Path, tokenizer_of: str) -> None:
    """A Llama of 24 layers with random bfloat16 weights, and a tokenizer of somebody else's."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=1280, intermediate_size=3456, num_hidden_layers=24,
        num_attention_heads=20, num_key_value_heads=20, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.0f} million parameters")
    model.save_pretrained(folder, max_shard_size="200MB")
    tokenizer.save_pretrained(folder)


class Memory(threading.Thread):
    """Samples the resident memory of this process; ``peaks`` in bytes: of its own pages, and with pages of files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks = [0, 0]

    def run(self) -> None:
        while True:
            self.peaks = [max(pair) for pair in zip(self.peaks, resident(), strict=True)]
            time.sleep(0.01)


def resident() -> list[int]:
    """Bytes of memory of this process's own, and with what it mapped of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, whole = (1024 * int(status[key].split()[0]) for key in ("RssAnon", "VmRSS"))
    return [anonymous, whole]


def train(keys: dict[str, Any]) -> None:
    """Train once and print the figures as JSON."""
    import peft  # noqa: F401
    import torch  # noqa: F401

    from llamafactory.train import workflow
    from llamafactory.train.tuner import run_exp

    sampler, before = Memory(), [0, 0]
    load = workflow.load_model

    def watched(*args: Any, **more: Any) -> Any:
        before[:] = resident()
        sampler.start()
        return load(*args, **more)

    workflow.load_model = watched
    run_exp(keys)
    results = json.loads((Path(keys["output_dir"]) / "train_results.json").read_text())
    rises = [(peak - start) / 2**30 for peak, start in zip(sampler.peaks, before, strict=True)]
    figures = {"own": rises[0], "with_files": rises[1], "seconds": results["train_runtime"]}
    print("FIGURES " + json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="folder of a model whose tokenizer is used")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a row; one row a step")
    parser.add_argument("--only", default="", help="a part of the names of the ways to measure")
    parser.add_argument("--keys", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.keys:
        train(json.loads(given.keys))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder / "model", given.tokenizer)
        rows = [{"text": "The river runs from the hills to the sea. " * (given.tokens // 8)} for _ in range(8)]
        (folder / "rows.json").write_text(json.dumps(rows))
        first: dict[str, float] = {}
        print("| base weights | rise of memory, GiB | of LoRA's | with pages of the file | s a step |")
        print("|---|---|---|---|---|")
        for name, more in WAYS.items():
            if given.only not in name and first:
                continue
            keys = {
                "model_name_or_path": str(folder / "model"), "dataset": str(folder / "rows.json"), "stage": "pt",
                "template": "empty", "cutoff_len": given.tokens, "packing": False, "overlong": "truncate",
                "output_dir": str(folder / "run"), "overwrite_output_dir": True, "max_steps": given.steps,
                "per_device_train_batch_size": 1, "learning_rate": 1e-4, "save_strategy": "no", "disable_tqdm": True,
                "activation_checkpointing": True, **more,
            }  # fmt: skip
            command = [sys.executable, __file__, "--tokenizer", given.tokenizer, "--keys", json.dumps(keys)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            line = next((line for line in done.stdout.splitlines() if line.startswith("FIGURES ")), None)
            if line is None:
                sys.exit(done.stderr[-3000:])
            found = json.loads(line.removeprefix("FIGURES "))
            first = first or found
            print(
                f"| {name} | {found['own']:.2f} | {found['own'] / first['own']:.2f} | {found['with_files']:.2f} | "
                f"{found['seconds'] / given.steps:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
