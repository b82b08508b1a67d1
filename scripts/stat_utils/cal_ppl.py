# SPDX-License-Identifier: Apache-2.0
"""The perplexity of each row of a data set, into a JSON list.

python scripts/stat_utils/cal_ppl.py --model_name_or_path MODEL --dataset alpaca_en_demo --template qwen
"""

from __future__ import annotations

import math
from pathlib import Path

from llamafactory.extras.files import write_json
from llamafactory.hparams import get_train_args
from llamafactory.train.statistics.flags import read_flags, run_script
from llamafactory.train.statistics.rows import perplexities

SILENCE = {
    "stage": "sft", "do_train": True, "dataset": "alpaca_en_demo", "dataset_dir": "data", "template": "default",
    "cutoff_len": 2048, "output_dir": "dummy_dir", "finetuning_type": "lora", "train_on_prompt": False,
}  # fmt: skip


def main() -> None:
    """Compute, write, print the mean."""
    flags, keys = read_flags({"save_name": "ppl.json", "batch_size": 4}, SILENCE, needed=("model_name_or_path",))
    found = perplexities(get_train_args({**keys, "per_device_train_batch_size": flags["batch_size"]}))
    write_json(Path(flags["save_name"]), found)
    known = [value for value in found if not math.isnan(value)]
    print(f"mean perplexity of {len(known)} rows: {sum(known) / max(len(known), 1):.2f}")
    print(f"each of them: {flags['save_name']}")


if __name__ == "__main__":
    run_script(main)
