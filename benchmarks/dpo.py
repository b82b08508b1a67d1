# SPDX-License-Identifier: Apache-2.0
"""DPO against LLaMA-Factory 0.9.5: same YAML, model and pairs, alternating in one run.

    .venv/bin/python benchmarks/dpo.py [--rounds 2] [--steps 8]

Prints a Markdown table of medians; `benchmarks/RESULTS.md` keeps the runs worth keeping. Seconds are each side's own
``train_runtime``, without loading, and on our side what computing the reference before training took as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import yaml
from reference_env import make_environment
from training import ACCUMULATION, BATCH, CACHE, REPOSITORY, Measure, common_keys, local_model, timed


def config(path: Path, model: Path, output_dir: Path, cache: Path, steps: int) -> Path:
    """The one YAML that both sides read; only folders differ. One epoch: each pair is seen once."""
    keys = {
        **common_keys(model, output_dir, steps),
        "stage": "dpo",
        "pref_beta": 0.1,
        "pref_loss": "sigmoid",
        "dataset": "dpo_en_demo",
        "dataset_dir": str(cache),
        "learning_rate": 5.0e-5,
    }
    path.write_text(yaml.safe_dump(keys))
    return path


def demo_pairs(folder: Path) -> Path:
    """Our demo pairs and an entry for them that both sides understand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.json").write_bytes((REPOSITORY / "data" / "dpo_en_demo.json").read_bytes())
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"dpo_en_demo": entry}))
    return folder


def seconds(run: Measure) -> float:
    """What the pairs took, a reference computed beforehand included."""
    return float(run.results["train_runtime"]) + float(run.results.get("reference_runtime", 0.0))


def main() -> None:
    """Alternate both sides and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7, help="at most 7: there are 62 demo pairs")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    environment, model = make_environment(CACHE), local_model()
    data = demo_pairs(CACHE / "dpo-data")
    sides = {
        "LLaMA-Factory 0.9.5": [environment / "bin" / "llamafactory-cli"],
        "llamafactory": [sys.executable, "-m", "llamafactory.cli"],
    }
    runs: dict[str, list[Measure]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for side, (name, command) in enumerate(sides.items()):
            output_dir = CACHE / f"dpo-side{side}"
            written = config(CACHE / f"dpo-side{side}.yaml", model, output_dir, data, options.steps)
            with tempfile.TemporaryDirectory() as cache:  # an empty one: what an earlier run computed is not at hand
                os.environ["HF_DATASETS_CACHE"] = cache
                runs[name].append(timed([*command, "train", written], output_dir))
            print(f"round {number + 1}, {name}: {seconds(runs[name][-1]):.1f} s", file=sys.stderr)
    print_table(runs, options.steps * BATCH * ACCUMULATION)


def print_table(runs: dict[str, list[Measure]], pairs: int) -> None:
    """Medians of both sides and their ratio."""
    rows = {
        "pairs/s": lambda run: pairs / seconds(run),
        "`train` from start to end, wall s": lambda run: run.wall,
        "peak memory, GiB": lambda run: run.peak / 2**30,
        "last train_loss": lambda run: run.results["train_loss"],
    }
    theirs, ours = runs
    print(f"| measure ({pairs} pairs) | {theirs} | {ours} | ours / theirs |\n|---|---|---|---|")
    for label, value in rows.items():
        a, b = (statistics.median(value(run) for run in runs[name]) for name in (theirs, ours))
        print(f"| {label} | {a:.3f} | {b:.3f} | {b / a:.3f} |")


if __name__ == "__main__":
    main()
