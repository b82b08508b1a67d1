# SPDX-License-Identifier: Apache-2.0
"""Pictures: preparing and training input, rows a second and memory.

    .venv/bin/python benchmarks/media.py [--pictures 2000] [--memory-pictures 50000] [--steps 2000] [--reference]

Draws the pictures (JPEG, each of another content, most of another size) and makes a tiny random Qwen2-VL with the small
tokenizer of the tests, so that what is measured is the way of the data. Preparing is from the start of a command to
the saved ``tokenized_path``; training input is rows a second of a training of that model. Memory is the sum of a
command's processes, pages they share counted once; what only processes can hold (no pages of mapped files) beside it.
``--reference`` does the same with LLaMA-Factory 0.9.5, in turns, for which torchvision goes into its environment as its
processor needs it. Prints Markdown tables; ``benchmarks/RESULTS.md`` keeps the runs worth keeping.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image
from reference_env import make_environment
from training import CACHE

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))
OURS, THEIRS = "llamafactory", "LLaMA-Factory 0.9.5"
BATCH = 4


def write_rows(folder: Path, number: int) -> None:
    """Draw pictures, and write a row about each."""
    noise, draw = np.random.default_rng(0), random.Random(0)
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for count in range(number):
        size = draw.randint(320, 800), draw.randint(240, 600)
        coarse = Image.fromarray(noise.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        name = f"pictures/{count}.jpg"
        coarse.resize(size, Image.Resampling.BILINEAR).save(folder / name, quality=80)
        turns = [
            {"role": "user", "content": f"<image>What does picture {count} show?"},
            {"role": "assistant", "content": f"It shows colours without borders, {size[0]} wide and {size[1]} high."},
        ]
        rows.append({"messages": turns, "images": [str(folder / name)]})
    (folder / "rows.json").write_text(json.dumps(rows))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}))


@dataclass
class Measure:
    """A command: wall seconds, MiB of all its processes over time, and what a training reported.

    Attributes:
        total: With pages of mapped files.
        own: Without.
    """

    seconds: float = 0.0
    total: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)

    def look(self, pid: int) -> None:
        """Note the memory of a process and all that it started."""
        total = own = 0.0
        with suppress(psutil.NoSuchProcess):
            for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                with suppress(OSError):
                    text = Path(f"/proc/{one.pid}/smaps_rollup").read_text("ascii")
                    total += int(text.partition("\nPss:")[2].split()[0]) / 1024
                    own += int(text.partition("\nPss_Anon:")[2].split()[0]) / 1024
        self.total.append(total)
        self.own.append(own)


def run(command: list[str | Path], keys: dict[str, Any], work: Path, until: str | None = None) -> Measure:
    """Run a command to its end, or until a file is there."""
    config = work / "config.yaml"
    config.write_text(yaml.safe_dump(keys))
    variables = {**os.environ, "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf")}
    variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
    if command[0] != sys.executable:  # the other side must not import this project
        variables.pop("PYTHONPATH", None)
    measure, start = Measure(), time.perf_counter()
    with open(work / "log", "wb") as log:
        process = subprocess.Popen([*command, config], env=variables, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None and not (until and (work / until).exists()):
            measure.look(process.pid)
            time.sleep(0.1)
    measure.seconds = time.perf_counter() - start
    left = [process, *psutil.Process(process.pid).children(recursive=True)] if process.returncode is None else []
    for one in left:
        one.terminate()
    process.wait()
    if (process.returncode and not left) or not list((work / "tokens").rglob("*.arrow")):
        sys.exit(f"{' '.join(map(str, command))} failed:\n{(work / 'log').read_text()[-3000:]}")
    results = work / "out" / "all_results.json"
    measure.results = json.loads(results.read_text()) if results.exists() else {}
    return measure


def keys_of(model: Path, data: Path, work: Path, workers: int) -> dict[str, Any]:
    """What both sides read."""
    return {
        "model_name_or_path": str(model), "template": "qwen2_vl", "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "dataset": "rows", "dataset_dir": str(data), "media_dir": str(data),
        "cutoff_len": 2048, "preprocessing_num_workers": workers, "tokenized_path": str(work / "tokens"),
        "output_dir": str(work / "out"), "report_to": "none", "per_device_train_batch_size": BATCH,
        "save_strategy": "no", "dataloader_num_workers": 1, "bf16": False, "overwrite_output_dir": True,
    }  # fmt: skip


def prepare(side: list[str | Path], model: Path, data: Path, work: Path, workers: int) -> Measure:
    """Prepare; the other side, which would go on to train, is stopped when the last file of the data is there."""
    own = side[0] == sys.executable
    command = [*side, "preprocess" if own else "train"]
    return run(command, keys_of(model, data, work, workers), work, None if own else "tokens/train/state.json")


def train(side: list[str | Path], model: Path, data: Path, work: Path, steps: int, **more: Any) -> Measure:
    """Train on what :func:`prepare` left."""
    more |= {"max_steps": steps, "logging_steps": max(steps // 20, 1)}
    return run([*side, "train"], keys_of(model, data, work, 1) | more, work)


def reference_side() -> list[str | Path]:
    """The other program, with torchvision."""
    environment = make_environment(CACHE)
    packages = next(environment.glob("lib/python*/site-packages"))
    if not (packages / "torchvision").exists():
        script = REPOSITORY / "scripts" / "vision_env.py"
        subprocess.run([environment / "bin" / "python", script, packages], check=True)
    return [environment / "bin" / "llamafactory-cli"]


def compare(sides: dict[str, list[str | Path]], model: Path, data: Path, rows: int, steps: int, rounds: int) -> None:
    """Alternate the sides; print the median of each."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for name, side in list(sides.items())[:: 1 if number % 2 == 0 else -1]:
            for workers in (1, 2):
                with tempfile.TemporaryDirectory(dir=data) as folder:
                    done = prepare(side, model, data, Path(folder), workers)
                    figures = {f"preparing with {workers} workers, rows/s": rows / done.seconds}
                    figures[f"the same, peak memory, MiB (of it own {max(done.own):,.0f})"] = max(done.total)
                    if workers == 1:
                        trained = train(side, model, data, Path(folder), steps)
                        figures["training, rows/s"] = BATCH * steps / trained.results["train_runtime"]
                        figures["training, peak memory, MiB"] = max(trained.total)
                for figure, value in figures.items():
                    figure = figure.partition(" (")[0] + (f", {workers} workers" if "same" in figure else "")
                    found.setdefault((figure, name), []).append(value)
                    print(f"{name}: {figure} {value:,.1f}", file=sys.stderr, flush=True)
    print(f"\n| {rows:,} pictures, medians of {rounds} | {' | '.join(sides)} | ours / theirs |\n|---|---|---|---|")
    for figure in dict.fromkeys(figure for figure, _ in found):
        values = [statistics.median(found[figure, name]) for name in sides]
        ratio = f"{values[-1] / values[0]:.2f}" if len(values) > 1 else ""
        print(f"| {figure} | {' | '.join(f'{value:,.1f}' for value in values)} | {ratio} |", flush=True)


def memory(side: list[str | Path], model: Path, folder: Path, sizes: list[int]) -> None:
    """Print the peak of preparing few and many pictures."""
    print("\n| pictures | seconds | peak memory, MiB | without pages of files, MiB |\n|---|---|---|---|")
    for size in sizes:
        data = folder / f"many-{size}"
        write_rows(data, size)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            done = prepare(side, model, data, Path(work), 2)
        shutil.rmtree(data)
        print(f"| {size:,} | {done.seconds:.1f} | {max(done.total):,.0f} | {max(done.own):,.0f} |", flush=True)


def flatness(side: list[str | Path], model: Path, data: Path, folder: Path, steps: int) -> None:
    """Print the memory of a long training by tenths, and the share of its time that it waited for batches."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        small = {"image_max_pixels": 128 * 128}  # they are decoded whole all the same
        run([*side, "preprocess"], keys_of(model, data, work, 2) | small, work)
        done = train(side, model, data, work, steps, **small)
        log = [json.loads(line) for line in (work / "out" / "trainer_log.jsonl").read_text().splitlines()]
    waits = [row["data_wait"] for row in log if "data_wait" in row]
    tenth = len(done.own) // 10
    parts = [statistics.median(done.own[number * tenth : (number + 1) * tenth]) for number in range(10)]
    print(
        f"\n{steps:,} steps of {BATCH} pictures in {done.results['train_runtime']:.0f} s, "
        f"{statistics.mean(waits):.2f} of it waiting for batches; MiB without pages of files, medians of tenths of it:"
    )
    print(" ".join(f"{part:,.0f}" for part in parts), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--memory-pictures", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=2000, help="of the long training; of the compared one a 20th")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reference", action="store_true", help="compare with LLaMA-Factory 0.9.5 too")
    parser.add_argument("--only", choices=["compare", "memory", "flatness"], help="one of the three parts")
    given = parser.parse_args()
    from conftest import _tiny_tokenizer
    from media_models import build

    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-media-"))
    try:
        _tiny_tokenizer().save_pretrained(folder / "tokenizer")
        model = build("qwen2_vl", folder / "model", folder / "tokenizer")
        data = folder / "data"
        write_rows(data, given.pictures)
        own: list[str | Path] = [sys.executable, "-m", "llamafactory.cli"]
        if given.only in (None, "compare"):
            sides = {THEIRS: reference_side(), OURS: own} if given.reference else {OURS: own}
            compare(sides, model, data, given.pictures, given.steps // 20, given.rounds)
        if given.only in (None, "memory"):
            memory(own, model, folder, [1000, given.memory_pictures])
        if given.only in (None, "flatness"):
            flatness(own, model, data, folder, given.steps)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
