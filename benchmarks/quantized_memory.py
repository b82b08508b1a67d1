# SPDX-License-Identifier: Apache-2.0
"""Peak memory of QLoRA against LoRA: a random model of 500 million parameters, some steps in a process each.

``python benchmarks/quantized_memory.py`` prints, for each way to hold the base weights, how far the resident memory
rose above what the process had before it loaded the model, and the speed. While a model is loaded and quantized, the
pages of its file are mapped to be read once; they are counted apart, for the kernel drops them when memory is short.
In training all pages count: the bfloat16 weights of LoRA stay in pages of the file and are needed at every step.
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
    """Samples the resident memory of this process; ``peaks`` in bytes, of each phase."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.phase = "loading"
        self.peaks: dict[str, list[int]] = {"loading": [0, 0], "training": [0, 0]}

    def run(self) -> None:
        while True:
            self.peaks[self.phase] = [max(pair) for pair in zip(self.peaks[self.phase], resident(), strict=True)]
            time.sleep(0.01)


def resident() -> list[int]:
    """Bytes of memory of this process's own, and with what it mapped of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(status[key].split()[0]) for key in ("RssAnon", "VmRSS")]


def train(keys: dict[str, Any]) -> None:
    """Train once and print the figures as JSON."""
    from llamafactory.launcher import prepare_environment

    prepare_environment()  # as for the command
    import peft  # noqa: F401
    import torch  # noqa: F401

    from llamafactory.train import workflow
    from llamafactory.train.tuner import run_exp

    sampler, before = Memory(), [0, 0]
    load = workflow.load_model

    def watched(*args: Any, **more: Any) -> Any:
        before[:] = resident()
        sampler.start()
        model = load(*args, **more)
        sampler.phase = "training"
        return model

    workflow.load_model = watched
    run_exp(keys)
    results = json.loads((Path(keys["output_dir"]) / "train_results.json").read_text())
    rises = [
        (sampler.peaks["loading"][0] - before[0]) / 2**30,
        (sampler.peaks["loading"][1] - before[1]) / 2**30,
        (sampler.peaks["training"][1] - before[1]) / 2**30,
    ]
    print("FIGURES " + json.dumps([*rises, results["train_runtime"]]), flush=True)


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
        first = 0.0
        print("| base weights | in training, GiB | of LoRA's | loading, own pages | with the file's | s a step |")
        print("|---|---|---|---|---|---|")
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
            own, mapped, training, seconds = json.loads(line.removeprefix("FIGURES "))
            first = first or training
            row = [name, f"{training:.2f}", f"{training / first:.2f}", f"{own:.2f}", f"{mapped:.2f}"]
            print(f"| {' | '.join(row)} | {seconds / given.steps:.1f} |", flush=True)


if __name__ == "__main__":
    main()
