# SPDX-License-Identifier: Apache-2.0
"""QLoRA against plain transformers + PEFT + bitsandbytes: same model, rows, batches and steps, alternating in one run.

``python benchmarks/qlora_speed.py --model FOLDER`` trains adapters over nf4 weights on the rows of ``alpaca_en_demo``,
in a process each, and prints seconds a step: by the clock, and of the processor, which a shared machine disturbs less.
The other side pads its batches and recomputes no activations (``use_gradient_checkpointing=False``), as ours does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
BATCH, RANK, RATE = 8, 8, 5e-4


def keys_of(model: str, folder: str, steps: int) -> dict[str, Any]:
    """Flat keys of our run; the other side is given the same."""
    return {
        "model_name_or_path": model, "template": "smollm2", "dataset": "alpaca_en_demo",
        "dataset_dir": str(REPOSITORY / "data"), "cutoff_len": 1024, "overlong": "truncate", "max_steps": steps,
        "quantization_bit": 4, "lora_rank": RANK, "lora_target": "all", "per_device_train_batch_size": BATCH,
        "learning_rate": RATE, "lr_scheduler_type": "constant", "save_strategy": "no", "output_dir": folder,
        "overwrite_output_dir": True, "disable_tqdm": True, "logging_steps": 1, "padding_free": True,
    }  # fmt: skip


def ours(keys: dict[str, Any]) -> list[float]:
    """Seconds a step by clock and processor, and the mean loss."""
    from llamafactory.train.tuner import run_exp

    return timed_steps(lambda callback: run_exp(keys, [callback]), keys)


def theirs(keys: dict[str, Any]) -> list[float]:
    """The same by the libraries alone, on the rows that ours would have seen."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )  # fmt: skip

    from llamafactory.data.loader import get_dataset
    from llamafactory.data.processor.supervised import SupervisedProcessor
    from llamafactory.data.template_loader import get_template
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    args = get_train_args(keys)
    reader = load_tokenizer(args.model)
    rows = get_dataset(SupervisedProcessor(), get_template(reader, args.data), reader, args).train
    rows = rows.select_columns(["input_ids", "labels"])
    tokenizer = AutoTokenizer.from_pretrained(keys["model_name_or_path"])
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        keys["model_name_or_path"], quantization_config=config, dtype=torch.bfloat16
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        output_dir=keys["output_dir"], max_steps=keys["max_steps"], per_device_train_batch_size=BATCH, bf16=True,
        learning_rate=RATE, lr_scheduler_type="constant", save_strategy="no", report_to="none", logging_steps=1,
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model=get_peft_model(model, lora), args=arguments, train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )  # fmt: skip

    def run(callback: Any) -> None:
        trainer.add_callback(callback)
        trainer.train()

    return timed_steps(run, keys)


def timed_steps(run: Any, keys: dict[str, Any]) -> list[float]:
    """Time all steps but the first, which warms up."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        marks: list[tuple[float, float]] = []  # noqa: RUF012
        losses: list[float] = []  # noqa: RUF012

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append((time.perf_counter(), time.process_time()))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    clock = Clock()
    run(clock)
    steps = len(clock.marks) - 1
    wall, processor = (clock.marks[-1][part] - clock.marks[0][part] for part in (0, 1))
    return [wall / steps, processor / steps, statistics.mean(clock.losses)]


def main() -> None:
    """Alternate both sides and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        with tempfile.TemporaryDirectory() as folder:
            keys = keys_of(given.model, folder, given.steps)
            print("FIGURES " + json.dumps({"ours": ours, "theirs": theirs}[given.side](keys)), flush=True)
        return
    found: dict[str, list[list[float]]] = {"theirs": [], "ours": []}
    for _ in range(given.rounds):
        for side, figures in found.items():
            command = [sys.executable, __file__, "--model", given.model, "--steps", str(given.steps), "--side", side]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            line = next((line for line in done.stdout.splitlines() if line.startswith("FIGURES ")), None)
            if line is None:
                sys.exit(done.stderr[-3000:])
            figures.append(json.loads(line.removeprefix("FIGURES ")))
    print("| measure | transformers + PEFT + bitsandbytes | llamafactory | ours / theirs |\n|---|---|---|---|")
    for place, measure in enumerate(("s a step", "processor s a step", "mean loss")):
        one, other = (statistics.median(run[place] for run in found[side]) for side in ("theirs", "ours"))
        print(f"| {measure} | {one:.2f} | {other:.2f} | {other / one:.3f} |")


if __name__ == "__main__":
    main()
