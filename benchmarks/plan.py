# SPDX-License-Identifier: Apache-2.0
"""What ``plan`` says against what a run takes: a process a configuration, peak resident memory by the kernel's count.

    .venv/bin/python benchmarks/plan.py --smollm2 FOLDER [--only PART] [--held-back]

Each configuration is planned by ``llamafactory-cli plan`` and then trained for some steps, the optimizer's included, on
rows that fill ``cutoff_len``. Resident memory is everything that the process has in memory: its own pages, and pages of
files that it has mapped (libraries, weights). The errors are (said - measured) / measured.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import time
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "plan"
OWN = f"{CACHE}/{os.getpid()}"  # so that two of these do not meet
STEPS = 2

_LLAMA = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "small": {**_LLAMA, "num_key_value_heads": 2},
    "wide": {**_LLAMA, "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16,
             "num_key_value_heads": 4},
    "deep": {**_LLAMA, "num_hidden_layers": 24, "num_key_value_heads": 8, "tie_word_embeddings": False},
    "qwen3": {**_LLAMA, "model_type": "qwen3", "num_key_value_heads": 4, "head_dim": 64},
    "gemma2": {**_LLAMA, "model_type": "gemma2", "num_key_value_heads": 4, "head_dim": 64},
    "experts": {**_LLAMA, "model_type": "qwen3_moe", "num_key_value_heads": 4, "head_dim": 64,
                "moe_intermediate_size": 512, "num_experts": 8, "num_experts_per_tok": 2},
    "many experts": {**_LLAMA, "model_type": "qwen3_moe", "num_key_value_heads": 4, "head_dim": 64,
                     "num_hidden_layers": 16, "moe_intermediate_size": 256, "num_experts": 16,
                     "num_experts_per_tok": 4},
    "large experts": {**_LLAMA, "model_type": "qwen3_moe", "num_key_value_heads": 4, "head_dim": 64,
                      "num_hidden_layers": 4, "moe_intermediate_size": 1024, "num_experts": 32,
                      "num_experts_per_tok": 2},
}  # fmt: skip

LORA: dict[str, Any] = {"finetuning_type": "lora", "lora_rank": 8}
FULL: dict[str, Any] = {"finetuning_type": "full"}
QLORA = {**LORA, "quantization_bit": 4}
RECOMPUTE = {"activation_checkpointing": True}
# Name of a model -> keys; length and batch by their short names.
Row = tuple[str, dict[str, Any]]


def row(model: str, length: int, batch: int, *parts: dict[str, Any], **keys: Any) -> Row:
    """Return a configuration: a model, its batches, and keys."""
    given = {name: value for part in (*parts, keys) for name, value in part.items()}
    return model, {"cutoff_len": length, "per_device_train_batch_size": batch, **given}


SEEN: list[Row] = [
    row("smollm2", 512, 1, LORA),
    row("smollm2", 512, 1, QLORA),
    row("smollm2", 256, 1, FULL),
    row("small", 512, 2, LORA),
    row("small", 512, 2, LORA, RECOMPUTE),
    row("small", 512, 2, FULL),
    row("small", 512, 2, FULL, pure_bf16=True),
    row("small", 512, 2, LORA, use_dora=True),
    row("small", 512, 2, finetuning_type="freeze", freeze_trainable_layers=2),
    row("small", 512, 1, finetuning_type="ia3"),
    row("small", 512, 1, finetuning_type="adalora"),
    row("wide", 512, 1, QLORA, RECOMPUTE),
    row("deep", 512, 1, LORA),
    row("qwen3", 512, 1, LORA, stage="dpo"),
    row("qwen3", 384, 1, FULL, stage="dpo"),
    row("small", 512, 1, LORA, stage="rm"),
    row("small", 512, 2, LORA, stage="sft"),
    row("small", 512, 1, FULL, optim="adafactor"),
    row("gemma2", 512, 1, LORA),
    row("experts", 512, 1, LORA),
    row("experts", 512, 1, LORA, RECOMPUTE),
]
"""Those by which causes were looked for."""

HELD_BACK: list[Row] = [
    row("smollm2", 256, 2, LORA),
    row("smollm2", 512, 1, LORA, RECOMPUTE),
    row("smollm2", 384, 1, finetuning_type="freeze", freeze_trainable_layers=4),
    row("smollm2", 256, 2, QLORA, RECOMPUTE),
    row("small", 1024, 1, LORA),
    row("small", 256, 4, FULL),
    row("small", 1024, 1, FULL, RECOMPUTE),
    row("small", 512, 2, LORA, quantization_bit=8),
    row("small", 512, 1, LORA, gradient_accumulation_steps=2),
    row("small", 512, 1, finetuning_type="vera"),
    row("small", 512, 1, finetuning_type="loha"),
    row("small", 512, 1, LORA, quantization_bit=4, quantization_method="hqq"),
    row("small", 512, 1, FULL, optim="sgd"),
    row("small", 512, 1, FULL, optim="lion_32bit"),
    row("small", 256, 1, FULL, use_galore=True, galore_rank=16),
    row("small", 512, 2, LORA, stage="sft", packing=True),
    row("wide", 512, 1, LORA),
    row("wide", 384, 1, FULL, pure_bf16=True),
    row("wide", 512, 1, finetuning_type="freeze", freeze_trainable_layers=1),
    row("deep", 512, 1, QLORA),
    row("deep", 384, 1, LORA, use_dora=True),
    row("deep", 256, 1, FULL, RECOMPUTE),
    row("qwen3", 512, 1, QLORA, stage="dpo"),
    row("qwen3", 384, 1, FULL, stage="rm"),
    row("gemma2", 512, 1, FULL),
    row("experts", 256, 1, LORA, stage="dpo"),
    row("many experts", 512, 1, LORA),
    row("many experts", 512, 1, LORA, RECOMPUTE),
    row("large experts", 512, 1, LORA),
]
"""Those that nothing was chosen by."""


def make_model(name: str, tokenizer_of: str, tell: Connection) -> None:
    """Write a random bfloat16 model of a shape, with the tokenizer of another, if it is not there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = CACHE / name
    if (folder / "tokenizer_config.json").is_file():
        tell.send(("end", None))
        return
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "max_position_embeddings": 8192, **SHAPES[name],
    }  # fmt: skip
    config = AutoConfig.for_model(shape.pop("model_type", "llama"), **shape)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tell.send(("end", None))


def write_rows() -> None:
    """Write rows that are longer than any ``cutoff_len`` here: plain text, conversations, and pairs."""
    line = "The river runs from the hills to the sea. " * 500
    plain = [{"text": line} for _ in range(16)]
    chats = [{"instruction": "Tell me of the river.", "input": "", "output": line} for _ in range(16)]
    pairs = [{**chat, "chosen": line, "rejected": line.replace("sea", "lake")} for chat in chats]
    for name, rows in (("pt", plain), ("sft", chats), ("pairs", pairs)):
        (CACHE / f"{name}.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {name: {"file_name": f"{name}.json"} for name in ("pt", "sft")}
    info["pt"] |= {"columns": {"prompt": "text"}}
    info["pairs"] = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (CACHE / "dataset_info.json").write_text(json.dumps(info))


def keys_of(folder: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the flat keys of a run."""
    stage = keys.get("stage", "pt")
    data = {"pt": "pt", "sft": "sft"}.get(stage, "pairs")
    return {
        "model_name_or_path": str(folder), "stage": stage, "template": "empty" if stage == "pt" else "smollm2",
        "dataset": data, "dataset_dir": str(CACHE), "overlong": "truncate", "packing": False,
        "output_dir": f"{OWN}-run", "overwrite_output_dir": True, "max_steps": STEPS, "learning_rate": 1e-5,
        "save_strategy": "no", "disable_tqdm": True, "preprocessing_num_workers": 1, "use_cpu": True, "threads": 1,
        "activation_checkpointing": False, **keys,
    }  # fmt: skip


def train(keys: dict[str, Any], tell: Connection) -> None:
    """Train, and tell the parent when the model is there, and the seconds of each step."""
    from transformers import TrainerCallback

    from llamafactory.train.tuner import run_exp

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            tell.send(("phase", "training"))

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            tell.send(("step", time.process_time() - self.start))

    run_exp(keys, [Steps()])
    tell.send(("end", None))


def say(keys: dict[str, Any], tell: Connection) -> None:
    """Tell the parent what ``plan`` says of a configuration."""
    from llamafactory.train.commands.plan import run_plan

    out = io.StringIO()
    with redirect_stdout(out):
        run_plan({**keys, "device": "cpu", "report_format": "json"})
    tell.send(("plan", json.loads(out.getvalue().splitlines()[-1])))
    tell.send(("end", None))


def in_process(work: Any, *given: Any) -> dict[str, Any]:
    """Do work in a process of its own and return what it told, and its peaks by phase in bytes.

    The process is forked from this one, which has imported what a run imports: its memory counts as if it had done it.
    """
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=quietly, args=(work, *given, theirs))
    child.start()
    theirs.close()
    found: dict[str, Any] = {"phases": {}, "steps": []}
    phase = "loading"
    while phase != "end":
        if ours.poll(0.004):
            try:
                what, value = ours.recv()
            except EOFError:
                child.join()
                return {"error": Path(f"{OWN}-log").read_text()[-1500:]}
            if what == "step":
                found["steps"].append(value)
            elif what == "plan":
                found["plan"] = value
            else:
                phase = value or "end"
        seen = found["phases"].setdefault(phase, {"VmHWM": 0, "VmRSS": 0, "RssAnon": 0, "RssFile": 0})
        for name, size in resident(child.pid).items():
            seen[name] = max(seen[name], size)
    child.join()
    found["peak"] = max(seen["VmHWM"] for seen in found["phases"].values())
    return found


def quietly(work: Any, *given: Any) -> None:
    """Do work whose output goes into a file."""
    file = os.open(f"{OWN}-log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    work(*given)


def resident(process: int) -> dict[str, int]:
    """Return bytes in memory: the most so far, now, own pages, pages of files."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    return {name: 1024 * int(status[name].split()[0]) for name in names if name in status}


def describe(model: str, keys: dict[str, Any]) -> str:
    """Return a configuration as a row of the table shows it."""
    rest = {name: value for name, value in keys.items() if name not in ("cutoff_len", "per_device_train_batch_size")}
    words = [f"{name}={value}" for name, value in rest.items() if name not in ("lora_rank",)]
    return f"{model} {keys['per_device_train_batch_size']}x{keys['cutoff_len']} {' '.join(words)}"


def import_all() -> None:
    """Import what every run imports, once for all."""
    from llamafactory.launcher import prepare_environment

    prepare_environment()
    import peft  # noqa: F401
    import torch

    import llamafactory.train.commands.plan
    import llamafactory.train.workflow  # noqa: F401

    torch.set_num_threads(1)  # threads would not live on in the forked processes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--only", default="", help="a part of the rows' names")
    parser.add_argument("--held-back", action="store_true", help="the rows that nothing was chosen by")
    parser.add_argument(
        "--raw", help="a file of JSON lines: what it has is not measured again, what is measured goes there"
    )
    parser.add_argument("--only-measure", action="store_true", help="and do not plan")
    parser.add_argument("--parts", action="store_true", help="also print the parts of each plan")
    given = parser.parse_args()
    import_all()
    CACHE.mkdir(parents=True, exist_ok=True)
    write_rows()
    known = read_known(given.raw)
    print("| configuration | said, MiB | measured, MiB | error |\n|---|---|---|---|")
    errors = []
    for model, more in HELD_BACK if given.held_back else SEEN:
        name = describe(model, more)
        if given.only not in name:
            continue
        if model != "smollm2":
            in_process(make_model, model, given.smollm2)
        keys = keys_of(Path(given.smollm2) if model == "smollm2" else CACHE / model, more)
        found = known.get(name) or in_process(train, keys)
        if "error" in found:
            print(f"| {name} | {found['error']} | | |", flush=True)
            continue
        if given.raw and name not in known:
            with open(given.raw, "a") as file:
                file.write(json.dumps({"name": name, **found}) + "\n")
        if given.only_measure:
            continue
        answer = in_process(say, keys)
        if "error" in answer:
            print(f"| {name} | {answer['error']} | | |", flush=True)
            continue
        plan = answer["plan"]
        errors.append(plan["peak_bytes"] / found["peak"] - 1)
        sizes = f"{plan['peak_bytes'] / 2**20:,.0f} | {found['peak'] / 2**20:,.0f}"
        print(f"| {name} | {sizes} | {errors[-1]:+.1%} |", flush=True)
        if given.parts:
            print({part: round(size / 2**20) for part, size in plan["parts"].items()}, flush=True)
    if errors:
        print(f"\nworst over {max(errors):+.1%}, worst under {min(errors):+.1%}, of {len(errors)}")


def read_known(path: str | None) -> dict[str, dict[str, Any]]:
    """Return what was measured before, by the names of the configurations."""
    lines = Path(path).read_text().splitlines() if path and Path(path).exists() else []
    return {found["name"]: found for found in map(json.loads, lines)}


if __name__ == "__main__":
    main()
