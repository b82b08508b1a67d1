# SPDX-License-Identifier: Apache-2.0
"""State and step time of every optimizer that installs, over the same random weights and gradients.

    .venv/bin/python benchmarks/optimizers.py [--hidden 512] [--layers 4] [--steps 10]

A Llama of float32 weights, all trained. State is the bytes of tensors that the optimizer keeps, a trained weight each;
time is the median step alone, without forward and backward, over that of `adamw_torch_fused`, the default.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.train.optim import create_optimizer
from llamafactory.train.training_arguments import transformers_arguments

RANK = 64
ROWS: dict[str, dict[str, Any]] = {
    **{name: {"optim": name} for name in ("adamw_torch_fused", "adamw_torch", "adafactor", "adamw_8bit")},
    **{name: {"optim": name} for name in ("lion", "lion_8bit", "soap")},
    **{name: {"optim": name} for name in ("prodigy", "schedule_free_adamw", "ademamix_8bit", "sgd")},
    "use_galore": {"use_galore": True, "galore_rank": RANK},
    "use_galore, adamw_8bit": {"use_galore": True, "galore_rank": RANK, "optim": "adamw_8bit"},
    "use_apollo": {"use_apollo": True, "apollo_rank": RANK},
    "use_apollo, rank 1, tensor": {"use_apollo": True, "apollo_rank": 1, "apollo_scale_type": "tensor"},
    "use_badam": {"use_badam": True},
    "use_badam, ratio 0.05": {"use_badam": True, "badam_mode": "ratio"},
    "use_adam_mini": {"use_adam_mini": True},
    "use_muon": {"use_muon": True},
    **{name: {"optim": name} for name in ("adamw_torch_8bit", "adamw_torch_4bit")},  # compiled at their first step
}


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a state, those inside quantized ones too."""
    if isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_of(part)
    elif hasattr(value, "__tensor_flatten__") and type(value) is not torch.Tensor:
        for name in value.__tensor_flatten__()[0]:
            yield from tensors_of(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value


def state_bytes(optimizer: Any) -> int:
    """Return the bytes that an optimizer keeps between steps; what several weights share counts once."""
    kept = [*tensors_of(optimizer.state_dict()["state"]), *getattr(optimizer, "standins", {}).values()]
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}.values())


def measure(keys: dict[str, Any], config: LlamaConfig, steps: int) -> tuple[float, float, float]:
    """Return bytes of state a weight, and seconds of a usual step and of the slowest (a new projection)."""
    with tempfile.TemporaryDirectory() as folder:
        base = {"model_name_or_path": "none", "dataset": "none", "finetuning_type": "full", "bf16": False}
        args = get_train_args({**base, "output_dir": str(Path(folder) / "run"), "use_cpu": True, **keys})
        arguments = transformers_arguments(args)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    count = sum(weight.numel() for weight in model.parameters())
    optimizer: Any = create_optimizer(model, args, arguments)
    if optimizer is None:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        optimizer = kind(model.parameters(), **options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    seconds = []
    for _ in range(steps):
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight) if weight.requires_grad else None
        start = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return state_bytes(optimizer) / count, statistics.median(seconds), max(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden", 512), ("layers", 4), ("steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    config = LlamaConfig(
        vocab_size=4096, hidden_size=given.hidden, intermediate_size=4 * given.hidden, num_hidden_layers=given.layers,
        num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    print("| optimizer | bytes of state a weight | step / AdamW's | slowest step, s |\n|---|---|---|---|")
    reference = 0.0
    for name, keys in ROWS.items():
        try:
            size, seconds, slowest = measure(keys, config, given.steps)
        except ConfigError as error:
            print(f"| `{name}` | – | – | {error} |")
            continue
        reference = reference or seconds
        print(f"| `{name}` | {size:.2f} | {seconds / reference:.1f} | {slowest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
