# SPDX-License-Identifier: Apache-2.0
"""How long the rows of a data set are in tokens, class by class: rows up to a length, and their share.

python scripts/stat_utils/length_cdf.py --model_name_or_path MODEL --dataset alpaca_en_demo --template qwen
"""

from __future__ import annotations

from llamafactory.hparams import get_train_args
from llamafactory.train.statistics.flags import read_flags, run_script
from llamafactory.train.statistics.rows import length_histogram

SILENCE = {
    "stage": "sft", "do_train": True, "dataset": "alpaca_en_demo", "dataset_dir": "data", "template": "default",
    "cutoff_len": 1_000_000, "output_dir": "dummy_dir", "finetuning_type": "lora",
}  # fmt: skip


def main() -> None:
    """Encode, count, print."""
    flags, keys = read_flags({"interval": 1000}, SILENCE, needed=("model_name_or_path",))
    for border, rows, share in length_histogram(get_train_args(keys), flags["interval"]):
        print(f"{rows:>10,} rows ({share:7.2%}) have a length below {border:,}")


if __name__ == "__main__":
    run_script(main)
