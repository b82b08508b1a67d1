# SPDX-License-Identifier: Apache-2.0
"""Every tuner, quantizer, optimizer, number format and memory key: some steps on one batch of a random model.

    .venv/bin/python benchmarks/gpu_methods.py [--tiny] [--only WORD] [--steps 8] [--length 512]

One row a configuration: first and last loss, tokens a second, peak memory above what stood there before, and the
state: ``ok`` (the loss falls), the line of a refusal, or what went wrong. Model, optimizer and loss are made as a run
makes them; the loop is plain, so that no data set and no package ``datasets`` is needed. Methods come from the
examples. What a run's callbacks do is not seen here: AdaLoRA's schedule, EVA's and CorDA's start.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_OF_METHOD = ("finetuning_type", "peft_config", "lora_", "use_", "pissa_", "oft_", "freeze_", "galore_", "apollo_",
              "badam_", "optim", "additional_target", "pure_bf16", "add_")  # fmt: skip
# Begin with batches of a run, or with a model of their own; are losses; are rows below.
_UNSEEN = ("eva", "corda", "lora_ga", "llama_pro", "losses", "memory")
_COMPILED = ("adamw_torch_8bit",)  # minutes on a CPU

FULL = {"finetuning_type": "full"}
PURE = {**FULL, "pure_bf16": True}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "bnb nf4": {"quantization_bit": 4},
    "bnb fp4": {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False},
    "bnb int8": {"quantization_bit": 8},
    **{f"hqq {bits}": {"quantization_bit": bits, "quantization_method": "hqq"} for bits in (2, 4)},
    "torchao int8": {"quantization_bit": 8, "quantization_method": "torchao"},
    "torchao fp8": {"quantization_bit": 8, "quantization_method": "torchao", "quantization_type": "fp8"},
    "torchao int4": {"quantization_bit": 4, "quantization_method": "torchao"},
    "quanto int8": {"quantization_bit": 8, "quantization_method": "quanto"},
    "eetq (serving only)": {"quantization_bit": 8, "quantization_method": "eetq"},
    "bnb nf4, `stream_layers`": {"quantization_bit": 4, "stream_layers": True},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    **{name: {"optim": name} for name in (
        "adamw_torch_fused", "adafactor", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit", "lion_8bit",
        "ademamix_8bit", "schedule_free_adamw", "prodigy", "soap", "lion",
    )},
    "loraplus": {"loraplus_lr_ratio": 16.0},
    "muon lora": {"use_muon": True},
    "stochastic rounding": {**PURE, "stochastic_rounding": True},
    "galore layerwise": {**PURE, "use_galore": True, "galore_rank": 8, "galore_layerwise": True},
}  # fmt: skip
FORMATS: dict[str, dict[str, Any]] = {
    "bf16 full": {**FULL, "bf16": True},
    "fp16 full": {**FULL, "fp16": True},
    "fp16 lora": {"fp16": True},
    "float32 lora": {"bf16": False},
    "pure_bf16": PURE,
    "fp8 full": {**FULL, "bf16": True, "fp8": True},
    "upcast_layernorm": {"upcast_layernorm": True},
}
MEMORY: dict[str, dict[str, Any]] = {
    "activation_checkpointing": {"activation_checkpointing": True},
    "activation_keep": {"activation_keep": "attention"},
    "activation_offload cpu": {"activation_offload": "cpu"},
    "activation_offload disk": {"activation_offload": "disk"},
    "use_unsloth_gc": {"use_unsloth_gc": True},
    "enable_liger_kernel": {"enable_liger_kernel": True},
    "use_unsloth": {"use_unsloth": True},
}


def rows() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Kind, name and keys of each row."""
    places = [*EXAMPLES.glob("train_f*/*sft.yaml"), *sorted(EXAMPLES.glob("extras/*/*sft*.yaml"))]
    for path in places:
        if path.parent.name not in _UNSEEN:
            keys = yaml.safe_load(path.read_text())
            chosen = {key: value for key, value in keys.items() if key.startswith(_OF_METHOD)}
            name = path.parent.name + ("" if len([*path.parent.iterdir()]) == 1 else f" {path.stem[8:]}")
            yield "method", name, chosen
    for name, more in (("lora", {}), ("dora", {"use_dora": True}), ("rslora", {"use_rslora": True})):
        yield "method", name, more
    for kind, table in (("quantizer", QUANTIZERS), ("optimizer", OPTIMIZERS), ("format", FORMATS), ("memory", MEMORY)):
        for name, keys in table.items():
            yield kind, name, keys


def make_model(folder: Path, hidden: int, layers: int) -> None:
    """Write a random Llama and a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(1024)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), pad_token="w0", eos_token="w1"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 16, num_key_value_heads=hidden // 16, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def memory() -> int:
    """Peak bytes on the GPU, or of this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024


def make_optimizer(model: Any, args: Any) -> Any:
    """The run's optimizer."""
    from transformers import Trainer

    from llamafactory.train.optim import create_optimizer
    from llamafactory.train.training_arguments import transformers_arguments

    arguments = transformers_arguments(args)
    optimizer = create_optimizer(model, args, arguments)
    if optimizer is None:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        optimizer = kind([weight for weight in model.parameters() if weight.requires_grad], **options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def train(keys: dict[str, Any], steps: int, length: int) -> tuple[list[float], float]:
    """Return the losses, and tokens a second without the first step."""
    from llamafactory.extras.device import probe
    from llamafactory.hparams import get_train_args, resolve_dtypes
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.token_scores import attach

    args = get_train_args(keys)
    device = probe()
    dtypes = resolve_dtypes(args, device)
    torch.manual_seed(0)
    model: Any = attach(load_model(load_tokenizer(args.model), args))
    optimizer = make_optimizer(model, args)
    scales = dtypes.compute == "float16"
    scaler = torch.amp.GradScaler(device.type, enabled=scales)
    ids = torch.randint(2, 1024, (2, length), generator=torch.Generator().manual_seed(0)).to(device.type)
    losses, start = [], 0.0
    for step in range(steps):
        if step == 1:
            start = time.perf_counter()
        with torch.autocast(device.type, getattr(torch, dtypes.compute), enabled=dtypes.autocast or scales):
            loss = -model(input_ids=ids, labels=ids, score=True).log_probs.mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses, (steps - 1) * ids.numel() / (time.perf_counter() - start)


def measure(keys: dict[str, Any], steps: int, length: int) -> list[str]:
    """First and last loss, tokens a second, MiB, state."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = memory()
    try:
        losses, speed = train(keys, steps, length)
    except (ValueError, RuntimeError, ImportError, OSError, TypeError, AttributeError) as error:
        name = type(error).__name__
        state = "refused" if name in ("ConfigError", "UsageError") else f"failed: {name}"
        return ["", "", "", "", f"{state}: {' '.join(str(error).split())[:160]}".replace("|", "/")]
    state = "ok" if losses[-1] < losses[0] else "the loss does not fall"
    return [f"{losses[0]:.3f}", f"{losses[-1]:.3f}", f"{speed:.0f}", f"{(memory() - before) / 2**20:.0f}", state]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a model and rows for a CPU")
    parser.add_argument("--only", default="", help="a part of the kind or the name of the rows to measure")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    hidden, layers, length = (128, 2, 32) if asked.tiny else (1024, 8, asked.length)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{where}, torch {torch.__version__}; hidden {hidden}, {layers} layers, 2 x {length} tokens\n", flush=True)
    print("| kind | row | first loss | last loss | tokens/s | MiB | state |\n|---|---|---|---|---|---|---|", flush=True)
    began, bad = time.perf_counter(), 0
    with tempfile.TemporaryDirectory(prefix="gpu-methods-") as folder:
        make_model(Path(folder) / "model", hidden, layers)
        for kind, name, more in rows():
            if asked.only not in f"{kind} {name}" or (asked.tiny and name in _COMPILED):
                continue
            keys = {
                "model_name_or_path": f"{folder}/model", "template": "empty", "dataset": "none", "report_to": "none",
                "output_dir": f"{folder}/run", "learning_rate": 3e-3, "max_steps": asked.steps,
                "offload_folder": f"{folder}/offload", **more,
            }  # fmt: skip
            cells = measure(keys, asked.steps, length)
            bad += cells[-1] != "ok" and not cells[-1].startswith("refused")
            print(f"| {kind} | {name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s; {bad} rows went wrong")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
