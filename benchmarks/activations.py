# SPDX-License-Identifier: Apache-2.0
"""Peak memory and time of a forward and backward pass, by where activations wait.

    .venv/bin/python benchmarks/activations.py [--length 4096] [--hidden 512] [--layers 12]

A random Llama with LoRA in bfloat16; each row is a process of its own. Activations are what the peak is above the
memory after loading; the share is over that of the first row, where nothing is computed again or moved.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS: dict[str, dict[str, Any]] = {
    "all on the device": {"disable_gradient_checkpointing": True},
    "`activation_checkpointing: true`": {"activation_checkpointing": True},
    "`activation_keep: attention`": {"activation_keep": "attention"},
    "`activation_offload: disk`": {"activation_offload": "disk"},
}


def peak() -> int:
    """Return the most memory this process ever had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def measure(given: dict[str, Any], length: int) -> None:
    """Print bytes after loading, bytes at the peak, and seconds."""
    import torch

    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.token_scores import attach

    args = get_train_args(given)
    model = attach(load_model(load_tokenizer(args.model), args))
    ids = torch.randint(1000, (1, length), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids, "cu_seqlens": torch.tensor([0, length], dtype=torch.int32)}
    batch |= {"max_seqlen": length, "position_ids": torch.arange(length)[None]}
    small = {**batch, "input_ids": ids[:, :8], "labels": ids[:, :8], "position_ids": torch.arange(8)[None]}
    small |= {"cu_seqlens": torch.tensor([0, 8], dtype=torch.int32), "max_seqlen": 8}
    model(**small, score=True).log_probs.sum().backward()
    loaded, start = peak(), time.perf_counter()
    model(**batch, score=True).log_probs.sum().backward()
    print(json.dumps([loaded, peak(), time.perf_counter() - start]))


def make_model(folder: str, hidden: int, layers: int) -> None:
    """Write a random model with the tokenizer of the tests."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(1000)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), pad_token="w0")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1 << 16,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("length", 4096), ("hidden", 512), ("layers", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(json.loads(asked.one), asked.length)
        return
    print("| activations | MiB above the loaded model | share | seconds |\n|---|---|---|---|")
    whole = 0.0
    os.makedirs(".cache", exist_ok=True)  # on the disk of the checkout, and unknown to git if the script is killed
    with tempfile.TemporaryDirectory(dir=os.path.abspath(".cache"), prefix="activations-") as folder:
        make_model(folder, asked.hidden, asked.layers)
        for name, keys in ROWS.items():
            given = {"model_name_or_path": folder, "dataset": "none", "output_dir": f"{folder}/run", **keys}
            command = [sys.executable, __file__, "--length", str(asked.length), "--one", json.dumps(given)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            loaded, most, seconds = json.loads(done.stdout.splitlines()[-1])
            whole = whole or most - loaded
            size, share = (most - loaded) / 2**20, (most - loaded) / whole
            print(f"| {name} | {size:.0f} | {share:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
