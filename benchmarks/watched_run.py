# SPDX-License-Identifier: Apache-2.0
"""What it costs a run to be a job that is watched: its keeper, its runner, and a page that looks every 2 seconds.

    .venv/bin/python benchmarks/watched_run.py [--rounds 3] [--steps 60] [--hidden 256] [--layers 8]

The same training of a random Llama, in turns: typed in a terminal, its output into a file that nobody reads; and as a
job while another process, as the page's server is, lists the jobs and reads progress, the end of the output and the
curves every 2 seconds. Seconds are the run's own figure (train_runtime). Beside it, the processor's time that keeper,
runner and page took, as a share of the time from start to end: what they can cost at most where no core is free.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml
from activations import make_model

from llamafactory.jobs import JobStore, ensure_runner
from llamafactory.jobs.job import UNFINISHED

WATCH = """
import sys, time
from pathlib import Path
from llamafactory.jobs import JobStore, ensure_runner
from llamafactory.jobs.progress import Curve, progress, tail, thin
store, number = JobStore(Path(sys.argv[1])), int(sys.argv[2])
curve = Curve(store.get(number))
while True:
    ensure_runner(store.workspace)
    for job in store.list(limit=20):
        progress(job)
    curve.job = store.get(number)
    curve.update()
    [thin(points) for points in curve.series.values()]
    tail(curve.job)
    time.sleep(2)
"""


def write_tokenizer(folder: Path) -> None:
    """Write one that knows a thousand words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(1000)}
    tokenizer = Tokenizer(models.WordLevel(words, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1").save_pretrained(folder)


def configuration(folder: Path, steps: int) -> dict[str, object]:
    """Write rows, and return the keys of a run over them that logs each step."""
    rows = [
        {"instruction": " ".join(f"w{(7 * n + k) % 1000}" for k in range(200)), "output": "w1 w2"} for n in range(64)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    return {
        "model_name_or_path": str(folder / "model"), "dataset": "rows.json", "template": "alpaca", "cutoff_len": 256,
        "max_steps": steps, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4,
        "overwrite_output_dir": True, "train_on_prompt": True,
    }  # fmt: skip


def typed(folder: Path, config: dict[str, object]) -> float:
    """Run it as from a terminal; returns the seconds that training took."""
    (folder / "typed.yaml").write_text(yaml.safe_dump(config | {"output_dir": "typed"}))
    with (folder / "typed.log").open("wb") as log:
        argv = [sys.executable, "-m", "llamafactory", "train", "typed.yaml"]
        subprocess.run(argv, cwd=folder, stdout=log, stderr=log, check=True)
    return seconds_of(folder / "typed")


def watched(folder: Path, config: dict[str, object]) -> float:
    """Run it as a job with somebody looking; prints the share of those around it."""
    store = JobStore(folder)
    job = store.submit("train", config | {"output_dir": "watched"})
    ensure_runner(folder)
    watcher = subprocess.Popen([sys.executable, "-c", WATCH, str(folder), str(job.id)])
    begin, used = time.monotonic(), dict[str, float]()
    try:
        while (job := store.get(job.id)).state in UNFINISHED:
            for name, process in [("page", psutil.Process(watcher.pid)), *helpers(job.pid)]:
                with suppress(psutil.NoSuchProcess):
                    used[name] = process.cpu_times().user + process.cpu_times().system
            time.sleep(0.5)
    finally:
        watcher.kill()
        watcher.wait()
    seconds = time.monotonic() - begin
    shares = ", ".join(f"{name} {value:.2f} s" for name, value in used.items())
    share = sum(used.values()) / seconds
    print(f"processor, start included, in {seconds:.0f} s: {shares}: {100 * share:.2f} % of a core", flush=True)
    if store.get(job.id).state != "done":
        raise SystemExit(store.get(job.id).message)
    return seconds_of(folder / "watched")


def helpers(keeper: int | None) -> list[tuple[str, psutil.Process]]:
    """Return the keeper and the runner."""
    found = [one for one in psutil.process_iter(["cmdline"]) if "llamafactory.jobs" in (one.info["cmdline"] or ())]
    runner = [("runner", one) for one in found if "runner" in one.info["cmdline"]]
    return [("keeper", one) for one in found if one.pid == keeper] + runner


def seconds_of(folder: Path) -> float:
    """Return train_runtime."""
    return float(json.loads((folder / "train_results.json").read_text())["train_runtime"])


def main() -> None:
    """Print each round and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 3), ("steps", 60), ("hidden", 256), ("layers", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(str(folder / "model"), asked.hidden, asked.layers)
        write_tokenizer(folder / "model")
        config = configuration(folder, asked.steps)
        pairs = []
        for number in range(asked.rounds):
            both = [(kind.__name__, kind) for kind in (typed, watched)]
            times = {title: kind(folder, config) for title, kind in (both if number % 2 == 0 else reversed(both))}
            pairs.append((times["typed"], times["watched"]))
            print(f"round {number + 1}: typed {pairs[-1][0]:.2f} s, watched {pairs[-1][1]:.2f} s", flush=True)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(f"median: typed {medians[0]:.2f} s, watched {medians[1]:.2f} s, ratio {medians[1] / medians[0]:.3f}")


if __name__ == "__main__":
    main()
